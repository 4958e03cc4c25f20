//! The view `_eds_as_of`: up to when the tables are applied, and which of them wait.

use mysql_async::prelude::Queryable;
use serde_json::json;

use crate::services::eds::{replay, schema, upsert};
use crate::services::mysql::{self, Flavour, RIGHTS};
use crate::services::postgres;
use crate::services::scene::Keeper;

/// What a table that waits has.
const HELD: &str = "INSERT INTO _eds_held (consumer, chunk, applied, label, body, format) VALUES \
                    ('c', 1, 0, '{\"table\":\"orders\",\"since_unix\":1700000000}', '', 1)";
const LOOK: &str = "SELECT table_name, applied_through > 0, source_time IS NOT NULL, held_since \
                    FROM _eds_as_of ORDER BY table_name";
/// A journal does not tell when its events were published.
const PUBLISHED: &str = "UPDATE _eds_checkpoint SET stream_time_ns = 1700000000000000000";
/// The moment of [`HELD`].
const SINCE: &str = "2023-11-14 22:13:20";

fn stream_into(url: &str) {
    let schemas = json!({"t": schema("t", "1", json!({"id": {"type": "string"}}))});
    let output = replay(url, &schemas, &[upsert("t", "1", json!({"id": "a"}))], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_shows_how_fresh_the_tables_are() {
    let server = postgres::shared();
    let (database, url) = server.fresh().await;
    // A second start finds the view there.
    (0..2).for_each(|_| stream_into(&url));
    let client = server.connect(&database).await;
    for sql in [PUBLISHED, HELD] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e}"));
    }
    let look = LOOK.replace("held_since F", "(held_since AT TIME ZONE 'UTC')::text F");
    let rows = client.query(&look, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    let found: Vec<(String, Option<bool>, bool, Option<String>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    assert_eq!(
        found,
        [("*".into(), Some(true), true, None), ("orders".into(), None, false, Some(SINCE.into()))]
    );
}

/// Without the right to create views everything else goes on.
async fn shows_how_fresh_the_tables_are_in(flavour: Flavour) {
    let server = mysql::shared(flavour);
    let (database, url) = server.fresh().await;
    stream_into(&url);
    let mut root = server.connect(&database).await;
    let none: Vec<String> =
        root.query("SHOW TABLES LIKE '\\_eds\\_as%'").await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(none, [""; 0]);
    let of = database.replace('_', "\\_");
    let grant = format!("GRANT {RIGHTS}, CREATE VIEW ON `{of}`.* TO eds@'%'");
    root.query_drop(grant).await.unwrap_or_else(|e| panic!("{e}"));
    (0..2).for_each(|_| stream_into(&url));
    for sql in [PUBLISHED, HELD] {
        root.query_drop(sql).await.unwrap_or_else(|e| panic!("{e}"));
    }
    let look = LOOK.replace("held_since F", "DATE_FORMAT(held_since, '%Y-%m-%d %H:%i:%s') F");
    let found: Vec<(String, Option<bool>, bool, Option<String>)> =
        root.query(look).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        found,
        [("*".into(), Some(true), true, None), ("orders".into(), None, false, Some(SINCE.into()))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_shows_how_fresh_the_tables_are() {
    shows_how_fresh_the_tables_are_in(Flavour::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_shows_how_fresh_the_tables_are() {
    shows_how_fresh_the_tables_are_in(Flavour::MariaDb).await;
}

#[test]
fn sqlite_shows_how_fresh_the_tables_are() -> rusqlite::Result<()> {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("t.db").display().to_string();
    (0..2).for_each(|_| stream_into(&format!("sqlite://{path}")));
    let db = rusqlite::Connection::open(&path)?;
    db.execute_batch(&format!("{PUBLISHED}; {HELD}"))?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, Option<String>>(3)?))
    };
    let found: Vec<(String, Option<bool>, bool, Option<String>)> =
        db.prepare(LOOK)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
    let since = format!("{}.000Z", SINCE.replace(' ', "T"));
    assert_eq!(
        found,
        [("*".into(), Some(true), true, None), ("orders".into(), None, false, Some(since))]
    );
    Ok(())
}
