//! The disk of one table is full, really: it waits, and goes on once there is room.

use super::TwelveTables;
use crate::conformance::{Database, databases};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_one_table_keeps_up_no_other() {
    let Some((server, disk)) = Postgres::with_small_disk().await else {
        println!("a small disk cannot be made here: not asked");
        return;
    };
    let database = databases::PostgresCase::of(&server).await;
    let mut life = TwelveTables::begin(&database).await;
    for sql in filled(&disk) {
        database.run(&sql).await;
    }
    life.goes_on(&database).await;
    life.is_held().await;
    assert!(life.running.log().contains("53100"), "{}", life.running.log());
    let mut life = life.crash();
    life.goes_on(&database).await;
    database.run("DROP TABLE filler").await;
    life.change().await;
    life.ends_equal(&database).await;
}
