//! How loaded tables get their places: what belongs to the old table stays as it is, tables that
//! refer to each other are replaced in order, and `--check` tells all of it before.

use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::columns::ExportDir;
use crate::services::eds::{data_of, schema};
use crate::services::hq::said;
use crate::services::mysql::{self, Flavour};
use crate::services::postgres;
use crate::services::scene::Keeper;

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

async fn text(client: &Client, sql: &str) -> String {
    let row = client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    row.get(0)
}

/// Tables of which the source has `n`, `b` and, later, `a`.
fn schemas(tables: &[&str], more: bool) -> Value {
    let mut columns = json!({"n": {"type": "integer"}, "b": {"type": "string"}});
    if more {
        columns["a"] = json!({"type": "boolean"});
    }
    tables.iter().map(|table| ((*table).to_owned(), schema(table, "1", columns.clone()))).collect()
}

fn export(tables: &[&str]) -> ExportDir {
    let export = ExportDir::new();
    for (number, table) in (1..).zip(tables) {
        export.rows(number, table, &[json!({"id": "x", "n": 1, "b": "é"}), json!({"id": "y"})]);
    }
    export
}

/// What the columns of a table are like in PostgreSQL, in their order.
const COLUMNS: &str = "\
    SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), \
    nullif(attcollation, 100), attstorage), ', ' ORDER BY attnum) FROM pg_attribute \
    WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped";

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_changes_neither_columns_nor_rights_in_postgres() {
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let export = export(&["t"]);
    export.import(&url, &schemas(&["t"], false), &[]);
    let client = server.connect(&database).await;
    let role = format!("reader_of_{database}");
    run(
        &client,
        &format!(
            "CREATE ROLE {role}; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}; \
             GRANT INSERT ON t TO {role}; REVOKE TRUNCATE ON t FROM postgres; \
             ALTER TABLE t ALTER b TYPE text COLLATE \"C\", \
             ALTER b SET STORAGE EXTERNAL"
        ),
    )
    .await;
    let rights = format!(
        "SELECT concat_ws(' ', has_table_privilege('{role}', 't', 'SELECT'), \
         has_table_privilege('{role}', 't', 'INSERT'), relacl::text) FROM pg_class WHERE oid = \
         't'::regclass"
    );
    let oid = "SELECT 't'::regclass::oid::text";
    let (old, before) = (text(&client, oid).await, text(&client, &rights).await);
    let columns = text(&client, COLUMNS).await;
    // The source has one more column by now.
    export.import(&url, &schemas(&["t"], true), &["--restart-import"]);
    assert_ne!(text(&client, oid).await, old, "the table was exchanged");
    assert_eq!(text(&client, COLUMNS).await, format!("{columns}, a boolean 0 p"));
    assert_eq!(text(&client, &rights).await, before);
    assert!(before.starts_with("f t "), "{before}");
    run(&client, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// What keeps a table of PostgreSQL in its place, each with what is said of it.
const STAYS: [(&str, &str, &str); 8] = [
    ("CREATE PUBLICATION p FOR ALL TABLES", "the publication p has it", "DROP PUBLICATION p"),
    (
        "CREATE PUBLICATION p FOR TABLES IN SCHEMA public",
        "the publication p has it",
        "DROP PUBLICATION p",
    ),
    ("CREATE SEQUENCE s OWNED BY t.n", "the sequence s belongs to it", "DROP SEQUENCE s"),
    (
        "ALTER TABLE t RENAME CONSTRAINT t_pkey TO k",
        "its primary key k is not as EDS makes it",
        "ALTER TABLE t RENAME CONSTRAINT k TO t_pkey",
    ),
    (
        "ALTER TABLE t ALTER n SET (n_distinct = 5)",
        "its column n has settings for the planner",
        "ALTER TABLE t ALTER n RESET (n_distinct)",
    ),
    ("ALTER TABLE t SET UNLOGGED", "it is unlogged", "ALTER TABLE t SET LOGGED"),
    (
        "ALTER TABLE t SET (toast.autovacuum_enabled = off)",
        "its large values have storage options of their own",
        "ALTER TABLE t RESET (toast.autovacuum_enabled)",
    ),
    (
        "ALTER TABLE t ALTER n TYPE numeric(20, 0)",
        "its column \"n\" is numeric(20,0), not NUMERIC",
        "ALTER TABLE t ALTER n TYPE bigint",
    ),
];

/// `--check` tells the same as the import does afterwards, and writes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_exchange_would_lose_keeps_the_table_in_postgres() {
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let (export, schemas) = (export(&["t"]), schemas(&["t"], false));
    let checked = export.import(&url, &schemas, &["--check"]);
    assert!(checked.contains("t  is created"), "{checked}");
    let client = server.connect(&database).await;
    let tables = "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(text(&client, tables).await, "0");
    export.import(&url, &schemas, &[]);
    let checked = export.import(&url, &schemas, &["--check"]);
    assert!(checked.contains("t  is exchanged"), "{checked}");
    let oid = "SELECT 't'::regclass::oid::text";
    let old = text(&client, oid).await;
    for (makes, reason, unmakes) in STAYS {
        run(&client, makes).await;
        let checked = export.run(&url, &schemas, &["--check", "--json"]);
        let listed = data_of(&checked.stdout);
        assert_eq!(listed[0]["fate"], "merged", "{makes}: {listed:?}");
        assert_eq!(listed[0]["reason"], reason, "{makes}");
        let done = export.import(&url, &schemas, &["--restart-import"]);
        let expected = format!("\"t\" stays, and its rows are replaced: {reason}");
        assert!(done.contains(&expected), "{makes}: {done}");
        assert_eq!(text(&client, oid).await, old, "{makes}");
        run(&client, unmakes).await;
    }
}

/// A column that is altered after its rows were loaded is found at the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_altered_meanwhile_stays() {
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let (export, schemas) = (export(&["t"]), schemas(&["t"], false));
    export.import(&url, &schemas, &[]);
    export.file(2, "t", &["no row".into()]);
    let cut_off = export.run(&url, &schemas, &[]);
    assert!(!cut_off.status.success(), "{}", said(&cut_off));
    let client = server.connect(&database).await;
    run(&client, "ALTER TABLE t ALTER b TYPE text COLLATE \"C\"").await;
    let done = export.import(&url, &schemas, &["--skip-bad-rows", "1"]);
    assert!(done.contains("its column b has been altered") && done.contains("resuming"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_keeps_the_definition_of_an_sqlite_table() {
    let export = export(&["t", "g"]);
    let file = export.path().join("shop.db");
    let url = format!("sqlite://{}", file.display());
    let db = rusqlite::Connection::open(&file).unwrap_or_else(|e| panic!("{e}"));
    let made = "CREATE TABLE t (\"n\" INTEGER DEFAULT 7 CHECK (n > 0), id TEXT NOT NULL COLLATE \
                BINARY PRIMARY KEY, \"b\" TEXT COLLATE NOCASE REFERENCES other (id)) WITHOUT \
                ROWID; \
                CREATE TABLE g (id TEXT NOT NULL PRIMARY KEY, n INTEGER, b TEXT, twice INTEGER AS \
                (n * 2) STORED)";
    db.execute_batch(made).unwrap_or_else(|e| panic!("{e}"));
    let definition = |table: &str| -> String {
        let sql = "SELECT sql FROM sqlite_schema WHERE name = ?1";
        db.query_row(sql, [table], |row| row.get(0)).unwrap_or_else(|e| panic!("{e}"))
    };
    let before = definition("t").replacen(" t ", " \"t\" ", 1);
    let schemas = schemas(&["t", "g"], false);
    let checked = export.import(&url, &schemas, &["--check"]);
    assert!(
        checked.contains("t  is exchanged")
            && checked.contains(
                "g  stays, and its rows are replaced: it has columns that the \
                                 source lacks (twice)"
            ),
        "{checked}"
    );
    export.import(&url, &schemas, &[]);
    assert_eq!(definition("t"), before);
    let twice: i64 = db
        .query_row("SELECT twice FROM g WHERE id = 'x'", [], |row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(twice, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_changes_no_column_in_mysql() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let server = mysql::shared(flavour);
        let (database, url) = server.fresh().await;
        server.allow_imports(&database).await;
        let (export, first) = (export(&["t", "c"]), schemas(&["t", "c"], false));
        export.import(&url, &first, &[]);
        let mut root = server.connect(&database).await;
        for sql in [
            "ALTER TABLE t MODIFY b LONGTEXT CHARACTER SET latin1 COMMENT 'no `x`' FIRST, \
             ADD INDEX `by,n` (n), COMMENT 'ours'",
            "ALTER TABLE c ADD CONSTRAINT small CHECK (n < 100)",
        ] {
            root.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        let mut definition = async || {
            let row: Option<(String, String)> =
                root.query_first("SHOW CREATE TABLE t").await.unwrap_or_else(|e| panic!("{e}"));
            row.unwrap_or_default().1
        };
        let before = definition().await;
        let checked = export.import(&url, &first, &["--check"]);
        assert!(checked.contains("t  is exchanged"), "{checked}");
        assert!(checked.contains("it has the CONSTRAINT `small`"), "{checked}");
        export.import(&url, &first, &["--restart-import"]);
        assert_eq!(definition().await, before, "{flavour:?}");
        // The source has one more column by now.
        export.import(&url, &schemas(&["t", "c"], true), &["--restart-import"]);
        let after = definition().await;
        let lines: Vec<&str> = after.lines().filter(|line| !line.contains("`a`")).collect();
        assert_eq!(lines.join("\n"), before, "{flavour:?}");
    }
}

/// A table that was made like the old one is known again when an import goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_loaded_beside_an_old_table_is_not_loaded_again() {
    let export = ExportDir::new();
    let row = json!({"id": "x", "s": "a", "i": 1, "f": 1.5, "b": true, "at": "2024-07-09T18:28:03Z",
        "o": {"k": 1}, "e": "one", "l": ["a"]});
    let columns = json!({"s": {"type": "string"}, "i": {"type": "integer"}, "f": {"type": "number"},
        "b": {"type": "boolean"}, "at": {"type": "string", "format": "date-time"},
        "o": {"type": "object"}, "l": {"type": "array", "items": {"type": "string"}},
        "e": {"type": "array", "items": {"type": "enum", "enum": ["one", "two"]}}});
    let schemas = json!({"t": schema("t", "1", columns.clone()), "v": schema("v", "1", columns)});
    let file = format!("sqlite://{}", export.path().join("shop.db").display());
    let mut urls = vec![postgres::shared().database().await.1, file];
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let (database, url) = mysql::shared(flavour).fresh().await;
        mysql::shared(flavour).allow_imports(&database).await;
        urls.push(url);
    }
    for url in urls {
        export.rows(1, "t", std::slice::from_ref(&row));
        export.rows(2, "v", std::slice::from_ref(&row));
        export.import(&url, &schemas, &[]);
        export.file(2, "v", &["no row".into()]);
        assert!(!export.run(&url, &schemas, &[]).status.success());
        let text = export.import(&url, &schemas, &["--skip-bad-rows", "1"]);
        assert!(text.contains("resuming") && !text.contains("from its start"), "{text}");
        let checked = export.import(&url, &schemas, &["--check"]);
        assert!(checked.contains("t  is exchanged"), "{checked}");
    }
}

/// What the rows of the export could not be turned into is known before hours of loading.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_takes_no_text_is_found_before_anything_is_loaded() {
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let client = server.connect(&database).await;
    run(&client, "CREATE TABLE t (id text PRIMARY KEY, n bigint, b uuid)").await;
    let (export, schemas) = (export(&["t"]), schemas(&["t"], false));
    let checked = export.run(&url, &schemas, &["--adopt", "t", "--check"]);
    assert!(!checked.status.success() && said(&checked).contains("uuid"), "{}", said(&checked));
    let refused = export.run(&url, &schemas, &["--adopt", "t"]);
    let said = said(&refused);
    assert!(!refused.status.success() && said.contains("table \"t\": PostgreSQL"), "{said}");
    let staged = "SELECT count(*)::text FROM pg_class WHERE relname LIKE '\\_eds\\_new%'";
    assert_eq!(text(&client, staged).await, "0");
}
