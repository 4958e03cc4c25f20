//! One table is in trouble: it waits, the others flow, and it is equal once the trouble is gone,
//! whatever happened to EDS meanwhile. On every database, read back with a client of its own.

mod kinds;

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::{Value, json};

use crate::conformance::{Database, databases};
use crate::services::eds::{Eds, Running, schema, upsert};
use crate::services::mysql::Flavour;
use crate::services::nats::Nats;
use crate::services::{eventually, eventually_ok};
use kinds::{MYSQL, POSTGRES, SNOWFLAKE, SQLITE, SQLSERVER, TableTrouble};

/// The companies of the events.
const COMPANY: &str = "c1";
/// How long a table without trouble may take, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two tables of one source, of which `t` is in trouble.
struct Source {
    nats: Nats,
    rows: BTreeMap<(&'static str, u64), u64>,
    count: u64,
}

impl Source {
    async fn new() -> Source {
        Source { nats: Nats::start().await, rows: BTreeMap::new(), count: 0 }
    }

    fn schemas() -> Value {
        let columns = json!({"n": {"type": "integer"}});
        json!({"t": schema("t", "1", columns.clone()), "u": schema("u", "1", columns)})
    }

    fn write(&mut self, table: &'static str, id: u64) -> Value {
        self.count += 1;
        self.rows.insert((table, id), self.count);
        upsert(table, "1", json!({"id": id.to_string(), "n": self.count}))
    }

    fn delete(&mut self, table: &'static str, id: u64) -> Value {
        self.rows.remove(&(table, id));
        let id = id.to_string();
        json!({"operation": "DELETE", "table": table, "modelVersion": "1", "key": [id], "before": {"id": id}})
    }

    /// Inserts, updates and deletes rows of both tables; those of `round` and the one before.
    async fn change(&mut self, round: u64) {
        let mut events = Vec::new();
        for id in round * 10..round * 10 + 10 {
            for table in ["t", "u"] {
                events.push(self.write(table, id));
                if round > 0 && id % 3 == 0 {
                    events.push(self.write(table, id - 10));
                }
                if round > 0 && id % 5 == 0 {
                    events.push(self.delete(table, id - 9));
                }
            }
        }
        self.send(&events).await;
    }

    async fn send(&self, events: &[Value]) {
        let message = |event: &Value| {
            let (table, operation) = (&event["table"], &event["operation"]);
            let [table, operation] = [table, operation].map(|v| v.as_str().unwrap_or_default());
            let subject = format!("dbchange.{table}.{operation}.{COMPANY}.l1.PUBLIC.1");
            (subject, event.to_string().into_bytes())
        };
        self.nats.publish(events.iter().map(message)).await;
    }

    /// What `table` has to hold.
    fn model(&self, table: &str) -> Vec<Vec<Option<String>>> {
        let of_table = self.rows.iter().filter(|((name, _), _)| *name == table);
        let mut rows: Vec<_> =
            of_table.map(|((_, id), n)| vec![Some(id.to_string()), Some(n.to_string())]).collect();
        rows.sort();
        rows
    }

    /// Waits until `table` holds that.
    async fn until_equal(&self, database: &dyn Database, table: &str, running: &Running) {
        let expected = self.model(table);
        eventually_ok(PATIENCE, async || {
            match database.read(table, &["id", "n"]).await == expected {
                true => Ok(()),
                false => Err(format!("{table} is not equal:\n{}", running.log())),
            }
        })
        .await;
    }

    fn eds(&self, database: &dyn Database) -> Eds {
        let creds = self.nats.server_creds("trouble", &[COMPANY], None);
        Eds::stream(&self.nats, &creds, &database.url(), &Source::schemas().to_string())
    }
}

/// A process that streams both tables.
struct TwoTables {
    source: Source,
    eds: Eds,
    running: Running,
    round: u64,
}

impl TwoTables {
    /// It has written both tables.
    async fn begin(database: &dyn Database) -> TwoTables {
        let source = Source::new().await;
        let eds = source.eds(database);
        eds.begin();
        let running = eds.start(&[]);
        let mut life = TwoTables { source, eds, running, round: 0 };
        life.change().await;
        life.until_equal(database, &["t", "u"]).await;
        life
    }

    async fn change(&mut self) {
        self.source.change(self.round).await;
        self.round += 1;
    }

    async fn until_equal(&self, database: &dyn Database, tables: &[&str]) {
        for table in tables {
            self.source.until_equal(database, table, &self.running).await;
        }
    }

    /// While `t` is in trouble, what comes for `u` arrives.
    async fn goes_on(&mut self, database: &dyn Database) {
        for _ in 0..2 {
            self.change().await;
            self.until_equal(database, &["u"]).await;
        }
    }

    async fn is_held(&self) {
        self.running.until_log("table \"t\" is held", PATIENCE).await;
    }

    fn crash(mut self) -> TwoTables {
        self.running.kill();
        self.running = self.eds.start(&[]);
        self
    }

