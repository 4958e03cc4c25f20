//! Columns of an export that the schema lacks, schemas that change while an import is cut off, and
//! what an import leaves alone.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::services::eds::{binary, replay, schema, upsert};
use crate::services::hq::said;
use crate::services::postgres;

/// Files of an export in a directory, and the data directory of the imports.
pub struct ExportDir {
    dir: TempDir,
}

impl ExportDir {
    pub fn new() -> ExportDir {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        std::fs::create_dir(dir.path().join("export")).unwrap_or_else(|e| panic!("{e}"));
        ExportDir { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Files are loaded in the order of their numbers.
    pub fn file(&self, number: u32, table: &str, lines: &[String]) {
        let name = format!("20240713165052280802464{number:010}-5-1-3-0-{table}-15.ndjson");
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let path = self.dir.path().join("export").join(name);
        std::fs::write(path, text).unwrap_or_else(|e| panic!("{e}"));
    }

    pub fn rows(&self, number: u32, table: &str, rows: &[Value]) {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        self.file(number, table, &lines);
    }

    pub fn run(&self, url: &str, schemas: &Value, args: &[&str]) -> Output {
        let file = self.dir.path().join("schema.json");
        std::fs::write(&file, schemas.to_string()).unwrap_or_else(|e| panic!("{e}"));
        let mut command = Command::new(binary());
        command
            .current_dir(self.dir.path())
            .env("EDS_URL", url)
            .args(["import", "--no-confirm", "--single", "--dir", "export"])
            .args(["--schema", "schema.json", "--data-dir", "data"])
            .args(args);
        command.output().unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn import(&self, url: &str, schemas: &Value, args: &[&str]) -> String {
        let output = self.run(url, schemas, args);
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        text
    }
}

fn integer() -> Value {
    json!({"n": {"type": "integer"}})
}

/// Columns that the schema lacks are left out, with one warning a table that names them; those that
/// the user leaves out are not mentioned.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_the_schema_lacks_are_left_out() {
    let (name, url) = postgres::shared().database().await;
    let export = ExportDir::new();
    let row = |n: u32| json!({"id": format!("{n:04}"), "ghost": n, "n": n, "x": "y", "none": null});
    export.rows(1, "t", &(0..3_000).map(row).collect::<Vec<_>>());
    export.rows(2, "t", &[json!({"id": "last", "n": 1, "other": {}})]);
    export.rows(3, "u", &[json!({"id": "a", "n": 1})]);
    let schemas = json!({"t": schema("t", "1", integer()), "u": schema("u", "1", integer())});
    let text = export.import(&url, &schemas, &["--ignore-columns", "x"]);
    let warning = "table \"t\": columns of the export are left out that its schema lacks: ghost, \
                   other";
    assert_eq!(text.matches("left out that").count(), 1, "{text}");
    assert!(text.contains(warning), "{text}");
    let client = postgres::shared().connect(&name).await;
    let row = client.query_one("SELECT count(*), sum(n)::bigint FROM t", &[]).await;
    let row = row.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (3_001, 2_999 * 1_500 + 1));
}

/// A table whose schema has changed since the import was cut off is loaded from its start, the
/// others from where they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_schema_changed_is_begun_again() {
    let changes = [
        json!({"n": {"type": "number"}}),
        json!({"n": {"type": "string"}, "m": {"type": "string"}}),
        json!({"m": {"type": "string"}}),
    ];
    for change in changes {
        let (name, url) = postgres::shared().database().await;
        let export = ExportDir::new();
        let row = |n: u32| json!({"id": format!("{n:04}"), "n": n, "m": format!("m{n}")});
        export.rows(1, "t", &(0..100).map(row).collect::<Vec<_>>());
        export.rows(2, "u", &[json!({"id": "a", "n": 1})]);
        export.file(3, "v", &["no row".into(), json!({"id": "b", "n": 2}).to_string()]);
        let other = |table| schema(table, "1", integer());
        let schemas =
            |t: &Value| json!({"t": schema("t", "1", t.clone()), "u": other("u"), "v": other("v")});
        let output = export.run(&url, &schemas(&integer()), &[]);
        assert!(!output.status.success(), "{}", said(&output));
        let text = export.import(&url, &schemas(&change), &["--skip-bad-rows", "1"]);
        assert!(
            text.contains("resuming") && text.contains("\"t\" is loaded from its start"),
            "{text}"
        );
        assert!(!text.contains("\"u\" is loaded from its start"), "{text}");
        let client = postgres::shared().connect(&name).await;
        let column = if change.get("m").is_some() { "m" } else { "'m' || n::text" };
        let sql = format!(
            "SELECT (SELECT count(DISTINCT {column}) FROM t), (SELECT count(*) FROM t), \
             (SELECT count(*) FROM u), (SELECT count(*) FROM v)"
        );
        let row = client.query_one(&sql, &[]).await.unwrap_or_else(|e| panic!("{e}"));
        let counts: Vec<i64> = (0..4).map(|i| row.get(i)).collect();
        assert_eq!(counts, [100, 100, 1, 1], "{change}");
    }
}

