//! The databases of the suite, each with a client of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use tempfile::TempDir;

use super::{Database, DatabaseLimits, Widens};
use crate::services::{mysql, postgres, snowflake, tds};

fn cast(columns: &[String], table: &str) -> String {
    format!("SELECT {} FROM {table}", columns.join(", "))
}

fn double_quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn read_sqlite(
    db: &rusqlite::Connection,
    table: &str,
    columns: &[&str],
) -> Vec<Vec<Option<String>>> {
    let columns: Vec<String> = columns.iter().map(|c| double_quoted(c)).collect();
    let mut statement = db
        .prepare(&cast(&columns, &double_quoted(table)))
        .unwrap_or_else(|e| panic!("{table}: {e}"));
    let text = |value: rusqlite::types::ValueRef<'_>| match value {
        rusqlite::types::ValueRef::Null => None,
        rusqlite::types::ValueRef::Integer(n) => Some(n.to_string()),
        rusqlite::types::ValueRef::Real(n) => Some(n.to_string()),
        rusqlite::types::ValueRef::Text(text) | rusqlite::types::ValueRef::Blob(text) => {
            Some(String::from_utf8_lossy(text).into_owned())
        }
    };
    let rows = statement
        .query_map([], |row| (0..columns.len()).map(|i| row.get_ref(i).map(text)).collect())
        .unwrap_or_else(|e| panic!("{e}"));
    sorted(rows.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}")))
}

fn sorted(mut rows: Vec<Vec<Option<String>>>) -> Vec<Vec<Option<String>>> {
    rows.sort();
    rows
}

pub struct PostgresCase<'s> {
    server: &'s postgres::Postgres,
    name: String,
    url: String,
}

impl<'s> PostgresCase<'s> {
    /// A database of a server of one's own.
    pub async fn of(server: &'s postgres::Postgres) -> PostgresCase<'s> {
        let (name, url) = server.database().await;
        PostgresCase { server, name, url }
    }
}

impl PostgresCase<'static> {
    pub async fn fresh() -> PostgresCase<'static> {
        PostgresCase::of(postgres::shared()).await
    }

    /// A session of a person's.
    pub async fn session(&self) -> tokio_postgres::Client {
        postgres::shared().connect(&self.name).await
    }

    /// EDS is a role of the database's name, which owns it and is no superuser.
    pub async fn owned() -> PostgresCase<'static> {
        let server = postgres::shared();
        let (name, url) = server.database().await;
        let admin = postgres::shared().connect(&name).await;
        let sql = format!(
            "CREATE ROLE {name} LOGIN PASSWORD 's3cret/p@ss:w%rd'; ALTER DATABASE {name} OWNER TO \
             {name}; ALTER SCHEMA public OWNER TO {name}"
        );
        admin.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{e}"));
        PostgresCase { server, url: url.replace("//postgres:", &format!("//{name}:")), name }
    }
}

#[async_trait]
impl Database for PostgresCase<'_> {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn quoted(&self, name: &str) -> String {
        double_quoted(name)
    }

    async fn read(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let columns: Vec<String> =
            columns.iter().map(|c| format!("{}::text", self.quoted(c))).collect();
        let client = self.server.connect(&self.name).await;
        let rows = client
            .query(&cast(&columns, &self.quoted(table)), &[])
            .await
            .unwrap_or_else(|e| panic!("{table}: {e:?}"));
        sorted(rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect())
    }

    async fn run(&self, sql: &str) {
        self.server
            .connect(&self.name)
            .await
            .batch_execute(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    fn limits(&self) -> DatabaseLimits {
        DatabaseLimits {
            without_nul: true,
            short_json_numbers: false,
            pads_keys: false,
            key_characters_max: 1_000,
            bounds_enumerations: true,
            drops_not_null: true,
            widens: Widens::Any,
            folds_tables: false,
            folds_columns: false,
            takes_long_names: false,
            columns_max: Some(1_600),
        }
    }
}

pub struct MySqlCase<'s> {
    server: &'s mysql::MySql,
    name: String,
    url: String,
}

impl<'s> MySqlCase<'s> {
    /// A database of a server of one's own.
    pub async fn of(server: &'s mysql::MySql) -> MySqlCase<'s> {
        let (name, url) = server.database().await;
        MySqlCase { server, name, url }
    }

    /// A session of a person's.
    pub async fn session(&self) -> mysql_async::Conn {
        self.server.connect(&self.name).await
    }
}

impl MySqlCase<'static> {
    pub async fn fresh(flavour: mysql::Flavour) -> MySqlCase<'static> {
        MySqlCase::of(mysql::shared(flavour)).await
    }
}

