//! The disk of one table is full, really: it waits, and goes on once there is room.

use mysql_async::prelude::Queryable;

use super::TwelveTables;
use crate::conformance::{Database, databases};
use crate::services::mysql::{Flavour, MySql};
use crate::services::postgres::Postgres;

/// New rows of `t` need new pages at once, on a small disk that another table has filled.
fn filled(disk: &str) -> [String; 6] {
    let fill = |rows: u32| {
        format!(
            "DO $$ BEGIN FOR i IN 1..1000 LOOP INSERT INTO filler SELECT 'x' FROM \
             generate_series(1, {rows}); END LOOP; EXCEPTION WHEN disk_full THEN END $$"
        )
    };
    [
        format!("CREATE TABLESPACE small LOCATION '{disk}'"),
        "ALTER TABLE t ADD COLUMN pad char(1900) DEFAULT 'x'".into(),
        "ALTER TABLE t SET TABLESPACE small".into(),
        "CREATE TABLE filler (x char(1900)) WITH (autovacuum_enabled = false) TABLESPACE small"
            .into(),
        fill(400),
        fill(1),
    ]
}

/// The disk is full; `room` makes room again.
async fn waits_for_room(
    mut life: TwelveTables,
    database: &dyn Database,
    code: &str,
    room: &[String],
) {
    life.goes_on(database).await;
    life.is_held().await;
    assert!(life.running.log().contains(code), "{}", life.running.log());
    let mut life = life.crash();
    life.goes_on(database).await;
    for sql in room {
        database.run(sql).await;
    }
    life.change().await;
    life.ends_equal(database).await;
}

fn not_asked() {
    println!("a small disk cannot be made here: not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_in_postgres_keeps_up_no_other_table() {
    let Some((server, disk)) = Postgres::with_small_disk().await else { return not_asked() };
    let database = databases::PostgresCase::of(&server).await;
    let life = TwelveTables::begin(&database).await;
    for sql in filled(&disk) {
        database.run(&sql).await;
    }
    waits_for_room(life, &database, "53100", &["DROP TABLE filler".into()]).await;
}

/// A table of wide rows on the small disk of MySQL.
fn wide(table: &str, disk: &str) -> String {
    let pads: Vec<String> =
        (0..8).map(|n| format!("pad{n} CHAR(250) CHARACTER SET latin1 DEFAULT 'x'")).collect();
    format!(
        "CREATE TABLE {table} (id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL \
         PRIMARY KEY, n BIGINT, {}) DATA DIRECTORY = '{disk}'",
        pads.join(", ")
    )
}

/// Fills the disk to the last page, which a small table takes; a larger one would take a MiB at
/// once. Answers how room is made again.
async fn fill(database: &databases::MySqlCase<'_>, disk: &str) -> Vec<String> {
    let mut session = database.session().await;
    let mut fillers = 0;
    loop {
        assert!(fillers < 50, "the disk does not get full");
        let made = session.query_drop(wide(&format!("filler{fillers}"), disk)).await;
        let rows = if made.is_ok() { 0..200 } else { 200..400 };
        fillers += u32::from(made.is_ok());
        let last = format!("filler{}", fillers - 1);
        for row in rows {
            let insert = format!("INSERT INTO {last} (id) VALUES ('{row}')");
            if session.query_drop(insert).await.is_err() {
                return (0..fillers).map(|n| format!("DROP TABLE filler{n}")).collect();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_in_mysql_keeps_up_no_other_table() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let Some((server, disk)) = MySql::with_small_disk(flavour).await else {
            return not_asked();
        };
        let database = databases::MySqlCase::of(&server).await;
        database.run(&wide("t", &disk)).await;
        let life = TwelveTables::begin(&database).await;
        let room = fill(&database, &disk).await;
        waits_for_room(life, &database, "1114", &room).await;
    }
}
