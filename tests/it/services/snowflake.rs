//! The stand-in for Snowflake: `snowflake_front.py` in front of fakesnow, one for all tests, a
//! database for each.

use std::sync::OnceLock;
use std::time::Duration;

use eds::sandbox::check::{self, FoundRows, TableReport};
use eds::sandbox::shop::Shop;
use eds::sandbox::tables::ShopKind;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{Server, ask, free_port, fresh, plain, until_ok};

pub const PASSWORD: &str = "s3cret/p@ss:w%rd";
/// A key of nobody's, made for these tests by `openssl pkcs8 -topk8 -v2 des3`.
pub const KEY: &str = include_str!("snowflake_key.p8");
pub const PUBLIC_KEY: &str = include_str!("snowflake_key.pub");
pub const PASSPHRASE: &str = "open-sesame";
/// The SHA-256 of the public key, as openssl computes it.
pub const FINGERPRINT: &str = "SHA256:1ccjtTpULcv/YtgwpQOYoRnHWYjpRG3HQa29pqxbrE0=";

pub struct Snowflake {
    pub server: Server,
    pub port: u16,
    _dir: TempDir,
}

/// Asks the stand-in.
fn told(port: u16, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let (_, answer) = ask(port, method, path, &body.to_string())?;
    serde_json::from_slice(&answer)
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&answer)))
}

impl Snowflake {
    pub fn start() -> Snowflake {
        let python = super::installed("../snowflake/bin/python").display().to_string();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/services/snowflake_front.py");
        let (dir, port) = (TempDir::new().unwrap_or_else(|e| panic!("{e}")), free_port());
        let mut command = plain();
        command.env("TMPDIR", dir.path()).env("PYTHONWARNINGS", "ignore");
        let server = Server::start(
            command,
            &python,
            &[script.to_owned(), port.to_string()],
            &dir.path().join("log"),
            "KILL",
        );
        let users = [
            json!({"name": "eds", "password": PASSWORD, "token": "pat-token"}),
            json!({"name": "robot", "public_key": PUBLIC_KEY}),
        ];
        for user in users {
            until_ok(Duration::from_secs(60), || {
                told(port, "POST", "/test/user", &user)
                    .map_err(|why| format!("the stand-in for Snowflake does not start: {why}"))
            });
        }
        Snowflake { server, port, _dir: dir }
    }

    /// A fresh database.
    pub fn database(&self) -> String {
        fresh("TEST_")
    }

    /// A fresh database, and its URL.
    pub fn fresh(&self) -> (String, String) {
        let name = self.database();
        let url = self.url(&name, "&freshness=100ms");
        (name, url)
    }

    pub fn url(&self, database: &str, more: &str) -> String {
        format!(
            "snowflake://eds:s3cret%2Fp%40ss%3Aw%25rd@org-shop/{database}/PUBLIC?host=127.0.0.1:{}&protocol=http{more}",
            self.port
        )
    }

    pub fn key_url(&self, database: &str, more: &str) -> String {
        format!(
            "snowflake-keypair://robot@org-shop/{database}/PUBLIC?host=127.0.0.1:{}&protocol=http{more}",
            self.port
        )
    }

    /// Runs SQL past EDS and past the session's rules; the rows as text.
    pub fn sql(&self, database: &str, sql: &str) -> Vec<Vec<Option<String>>> {
        let answer =
            told(self.port, "POST", "/test/sql", &json!({"database": database, "sql": sql}))
                .unwrap_or_else(|e| panic!("{sql}: {e}"));
        serde_json::from_value(answer.clone()).unwrap_or_else(|e| panic!("{sql}: {e}: {answer}"))
    }

    /// A table of the shop, by id.
    pub fn rows(&self, shop: &Shop, table: usize, database: &str) -> FoundRows {
        let spec = &shop.tables[table];
        let columns: Vec<String> = spec.columns.iter().map(|c| format!("\"{}\"", c.name)).collect();
        let rows =
            self.sql(database, &format!("SELECT {} FROM \"{}\"", columns.join(", "), spec.name));
        let value = |kind: ShopKind, text: Option<String>| match (kind, text) {
            (_, None) => Value::Null,
            (ShopKind::Date, Some(text)) => (text.replace(' ', "T") + "Z").into(),
            (
                ShopKind::Integer(_)
                | ShopKind::Big
                | ShopKind::Cents
                | ShopKind::Decimal
                | ShopKind::Flag,
                Some(text),
            ) => serde_json::from_str(&text).unwrap_or(Value::Null),
            (_, Some(text)) => text.into(),
        };
        let keyed = |row: Vec<Option<String>>| -> (String, Map<String, Value>) {
            let id = row[spec.columns.iter().position(|c| c.name == "id").unwrap_or(0)]
                .clone()
                .unwrap_or_default();
            (
                id,
                spec.columns
                    .iter()
                    .zip(row)
                    .map(|(c, cell)| (c.name.clone(), value(c.kind, cell)))
                    .collect(),
            )
        };
        rows.into_iter().map(keyed).collect()
    }

    /// Disturbs the sessions of the database: each fault by its share of all requests.
    pub fn disturb(&self, database: &str, mut faults: Value) {
        faults["database"] = database.into();
        told(self.port, "POST", "/test/faults", &faults).unwrap_or_else(|e| panic!("{e}"));
    }

    /// It answers nobody and has forgotten its sessions with what was open in them, until it is up
    /// again; what was committed stays.
    pub fn set_down(&self, down: bool) {
        told(self.port, "POST", "/test/down", &json!({ "down": down }))
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// How its tables compare with the shop.
    pub fn reports(&self, shop: &Shop, database: &str) -> Vec<TableReport> {
        let report = |table: usize| check::compare(shop, table, self.rows(shop, table, database));
        (0..shop.tables.len()).map(report).collect()
    }

    /// The last statements that sessions of the database ran, each with its tag.
    pub fn statements(&self, database: &str) -> Vec<(String, String)> {
        let all =
            told(self.port, "GET", &format!("/test/statements?database={database}"), &Value::Null)
                .unwrap_or_else(|e| panic!("{e}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.as_array().into_iter().flatten().map(|s| (text(&s["sql"]), text(&s["tag"]))).collect()
    }
}

/// The stand-in that tests share.
pub fn shared() -> &'static Snowflake {
    static SHARED: OnceLock<Option<Snowflake>> = OnceLock::new();
    super::shared(&SHARED, "the stand-in for Snowflake", Snowflake::start)
}
