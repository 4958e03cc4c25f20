//! A full export into every kind of destination, through the real binary, from a stand-in for HQ.

pub mod columns;
mod cutover;
mod faults;
mod files;
mod flags;
mod places;
mod readers;
mod references;
mod tables;

use std::path::{Path, PathBuf};

use eds::sandbox::check;
use eds::sandbox::shop::Shop;

use crate::services::hq::Importing;
use crate::services::mysql::{self, Flavour};
use crate::services::postgres;
use crate::services::scene::{Keeper, assert_equal};
use crate::services::tds::FakeSqlServer;

async fn an_export_arrives_whole_in(server: &dyn Keeper) {
    let (database, url) = server.fresh().await;
    server.allow_imports(&database).await;
    let importing = Importing::new(3, 4_000, 300).await;
    let said = importing.import(&url, &[]).await;
    assert_equal(&importing.shop(), server, &database).await;
    assert!(said.contains("order") && said.contains("total") && said.contains("rows/s"), "{said}");
    // Again, into the same tables: the source has changed meanwhile.
    {
        let mut shop = importing.shop.lock().unwrap_or_else(|e| panic!("{e}"));
        (0..2_000).for_each(|_| drop(shop.next_event()));
    }
    importing.import(&url, &["--single"]).await;
    assert_equal(&importing.shop(), server, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole_in_postgres() {
    an_export_arrives_whole_in(postgres::shared()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole_in_mysql() {
    an_export_arrives_whole_in(mysql::shared(Flavour::MySql)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole_in_mariadb() {
    an_export_arrives_whole_in(mysql::shared(Flavour::MariaDb)).await;
}

/// The stand-in is asked for everything that an import says to SQL Server, the second one into the
/// same tables.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole_in_sql_server() {
    let server = FakeSqlServer::start();
    let (database, url) = ("imports", server.url("imports"));
    let importing = Importing::new(4, 1_500, 200).await;
    importing.import(&url, &[]).await;
    equal_in_sqlite(&importing.shop(), &server.file(database));
    {
        let mut shop = importing.shop.lock().unwrap_or_else(|e| panic!("{e}"));
        (0..800).for_each(|_| drop(shop.next_event()));
    }
    let said = importing.import(&url, &[]).await;
    assert!(said.contains("always stays"), "{said}");
    equal_in_sqlite(&importing.shop(), &server.file(database));
}

/// An SQLite file beside the import, and its URL.
fn sqlite(importing: &Importing) -> (PathBuf, String) {
    let file = importing.dir.path().join("shop.db");
    let url = format!("sqlite://{}", file.display());
    (file, url)
}

fn equal_in_sqlite(shop: &Shop, file: &Path) {
    let reports =
        check::sqlite(shop, &file.display().to_string()).unwrap_or_else(|e| panic!("{e}"));
    let wrong: Vec<String> = reports.iter().filter(|r| !r.is_equal()).map(check::line).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole_in_sqlite() {
    let importing = Importing::new(5, 4_000, 300).await;
    let (file, url) = sqlite(&importing);
    importing.import(&url, &[]).await;
    equal_in_sqlite(&importing.shop(), &file);
    let db = rusqlite::Connection::open(&file).unwrap_or_else(|e| panic!("{e}"));
    let given = "CREATE INDEX by_company ON \"order\" (companyId); CREATE VIEW all_orders AS \
                 SELECT id FROM \"order\"; \
                 CREATE TABLE log (id); CREATE TRIGGER noted AFTER DELETE ON \"order\" BEGIN \
                 INSERT INTO log VALUES (old.id); END";
    db.execute_batch(given).unwrap_or_else(|e| panic!("{e}"));
    importing.import(&url, &["--parallel", "8"]).await;
    equal_in_sqlite(&importing.shop(), &file);
    let kept: Vec<String> = {
        let mut statement = db
            .prepare(
                "SELECT name FROM sqlite_schema WHERE type IN ('index', 'trigger', 'view') \
                        AND sql IS NOT NULL ORDER BY name",
            )
            .unwrap_or_else(|e| panic!("{e}"));
        statement
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect)
            .unwrap_or_else(|e| panic!("{e}"))
    };
    assert_eq!(kept, ["all_orders", "by_company", "noted"]);
    let seen: i64 = db
        .query_row("SELECT count(*) FROM all_orders", [], |row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(seen, importing.shop().alive(2).count() as i64);
}
