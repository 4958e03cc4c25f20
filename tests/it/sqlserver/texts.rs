//! Texts in SQL Server: one form of instants, and collations that compare keys; against the
//! stand-in.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::rows;
use crate::services::eds::{binary, replay, schema, upsert};
use crate::services::tds::{FakeSqlServer, shared};

/// As the predecessor makes tables: the key is a VARCHAR, and every text has the database's
/// collation. It has written one row.
fn table_of_the_predecessor(server: &FakeSqlServer, database: &str) {
    let db = rusqlite::Connection::open(server.file(database)).unwrap_or_else(|e| panic!("{e}"));
    db.execute_batch(
        "CREATE TABLE t (id VARCHAR(64) COLLATE NOCASE NOT NULL, \
         at NVARCHAR(2147483647) COLLATE NOCASE, PRIMARY KEY (id)); \
         INSERT INTO t VALUES ('a', '2024-07-09 18:28:03.69708')",
    )
    .unwrap_or_else(|e| panic!("{e}"));
}

fn dated() -> Value {
    json!({"t": schema("t", "1", json!({"at": {"type": "string", "format": "date-time"}}))})
}

fn said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// In a column that the predecessor has begun, equal instants are equal texts, and texts are in the
/// order of the instants, whoever wrote them and however they came.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_instants_has_one_form() {
    let server = shared();
    table_of_the_predecessor(server, "instants");
    let at = |id: &str, at: &str| upsert("t", "1", json!({"id": id, "at": at}));
    let events = [
        at("b", "2024-07-09T18:28:03.69708Z"),
        at("c", "2024-07-09T20:28:03.697080+02:00"),
        at("d", "2024-07-09T18:28:03Z"),
        at("e", "0001-01-01T00:00:00Z"),
        at("f", "2024-07-09T18:28:03.7Z"),
    ];
    said(&replay(&server.url("instants"), &dated(), &events, &[]));
    let found = rows(server, "instants", "SELECT at, group_concat(id) FROM t GROUP BY at");
    let row = |at: &str, ids: &str| (at.to_owned(), Some(ids.to_owned()));
    assert_eq!(
        found,
        [
            row("0001-01-01 00:00:00", "e"),
            row("2024-07-09 18:28:03", "d"),
            row("2024-07-09 18:28:03.69708", "a,b,c"),
            row("2024-07-09 18:28:03.7", "f"),
        ]
    );
}

/// A key that is an instant finds the predecessor's row; a key that only looks like one is a text
/// as any other, and stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_instants_have_that_form() {
    let server = shared();
    for (database, format, ids) in [
        ("instant_keys", json!({"type": "string", "format": "date-time"}), ["2024-07-09 18:28:03"]),
        ("text_keys", json!({"type": "string"}), ["2024-07-09T18:28:03.000Z"]),
    ] {
        let mut one = schema("t", "1", json!({"n": {"type": "integer"}}));
        one["properties"]["id"] = format;
        let events = [
            upsert("t", "1", json!({"id": "2024-07-09T18:28:03Z", "n": 1})),
            upsert("t", "1", json!({"id": "2024-07-09T18:28:03.000Z", "n": 2})),
            json!({"operation": "DELETE", "table": "t", "modelVersion": "1", "key": ["2024-07-09T18:28:03Z"], "before": {"id": "2024-07-09T18:28:03Z"}}),
            upsert("t", "1", json!({"id": "2024-07-09T18:28:03.000Z", "n": 3})),
        ];
        said(&replay(&server.url(database), &json!({"t": one}), &events, &[]));
        let found = rows(server, database, "SELECT id, CAST(n AS TEXT) FROM t");
        assert_eq!(found, ids.map(|id| (id.to_owned(), Some("3".to_owned()))), "{database}");
    }
}

/// Customers and their orders, which refer to them.
fn customers_and_orders(server: &FakeSqlServer, database: &str, options: &str) -> String {
    let reference = json!({"customerId": {"type": "string"}});
    let schemas = json!({"c": schema("c", "1", json!({})), "o": schema("o", "1", reference)});
    let customer = |id: &str| upsert("c", "1", json!({"id": id}));
    let order = |id: &str, of: &str| upsert("o", "1", json!({"id": id, "customerId": of}));
    let events = [customer("a"), customer("A"), order("1", "a"), order("2", "a")];
    let url = format!("{}{options}", server.url(database));
    said(&replay(&url, &schemas, &events, &[]))
}

