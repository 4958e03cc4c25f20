//! The rows of the export by their keys, which of them were seen, and the keys that differ.

use bytes::Bytes;
use rusqlite::{OptionalExtension, params};

use super::{ComparisonStore, Difference, failed, save_seen};
use crate::verify::VerifyError;

/// A key whose row differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suspect {
    /// The text of the key.
    pub key: String,
    /// What is wrong.
    pub what: Difference,
    /// What the last look found of it, as the caller wrote it.
    pub detail: String,
}

/// Keys that are looked through at once. No key is an empty text: it is that of an array.
const KEYS_MAX: i64 = 10_000;

impl ComparisonStore {
    /// Keeps rows: key and line. Of two with one key the later counts.
    pub fn add(&mut self, table: usize, rows: &[(String, Bytes)]) -> Result<(), VerifyError> {
        let mut db = super::locked(&self.db);
        let transaction = db.transaction().map_err(failed)?;
        {
            let sql = "INSERT OR REPLACE INTO row (tbl, key, n, line) VALUES (?1, ?2, ?3, ?4)";
            let mut insert = transaction.prepare_cached(sql).map_err(failed)?;
            for (key, line) in rows {
                let n = self.kept as i64;
                insert.execute(params![table as i64, key, n, &line[..]]).map_err(failed)?;
                self.kept += 1;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// How many rows the table has.
    pub fn count(&self, table: usize) -> Result<u64, VerifyError> {
        let sql = "SELECT count(*) FROM row WHERE tbl = ?1";
        let count = self.db().query_row(sql, [table as i64], |row| row.get::<_, i64>(0));
        Ok(count.map_err(failed)? as u64)
    }

    /// The line of a row.
    pub fn line(&self, table: usize, key: &str) -> Result<Option<Vec<u8>>, VerifyError> {
        Ok(self.numbered_line(table, key)?.map(|(_, line)| line))
    }

    fn numbered_line(
        &self,
        table: usize,
        key: &str,
    ) -> Result<Option<(u64, Vec<u8>)>, VerifyError> {
        let sql = "SELECT n, line FROM row WHERE tbl = ?1 AND key = ?2";
        let db = self.db();
        let mut find = db.prepare_cached(sql).map_err(failed)?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?));
        find.query_row(params![table as i64, key], read).optional().map_err(failed)
    }

    /// The line of a row that the destination has.
    pub fn see(&mut self, table: usize, key: &str) -> Result<Option<Vec<u8>>, VerifyError> {
        let Some((n, line)) = self.numbered_line(table, key)? else { return Ok(None) };
        let (word, bit) = ((n / 64) as usize, n % 64);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << bit;
        self.unsaved.insert(word);
        Ok(Some(line))
    }

    fn was_seen(&self, n: u64) -> bool {
        self.seen.get((n / 64) as usize).is_some_and(|word| word & (1 << (n % 64)) != 0)
    }

    /// Notes keys that differ, and with them which rows were seen until now. `behind`: the key up
    /// to which the destination's rows are compared with that.
    pub fn note(
        &mut self,
        table: usize,
        suspects: &[(String, Difference)],
        behind: Option<&[String]>,
    ) -> Result<(), VerifyError> {
        let mut db = super::locked(&self.db);
        let transaction = db.transaction().map_err(failed)?;
        {
            let sql = "INSERT OR REPLACE INTO suspect (tbl, key, what) VALUES (?1, ?2, ?3)";
            let mut insert = transaction.prepare_cached(sql).map_err(failed)?;
            for (key, what) in suspects {
                insert.execute(params![table as i64, key, *what as i64]).map_err(failed)?;
            }
        }
        save_seen(&transaction, &self.seen, &self.unsaved).map_err(failed)?;
        if let Some(key) = behind {
            let sql = "INSERT OR REPLACE INTO progress VALUES (?1, ?2)";
            let key = serde_json::Value::from(key).to_string();
            transaction.execute(sql, params![table as i64, key]).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        self.unsaved.clear();
        Ok(())
    }

    /// All of the table was read: what was not seen is missing.
    pub fn note_missing(&mut self, table: usize) -> Result<(), VerifyError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.keys(table, after.as_deref())?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let unseen = page.into_iter().filter(|(_, n)| !self.was_seen(*n));
            let missing: Vec<_> = unseen.map(|(key, _)| (key, Difference::Missing)).collect();
            self.note(table, &missing, None)?;
        }
    }

    /// The next keys with their numbers, behind the key `after`.
    fn keys(&self, table: usize, after: Option<&str>) -> Result<Vec<(String, u64)>, VerifyError> {
        let sql = "SELECT key, n FROM row WHERE tbl = ?1 AND key > ?2 ORDER BY key \
                   LIMIT ?3";
        let db = self.db();
        let mut select = db.prepare_cached(sql).map_err(failed)?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64));
        let rows =
            select.query_map(params![table as i64, after.unwrap_or_default(), KEYS_MAX], read);
        rows.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
    }

    /// The next keys that differ, behind the key `after`, which becomes the last of them.
    pub fn suspects(
        &self,
        table: usize,
        after: &mut String,
        max: usize,
    ) -> Result<Vec<Suspect>, VerifyError> {
        let sql = "SELECT key, what, detail FROM suspect WHERE tbl = ?1 AND key > ?2 ORDER BY key LIMIT \
                   ?3";
        let db = self.db();
        let mut select = db.prepare_cached(sql).map_err(failed)?;
        let read = |row: &rusqlite::Row<'_>| {
            let what = Difference::of_number(row.get(1)?);
            Ok(Suspect { key: row.get(0)?, what, detail: row.get(2)? })
        };
        let rows = select.query_map(params![table as i64, *after, max as i64], read);
        let suspects: Vec<Suspect> =
            rows.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
        if let Some(last) = suspects.last() {
            after.clone_from(&last.key);
        }
        Ok(suspects)
    }

    /// What another look found of a key: how it differs now, or that it does not.
    pub fn judge(
        &mut self,
        table: usize,
        key: &str,
        found: Option<(Difference, &str)>,
    ) -> Result<(), VerifyError> {
        let done = match found {
            Some((what, detail)) => self.db().execute(
                "UPDATE suspect SET what = ?3, detail = ?4 WHERE tbl = ?1 AND key = ?2",
                params![table as i64, key, what as i64, detail],
            ),
            None => self.db().execute(
                "DELETE FROM suspect WHERE tbl = ?1 AND key = ?2",
                params![table as i64, key],
            ),
        };
        done.map_err(failed).map(drop)
    }

    /// How many keys of any table differ.
    pub fn suspect_count(&self) -> Result<u64, VerifyError> {
        let count = self.db().query_row("SELECT count(*) FROM suspect", [], |r| r.get::<_, i64>(0));
        Ok(count.map_err(failed)? as u64)
    }
}
