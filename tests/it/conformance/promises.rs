//! What a destination promises the engine, asked of it directly.

use std::sync::Arc;

use bytes::Bytes;
use eds::change::decode::ColumnOrder;
use eds::change::{Batch, Change, Decoder, Position, TableSchema, compact};
use eds::destination::catalog::DRIVERS;
use eds::destination::{
    Access, Claim, Destination, Epoch, Failure, FailureKind, Migration, Settings, Target,
};
use serde_json::{Value, json};

use super::{Database, WAYS, replayed};
use crate::services::eds::{schema, upsert};

/// A process: its connections share an epoch.
pub struct Process {
    pub url: String,
    epoch: Epoch,
}

impl Process {
    pub fn new(database: &dyn Database) -> Process {
        Process { url: database.url(), epoch: Epoch::default() }
    }

    pub async fn connect(&self) -> Box<dyn Destination> {
        let (settings, driver) =
            Settings::parse(&self.url, DRIVERS).unwrap_or_else(|e| panic!("{e}"));
        let target = Target {
            settings,
            consumer: "eds-conformance".into(),
            epoch: self.epoch.clone(),
            companies: "*".into(),
            rules: None,
            access: Access::Write,
        };
        (driver.open)(&target).await.unwrap_or_else(|e| panic!("{e}"))
    }
}

pub fn parse(schema: &Value) -> Arc<TableSchema> {
    Arc::new(TableSchema::parse(&schema.to_string()).unwrap_or_else(|e| panic!("{e}")))
}

pub fn at(sequence: u64) -> Position {
    Position { sequence, time_ns: 1_700_000_000_000_000_000 + sequence as i64 }
}

pub fn batch(
    schema: &Arc<TableSchema>,
    events: &[Value],
    after: Option<Position>,
    through: Position,
) -> Arc<Batch> {
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    let changes: Vec<Change> = events
        .iter()
        .map(|event| {
            let event =
                decoder.decode(Bytes::from(event.to_string())).unwrap_or_else(|e| panic!("{e}"));
            let (row, key) =
                decoder.row(&event, schema, &mut order).unwrap_or_else(|e| panic!("{e}"));
            Change {
                event,
                subject: "".into(),
                position: through,
                schema: Some(schema.clone()),
                row,
                key,
            }
        })
        .collect();
    let (groups, _) = compact::compact(&changes, 0, changes.len(), &[]);
    Arc::new(Batch::new(Arc::new(changes), groups, Vec::new(), after, through))
}

pub fn ok<T>(done: Result<T, Failure>) -> T {
    done.unwrap_or_else(|e| panic!("{:?}: {e}", e.kind))
}

fn words() -> Arc<TableSchema> {
    parse(&schema(
        "words",
        "1",
        json!({"word": {"type": "array", "items": {"enum": ["A"]}}, "n": {"type": "integer"}}),
    ))
}

fn word(n: usize, word: &str) -> Value {
    upsert("words", "1", json!({"id": format!("{n:04}"), "word": word, "n": n}))
}

/// A batch of which the database refuses one row is not there at all, and the next one works.
pub async fn a_bad_row_leaves_nothing(database: &dyn Database) {
    let (process, words) = (Process::new(database), words());
    let mut destination = process.connect().await;
    assert_eq!(ok(destination.checkpoint(Claim::Acquire).await), None);
    ok(destination.migrate(&Migration::CreateTable(words.clone())).await);
    for rows in [3, 20, 900] {
        let mut events: Vec<Value> = (0..rows).map(|n| word(n, "A")).collect();
        let bad = rows / 2;
        events[bad] = if database.limits().bounds_enumerations {
            word(bad, &"A".repeat(65))
        } else {
            upsert("words", "1", json!({"id": "x", "n": 1.5}))
        };
        let failure = destination.apply(&batch(&words, &events, None, at(1))).await;
        assert!(
            failure
                .as_ref()
                .is_err_and(|e| e.kind == FailureKind::Rejected && !e.text.contains("AAA")),
            "{failure:?}"
        );
        assert!(failure.as_ref().is_err_and(|e| e.text.contains("table \"words\"")), "{failure:?}");
        assert_eq!(database.read("words", &["id"]).await.len(), 0);
        assert_eq!(ok(destination.checkpoint(Claim::Verify).await), None);
    }
    let events: Vec<Value> = (0..900).map(|n| word(n, "A")).collect();
    ok(destination.apply(&batch(&words, &events, None, at(1))).await);
    assert_eq!(database.read("words", &["id"]).await.len(), 900);
    ok(destination.close().await);
}