const JOIN: &str = "SELECT COUNT(*) FROM [dbo].[o] AS o INNER JOIN [dbo].[c] AS c ON \
                    o.[customerId] = c.[id]";

/// Where the database tells cases apart, new keys have its collation: a join with the columns that
/// refer to them needs nothing, and `a` and `A` are two rows.
#[tokio::test(flavor = "multi_thread")]
async fn keys_join_with_their_references() {
    let server = shared();
    for collation in ["Latin1_General_100_CS_AS", "Latin1_General_100_BIN2"] {
        let database = collation.to_lowercase();
        server.collate(&database, collation);
        let said = customers_and_orders(server, &database, "");
        assert!(!said.contains("needs COLLATE"), "{said}");
        assert_eq!(server.count(&database, JOIN), Ok(2), "{collation}");
        assert_eq!(rows(server, &database, "SELECT id, id FROM c").len(), 2, "{collation}");
    }
}

/// Where the database takes `a` for `A`, new keys have a binary collation and EDS says what that
/// costs: a join needs a COLLATE on one side. Who prefers joins to such keys may choose so.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_the_database_would_merge_are_kept_apart() {
    let server = shared();
    let said = customers_and_orders(server, "insensitive", "");
    assert!(said.contains("the key of table \"c\"") && !said.contains("dead letter"), "{said}");
    assert_eq!(rows(server, "insensitive", "SELECT id, id FROM c").len(), 2);
    assert_eq!(server.count("insensitive", JOIN), Err(468));
    let cured = format!("{JOIN} COLLATE Latin1_General_100_BIN2");
    assert_eq!(server.count("insensitive", &cured), Ok(2));

    let said = customers_and_orders(server, "chosen", "?keyCollation=database");
    assert!(said.contains("1 dead letter"), "{said}");
    assert_eq!(server.count("chosen", JOIN), Ok(2));

    server.collate("kept", "Latin1_General_100_CS_AS");
    customers_and_orders(server, "kept", "?keyCollation=binary");
    assert_eq!(server.count("kept", JOIN), Err(468));
    let wrong = replay(&format!("{}?keyCollation=x", server.url("kept")), &dated(), &[], &[]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("it is database or binary"));
}

/// In a table whose key has the database's collation, a key that differs in case from one that is
/// there is refused: never is another row changed or deleted instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_collation_takes_for_another_changes_nothing() {
    let server = shared();
    table_of_the_predecessor(server, "merging");
    let events = [
        json!({"operation": "DELETE", "table": "t", "modelVersion": "1", "key": ["A"], "before": {"id": "A"}}),
        upsert("t", "1", json!({"id": "A", "at": "2030-01-01T00:00:00Z"})),
        upsert("t", "1", json!({"id": "b", "at": "2030-01-01T00:00:00Z"})),
    ];
    let said = said(&replay(&server.url("merging"), &dated(), &events, &[]));
    assert!(said.contains("1 dead letter"), "{said}");
    let found = rows(server, "merging", "SELECT id, at FROM t ORDER BY id");
    let row = |id: &str, at: &str| (id.to_owned(), Some(at.to_owned()));
    assert_eq!(found, [row("a", "2024-07-09 18:28:03.69708"), row("b", "2030-01-01 00:00:00")]);
}

/// An import into a table of the predecessor's, whose key has another collation than that of the
/// table that is loaded beside it.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_meets_keys_of_another_collation() {
    let server = shared();
    table_of_the_predecessor(server, "imported");
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    std::fs::create_dir(dir.path().join("export")).unwrap_or_else(|e| panic!("{e}"));
    write("schema.json", &dated().to_string());
    let lines = "{\"id\":\"b\",\"at\":\"2024-07-09T18:28:03.7Z\"}\n{\"id\":\"c\"}\n";
    write("export/202407131650522808024640000000001-5-1-3-0-t-15.ndjson", lines);
    let output = Command::new(binary())
        .current_dir(dir.path())
        .env("EDS_URL", server.url("imported"))
        .args(["import", "--no-confirm", "--dir", "export", "--schema", "schema.json"])
        .args(["--data-dir", "data"])
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    said(&output);
    let found = rows(server, "imported", "SELECT id, at FROM t ORDER BY id");
    assert_eq!(
        found,
        [("b".to_owned(), Some("2024-07-09 18:28:03.7".to_owned())), ("c".to_owned(), None)]
    );
}
