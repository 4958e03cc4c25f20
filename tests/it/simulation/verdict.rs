//! Whether a simulation ended as it has to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use eds::change::NumberedLetter;
use eds::change::dead_letter::LetterLabel;
use eds::destination::WriteMode;
use eds::destination::memory::MemoryRow;

use super::log::ObjectName;
use super::world::{CONSUMER, World, locked};

/// What is wrong at the end, once a calm process has caught up.
pub fn verdict(world: &World) -> Result<(), String> {
    if let Some(complaint) = world.take_complaint() {
        return Err(complaint);
    }
    if world.has_gap.load(Ordering::Relaxed) && world.gap_is_reported.load(Ordering::Relaxed) {
        return Ok(());
    }
    let durable = match world.mode {
        WriteMode::Upsert => {
            rows_equal_the_model(world)?;
            world.store.lock().position
        }
        WriteMode::Append => {
            every_change_is_kept(world)?;
            world.state.position(CONSUMER).map_err(|e| e.to_string())?
        }
    };
    dead_letters_are_the_bad(world)?;
    match durable.map_or(0, |p| p.sequence) {
        at if at == world.total() => Ok(()),
        at => Err(format!("the checkpoint is at {at} of {}", world.total())),
    }
}

fn rows_equal_the_model(world: &World) -> Result<(), String> {
    let store = world.store.lock();
    for (table, expected) in &world.history.model() {
        let mut found: Vec<MemoryRow> =
            store.rows.get(table).map(|rows| rows.values().cloned().collect()).unwrap_or_default();
        found.sort();
        if found != *expected {
            return Err(format!("table {table} holds {found:?} instead of {expected:?}"));
        }
    }
    Ok(())
}

/// Every change is there, in the order of the stream, and under one name only: what was written
/// again after a crash was cut as it was before.
fn every_change_is_kept(world: &World) -> Result<(), String> {
    let mut names: BTreeMap<u64, ObjectName> = BTreeMap::new();
    let mut last = 0;
    for (name, changes) in locked(&world.objects).iter() {
        for change in changes {
            if let Some(other) = names.insert(change.sequence, *name) {
                return Err(format!("{} is in {other:?} and in {name:?}", change.sequence));
            }
            if change.sequence <= last {
                return Err(format!("{} comes after {last} in {name:?}", change.sequence));
            }
            last = change.sequence;
            if world.history.messages[last as usize - 1] != change.payload {
                return Err(format!("{last} is not what was sent: {}", change.payload));
            }
        }
    }
    let missing =
        |sequence: &u64| !names.contains_key(sequence) && !world.history.bad.contains(sequence);
    match (1..=world.total()).find(missing) {
        Some(sequence) => Err(format!("{sequence} is missing")),
        None => Ok(()),
    }
}

/// All bad messages became dead letters, and nothing else did. What lies before an import is not
/// read, bad or not.
fn dead_letters_are_the_bad(world: &World) -> Result<(), String> {
    let letters = letters(world)?;
    let dead: BTreeSet<u64> = letters.iter().map(|label| label.sequence).collect();
    let bad = &world.history.bad;
    if world.stream().recreations > 0 {
        return bad_payloads_are_dead_letters(world);
    }
    let is_imported = world.imports.load(Ordering::Relaxed) > 0;
    // What was refused and is contained in an import is kept, too.
    if is_imported && world.has_refusals {
        return Ok(());
    }
    match dead.is_subset(bad) && (dead.len() == bad.len() || is_imported) {
        true => Ok(()),
        false => Err(format!("{dead:?} became dead letters instead of {bad:?}")),
    }
}

/// The dead letters of rows that no later change has superseded, those that were dropped included.
fn waiting(world: &World) -> Vec<NumberedLetter> {
    let store = world.store.lock();
    let dropped = locked(&world.dropped);
    let all = store.letters.values().chain(dropped.iter());
    all.filter(|letter| letter.superseded_by.is_none()).cloned().collect()
}

/// The dead letters that no later change has superseded.
fn letters(world: &World) -> Result<Vec<LetterLabel>, String> {
    if world.mode == WriteMode::Append {
        let stored = world.state.letters().map_err(|e| e.to_string())?;
        return Ok(stored.into_iter().map(|(_, _, label)| label).collect());
    }
    Ok(waiting(world).iter().map(LetterLabel::of).collect())
}

/// The same where sequences mean nothing any more.
fn bad_payloads_are_dead_letters(world: &World) -> Result<(), String> {
    let waiting = waiting(world);
    let dead: BTreeSet<_> = waiting.iter().map(|n| n.letter.payload.clone()).collect();
    let payload = |sequence: &u64| world.history.messages[*sequence as usize - 1].clone().into();
    let bad: BTreeSet<bytes::Bytes> = world.history.bad.iter().map(payload).collect();
    match dead == bad {
        true => Ok(()),
        false => Err(format!("{} dead letters instead of {}", dead.len(), bad.len())),
    }
}
