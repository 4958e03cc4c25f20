//! The names under which the state file keeps what is known of a destination. A URL names it first;
//! a destination that says itself who it is keeps its name, whatever URL leads to it.

use rusqlite::{Connection, OptionalExtension, params};

use super::{CONSUMER_TABLES, OF, State, StateError};

/// Creates the table: a destination by its URL's name and by its own, and what it is kept as.
pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS destination (name TEXT, identity TEXT, kept_as TEXT NOT NULL, PRIMARY \
                                 KEY (name, identity)) STRICT;
";

impl State {
    /// The same file for the destination that a URL's `name` leads to: what is known of consumers
    /// is known for each destination by itself. `identity`: what the destination says it is; `None`
    /// where it does not say, or was not asked: then it is what was met there last.
    pub fn of_destination(&self, name: &str, identity: Option<&str>) -> Result<State, StateError> {
        let kept_as = kept_as(&self.db(), name, identity)?;
        let destination = format!("{OF}{kept_as}").into();
        Ok(State { connection: self.connection.clone(), destination })
    }

    /// Whether the destination that a URL's `name` leads to was met before; true where none was.
    pub fn has_met(&self, name: &str) -> Result<bool, StateError> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM destination) OR EXISTS (SELECT 1 FROM \
                   destination WHERE name = ?1)";
        Ok(self.db().query_row(sql, [name], |row| row.get(0))?)
    }

    /// Takes over what earlier versions of EDS, which knew one destination only, have left.
    pub fn adopt_unplaced(&self) -> Result<(), StateError> {
        let mut db = self.db();
        let transaction = db.transaction()?;
        for table in CONSUMER_TABLES {
            transaction.execute(
                &format!(
                    "UPDATE OR IGNORE {table} SET consumer = consumer || ?1 WHERE \
                     instr(consumer, '{OF}') = 0"
                ),
                [&*self.destination],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// The name under which what is known of `consumer` is kept.
    pub(super) fn key(&self, consumer: &str) -> String {
        format!("{consumer}{}", self.destination)
    }

    /// The consumer of a name that [`State::key`] made for this destination.
    pub(super) fn consumer_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        let consumer = key.strip_suffix(&*self.destination)?;
        (!consumer.contains(OF)).then_some(consumer)
    }

    /// The same, or the consumer of a name that an earlier version of EDS has left and that no
    /// destination has taken over yet.
    pub(super) fn consumer_of_any<'k>(&self, key: &'k str) -> Option<&'k str> {
        self.consumer_of(key).or_else(|| (!key.contains(OF)).then_some(key))
    }
}

fn kept_as(db: &Connection, name: &str, identity: Option<&str>) -> Result<String, StateError> {
    let find = |sql: &str, value: &str| {
        db.query_row(sql, [value], |row| row.get::<_, String>(0)).optional()
    };
    let Some(identity) = identity else {
        let met = "SELECT kept_as FROM destination WHERE name = ?1 ORDER BY rowid DESC LIMIT 1";
        return Ok(find(met, name)?.unwrap_or_else(|| name.to_owned()));
    };
    let known = find("SELECT kept_as FROM destination WHERE identity = ?1 LIMIT 1", identity)?;
    let kept_as = match known {
        Some(known) => known,
        // The URL led to another one before, whose name that is.
        None if find("SELECT kept_as FROM destination WHERE kept_as = ?1 LIMIT 1", name)?
            .is_some() =>
        {
            format!("{name}-{:016x}", xxhash_rust::xxh3::xxh3_64(identity.as_bytes()))
        }
        None => name.to_owned(),
    };
    let met = "INSERT OR REPLACE INTO destination VALUES (?1, ?2, ?3)";
    db.execute(met, params![name, identity, kept_as])?;
    Ok(kept_as)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::cutover::TableSnapshot;
    use crate::change::{Position, Version};
    use crate::state::RecentChunk;

    fn at(sequence: u64) -> Position {
        Position { sequence, time_ns: 7 }
    }

    #[test]
    fn a_consumer_has_a_place_at_each_destination() -> Result<(), StateError> {
        let file = State::in_memory()?;
        file.save_position("c", at(1))?;
        let (a, b) = (file.of_destination("a", None)?, file.of_destination("b", None)?);
        assert_eq!((a.position("c")?, a.has_positions()?), (None, false));
        // What was there before destinations were told apart belongs to the first.
        a.adopt_unplaced()?;
        b.adopt_unplaced()?;
        assert_eq!(
            (a.position("c")?, b.position("c")?, b.has_positions()?),
            (Some(at(1)), None, false)
        );
        b.save_position("c", at(9))?;
        b.append_recent("c", &RecentChunk { through: at(9), entries: vec![0; 28] }, 100)?;
        assert_eq!((a.position("c")?, b.position("c")?), (Some(at(1)), Some(at(9))));
        assert_eq!((a.recent("c")?.len(), b.recent("c")?.len()), (0, 1));
        let snapshot =
            TableSnapshot { table: "t".into(), at: Version { nanos: 5, logical: 0 }, whole: true };
        a.finish_import(std::slice::from_ref(&snapshot))?;
        assert!(a.cutovers()?.has("t") && !b.cutovers()?.has("t"));
        b.finish_import(&[TableSnapshot { table: "u".into(), ..snapshot }])?;
        assert!(a.cutovers()?.has("t") && !a.cutovers()?.has("u") && b.cutovers()?.has("u"));
        b.order_letters("c", &[(0, 1)])?;
        assert_eq!((a.letter_orders()?.len(), b.letter_orders()?.len()), (0, 1));
        Ok(())
    }

    #[test]
    fn a_destination_is_known_whatever_url_leads_to_it() -> Result<(), StateError> {
        let file = State::in_memory()?;
        let position =
            |name: &str, identity: Option<&str>| file.of_destination(name, identity)?.position("c");
        // An earlier version knew its URL only.
        file.of_destination("ab", None)?.save_position("c", at(1))?;
        assert_eq!(position("ab", Some("one"))?, Some(at(1)));
        // Other brokers of the same; then also where nobody asks.
        assert_eq!((position("bc", None)?, position("bc", Some("one"))?), (None, Some(at(1))));
        assert_eq!(position("bc", None)?, Some(at(1)));
        // The same brokers, set up anew; and the old ones are found again.
        assert_eq!(position("bc", Some("two"))?, None);
        file.of_destination("bc", None)?.save_position("c", at(5))?;
        assert_eq!(position("ab", Some("two"))?, Some(at(5)));
        assert_eq!(position("ab", Some("one"))?, Some(at(1)));
        assert_eq!(position("other", Some("three"))?, None);
        Ok(())
    }
}
