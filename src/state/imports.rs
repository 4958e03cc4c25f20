//! Imports in the state file: the job that is under way, how far its files are loaded, and the
//! cutovers of destinations that hold no checkpoint of their own.

use rusqlite::{OptionalExtension, params};

use super::{State, StateError};
use crate::change::cutover::{Cutovers, TableSnapshot};
use crate::change::import::FileProgress;

/// An import that is not finished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenImport {
    /// Names it at HQ, or by the files of its directory.
    pub job: String,
    /// The user's flags that choose rows. Only an import with the same choice resumes it.
    pub choice: String,
}

impl State {
    /// The import to resume, if there is one.
    pub fn open_import(&self) -> Result<Option<OpenImport>, StateError> {
        let read =
            |row: &rusqlite::Row<'_>| Ok(OpenImport { job: row.get(0)?, choice: row.get(1)? });
        Ok(self.db().query_row("SELECT job, choice FROM import", [], read).optional()?)
    }

    /// Notes that the import is under way, in place of another. Durable when it returns.
    pub fn save_import(&self, import: &OpenImport) -> Result<(), StateError> {
        self.db().execute(
            "INSERT OR REPLACE INTO import VALUES (1, ?1, ?2)",
            params![import.job, import.choice],
        )?;
        Ok(())
    }

    /// No import is under way any more, and none of its files is loaded.
    pub fn forget_import(&self) -> Result<(), StateError> {
        self.db()
            .execute_batch("BEGIN; DELETE FROM import; DELETE FROM import_progress; COMMIT")?;
        Ok(())
    }

    /// The files of `job` whose loading has begun.
    pub fn import_progress(&self, job: &str) -> Result<Vec<FileProgress>, StateError> {
        let db = self.db();
        let mut statement = db.prepare(
            "SELECT file, lines, rows, skipped, done FROM import_progress WHERE job = ?1",
        )?;
        let number = |row: &rusqlite::Row<'_>, i: usize| row.get::<_, i64>(i).map(|n| n as u64);
        let rows = statement.query_map([job], |row| {
            Ok(FileProgress {
                file: row.get(0)?,
                lines: number(row, 1)?,
                rows: number(row, 2)?,
                skipped: number(row, 3)?,
                done: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes how far a file of `job` is loaded. Durable when it returns.
    pub fn save_import_progress(
        &self,
        job: &str,
        progress: &FileProgress,
    ) -> Result<(), StateError> {
        let FileProgress { file, lines, rows, skipped, done } = progress;
        let sql = "INSERT OR REPLACE INTO import_progress VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.db()
            .execute(sql, params![job, file, *lines as i64, *rows as i64, *skipped as i64, done])?;
        Ok(())
    }

    /// Forgets how far any file is loaded: the destination's tables are empty again.
    pub fn forget_import_progress(&self) -> Result<(), StateError> {
        self.db().execute("DELETE FROM import_progress", [])?;
        Ok(())
    }

    /// The cutovers of all imports into this destination, which cannot keep them itself.
    pub fn cutovers(&self) -> Result<Cutovers, StateError> {
        let db = self.db();
        let mut statement = db.prepare("SELECT consumer, table_name, words FROM cutover")?;
        let lines = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        let ours = |(key, table, words): (String, String, String)| {
            self.consumer_of(&key).map(|consumer| (consumer.to_owned(), table, words))
        };
        let lines = lines.into_iter().filter_map(ours).collect();
        Cutovers::read(lines).map_err(|_| StateError::Unreadable("cutover"))
    }

    /// Notes as of when the tables were imported, and forgets the progress of the import's files,
    /// in one transaction.
    pub fn finish_import(&self, snapshots: &[TableSnapshot]) -> Result<(), StateError> {
        let mut cutovers = self.cutovers()?;
        cutovers.import(snapshots, &[]);
        let mut db = self.db();
        let transaction = db.transaction()?;
        for (consumer, table, words) in cutovers.lines() {
            transaction.execute(
                "INSERT OR REPLACE INTO cutover VALUES (?1, ?2, ?3)",
                params![self.key(&consumer), table, words],
            )?;
        }
        transaction.execute("DELETE FROM import_progress", [])?;
        transaction.commit()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Version;

    #[test]
    fn an_import_is_known_until_it_is_over_and_its_times_for_good() -> Result<(), StateError> {
        let state = State::in_memory()?;
        let open = OpenImport { job: "j".into(), choice: "all".into() };
        state.save_import(&open)?;
        let part = FileProgress { file: "f".into(), lines: 5, rows: 4, skipped: 1, done: false };
        let whole = FileProgress { lines: 9, rows: 8, done: true, ..part.clone() };
        state.save_import_progress("j", &part)?;
        state.save_import_progress("j", &whole)?;
        assert_eq!(state.open_import()?, Some(open));
        assert_eq!(state.import_progress("j")?, [whole]);
        let at = Version { nanos: 1_720_000_000_000_000_000, logical: 0 };
        state.finish_import(&[TableSnapshot { table: "order".into(), at, whole: true }])?;
        state.forget_import()?;
        assert_eq!((state.open_import()?, state.import_progress("j")?.len()), (None, 0));
        assert_eq!(state.cutovers()?.of("c").imported["order"].at, Some(at));
        Ok(())
    }
}
