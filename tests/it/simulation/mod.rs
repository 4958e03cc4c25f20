//! The real pipeline against a feed and a destination that do their worst, from one seed, on a
//! paused clock. After each run the destination equals the model, and nothing was acknowledged
//! before it was safe.

mod feed;
mod history;
mod log;
mod processes;
mod rows;
mod verdict;
mod world;

use std::sync::Arc;

use eds::destination::WriteMode;

use processes::simulate;
use world::{Bug, World};

/// How many storms over a destination of rows are looked at, and over one of changes.
const SEEDS: [(WriteMode, u64); 2] = [(WriteMode::Upsert, 1_500), (WriteMode::Append, 700)];
/// Storms that are run twice.
const TRACED_SEEDS: u64 = 40;

fn run(seed: u64, mode: WriteMode, bug: Bug) -> Result<(), String> {
    run_in(seed, mode, bug, false).0
}

/// One simulation; how it ended, and its trace.
fn run_in(
    seed: u64,
    mode: WriteMode,
    bug: Bug,
    is_traced: bool,
) -> (Result<(), String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap_or_else(|e| panic!("{e}"));
    runtime.block_on(async {
        let world: Arc<World> = World::new(seed, mode, bug, is_traced);
        (simulate(&world).await, world.take_trace())
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Every seed ends equal; a failing one says how to repeat it.
fn storms(mode: WriteMode) {
    if let Some(seed) = number("EDS_SIM_SEED") {
        let (ended, trace) = run_in(seed, mode, Bug::None, true);
        ended.unwrap_or_else(|e| panic!("{}\nseed {seed}, {mode:?}: {e}", trace.join("\n")));
        return;
    }
    let usual = SEEDS.iter().find(|(of, _)| *of == mode).map_or(0, |(_, seeds)| *seeds);
    for seed in 0..number("EDS_SIM_SEEDS").unwrap_or(usual) {
        if let Err(e) = run(seed, mode, Bug::None) {
            panic!(
                "seed {seed}, {mode:?}: {e}\nrepeat it with: EDS_SIM_SEED={seed} cargo test \
                 --test it simulation"
            );
        }
    }
}

#[test]
fn every_storm_ends_with_the_destination_equal_to_the_model() {
    storms(WriteMode::Upsert);
}

#[test]
fn every_storm_ends_with_every_change_kept_under_one_name() {
    storms(WriteMode::Append);
}

/// What a seed leads to depends on nothing else, so that a failing one can be repeated.
#[test]
fn a_seed_that_is_run_twice_leaves_the_same_trace() {
    for (mode, _) in SEEDS {
        for seed in 0..TRACED_SEEDS {
            let [first, second] = [(), ()].map(|()| run_in(seed, mode, Bug::None, true));
            let differs = first.1.iter().zip(&second.1).position(|(one, other)| one != other);
            if let Some(at) = differs {
                panic!(
                    "seed {seed}, {mode:?} differs at step {at}: {:?}, then {:?}",
                    first.1[at], second.1[at]
                );
            }
            assert_eq!(first.0, second.0, "seed {seed}, {mode:?}");
            assert_eq!(first.1.len(), second.1.len(), "seed {seed}, {mode:?}");
            assert!(!first.1.is_empty());
        }
    }
}

/// The simulation is worth something: mistakes that lose or double data do not get through.
#[test]
fn planted_bugs_are_caught() {
    for (mode, bug) in [
        (WriteMode::Upsert, Bug::AcknowledgesBeforeApply),
        (WriteMode::Upsert, Bug::CheckpointApart),
        (WriteMode::Upsert, Bug::StreamNotCompared),
        (WriteMode::Upsert, Bug::FormerTimesDecide),
        (WriteMode::Upsert, Bug::NoFence),
        (WriteMode::Upsert, Bug::RestoreUnnoticed),
        (WriteMode::Upsert, Bug::VersionsLost),
        (WriteMode::Upsert, Bug::BeforeLost),
        (WriteMode::Upsert, Bug::DeletesLost),
        (WriteMode::Upsert, Bug::DeadLettersLost),
        (WriteMode::Upsert, Bug::GapsUnreported),
        (WriteMode::Upsert, Bug::HeldLost),
        (WriteMode::Upsert, Bug::ReleasedKept),
        (WriteMode::Upsert, Bug::RetriedKept),
        (WriteMode::Upsert, Bug::SupersededRetried),
        (WriteMode::Upsert, Bug::EventsLost),
        (WriteMode::Upsert, Bug::BehindUnfenced),
        (WriteMode::Upsert, Bug::ClockIgnored),
        (WriteMode::Append, Bug::UnknownPendingIsNone),
        (WriteMode::Append, Bug::AcknowledgesBeforeApply),
        (WriteMode::Append, Bug::IntentNotRecorded),
        (WriteMode::Append, Bug::PositionBeforeWrite),
    ] {
        let caught = (0..200).filter(|seed| run(*seed, mode, bug).is_err()).count();
        assert!(caught > 0, "{mode:?}, {bug:?} went unnoticed in 200 seeds");
        println!("{mode:?}, {bug:?}: {caught} of 200 seeds notice it");
    }
}
