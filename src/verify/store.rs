//! The rows of the export and what was found of them, in a file of SQLite: a comparison takes
//! memory for one page, however many rows there are, and goes on where it was cut off.

mod rows;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};

use super::VerifyError;
use crate::change::Position;
pub use rows::Suspect;

/// The name of the file in the data directory.
const FILE_NAME: &str = "verify.db";

/// What is wrong with a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Difference {
    /// The destination lacks it.
    Missing,
    /// The destination has it and the export does not.
    Extra,
    /// Values differ.
    Different,
}

impl Difference {
    const ALL: [Difference; 3] = [Difference::Missing, Difference::Extra, Difference::Different];

    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Difference::Missing => "missing",
            Difference::Extra => "extra",
            Difference::Different => "different",
        }
    }

    fn of_number(n: i64) -> Difference {
        usize::try_from(n).ok().and_then(|n| Difference::ALL.get(n)).copied().unwrap_or(Self::Extra)
    }
}

/// A text that is known of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noted {
    /// What is compared with what: only the same goes on.
    Choice,
    /// The job of the export at HQ.
    Job,
    /// Since when changes of the stream count, Unix nanoseconds.
    Since,
    /// The tables, as they were numbered, with their columns.
    Form,
}

impl Noted {
    fn name(self) -> &'static str {
        match self {
            Noted::Choice => "choice",
            Noted::Job => "job",
            Noted::Since => "since",
            Noted::Form => "form",
        }
    }
}

/// How far the comparison of a table is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TableProgress {
    /// The rows up to this key of the destination are compared; none yet without one.
    Behind(Option<Vec<String>>),
    /// All are.
    Done,
}

/// How far the changes of the stream are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownChanges {
    /// Up to here.
    pub through: Position,
    /// None is missing since the moment from which on they count.
    pub is_complete: bool,
}

/// The file. Rows are told apart by the number of their table and the text of their key.
pub struct ComparisonStore {
    db: Arc<Mutex<Connection>>,
    path: PathBuf,
    /// How many rows were kept; each has its number.
    kept: u64,
    /// One bit for each number: the destination has the row.
    seen: Vec<u64>,
    /// Which of these words are not in the file yet.
    unsaved: BTreeSet<usize>,
}

/// The rows that the stream has changed, with their newest version: the same file.
#[derive(Clone)]
pub struct ChangeStore(Arc<Mutex<Connection>>);

