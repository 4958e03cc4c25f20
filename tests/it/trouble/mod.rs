//! One of twelve tables is in trouble: it waits, the others flow, and it is equal once the trouble
//! is gone, whatever happened to EDS meanwhile. On every database, read back with a client of its
//! own.

mod disk;
mod kinds;
mod refusals;
mod source;

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::conformance::{Database, databases};
use crate::services::eds::{Eds, Running};
use crate::services::eventually;
use crate::services::mysql::Flavour;
use kinds::{MYSQL, POSTGRES, SNOWFLAKE, SQLITE, SQLSERVER, TableTrouble};
use source::{OTHERS, Source};

/// How long a table without trouble may take, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that streams all tables.
struct TwelveTables {
    source: Source,
    eds: Eds,
    running: Running,
    round: u64,
}

impl TwelveTables {
    /// It has written all tables.
    async fn begin(database: &dyn Database) -> TwelveTables {
        let source = Source::new().await;
        let eds = source.eds(database);
        eds.begin();
        let running = eds.start(&[]);
        let mut life = TwelveTables { source, eds, running, round: 0 };
        life.change().await;
        life.are_equal(database).await;
        life.source.show_others(database).await;
        life
    }

    async fn change(&mut self) {
        let events = self.source.changes(self.round);
        self.round += 1;
        self.source.send(&events).await;
    }

    async fn are_equal(&self, database: &dyn Database) {
        for table in OTHERS.into_iter().chain(["t"]) {
            self.source.until_equal(database, table, &self.running).await;
        }
    }

    /// While `t` is in trouble, what comes for the others arrives.
    async fn goes_on(&mut self, database: &dyn Database) {
        for _ in 0..2 {
            self.change().await;
            self.source.until_others_equal(database, &self.running).await;
        }
    }

    async fn is_held(&self) {
        self.running.until_log("table \"t\" is held", PATIENCE).await;
    }

    fn crash(mut self) -> TwelveTables {
        self.running.kill();
        self.running = self.eds.start(&[]);
        self
    }

    /// The trouble is over.
    async fn ends_equal(self, database: &dyn Database) {
        self.are_equal(database).await;
        let kept = async || database.read("_eds_held", &["consumer"]).await.is_empty();
        eventually("nothing is kept any more", PATIENCE, kept).await;
        let ended = self.running.stop();
        assert!(ended.status.success() && !ended.log.contains("dead letter"), "{}", ended.log);
    }
}

/// Table `t` meets the trouble, in the life of one process and over a crash of it.
async fn waits_alone(database: &dyn Database, trouble: &TableTrouble) {
    let mut life = TwelveTables::begin(database).await;
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
    let mut life = TwelveTables::begin(&database).await;
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
        let mut life = TwelveTables::begin(&database).await;
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
    let mut life = TwelveTables::begin(database).await;
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
