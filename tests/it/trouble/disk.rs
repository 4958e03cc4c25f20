//! The disk of one table is full, really: it waits, and goes on once there is room.

use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use mysql_async::prelude::Queryable;

use super::TwelveTables;
use crate::conformance::{Database, databases};
use crate::parts::files;
use crate::services::eds::{Running, binary};
use crate::services::mysql::{Flavour, MySql};
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::scene::{COMPANIES, publish};
use crate::services::{eventually, on_small_disk, small_disks_can_be_made};

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

/// The disk of EDS's own data directory is full while it streams into a folder elsewhere: it says
/// so and waits, and once there is room it goes on; every change is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_data_directory_is_waited_for() {
    if !small_disks_can_be_made() {
        return not_asked();
    }
    let nats = Nats::start().await;
    let mut shop = Shop::new(79, ShopOptions { rows: 500, repeats: 0 });
    let creds = nats.server_creds("cramped", COMPANIES, None);
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let (disk, folder) = (dir.path().join("disk"), dir.path().join("out"));
    std::fs::create_dir(&disk).unwrap_or_else(|e| panic!("{e}"));
    let schemas = dir.path().join("schema.json");
    std::fs::write(&schemas, shop.schema_map()).unwrap_or_else(|e| panic!("{e}"));
    let mut command = on_small_disk(&disk, "root");
    command
        .args([binary(), "stream", "--restart", "--port", "0", "--server", &nats.url()])
        .args(["--url", &format!("file://{}", folder.display())])
        .arg("--creds")
        .arg(&creds)
        .arg("--schema")
        .arg(&schemas)
        .arg("--data-dir")
        .arg(disk.join("data"));
    let mut running = Running::start(command, dir.path().join("log"));
    running.until_log("streaming eds-cramped", Duration::from_secs(60)).await;
    publish(&nats, &mut shop, 300).await;
    let stored = || files(&folder).len();
    eventually("the first are there", Duration::from_secs(60), async || stored() == 300).await;

    // Seen from outside, the disk is in the process's own place.
    let filler = format!("/proc/{}/root{}/filler", running.pid(), disk.display());
    let filled = std::fs::write(&filler, vec![0; 16 << 20]);
    assert!(filled.is_err(), "the disk is full now");
    publish(&nats, &mut shop, 2_000).await;
    running.until_log("full", Duration::from_secs(120)).await;
    assert!(running.is_running(), "{}", running.log());
    std::fs::remove_file(&filler).unwrap_or_else(|e| panic!("{e}"));
    eventually(&running.log(), Duration::from_secs(120), async || stored() == 2_300).await;
    let ended = running.stop();
    assert!(ended.status.success(), "{}", ended.log);
}