/// A transaction that another session ends just before its COMMIT, which says no word of it, was
/// not applied.
pub async fn a_void_commit_is_no_success(database: &dyn Database, steal: impl Fn(bool)) {
    let (process, words) = (Process::new(database), words());
    let mut destination = process.connect().await;
    assert_eq!(ok(destination.checkpoint(Claim::Acquire).await), None);
    ok(destination.migrate(&Migration::CreateTable(words.clone())).await);
    let first = batch(&words, &[word(1, "A")], None, at(1));
    steal(true);
    let void = destination.apply(&first).await;
    assert!(void.as_ref().is_err_and(|e| e.kind == FailureKind::Unavailable), "{void:?}");
    steal(false);
    assert_eq!(ok(destination.checkpoint(Claim::Verify).await), None);
    ok(destination.apply(&first).await);
    assert_eq!(database.read("words", &["word"]).await, [[Some("A".to_owned())]]);
}

/// What was committed is known to whoever comes next, and a repeat of the batch is turned away.
pub async fn the_checkpoint_comes_back(database: &dyn Database) {
    let (process, words) = (Process::new(database), words());
    let mut destination = process.connect().await;
    ok(destination.checkpoint(Claim::Acquire).await);
    ok(destination.migrate(&Migration::CreateTable(words.clone())).await);
    ok(destination.apply(&batch(&words, &[word(1, "A")], None, at(5))).await);
    ok(destination.apply(&batch(&words, &[word(1, "B")], Some(at(5)), at(9))).await);
    // The connection is lost without a goodbye.
    drop(destination);
    let mut destination = process.connect().await;
    assert_eq!(ok(destination.checkpoint(Claim::Verify).await), Some(at(9)));
    let repeated = destination.apply(&batch(&words, &[word(1, "A")], Some(at(5)), at(9))).await;
    assert!(repeated.as_ref().is_err_and(|e| e.kind == FailureKind::Unavailable), "{repeated:?}");
    assert_eq!(database.read("words", &["word"]).await, [[Some("B".to_owned())]]);
    let later = Process::new(database);
    let mut destination = later.connect().await;
    assert_eq!(ok(destination.checkpoint(Claim::Acquire).await), Some(at(9)));
    // A stream that was recreated: a lower sequence, a later time; and a position that stays where
    // it is.
    ok(destination.apply(&batch(&words, &[word(1, "C")], Some(at(9)), at(9))).await);
    assert_eq!(ok(destination.checkpoint(Claim::Verify).await), Some(at(9)));
    assert!(later.epoch.get() > process.epoch.get());
}

/// Before 0.1.0 the table of cutovers had a column of another name: it is refused with the cure,
/// and the cure works.
pub async fn a_table_of_a_former_version_is_refused(database: &dyn Database) {
    let process = Process::new(database);
    let mut destination = process.connect().await;
    ok(destination.checkpoint(Claim::Acquire).await);
    let table = database.quoted("_eds_import");
    database.run(&format!("DROP TABLE {table}")).await;
    let key = "consumer VARCHAR(100) NOT NULL, table_name VARCHAR(100) NOT NULL";
    let rest = "format INTEGER NOT NULL, PRIMARY KEY (consumer, table_name)";
    let create = |column| format!("CREATE TABLE {table} ({key}, {column} VARCHAR(200), {rest})");
    database.run(&create("seam")).await;
    drop(destination);
    let mut destination = process.connect().await;
    let refused = destination.cutover().await;
    let names_the_cure = |failure: &Failure| {
        failure.kind == FailureKind::Misconfigured
            && failure.text.contains("rename its column seam to cutover")
    };
    assert!(refused.as_ref().is_err_and(names_the_cure), "{refused:?}");
    database.run(&format!("DROP TABLE {table}")).await;
    database.run(&create("cutover")).await;
    ok(destination.cutover().await);
}

/// The older of two processes commits nothing more, whatever it holds, and is told why.
pub async fn the_replaced_commit_nothing(database: &dyn Database) {
    let (older, newer, words) = (Process::new(database), Process::new(database), words());
    let mut first = older.connect().await;
    ok(first.checkpoint(Claim::Acquire).await);
    ok(first.migrate(&Migration::CreateTable(words.clone())).await);
    ok(first.apply(&batch(&words, &[word(1, "A")], None, at(1))).await);
    let mut second = newer.connect().await;
    assert_eq!(ok(second.checkpoint(Claim::Acquire).await), Some(at(1)));
    assert!(
        first
            .apply(&batch(&words, &[word(1, "Z"), word(2, "Z")], Some(at(1)), at(2)))
            .await
            .is_err()
    );
    ok(second.apply(&batch(&words, &[word(1, "B")], Some(at(1)), at(2))).await);
    let mut again = older.connect().await;
    let failure = again.checkpoint(Claim::Verify).await;
    assert!(
        failure.as_ref().is_err_and(
            |e| e.kind == FailureKind::Fenced && e.text.contains("another EDS has taken over")
        ),
        "{failure:?}"
    );
    assert_eq!(
        database.read("words", &["id", "word"]).await,
        [[Some("0001".to_owned()), Some("B".to_owned())]]
    );
}

