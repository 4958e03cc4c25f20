//! Tables that foreign keys connect: rows come and go in an order that the keys allow, and what has
//! no order is named before anything is loaded.

use mysql_async::prelude::Queryable;
use serde_json::{Value, json};

use super::columns::ExportDir;
use crate::services::eds::schema;
use crate::services::hq::said;
use crate::services::mysql::{self, Flavour};
use crate::services::postgres;
use crate::services::scene::Keeper;
use crate::services::tds::FakeSqlServer;

/// The table that refers comes first by its name.
fn schemas() -> Value {
    let refers = json!({"parent": {"type": "string"}});
    json!({
        "a_child": schema("a_child", "1", refers.clone()),
        "parent": schema("parent", "1", refers),
    })
}

/// Rows `from` to `to` of both tables, each of one referring to that of the other.
fn rows(export: &ExportDir, from: u32, to: u32) {
    let row = |n: u32| json!({"id": format!("{n}"), "parent": format!("{n}")});
    let rows: Vec<Value> = (from..to).map(row).collect();
    export.rows(1, "a_child", &rows);
    export.rows(2, "parent", &rows);
}

const KEY: &str = "ALTER TABLE a_child ADD CONSTRAINT to_parent FOREIGN KEY (parent) REFERENCES \
                   parent (id)";
const BACK: &str = "ALTER TABLE parent ADD CONSTRAINT to_child FOREIGN KEY (parent) REFERENCES \
                    a_child (id)";

fn assert_circle(export: &ExportDir, url: &str) {
    for args in [&["--restart-import"][..], &["--check"]] {
        let output = export.run(url, &schemas(), args);
        assert_eq!(output.status.code(), Some(3));
        let text = said(&output);
        assert!(
            text.contains("\"to_parent\" of table \"a_child\" to \"parent\"")
                && text.contains("in a circle"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_come_before_children_and_go_after_them_in_postgres() {
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let export = ExportDir::new();
    rows(&export, 0, 10);
    export.import(&url, &schemas(), &[]);
    let client = server.connect(&database).await;
    let run = async |sql: &str| {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    };
    run(KEY).await;
    rows(&export, 5, 15);
    export.import(&url, &schemas(), &[]);
    let sum = "SELECT sum(c.id::int)::int FROM a_child c JOIN parent p ON p.id = c.parent";
    let row = client.query_one(sum, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(row.get::<_, i32>(0), (5..15).sum::<i32>());
    let text = export.import(&url, &schemas(), &["--check", "--only", "a_child"]);
    assert!(text.contains("warning: foreign key \"to_parent\""), "{text}");
    let text = export.import(&url, &schemas(), &["--only", "a_child", "--restart-import"]);
    assert!(text.contains("that table is not imported"), "{text}");
    // Rows that are not there come with no stream: that is told at once.
    rows(&export, 20, 25);
    let output = export.run(&url, &schemas(), &["--only", "a_child"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("23503"), "{}", said(&output));
    run(BACK).await;
    assert_circle(&export, &url);
    run("ALTER TABLE parent ALTER CONSTRAINT to_child DEFERRABLE").await;
    rows(&export, 12, 20);
    export.import(&url, &schemas(), &["--restart-import"]);
    let row = client.query_one(sum, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(row.get::<_, i32>(0), (12..20).sum::<i32>());
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_come_before_children_and_go_after_them_in_mysql() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let server = mysql::shared(flavour);
        let (database, url) = server.fresh().await;
        server.allow_imports(&database).await;
        let export = ExportDir::new();
        rows(&export, 0, 10);
        export.import(&url, &schemas(), &[]);
        let mut root = server.connect(&database).await;
        let collation =
            if flavour == Flavour::MySql { "utf8mb4_0900_bin" } else { "utf8mb4_nopad_bin" };
        let column =
            format!("MODIFY parent VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {collation}");
        for sql in [
            format!("ALTER TABLE a_child {column}"),
            format!("ALTER TABLE parent {column}"),
            KEY.into(),
        ] {
            root.query_drop(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        rows(&export, 5, 15);
        export.import(&url, &schemas(), &[]);
        let sum = "SELECT SUM(c.id) FROM a_child c JOIN parent p ON p.id = c.parent";
        let found: Option<f64> = root.query_first(sum).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found, Some((5..15).sum::<i32>().into()));
        root.query_drop(BACK).await.unwrap_or_else(|e| panic!("{e}"));
        assert_circle(&export, &url);
    }
}

/// The stand-in checks foreign keys at each statement.
#[tokio::test(flavor = "multi_thread")]
async fn parents_come_before_children_and_go_after_them_in_sql_server() {
    let server = FakeSqlServer::start();
    let url = server.url("references");
    let export = ExportDir::new();
    rows(&export, 0, 10);
    export.import(&url, &schemas(), &[]);
    let db =
        rusqlite::Connection::open(server.file("references")).unwrap_or_else(|e| panic!("{e}"));
    let sql = "SELECT sql FROM sqlite_schema WHERE name = 'a_child'";
    let made: String = db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{e}"));
    let (columns, _) = made.rsplit_once(')').unwrap_or_default();
    let referring =
        format!("DROP TABLE a_child; {columns}, FOREIGN KEY (parent) REFERENCES parent (id))");
    db.execute_batch(&referring).unwrap_or_else(|e| panic!("{referring}: {e}"));
    for (from, to) in [(0, 10), (5, 15)] {
        rows(&export, from, to);
        export.import(&url, &schemas(), &["--restart-import"]);
        let sum: u32 = db
            .query_row(
                "SELECT SUM(c.id) FROM a_child c JOIN parent p ON p.id = c.parent",
                [],
                |row| row.get(0),
            )
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(sum, (from..to).sum::<u32>());
    }
}
