//! A stand-in for SQL Server: it speaks the wire protocol (MS-TDS), records every statement,
//! injects errors, and executes the shapes of statements that EDS uses on SQLite. What it does not
//! know, it refuses.

mod engine;
mod wire;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use engine::collation::DEFAULT;
use engine::{Refused, TdsEngine};
use wire::{Channel, TdsAnswer, TdsCell, TdsKind, TdsMessage};

pub const PASSWORD: &str = "s3cret/p@ss:w%rd";

/// What goes wrong the next time that a statement begins with a text, or reads from it.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The statement fails with this number.
    Error(&'static str, u32),
    /// The connection is cut before the statement is run.
    CutBefore(&'static str),
    /// The connection is cut after the statement was run: its answer is lost.
    CutAfter(&'static str),
    /// A trigger commits: what the transaction has written so far stays, and it is over.
    Commits(&'static str),
}

#[derive(Default)]
struct TdsShared {
    dir: PathBuf,
    statements: Mutex<Vec<String>>,
    faults: Mutex<Vec<Fault>>,
    /// The most rows of a customer's table that one statement of a stream has changed.
    rows_max: AtomicU64,
    /// Of the databases that have another one than the product's first.
    collations: Mutex<HashMap<String, String>>,
}

pub struct FakeSqlServer {
    pub port: u16,
    shared: Arc<TdsShared>,
    dir: TempDir,
    /// None while it is down.
    runtime: Option<tokio::runtime::Runtime>,
}

/// How long the sessions of one that crashes may take to end.
const CRASH_WAIT_MAX: Duration = Duration::from_secs(30);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeSqlServer {
    pub fn start() -> FakeSqlServer {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let shared = Arc::new(TdsShared { dir: dir.path().to_owned(), ..TdsShared::default() });
        let mut server = FakeSqlServer { port: super::free_port(), shared, dir, runtime: None };
        server.run();
        server
    }

    /// Its connections live on threads of its own, as SQLite blocks.
    pub fn run(&mut self) {
        let listener =
            std::net::TcpListener::bind(("127.0.0.1", self.port)).unwrap_or_else(|e| panic!("{e}"));
        listener.set_nonblocking(true).unwrap_or_else(|e| panic!("{e}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap_or_else(|e| panic!("{e}"));
        let serving = self.shared.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap_or_else(|e| panic!("{e}"));
            while let Ok((stream, _)) = listener.accept().await {
                let shared = serving.clone();
                tokio::spawn(async move {
                    let _ = session(stream, &shared).await;
                });
            }
        });
        self.runtime = Some(runtime);
    }

    /// Every connection ends, with the transaction that is open in it; what was committed stays.
    pub fn crash(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // Who waits for it must not be where futures run.
        let ended = std::thread::spawn(move || runtime.shutdown_timeout(CRASH_WAIT_MAX)).join();
        assert!(ended.is_ok());
    }

    /// Where the files of its databases are.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self, database: &str) -> String {
        format!("sqlserver://eds:s3cret%2Fp%40ss%3Aw%25rd@127.0.0.1:{}/{database}", self.port)
    }

    /// The file in which a database's tables are.
    pub fn file(&self, database: &str) -> PathBuf {
        engine::file(&self.shared.dir, database)
    }

    /// All statements so far.
    pub fn statements(&self) -> Vec<String> {
        lock(&self.shared.statements).clone()
    }

    /// The most rows that one statement has changed which reads from a temporary table.
    pub fn rows_max(&self) -> u64 {
        self.shared.rows_max.load(Ordering::Relaxed)
    }

    /// Gives a database its collation, before anything is in it.
    pub fn collate(&self, database: &str, collation: &str) {
        lock(&self.shared.collations).insert(database.to_owned(), collation.to_owned());
    }

    /// The count that a question of a person's answers, or the number of its error.
    pub fn count(&self, database: &str, sql: &str) -> Result<i64, u32> {
        let answers = self.shared.engine(database).run(sql, &[]).pop();
        match answers.unwrap_or_else(|| panic!("{sql}: no answer")) {
            Ok(TdsAnswer::Rows(_, rows)) => match rows[..] {
                [ref row] if let [TdsCell::Integer(count)] = row[..] => Ok(count),
                _ => panic!("{sql}: no count"),
            },
            Ok(_) => panic!("{sql}: no rows"),
            Err(refused) => Err(refused.code),
        }
    }

    pub fn inject(&self, fault: Fault) {
        lock(&self.shared.faults).push(fault);
    }

    /// What was injected and met nothing is gone.
    pub fn calm(&self) {
        lock(&self.shared.faults).clear();
    }
}

impl Drop for FakeSqlServer {
    fn drop(&mut self) {
        // A runtime must not be dropped where futures run.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The peer that tests share, unless they order faults.
pub fn shared() -> &'static FakeSqlServer {
    static SHARED: OnceLock<FakeSqlServer> = OnceLock::new();
    SHARED.get_or_init(FakeSqlServer::start)
}

impl TdsShared {
    fn engine(&self, database: &str) -> TdsEngine {
        let collation = lock(&self.collations).get(database).cloned();
        TdsEngine::open(&self.dir, database, collation.unwrap_or_else(|| DEFAULT.to_owned()))
    }

    fn count_rows(&self, sql: &str, answers: &[TdsOutcome]) {
        for (statement, answer) in sql.split(";\n").zip(answers) {
            let changes = !statement.starts_with("INSERT INTO #") && statement.contains(" AS s ");
            if let (true, Ok(TdsAnswer::Done(rows))) = (changes, answer) {
                self.rows_max.fetch_max(*rows, Ordering::Relaxed);
            }
        }
    }

    /// The first fault that the statement meets.
    fn fault(&self, sql: &str) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let meets = |fault: &Fault| {
            let (Fault::Error(text, _)
            | Fault::CutBefore(text)
            | Fault::CutAfter(text)
            | Fault::Commits(text)) = fault;
            sql.split(";\n").any(|statement| statement.starts_with(text))
                || sql.contains(&format!(" FROM {text}"))
        };
        let at = faults.iter().position(meets)?;
        Some(faults.remove(at))
    }
}

async fn session(stream: TcpStream, shared: &TdsShared) -> std::io::Result<()> {
    let mut channel = Channel::new(stream)?;
    let TdsMessage::PreLogin = channel.receive().await? else { return Ok(()) };
    channel.answer_prelogin().await?;
    let TdsMessage::Login { user, password, database } = channel.receive().await? else {
        return Ok(());
    };
    if (user.as_str(), password.as_str()) != ("eds", PASSWORD) {
        return channel
            .refuse(&Refused::new(18456, format!("Login failed for user '{user}'.")))
            .await;
    }
    if database == "nowhere" {
        return channel
            .refuse(&Refused::new(
                4060,
                format!("Cannot open database \"{database}\" requested by the login."),
            ))
            .await;
    }
    channel.answer_login(&database).await?;
    let mut engine = shared.engine(&database);
    loop {
        let (sql, parameters) = match channel.receive().await? {
            TdsMessage::Batch(sql) => (sql, Vec::new()),
            TdsMessage::Call(sql, parameters) => (sql, parameters),
            TdsMessage::Bulk(rows) => {
                let done = tokio::task::block_in_place(|| engine.bulk(rows));
                channel.answer(&[done], false).await?;
                continue;
            }
            _ => return Ok(()),
        };
        lock(&shared.statements).push(sql.clone());
        let is_call = !parameters.is_empty();
        let fault = shared.fault(&sql);
        if let Some(Fault::CutBefore(_)) = fault {
            return Ok(());
        }
        // A statement may wait for the end of another session's transaction: it must not keep the
        // thread on which that other session would go on.
        let answers = tokio::task::block_in_place(|| match fault {
            Some(Fault::Error(_, code)) => {
                engine.roll_back();
                vec![Err(Refused::new(code, "an error that was ordered"))]
            }
            Some(Fault::Commits(_)) => {
                let _ = engine.run(&sql, &parameters);
                let _ = engine.run("COMMIT", &[]);
                vec![Err(Refused::new(3609, "The transaction ended in the trigger."))]
            }
            _ => engine.run(&sql, &parameters),
        });
        shared.count_rows(&sql, &answers);
        if let Some(Fault::CutAfter(_)) = fault {
            return Ok(());
        }
        channel.answer(&answers, is_call).await?;
    }
}

/// What a column of a result or of a table is.
pub type Columns = Vec<(String, TdsKind)>;
type TdsOutcome = Result<TdsAnswer, Refused>;
type TdsRow = Vec<TdsCell>;