/// Every change of a table can be made twice: two processes may meet in it.
pub async fn steps_can_be_repeated(database: &dyn Database) {
    let mut strict = schema(
        "t",
        "1",
        json!({"a": {"type": "string"}, "b": {"type": "integer"}, "doc": {"type": "object"}, "e": {"type": "array", "items": {"enum": ["A"]}}}),
    );
    strict["required"] = json!(["id", "a", "b", "doc", "e"]);
    let strict = parse(&strict);
    let wider = parse(&schema(
        "t",
        "2",
        json!({"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "boolean"}, "d": {"type": "string", "format": "date-time"}}),
    ));
    let mut destination = Process::new(database).connect().await;
    let added: Vec<usize> = ["c", "d"].iter().filter_map(|name| wider.column(name)).collect();
    let columns = ["a", "b", "doc", "e"].map(str::to_owned).to_vec();
    let steps = [
        Migration::CreateTable(strict),
        Migration::AddColumns(wider.clone(), added),
        Migration::DropNotNull { table: "t".into(), columns },
    ];
    for step in steps.iter().flat_map(|step| [step, step]) {
        ok(destination.migrate(step).await);
    }
    let tables = ok(destination.tables().await);
    let shape = tables.get("t").cloned().unwrap_or_default();
    let nullable: Vec<(&str, bool)> =
        shape.columns.iter().map(|(name, column)| (name.as_str(), column.takes_null)).collect();
    assert_eq!(
        nullable,
        [
            ("a", true),
            ("b", true),
            ("c", true),
            ("d", true),
            ("doc", true),
            ("e", true),
            ("id", false)
        ]
    );
    assert_eq!((shape.keys, shape.write_blocker), (vec!["id".to_owned()], None));
}

/// With a prefix, tables of the same name that belong to somebody else are not touched.
pub async fn a_prefix_keeps_apart(database: &dyn Database) {
    let table = database.quoted("t");
    database.run(&format!("CREATE TABLE {table} (owner VARCHAR(20))")).await;
    database.run(&format!("INSERT INTO {table} VALUES ('me')")).await;
    let mut process = Process::new(database);
    process.url += if process.url.contains('?') { "&prefix=p_" } else { "?prefix=p_" };
    let mut destination = process.connect().await;
    ok(destination.checkpoint(Claim::Acquire).await);
    assert!(ok(destination.tables().await).get("t").is_none());
    let mine = parse(&schema("t", "1", json!({"n": {"type": "integer"}})));
    ok(destination.migrate(&Migration::CreateTable(mine.clone())).await);
    assert!(ok(destination.tables().await).get("t").is_some());
    ok(destination
        .apply(&batch(&mine, &[upsert("t", "1", json!({"id": "x", "n": 1}))], None, at(1)))
        .await);
    assert_eq!(
        database.read("p_t", &["id", "n"]).await,
        [[Some("x".to_owned()), Some("1".to_owned())]]
    );
    assert_eq!(
        database.read("p__eds_checkpoint", &["stream_sequence"]).await,
        [[Some("1".to_owned())]]
    );
    assert_eq!(database.read("t", &["owner"]).await, [[Some("me".to_owned())]]);
}

/// A dry run says what it would do, and what would be refused.
pub async fn a_dry_run_writes_nothing(database: &dyn Database) {
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}})), "t-next": schema("t", "2", json!({"n": {"type": "integer"}, "m": {"type": "string"}}))});
    let kept = upsert("t", "1", json!({"id": "a", "n": 1})).to_string() + "\n";
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    replayed(dir.path(), database, &json!({"t": schemas["t"]}), &kept, WAYS[0]);
    let checkpoint =
        database.read("_eds_checkpoint", &["consumer", "epoch", "stream_sequence"]).await;
    let journal: String = [
        upsert("t", "2", json!({"id": "a", "n": 2, "m": "x"})),
        upsert("t", "2", json!({"id": "b", "n": 1.5})),
        json!({"operation": "DELETE", "table": "t", "modelVersion": "2", "key": ["a"]}),
    ]
    .map(|e| format!("{e}\n"))
    .concat();
    let fresh = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let said = replayed(fresh.path(), database, &schemas, &journal, &["--dry-run"]);
    for expected in ["add to table \"t\": m", "\"n\" is not an integer", "nothing was written"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(
        database.read("t", &["id", "n"]).await,
        [[Some("a".to_owned()), Some("1".to_owned())]]
    );
    assert_eq!(
        database.read("_eds_checkpoint", &["consumer", "epoch", "stream_sequence"]).await,
        checkpoint
    );
    assert!(!fresh.path().join("data").exists(), "the data directory is not written to either");
    assert!(database.read("_eds_dead_letter", &["letter"]).await.is_empty());
}