#[async_trait]
impl Database for MySqlCase<'_> {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn quoted(&self, name: &str) -> String {
        format!("`{}`", name.replace('`', "``"))
    }

    async fn read(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let columns: Vec<String> = columns.iter().map(|c| self.quoted(c)).collect();
        let mut conn = self.server.connect(&self.name).await;
        let rows: Vec<mysql_async::Row> = conn
            .query(cast(&columns, &self.quoted(table)))
            .await
            .unwrap_or_else(|e| panic!("{table}: {e}"));
        // The text protocol answers in text.
        let text = |row: &mysql_async::Row, i: usize| match row.as_ref(i) {
            Some(mysql_async::Value::Bytes(bytes)) => {
                Some(String::from_utf8(bytes.clone()).unwrap_or_else(|e| panic!("{e}")))
            }
            _ => None,
        };
        sorted(rows.iter().map(|row| (0..row.len()).map(|i| text(row, i)).collect()).collect())
    }

    async fn run(&self, sql: &str) {
        self.server
            .connect(&self.name)
            .await
            .query_drop(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    fn limits(&self) -> DatabaseLimits {
        let short_json_numbers = self.server.flavour == mysql::Flavour::MySql;
        DatabaseLimits {
            without_nul: false,
            short_json_numbers,
            pads_keys: false,
            key_characters_max: 255,
            bounds_enumerations: true,
            drops_not_null: true,
            widens: Widens::Any,
            folds_tables: false,
            folds_columns: true,
            takes_long_names: false,
            columns_max: Some(1_017),
        }
    }
}

/// The stand-in for SQL Server, whose tables can be read behind its back.
pub struct SqlServerCase {
    name: String,
}

impl SqlServerCase {
    pub async fn fresh() -> SqlServerCase {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SqlServerCase { name: format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed)) }
    }

    fn open(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(tds::shared().file(&self.name)).unwrap_or_else(|e| panic!("{e}"))
    }
}

#[async_trait]
impl Database for SqlServerCase {
    fn url(&self) -> String {
        tds::shared().url(&self.name)
    }

    fn quoted(&self, name: &str) -> String {
        double_quoted(name)
    }

    async fn read(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        read_sqlite(&self.open(), table, columns)
    }

    async fn run(&self, sql: &str) {
        self.open().execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    fn limits(&self) -> DatabaseLimits {
        DatabaseLimits {
            without_nul: false,
            short_json_numbers: false,
            pads_keys: true,
            key_characters_max: 64,
            bounds_enumerations: true,
            drops_not_null: true,
            widens: Widens::AnyButKeys,
            folds_tables: true,
            folds_columns: true,
            takes_long_names: false,
            columns_max: Some(1_024),
        }
    }
}

/// The stand-in for Snowflake.
pub struct SnowflakeCase {
    name: String,
}

impl SnowflakeCase {
    pub async fn fresh() -> SnowflakeCase {
        SnowflakeCase { name: snowflake::shared().database() }
    }

    /// Has somebody else end every transaction before its COMMIT.
    pub fn steal_commits(&self, all: bool) {
        snowflake::shared()
            .disturb(&self.name, serde_json::json!({ "steal": f64::from(u8::from(all)) }));
    }
}

#[async_trait]
impl Database for SnowflakeCase {
    fn url(&self) -> String {
        snowflake::shared().url(&self.name, "&freshness=0")
    }

    fn quoted(&self, name: &str) -> String {
        double_quoted(name)
    }

    async fn read(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let columns: Vec<String> = columns.iter().map(|c| double_quoted(c)).collect();
        sorted(snowflake::shared().sql(&self.name, &cast(&columns, &double_quoted(table))))
    }

    async fn run(&self, sql: &str) {
        snowflake::shared().sql(&self.name, sql);
    }

    fn limits(&self) -> DatabaseLimits {
        DatabaseLimits {
            without_nul: false,
            short_json_numbers: true,
            pads_keys: false,
            key_characters_max: 1_000,
            bounds_enumerations: false,
            drops_not_null: true,
            widens: Widens::Never,
            folds_tables: false,
            folds_columns: false,
            takes_long_names: false,
            columns_max: None,
        }
    }
}

pub struct SqliteCase {
    dir: TempDir,
}

impl SqliteCase {
    pub async fn fresh() -> SqliteCase {
        SqliteCase { dir: TempDir::new().unwrap_or_else(|e| panic!("{e}")) }
    }

    fn open(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dir.path().join("shop.db"))
            .unwrap_or_else(|e| panic!("{e}"))
    }
}

#[async_trait]
impl Database for SqliteCase {
    fn url(&self) -> String {
        format!("sqlite://{}", self.dir.path().join("shop.db").display())
    }

    fn quoted(&self, name: &str) -> String {
        double_quoted(name)
    }

    async fn read(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        read_sqlite(&self.open(), table, columns)
    }

    async fn run(&self, sql: &str) {
        self.open().execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    fn limits(&self) -> DatabaseLimits {
        DatabaseLimits {
            without_nul: false,
            short_json_numbers: false,
            pads_keys: false,
            key_characters_max: 1_000,
            bounds_enumerations: false,
            drops_not_null: false,
            widens: Widens::AnyButKeys,
            folds_tables: true,
            folds_columns: true,
            takes_long_names: true,
            columns_max: Some(2_000),
        }
    }
}