/// What cannot be lost by the end of the process is all that is asked for: a file that a power cut
/// has torn is begun again.
const SETTINGS: &str = "
PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY;
";

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS row (tbl INTEGER, key TEXT, n INTEGER NOT NULL, line BLOB NOT NULL,
  PRIMARY KEY (tbl, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS suspect (tbl INTEGER, key TEXT, what INTEGER NOT NULL,
  detail TEXT NOT NULL DEFAULT '', PRIMARY KEY (tbl, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (word INTEGER PRIMARY KEY, bits INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS file (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS progress (tbl INTEGER PRIMARY KEY, behind TEXT);
CREATE TABLE IF NOT EXISTS changed (hash INTEGER PRIMARY KEY, nanos INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS known (one INTEGER PRIMARY KEY, sequence INTEGER NOT NULL,
  time_ns INTEGER NOT NULL, is_complete INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS noted (name TEXT PRIMARY KEY, value TEXT NOT NULL);
";

fn failed(e: rusqlite::Error) -> VerifyError {
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => VerifyError::Refused(
            "another comparison runs with this data directory: wait for its end, or stop it".into(),
        ),
        _ => VerifyError::Failed(format!(
            "the export's rows cannot be kept for the comparison ({FILE_NAME} in the data \
             directory): {e}"
        )),
    }
}

fn locked(db: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    db.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ComparisonStore {
    /// Opens the file in `dir`, or makes it. What is in it of a comparison with another `choice`
    /// goes; so does all of it with `is_fresh`, and where it cannot be read.
    pub fn open(dir: &Path, choice: &str, is_fresh: bool) -> Result<ComparisonStore, VerifyError> {
        let unusable = |e: std::io::Error| {
            VerifyError::Failed(format!("{} cannot be written: {e}", dir.display()))
        };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let path = dir.join(FILE_NAME);
        drop(crate::private::options().write(true).create(true).open(&path).map_err(unusable)?);
        let opened = match ComparisonStore::opened(&path) {
            Err(VerifyError::Failed(_)) => {
                remove(&path);
                drop(crate::private::create_new(&path).map_err(unusable)?);
                ComparisonStore::opened(&path)
            }
            opened => opened,
        };
        let mut store = opened?;
        if is_fresh || store.noted(Noted::Choice)?.as_deref() != Some(choice) {
            store.clear()?;
            store.note_text(Noted::Choice, choice)?;
        }
        Ok(store)
    }

    fn opened(path: &Path) -> Result<ComparisonStore, VerifyError> {
        let db = Connection::open(path).map_err(failed)?;
        db.execute_batch(SETTINGS).map_err(failed)?;
        db.execute_batch(TABLES).map_err(failed)?;
        let highest = "SELECT coalesce(max(n) + 1, 0) FROM row";
        let kept = db.query_row(highest, [], |row| row.get::<_, i64>(0)).map_err(failed)? as u64;
        let mut seen = Vec::new();
        {
            let mut words = db.prepare("SELECT word, bits FROM seen").map_err(failed)?;
            let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
            for word in words.query_map([], read).map_err(failed)? {
                let (at, bits) = word.map_err(failed)?;
                let at = at as usize;
                seen.resize(seen.len().max(at + 1), 0);
                seen[at] = bits as u64;
            }
        }
        let db = Arc::new(Mutex::new(db));
        Ok(ComparisonStore { db, path: path.to_owned(), kept, seen, unsaved: BTreeSet::new() })
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        locked(&self.db)
    }

    /// Forgets everything but the choice.
    pub fn clear(&mut self) -> Result<(), VerifyError> {
        let sql = "BEGIN; DELETE FROM row; DELETE FROM suspect; DELETE FROM seen; DELETE FROM \
                   file; DELETE FROM progress; DELETE FROM changed; DELETE FROM known; DELETE FROM \
                   noted WHERE name <> 'choice'; COMMIT";
        self.db().execute_batch(sql).map_err(failed)?;
        (self.kept, self.seen, self.unsaved) = (0, Vec::new(), BTreeSet::new());
        Ok(())
    }

    /// The comparison is over: the file goes.
    pub fn remove(self) {
        let ComparisonStore { db, path, .. } = self;
        drop(db);
        remove(&path);
    }

    /// The part of the file about changes.
    pub fn changes(&self) -> ChangeStore {
        ChangeStore(self.db.clone())
    }

    /// What was noted, if it was.
    pub fn noted(&self, what: Noted) -> Result<Option<String>, VerifyError> {
        let sql = "SELECT value FROM noted WHERE name = ?1";
        self.db().query_row(sql, [what.name()], |row| row.get(0)).optional().map_err(failed)
    }

    /// Notes a text.
    pub fn note_text(&mut self, what: Noted, text: &str) -> Result<(), VerifyError> {
        let sql = "INSERT OR REPLACE INTO noted VALUES (?1, ?2)";
        self.db().execute(sql, [what.name(), text]).map_err(failed).map(drop)
    }

    /// The files of the export whose rows are all kept.
    pub fn files(&self) -> Result<HashSet<String>, VerifyError> {
        let db = self.db();
        let mut select = db.prepare("SELECT name FROM file").map_err(failed)?;
        let names = select.query_map([], |row| row.get(0)).map_err(failed)?;
        names.collect::<Result<_, _>>().map_err(failed)
    }

    /// All rows of the file are kept.
    pub fn note_file(&mut self, name: &str) -> Result<(), VerifyError> {
        self.db().execute("INSERT OR REPLACE INTO file VALUES (?1)", [name]).map_err(failed)?;
        Ok(())
    }

    /// How far the comparison of the table is.
    pub fn progress(&self, table: usize) -> Result<TableProgress, VerifyError> {
        let sql = "SELECT behind FROM progress WHERE tbl = ?1";
        let found: Option<Option<String>> = self
            .db()
            .query_row(sql, [table as i64], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        Ok(match found {
            None => TableProgress::Behind(None),
            Some(None) => TableProgress::Done,
            Some(Some(key)) => TableProgress::Behind(serde_json::from_str(&key).ok()),
        })
    }

    /// Everything of the table is compared.
    pub fn note_done(&mut self, table: usize) -> Result<(), VerifyError> {
        let sql = "INSERT OR REPLACE INTO progress VALUES (?1, NULL)";
        self.db().execute(sql, [table as i64]).map_err(failed).map(drop)
    }
}

/// The words of `seen` that changed go into the file.
fn save_seen(
    transaction: &Transaction<'_>,
    seen: &[u64],
    unsaved: &BTreeSet<usize>,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO seen VALUES (?1, ?2)")?;
    for word in unsaved {
        insert.execute(params![*word as i64, seen.get(*word).copied().unwrap_or(0) as i64])?;
    }
    Ok(())
}

/// Removes the file, and what SQLite keeps beside it.
fn remove(path: &Path) {
    for ending in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        let _ = std::fs::remove_file(name);
    }
}

impl ChangeStore {
    /// What is known, if anything is.
    pub fn known(&self) -> Result<Option<KnownChanges>, VerifyError> {
        let read = |row: &rusqlite::Row<'_>| {
            let through = Position { sequence: row.get::<_, i64>(0)? as u64, time_ns: row.get(1)? };
            Ok(KnownChanges { through, is_complete: row.get(2)? })
        };
        let sql = "SELECT sequence, time_ns, is_complete FROM known";
        locked(&self.0).query_row(sql, [], read).optional().map_err(failed)
    }

    /// Takes note of the versions of rows, by their hashes, and of how far they are known.
    pub fn add(
        &self,
        versions: impl Iterator<Item = (u64, u64)>,
        known: Option<KnownChanges>,
    ) -> Result<(), VerifyError> {
        let mut db = locked(&self.0);
        let transaction = db.transaction().map_err(failed)?;
        {
            let sql = "INSERT INTO changed VALUES (?1, ?2) ON CONFLICT (hash) DO UPDATE SET nanos \
                       = max(nanos, excluded.nanos)";
            let mut insert = transaction.prepare_cached(sql).map_err(failed)?;
            for (hash, nanos) in versions {
                let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
                insert.execute(params![hash as i64, nanos]).map_err(failed)?;
            }
        }
        if let Some(KnownChanges { through, is_complete }) = known {
            let sql = "INSERT OR REPLACE INTO known VALUES (1, ?1, ?2, ?3)";
            let parameters = params![through.sequence as i64, through.time_ns, is_complete];
            transaction.execute(sql, parameters).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    /// The newest version of the row of this hash; `None` where it was not changed.
    pub fn version(&self, hash: u64) -> Result<Option<u64>, VerifyError> {
        let db = locked(&self.0);
        let sql = "SELECT nanos FROM changed WHERE hash = ?1";
        let mut find = db.prepare_cached(sql).map_err(failed)?;
        let nanos = find.query_row([hash as i64], |row| row.get::<_, i64>(0)).optional();
        Ok(nanos.map_err(failed)?.map(|nanos| nanos as u64))
    }
}
