//! The recently changed rows of each consumer, in chunks of the pipeline's own encoding.

use rusqlite::{Connection, OptionalExtension, params};

use super::{State, StateError};
use crate::change::Position;

/// Bytes of one row in a chunk of recent rows.
pub const RECENT_ROW_BYTES: usize = 28;
/// Chunks of recent rows are put together up to this size.
const CHUNK_BYTES_SMALL: usize = 4_096 * RECENT_ROW_BYTES;

/// A part of the record of recently changed rows, in the pipeline's own encoding.
#[derive(Clone, Debug)]
pub struct RecentChunk {
    /// The record contains every change up to here.
    pub through: Position,
    /// [`RECENT_ROW_BYTES`] for each row.
    pub entries: Vec<u8>,
}

impl State {
    /// Hands the recent rows of consumer `of` to `consumer`, if that has none.
    pub fn adopt_recent(&self, of: &str, consumer: &str) -> Result<(), StateError> {
        let sql = "UPDATE recent SET consumer = ?2 WHERE consumer = ?1 AND NOT EXISTS (SELECT 1 \
                   FROM recent WHERE consumer = ?2)";
        self.db().execute(sql, params![self.key(of), self.key(consumer)])?;
        Ok(())
    }

    /// The recently changed rows, oldest chunk first.
    pub fn recent(&self, consumer: &str) -> Result<Vec<RecentChunk>, StateError> {
        let db = self.db();
        let mut statement = db.prepare(
            "SELECT sequence, time_ns, entries FROM recent WHERE consumer = ?1 ORDER BY chunk",
        )?;
        let read = |row: &rusqlite::Row<'_>| {
            let through = Position { sequence: row.get::<_, i64>(0)? as u64, time_ns: row.get(1)? };
            Ok(RecentChunk { through, entries: row.get(2)? })
        };
        let rows = statement.query_map([self.key(consumer)], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Appends a chunk and removes the oldest ones until the rest has `bytes_max` bytes or less. A
    /// small chunk is put behind the last one, so that their number stays small, too.
    pub fn append_recent(
        &self,
        consumer: &str,
        chunk: &RecentChunk,
        bytes_max: usize,
    ) -> Result<(), StateError> {
        let consumer = &*self.key(consumer);
        let mut db = self.db();
        let transaction = db.transaction()?;
        let last =
            "SELECT chunk, entries FROM recent WHERE consumer = ?1 ORDER BY chunk DESC LIMIT 1";
        let last: Option<(i64, Vec<u8>)> = transaction
            .query_row(last, [consumer], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match last {
            Some((number, mut entries))
                if entries.len() + chunk.entries.len() <= CHUNK_BYTES_SMALL
                    || chunk.entries.is_empty() =>
            {
                entries.extend_from_slice(&chunk.entries);
                let extend =
                    "UPDATE recent SET sequence = ?2, time_ns = ?3, entries = ?4 WHERE chunk = ?1";
                let through = (chunk.through.sequence as i64, chunk.through.time_ns);
                transaction.execute(extend, params![number, through.0, through.1, entries])?;
            }
            _ => insert_recent(&transaction, consumer, chunk)?,
        }
        transaction.execute(
            "DELETE FROM recent WHERE consumer = ?1 AND chunk IN (SELECT chunk FROM
               (SELECT chunk, sum(length(entries)) OVER (ORDER BY chunk DESC) AS newer FROM recent \
             WHERE consumer = ?1) WHERE newer > ?2)",
            params![consumer, bytes_max as i64],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Replaces all chunks by this one.
    pub fn replace_recent(&self, consumer: &str, chunk: &RecentChunk) -> Result<(), StateError> {
        let consumer = &*self.key(consumer);
        let mut db = self.db();
        let transaction = db.transaction()?;
        transaction.execute("DELETE FROM recent WHERE consumer = ?1", [consumer])?;
        // In pieces, so that the oldest can go by and by.
        let mut pieces = chunk.entries.chunks(CHUNK_BYTES_SMALL).peekable();
        if pieces.peek().is_none() {
            insert_recent(&transaction, consumer, chunk)?;
        }
        for piece in pieces {
            let chunk = RecentChunk { through: chunk.through, entries: piece.to_vec() };
            insert_recent(&transaction, consumer, &chunk)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn insert_recent(db: &Connection, consumer: &str, chunk: &RecentChunk) -> Result<(), StateError> {
    let sql = "INSERT INTO recent (consumer, sequence, time_ns, entries) VALUES (?1, ?2, ?3, ?4)";
    db.execute(
        sql,
        params![consumer, chunk.through.sequence as i64, chunk.through.time_ns, chunk.entries],
    )?;
    Ok(())
}
