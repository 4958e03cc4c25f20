//! The metrics that are true at a moment: made of the snapshot by whoever serves it, also where the
//! process that counts has ended.

use serde::{Deserialize, Serialize};

use super::exposition::Family;
use crate::pipeline::progress::{Phase, Snapshot, TABLES_MAX};

/// What only the process that serves the status knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerFacts {
    /// When the credentials of NATS expire, Unix seconds; `None`: never, or not known.
    pub credentials_expire_unix: Option<u64>,
    /// When HQ is asked for the next session, Unix seconds.
    pub session_renewal_unix: Option<u64>,
    /// Where a supervisor serves the status: its workers.
    pub workers: Option<WorkerCounts>,
}

/// The workers of a supervisor, since it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerCounts {
    /// How many were started.
    pub started: u64,
    /// How many ended by themselves, or could not work.
    pub failed: u64,
}

/// The families of the moment.
pub fn families(snapshot: &Snapshot, facts: &ServerFacts) -> Vec<Family> {
    let mut all = of_snapshot(snapshot);
    all.extend(of_facts(facts));
    all
}

fn of_snapshot(snapshot: &Snapshot) -> Vec<Family> {
    let mut state = Family::gauge("eds_state", "1 for what EDS is doing, 0 for all else");
    for name in Phase::NAMES {
        state = state.with(&[("state", name)], f64::from(name == snapshot.state.name()));
    }
    let mut held = Family::gauge(
        "eds_held_since_timestamp_seconds",
        "Since when a table cannot be written, Unix seconds",
    );
    for (table, counts) in snapshot.held.iter().take(TABLES_MAX) {
        held = held.with(&[("table", table)], counts.since_unix as f64);
    }
    vec![
        Family::gauge("eds_build_info", "1, for the version of this program")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        state,
        held,
        Family::gauge(
            "eds_lag_seconds",
            "Age of the oldest event that waits, 0 where none does; without a worker, the time \
             since the last success",
        )
        .with(&[], snapshot.lag_seconds),
        Family::gauge(
            "eds_oldest_change_age_seconds",
            "The same, with the changes that wait because their table cannot be written",
        )
        .with(&[], snapshot.oldest_change_age_seconds()),
        Family::gauge(
            "eds_last_success_timestamp_seconds",
            "When a batch became durable or nothing was pending, Unix seconds",
        )
        .with_known(known(snapshot.last_success_unix)),
        Family::gauge("eds_failing", "1 while something that EDS needs fails")
            .with(&[], f64::from(snapshot.last_error.is_some())),
        Family::gauge(
            "eds_last_error_timestamp_seconds",
            "When something failed last, Unix seconds",
        )
        .with_known(known(snapshot.last_error_unix)),
    ]
}

fn of_facts(facts: &ServerFacts) -> Vec<Family> {
    let time = |name: &str, help: &str, at: Option<u64>| {
        Family::gauge(name, help).with_known(at.map(|at| at as f64))
    };
    let count = |name: &str, help: &str, of: fn(WorkerCounts) -> u64| {
        Family::counter(name, help).with_known(facts.workers.map(|counts| of(counts) as f64))
    };
    vec![
        time(
            "eds_credentials_expiry_timestamp_seconds",
            "When the credentials of NATS expire, Unix seconds",
            facts.credentials_expire_unix,
        ),
        time(
            "eds_session_renewal_timestamp_seconds",
            "When HQ is asked for the next session, Unix seconds",
            facts.session_renewal_unix,
        ),
        count("eds_worker_restarts_total", "Starts of a worker after the first", |counts| {
            counts.started.saturating_sub(1)
        }),
        count("eds_worker_failures_total", "Workers that ended by themselves", |counts| {
            counts.failed
        }),
    ]
}

fn known(unix: u64) -> Option<f64> {
    (unix > 0).then_some(unix as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::exposition::Exposition;

    #[test]
    fn every_state_is_told_and_one_is_true() {
        let states = [
            Phase::Starting,
            Phase::Streaming,
            Phase::CaughtUp,
            Phase::Waiting("w".into()),
            Phase::Stopping,
            Phase::Paused,
            Phase::Stopped(None),
        ];
        assert_eq!(states.clone().map(|state| state.name()), Phase::NAMES);
        for state in states {
            let mut all = Exposition::default();
            let snapshot = Snapshot::default().in_state(state.clone());
            families(&snapshot, &ServerFacts::default()).into_iter().for_each(|f| all.put(f));
            let text = all.to_string();
            let is = |n: u8| text.matches(&format!("\"}} {n}\n")).count();
            assert!(text.contains(&format!("eds_state{{state=\"{}\"}} 1\n", state.name())));
            // The other 1 is that of the version.
            assert_eq!((is(1), is(0)), (2, Phase::NAMES.len() - 1), "{text}");
            assert!(!text.contains("timestamp"), "what is not known is not told\n{text}");
        }
    }
}
