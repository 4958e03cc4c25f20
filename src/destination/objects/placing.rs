//! What becomes of an object whose name is taken: nothing is overwritten unseen. Pure; the drivers
//! create, read and replace.

use super::name::Name;
use crate::change::{Decoder, Event};

/// Two changes of one name: the older one gets a name of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Whether the older one is the one that has the name, so that the new one replaces it.
    pub existing_is_older: bool,
    /// The name for the older one.
    pub kept: String,
    /// Its name where an object with other content has that one.
    pub kept_beside: String,
}

impl Conflict {
    /// Of a change with this `content` and an `existing` object that has its name; `None` where
    /// they are the same, so that nothing is left to do.
    pub fn of(name: &Name, event: &Event, content: &[u8], existing: &[u8]) -> Option<Conflict> {
        if existing == content {
            return None;
        }
        let (existing_is_older, version) = older(existing, event);
        let older = if existing_is_older { existing } else { content };
        Some(Conflict {
            existing_is_older,
            kept: name.of_older(&version),
            kept_beside: name.of_another_older(&version, older),
        })
    }
}

/// What becomes of a file of many changes whose name is taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PartPlacement {
    /// The same content has the name: nothing is left to do.
    Stored,
    /// What has the name comes from an earlier try of the batch, and is replaced.
    Replace,
    /// What has the name is kept, and the new file gets this name.
    Beside(String),
}

impl PartPlacement {
    /// Of a file with this `content` where an `existing` one has its name. `is_repeat`: the batch
    /// was tried before.
    pub fn of(name: &Name, content: &[u8], existing: &[u8], is_repeat: bool) -> PartPlacement {
        if existing == content {
            PartPlacement::Stored
        } else if is_repeat {
            PartPlacement::Replace
        } else {
            PartPlacement::Beside(name.of_content(content))
        }
    }
}

/// Of two events of one name: whether the `existing` one is the older, and the version under which
/// the older is kept. Content that cannot be read as an event counts as the oldest.
fn older(existing: &[u8], new: &Event) -> (bool, String) {
    match Decoder::default().decode(existing.to_vec().into()) {
        Ok(event) if age(&event) <= age(new) => (true, event.mvcc().into_owned()),
        Ok(_) => (false, new.mvcc().into_owned()),
        Err(_) => (true, format!("{:016x}", xxhash_rust::xxh3::xxh3_64(existing))),
    }
}

/// What orders events of one name: timestamp, version, id.
fn age(event: &Event) -> (i64, Option<crate::change::Version>, String) {
    (event.timestamp_ms(), event.version(), event.id().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, timestamp: i64, mvcc: &str) -> Event {
        let text = format!(
            r#"{{"operation":"UPDATE","id":"{id}","table":"t","key":["k"],"after":{{}},"timestamp":{timestamp},"mvccTimestamp":"{mvcc}"}}"#
        );
        Decoder::default().decode(text.into()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn of_two_changes_the_older_gets_its_own_name() {
        let name = Name::new("t".into(), "1-k".into(), ".json");
        let (first, second) = (event("a", 1_000, "7.0"), event("b", 1_001, "8.0"));
        let of = |new: &Event, existing: &[u8]| {
            let content = new.stored();
            Conflict::of(&name, new, content.as_bytes(), existing)
                .map(|conflict| (conflict.existing_is_older, conflict.kept))
        };
        let kept = "1-k-7.0.json".to_owned();
        assert_eq!(of(&second, first.stored().as_bytes()), Some((true, kept.clone())));
        assert_eq!(of(&first, second.stored().as_bytes()), Some((false, kept)));
        assert_eq!(of(&first, first.stored().as_bytes()), None);
        assert!(of(&first, b"no event").is_some_and(|(existing_is_older, _)| existing_is_older));
    }

    #[test]
    fn a_file_replaces_only_what_its_own_batch_has_left() {
        let name = Name::new("t".into(), "part-1".into(), ".ndjson.gz");
        let of = |existing: &[u8], is_repeat| PartPlacement::of(&name, b"new", existing, is_repeat);
        assert_eq!(of(b"new", false), PartPlacement::Stored);
        assert_eq!(of(b"old", true), PartPlacement::Replace);
        let beside = PartPlacement::Beside(name.of_content(b"new"));
        assert_eq!(of(b"old", false), beside);
    }
}
