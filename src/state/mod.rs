//! What survives a restart: an SQLite file in the data directory. Several processes may open it.

mod data_dir;
pub mod imports;
pub mod letters;
mod listing;
mod lock;
mod places;
pub mod predecessor;
mod recent;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::change::{Position, TableSchema};
use crate::private;
pub use data_dir::{DataDir, DataDirError};
pub use imports::OpenImport;
pub use lock::{Lock, LockError};
pub use recent::{RECENT_ROW_BYTES, RecentChunk};

/// The name of the file in the data directory.
pub const FILE_NAME: &str = "eds-state.db";
/// The version of the file's tables. An older one is migrated; a newer one is refused.
const FORMAT: i64 = 3;

/// Migrates format 1 to 2: two tables have other names.
const FROM_FORMAT_1: &str =
    "ALTER TABLE plan RENAME TO intent; ALTER TABLE seam RENAME TO cutover;";

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS schema (table_name TEXT, version TEXT, json TEXT NOT NULL, PRIMARY KEY \
                      (table_name, version)) STRICT;
CREATE TABLE IF NOT EXISTS position (consumer TEXT PRIMARY KEY, sequence INTEGER NOT NULL, time_ns \
                      INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS intent (consumer TEXT PRIMARY KEY, sequence INTEGER NOT NULL, time_ns \
                      INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS since (consumer TEXT PRIMARY KEY, time_ns INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS idle_at (consumer TEXT PRIMARY KEY, sequence INTEGER NOT NULL, time_ns \
                      INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS layout (consumer TEXT PRIMARY KEY, words TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS recent (chunk INTEGER PRIMARY KEY, consumer TEXT NOT NULL, sequence \
                      INTEGER NOT NULL,
  time_ns INTEGER NOT NULL, entries BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS cutover (consumer TEXT, table_name TEXT, words TEXT NOT NULL, PRIMARY \
                      KEY (consumer, table_name)) STRICT;
CREATE TABLE IF NOT EXISTS import (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), job TEXT NOT \
                      NULL, choice TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS import_progress (job TEXT, file TEXT, lines INTEGER NOT NULL, rows \
                      INTEGER NOT NULL, skipped INTEGER NOT NULL,
  done INTEGER NOT NULL, PRIMARY KEY (job, file)) STRICT;
";

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// SQLite cannot open it.
    #[error("the state file {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// Why not.
        source: rusqlite::Error,
    },
    /// Its directory cannot be created.
    #[error("the data directory {path} cannot be made: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A newer version of EDS wrote it.
    #[error(
        "the state file {path} was written by a newer EDS (format {found}; this one knows \
         {FORMAT}): install that version again"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its format; this version knows [`FORMAT`] and older ones.
        found: i64,
    },
    /// The table of this name holds what cannot be read.
    #[error("the state file holds something in {0:?} that this version of EDS cannot read")]
    Unreadable(&'static str),
    /// A statement failed: the disk is full, or the file is locked or broken.
    #[error("the state file: {0}")]
    Sql(#[from] rusqlite::Error),
}

/// Stands between the name of a consumer and its destination's; in neither of them.
const OF: &str = " @ ";
/// The tables whose rows belong to a consumer of one destination.
const CONSUMER_TABLES: [&str; 9] = [
    "position",
    "intent",
    "since",
    "idle_at",
    "layout",
    "recent",
    "cutover",
    "dead_letter",
    "letter_order",
];

/// A handle of the state file. Clones share one connection; each call waits for the one before.
/// Whatever is saved is on disk when the call returns.
#[derive(Clone)]
pub struct State {
    connection: Arc<Mutex<Connection>>,
    /// What follows a consumer's name: which destination it writes to. A consumer has a position,
    /// a memory of rows and dead letters for each.
    destination: Arc<str>,
}

impl State {
    /// Opens the state file in `data_dir`, which only the owner can read; creates what is missing.
    pub fn open(data_dir: &Path) -> Result<State, StateError> {
        let shown = data_dir.display().to_string();
        std::fs::create_dir_all(data_dir)
            .map_err(|source| StateError::Directory { path: shown, source })?;
        let path = data_dir.join(FILE_NAME);
        let shown = path.display().to_string();
        let failed = |source| StateError::Open { path: shown.clone(), source };
        let connection = Connection::open(&path).map_err(failed)?;
        // It may hold rows. A file system without modes is no reason not to run.
        let _ = private::restrict(&path);
        Self::prepare(connection, &shown).map_err(|e| match e {
            StateError::Sql(source) => StateError::Open { path: shown.clone(), source },
            other => other,
        })
    }

    /// Opens the state file in `data_dir`; where there is none, none is made, and nothing is known.
    pub fn open_if_there(data_dir: &Path) -> Result<State, StateError> {
        match data_dir.join(FILE_NAME).exists() {
            true => State::open(data_dir),
            false => State::in_memory(),
        }
    }

    /// The state file as it is, which is neither made nor migrated nor written to; `None` where
    /// there is none. One of an older format is refused as unreadable: a start migrates it.
    pub fn look(data_dir: &Path) -> Result<Option<State>, StateError> {
        let path = data_dir.join(FILE_NAME);
        if !path.exists() {
            return Ok(None);
        }
        let shown = path.display().to_string();
        let failed = |source| StateError::Open { path: shown.clone(), source };
        // A connection that only reads would leave the files of the write-ahead log behind.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
        connection.pragma_update(None, "query_only", true).map_err(failed)?;
        match Self::format(&connection)? {
            Some(found) if found > FORMAT => {
                return Err(StateError::Newer { path: shown.clone(), found });
            }
            Some(FORMAT) => {}
            _ => return Err(StateError::Unreadable("meta")),
        }
        Ok(Some(State { connection: Arc::new(Mutex::new(connection)), destination: "".into() }))
    }

    /// A state in memory, which ends with its last handle.
    pub fn in_memory() -> Result<State, StateError> {
        Self::prepare(Connection::open_in_memory()?, "memory")
    }

    fn prepare(connection: Connection, path: &str) -> Result<State, StateError> {
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        match Self::format(&connection)? {
            Some(found) if found > FORMAT => {
                return Err(StateError::Newer { path: path.to_owned(), found });
            }
            Some(found @ (1 | 2)) => {
                let steps = if found == 1 { FROM_FORMAT_1 } else { "" };
                connection.execute_batch(&format!(
                    "BEGIN IMMEDIATE; {steps} UPDATE meta SET value = {FORMAT} WHERE key = \
                     'format'; COMMIT;"
                ))?;
            }
            _ => {}
        }
        connection.execute_batch(TABLES)?;
        connection.execute_batch(letters::TABLES)?;
        connection.execute_batch(places::TABLES)?;
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?1)", [FORMAT])?;
        Ok(State { connection: Arc::new(Mutex::new(connection)), destination: "".into() })
    }

    /// The format that is written in the file; `None` where it is new.
    fn format(connection: &Connection) -> Result<Option<i64>, StateError> {
        let exists =
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'meta')";
        if !connection.query_row(exists, [], |row| row.get::<_, bool>(0))? {
            return Ok(None);
        }
        Ok(connection
            .query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0))
            .optional()?)
    }

    /// For simulations: whether writes fail from now on, as on a disk that is full.
    pub fn refuse_writes(&self, refuse: bool) -> Result<(), StateError> {
        Ok(self.db().pragma_update(None, "query_only", refuse)?)
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The schemas that were saved, as JSON texts, in the order in which they were saved.
    pub fn schemas(&self) -> Result<Vec<String>, StateError> {
        let db = self.db();
        let mut statement = db.prepare("SELECT json FROM schema ORDER BY rowid")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Keeps schemas of the Go program that are not known yet. What is no schema is left out.
    pub fn adopt_schemas(&self, schemas: &[String]) -> Result<(), StateError> {
        for json in schemas {
            if let Ok(schema) = TableSchema::parse(json) {
                let sql = "INSERT OR IGNORE INTO schema VALUES (?1, ?2, ?3)";
                self.db().execute(sql, params![&*schema.table, &*schema.version, json])?;
            }
        }
        Ok(())
    }

    /// Keeps the schema of one version of a table, as JSON.
    pub fn save_schema(&self, table: &str, version: &str, json: &str) -> Result<(), StateError> {
        self.db().execute(
            "INSERT OR REPLACE INTO schema VALUES (?1, ?2, ?3)",
            params![table, version, json],
        )?;
        Ok(())
    }

    /// Where the feed of `consumer` was last opened; for a destination without a checkpoint of its
    /// own, the last change that it holds.
    pub fn position(&self, consumer: &str) -> Result<Option<Position>, StateError> {
        self.place("SELECT sequence, time_ns FROM position WHERE consumer = ?1", consumer)
    }

    fn place(&self, sql: &str, consumer: &str) -> Result<Option<Position>, StateError> {
        let db = self.db();
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Position { sequence: row.get::<_, i64>(0)? as u64, time_ns: row.get(1)? })
        };
        Ok(db.prepare_cached(sql)?.query_row([self.key(consumer)], read).optional()?)
    }

    /// Whether any consumer has a position at this destination.
    pub fn has_positions(&self) -> Result<bool, StateError> {
        let db = self.db();
        let mut statement = db.prepare("SELECT consumer FROM position")?;
        let keys = statement.query_map([], |row| row.get::<_, String>(0))?;
        let keys = keys.collect::<Result<Vec<String>, _>>()?;
        Ok(keys.iter().any(|key| self.consumer_of(key).is_some()))
    }

    /// Replaces what [`State::position`] returns.
    pub fn save_position(&self, consumer: &str, position: Position) -> Result<(), StateError> {
        self.save_place("INSERT OR REPLACE INTO position VALUES (?1, ?2, ?3)", consumer, position)
    }

    fn save_place(&self, sql: &str, consumer: &str, position: Position) -> Result<(), StateError> {
        self.db().prepare_cached(sql)?.execute(params![
            self.key(consumer),
            position.sequence as i64,
            position.time_ns
        ])?;
        Ok(())
    }

    /// The last change of the batch that was begun last, for a destination without a checkpoint of
    /// its own. If it is beyond the position, it is unknown whether the batch was written.
    pub fn intent(&self, consumer: &str) -> Result<Option<Position>, StateError> {
        self.place("SELECT sequence, time_ns FROM intent WHERE consumer = ?1", consumer)
    }

    /// Replaces what [`State::intent`] returns, before the batch is begun.
    pub fn save_intent(&self, consumer: &str, through: Position) -> Result<(), StateError> {
        self.save_place("INSERT OR REPLACE INTO intent VALUES (?1, ?2, ?3)", consumer, through)
    }

    /// Forgets the batch that was begun: changes after the position are written again.
    pub fn clear_intent(&self, consumer: &str) -> Result<(), StateError> {
        self.db().execute("DELETE FROM intent WHERE consumer = ?1", [self.key(consumer)])?;
        Ok(())
    }

    /// When nothing was pending for `consumer` last, by the source's clock, and how far it was. If
    /// the stream still has everything since, it has missed no change.
    pub fn idle(&self, consumer: &str) -> Result<Option<Position>, StateError> {
        self.place("SELECT sequence, time_ns FROM idle_at WHERE consumer = ?1", consumer)
    }

    /// Replaces what [`State::idle`] returns.
    pub fn save_idle(&self, consumer: &str, at: Position) -> Result<(), StateError> {
        self.save_place("INSERT OR REPLACE INTO idle_at VALUES (?1, ?2, ?3)", consumer, at)
    }

    /// What the feed of `consumer` has to know of its source to understand positions.
    pub fn layout(&self, consumer: &str) -> Result<Option<String>, StateError> {
        let sql = "SELECT words FROM layout WHERE consumer = ?1";
        Ok(self.db().query_row(sql, [self.key(consumer)], |row| row.get(0)).optional()?)
    }

    /// Replaces what [`State::layout`] returns.
    pub fn save_layout(&self, consumer: &str, words: &str) -> Result<(), StateError> {
        let sql = "INSERT OR REPLACE INTO layout VALUES (?1, ?2)";
        self.db().execute(sql, params![self.key(consumer), words])?;
        Ok(())
    }

    /// With which time of publication `consumer` begins that has no position yet, Unix nanoseconds.
    pub fn since(&self, consumer: &str) -> Result<Option<i64>, StateError> {
        let sql = "SELECT time_ns FROM since WHERE consumer = ?1";
        Ok(self.db().query_row(sql, [self.key(consumer)], |row| row.get(0)).optional()?)
    }

    /// Replaces what [`State::since`] returns.
    pub fn save_since(&self, consumer: &str, since_ns: i64) -> Result<(), StateError> {
        let sql = "INSERT OR REPLACE INTO since VALUES (?1, ?2)";
        self.db().execute(sql, params![self.key(consumer), since_ns])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_saved_and_bounds_the_recent_rows() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        const LARGE: usize = 3_000 * 28;
        let at = |sequence| Position { sequence, time_ns: 7 };
        {
            let state = State::open(dir.path())?;
            state.save_position("c", at(1))?;
            state.save_position("c", at(2))?;
            state.save_intent("c", at(3))?;
            state.save_schema("order", "v1", "{}")?;
            for n in 1..=5 {
                let chunk = RecentChunk { through: at(n), entries: vec![0; LARGE] };
                state.append_recent("c", &chunk, 3 * LARGE)?;
            }
        }
        let state = State::open(dir.path())?;
        assert_eq!(state.position("c")?, Some(at(2)));
        assert_eq!(state.position("other")?, None);
        assert_eq!(state.intent("c")?, Some(at(3)));
        state.clear_intent("c")?;
        assert_eq!(state.intent("c")?, None);
        // What is small is put behind the last chunk.
        for (sequence, rows) in [(8, 2), (9, 0)] {
            let chunk = RecentChunk { through: at(sequence), entries: vec![1; rows * 28] };
            state.append_recent("c", &chunk, 4 * LARGE)?;
        }
        let chunks = state.recent("c")?;
        let shape: Vec<_> = chunks.iter().map(|c| (c.through.sequence, c.entries.len())).collect();
        assert_eq!(shape, [(3, LARGE), (4, LARGE), (9, LARGE + 56)]);
        assert_eq!(chunks[2].entries[LARGE - 1..LARGE + 1], [0, 1]);
        assert_eq!(state.get("schema/order/v1")?.as_deref(), Some("{}"));
        assert_eq!(state.list()?.len(), 3);
        Ok(())
    }

    /// Format 1 is what was written before 0.1.0.
    #[test]
    fn a_file_of_format_1_is_taken_over() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let old = Connection::open(dir.path().join(FILE_NAME))?;
        old.execute_batch(
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
             INSERT INTO meta VALUES ('format', 1);
             CREATE TABLE position (consumer TEXT PRIMARY KEY, sequence INTEGER NOT NULL, time_ns \
             INTEGER NOT NULL) STRICT;
             INSERT INTO position VALUES ('c', 5, 7);
             CREATE TABLE plan (consumer TEXT PRIMARY KEY, sequence INTEGER NOT NULL, time_ns \
             INTEGER NOT NULL) STRICT;
             INSERT INTO plan VALUES ('c', 9, 8);
             CREATE TABLE seam (consumer TEXT, table_name TEXT, words TEXT NOT NULL, PRIMARY KEY \
             (consumer, table_name)) STRICT;
             INSERT INTO seam VALUES ('', 'order', \
             '{\"imported_at\":\"1720732611708587506.0000000000\"}');",
        )?;
        drop(old);
        for _ in 0..2 {
            let state = State::open(dir.path())?;
            assert_eq!(state.position("c")?, Some(Position { sequence: 5, time_ns: 7 }));
            assert_eq!(state.intent("c")?, Some(Position { sequence: 9, time_ns: 8 }));
            assert!(state.cutovers()?.of("c").resume_point().is_some());
        }
        Ok(())
    }

    #[test]
    fn a_newer_file_is_left_alone() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        State::open(dir.path())?.db().execute("UPDATE meta SET value = 99", [])?;
        assert!(matches!(State::open(dir.path()), Err(StateError::Newer { found: 99, .. })));
        Ok(())
    }
}