    /// The trouble is over.
    async fn ends_equal(self, database: &dyn Database) {
        self.until_equal(database, &["t", "u"]).await;
        let kept = async || database.read("_eds_held", &["consumer"]).await.is_empty();
        eventually("nothing is kept any more", PATIENCE, kept).await;
        let ended = self.running.stop();
        assert!(ended.status.success() && !ended.log.contains("dead letter"), "{}", ended.log);
    }
}

/// Table `t` meets the trouble, in the life of one process and over a crash of it.
async fn waits_alone(database: &dyn Database, trouble: &TableTrouble) {
    let mut life = TwoTables::begin(database).await;
    trouble.begin(database).await;
    life.goes_on(database).await;
    if trouble.holds {
        life.is_held().await;
    }
    let mut life = life.crash();
    life.goes_on(database).await;
    trouble.end(database).await;
    life.change().await;
    life.ends_equal(database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_one_table_keeps_up_no_other() {
    let database = databases::PostgresCase::fresh().await;
    let mut life = TwoTables::begin(&database).await;
    let client = database.session().await;
    let run = async |sql: &str| client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e}"));
    run("BEGIN; LOCK TABLE t IN SHARE MODE").await;
    life.goes_on(&database).await;
    life.is_held().await;
    run("COMMIT").await;
    life.change().await;
    life.ends_equal(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_changes_keeps_up_no_other_table() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let database = databases::MySqlCase::fresh(flavour).await;
        let mut life = TwoTables::begin(&database).await;
        let mut session = database.session().await;
        let lock = "BEGIN; SELECT * FROM t FOR UPDATE";
        session.query_drop(lock).await.unwrap_or_else(|e| panic!("{e}"));
        life.goes_on(&database).await;
        life.is_held().await;
        session.query_drop("COMMIT").await.unwrap_or_else(|e| panic!("{e}"));
        life.change().await;
        life.ends_equal(&database).await;
    }
}

/// Every row of `u` refers to a row of `t`. In one batch rows of both come and go, so that neither
/// table can be written as a whole before the other.
async fn rows_that_refer_to_others_arrive(database: &dyn Database) {
    let mut life = TwoTables::begin(database).await;
    database.run("ALTER TABLE u ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES t (id)").await;
    life.running.kill();
    life.running = life.eds.start(&["--minPendingLatency", "500ms"]);
    let mut events = Vec::new();
    for id in 20..60 {
        for table in ["t", "u"] {
            events.push(life.source.write(table, id));
        }
        for table in ["u", "t"] {
            events.push(life.source.delete(table, id - 20));
        }
    }
    life.source.send(&events).await;
    life.ends_equal(database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_between_tables_are_no_obstacle() {
    rows_that_refer_to_others_arrive(&databases::PostgresCase::fresh().await).await;
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        rows_that_refer_to_others_arrive(&databases::MySqlCase::fresh(flavour).await).await;
    }
}

macro_rules! matrix {
    ($($name:ident: $troubles:expr => $fresh:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            for trouble in $troubles {
                println!("{}", trouble.name);
                waits_alone(&$fresh.await, trouble).await;
            }
        })*
    };
}

matrix! {
    one_table_waits_alone_in_postgres: POSTGRES => databases::PostgresCase::owned();
    one_table_waits_alone_in_mysql: MYSQL => databases::MySqlCase::fresh(Flavour::MySql);
    one_table_waits_alone_in_mariadb: MYSQL => databases::MySqlCase::fresh(Flavour::MariaDb);
    one_table_waits_alone_in_sqlite: SQLITE => databases::SqliteCase::fresh();
    one_table_waits_alone_in_sqlserver: SQLSERVER => databases::SqlServerCase::fresh();
    one_table_waits_alone_in_snowflake: SNOWFLAKE => databases::SnowflakeCase::fresh();
}

/// A change that a trigger refuses becomes a dead letter; everything around it arrives.
async fn one_row_is_refused(database: &dyn Database, trigger: &str) {
    let mut source = Source::new().await;
    let eds = source.eds(database);
    eds.begin();
    let running = eds.start(&[]);
    source.change(0).await;
    source.until_equal(database, "t", &running).await;
    database.run(trigger).await;
    let refused = upsert("t", "1", json!({"id": "x", "n": 7}));
    let mut events: Vec<Value> = (50..53).map(|id| source.write("t", id)).collect();
    events.insert(1, refused);
    source.send(&events).await;
    source.until_equal(database, "t", &running).await;
    running.until_log("dead letter (refused)", PATIENCE).await;
    let ended = running.stop();
    assert!(ended.status.success() && !ended.log.contains("is held"), "{}", ended.log);
    let letters = eds.dead_letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_trigger_refuses_is_the_only_dead_letter() {
    one_row_is_refused(&databases::PostgresCase::fresh().await, kinds::POSTGRES_TRIGGER).await;
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        one_row_is_refused(&databases::MySqlCase::fresh(flavour).await, kinds::MYSQL_TRIGGER).await;
    }
}