/// A table that is exchanged takes no rows of others with it, though they refer to it.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_refer_to_an_sqlite_table_stay() {
    let export = ExportDir::new();
    let file = export.dir.path().join("shop.db");
    let url = format!("sqlite://{}", file.display());
    export.rows(1, "t", &[json!({"id": "a", "n": 1}), json!({"id": "b", "n": 2})]);
    let schemas = json!({"t": schema("t", "1", integer())});
    export.import(&url, &schemas, &[]);
    let db = rusqlite::Connection::open(&file).unwrap_or_else(|e| panic!("{e}"));
    let own = "CREATE TABLE own (id TEXT, t TEXT REFERENCES t(id) ON DELETE CASCADE); \
               INSERT INTO own VALUES ('x', 'a'), ('y', 'b')";
    db.execute_batch(own).unwrap_or_else(|e| panic!("{e}"));
    export.import(&url, &schemas, &["--restart-import"]);
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        db.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap_or_else(|e| panic!("{e}"))
    };
    assert_eq!((count("t"), count("own")), (2, 2));
}

/// A column that has become wider stays so, and what an import brings is as exact as what came
/// before.
#[tokio::test(flavor = "multi_thread")]
async fn a_wider_column_stays_wide() {
    let (name, url) = postgres::shared().database().await;
    let number = json!({"n": {"type": "number"}});
    let (first, second) = (schema("t", "1", integer()), schema("t", "2", number));
    let large = 9_007_199_254_740_993_i64;
    for (schemas, event) in [
        (json!({"1": first}), upsert("t", "1", json!({"id": "a", "n": large}))),
        (json!({"2": second}), upsert("t", "2", json!({"id": "b", "n": 1.5}))),
    ] {
        let output = replay(&url, &schemas, &[event], &[]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let client = postgres::shared().connect(&name).await;
    let read = async || -> Vec<String> {
        let sql = "SELECT pg_typeof(n)::text || ' ' || n FROM t ORDER BY id";
        let rows = client.query(sql, &[]).await.unwrap_or_else(|e| panic!("{e}"));
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(read().await, ["numeric 9007199254740993", "numeric 1.5"]);
    let export = ExportDir::new();
    export.rows(1, "t", &[json!({"id": "a", "n": 0.1 + 0.2}), json!({"id": "b", "n": 1e21})]);
    for args in [&[][..], &["--restart-import", "--no-delete"]] {
        export.import(&url, &json!({"t": second}), args);
        let expected = ["numeric 0.30000000000000004", "numeric 1000000000000000000000"];
        assert_eq!(read().await, expected);
    }
    export.rows(1, "t", &[json!({"id": "a", "n": large})]);
    export.import(&url, &json!({"t": first}), &[]);
    assert_eq!(read().await, ["numeric 9007199254740993"]);
}
