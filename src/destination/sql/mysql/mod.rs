//! MySQL and MariaDB: upserts of many rows by one prepared statement.

mod failure;
mod import;
mod login;
pub mod rows;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::dialect::{Dialect, MARIADB, MYSQL};
use super::render::{Namespace, Renderer};
use super::{ABILITIES, Connection, ListedColumn, Parameter, SessionTag, SqlDestination, form};
use crate::change::{Batch, TableSchema};
use crate::destination::settings::server_url;
use crate::destination::{Destination, Driver, Failure, Target};
use failure::failure;
use rows::{Action, Statements};

const EXAMPLE: &str = "mysql://user:password@localhost:3306/database";

pub const DRIVER: Driver = Driver {
    scheme: "mysql",
    aliases: &["mariadb"],
    title: "MySQL",
    description: "Keeps the rows of each table in a MySQL or MariaDB database.",
    example: EXAMPLE,
    help: "The user needs SELECT, INSERT, UPDATE, DELETE, CREATE and ALTER on the database, for \
           imports also DROP and TRIGGER.\n\
           Tables are InnoDB.\n\
           Without tls the connection is encrypted where the server can, but not verified, and to \
           this machine not encrypted.\n\
           MySQL 8.0.17 or later, MariaDB 10.6 or later.",
    fields: &form::fields("3306"),
    url_of_form: form::url,
    parameters: &[
        ("tls", "false, preferred, skip-verify or true (verified, with the host's name)"),
        ("ssl-host", "the name that the server's certificate is for, if not the host's"),
        ("ssl-ca", "file with the certificate authorities to trust"),
        ("ssl-cert", "file with the client's certificate"),
        ("ssl-key", "file with the client's key"),
        ("schema", "database of the tables, if not the one of the URL"),
        ("prefix", "what stands before each table's name"),
        ("timeout", "how long to wait for a connection (10s)"),
        ("charset", "taken, without effect: text is utf8mb4"),
        ("collation", "taken, without effect"),
        ("parseTime", "taken, without effect"),
        ("loc", "taken, without effect: times are UTC"),
        ("interpolateParams", "taken, without effect: values are parameters"),
        ("multiStatements", "taken, without effect"),
        ("allowNativePasswords", "taken, without effect"),
    ],
    read_url: server_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// How long a lock that another session holds is waited for, in seconds, before the batch is tried
/// again.
const LOCK_WAIT_MAX_SECONDS: u32 = 10;
/// After so many seconds within a transaction without a word from us, MariaDB ends the session: we
/// are gone.
const SILENCE_MAX_SECONDS: u32 = 60;
/// An idle session is kept as long as the server allows: 24 days.
const IDLE_MAX_SECONDS: u32 = 2_147_483;
/// A statement about rows that takes longer is taken for a connection that went silent.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(300);
/// A change of a table may have to copy it.
const DDL_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let conn = login::connect(settings).await?;
    let mut connection = MySqlConnection { conn: Some(conn), statements: Statements::new(0) };
    let dialect = connection.set_up().await?;
    connection.statements = Statements::new(
        usize::try_from(connection.one("SELECT @@max_allowed_packet", &[]).await?).unwrap_or(0),
    );
    let database = settings.path.trim_start_matches('/');
    let schema = settings.parameter("schema").unwrap_or(database).to_owned();
    let lower_case = connection.one("SELECT @@lower_case_table_names", &[]).await? != 0;
    if connection
        .one(
            "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = ?",
            &[schema.as_str().into()],
        )
        .await?
        == 0
    {
        return Err(Failure::misconfigured(format!(
            "{} has no database {schema:?} that this user can see: make it with CREATE DATABASE, \
             or correct ?schema=",
            dialect.name
        )));
    }
    let namespace = Namespace {
        schema: Some(schema),
        prefix: settings.parameter("prefix").unwrap_or_default().to_owned(),
        lower_case,
    };
    Ok(Box::new(SqlDestination::new(connection, Renderer { dialect, namespace }, target)))
}

/// The connection is away while a call is under way; a call that was dropped half way takes it
/// along.
struct MySqlConnection {
    conn: Option<Conn>,
    statements: Statements,
}

impl MySqlConnection {
    async fn with<T, F>(&mut self, limit: Duration, call: F) -> Result<T, Failure>
    where
        F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, mysql_async::Result<T>> + Send,
        T: Send,
    {
        let mut conn = self.conn.take().ok_or_else(|| {
            Failure::unavailable("the connection to the database was given up half way")
        })?;
        let Ok(done) = tokio::time::timeout(limit, call(&mut conn)).await else {
            return Err(Failure::unavailable(format!(
                "the database did not answer within {limit:?}"
            )));
        };
        self.conn = Some(conn);
        done.map_err(|e| failure(&e))
    }

    async fn query(&mut self, sql: &str) -> Result<(), Failure> {
        self.with(DDL_WAIT_MAX, move |conn| conn.query_drop(sql.to_owned())).await
    }

    async fn rows(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Vec<Row>, Failure> {
        let values: Vec<Value> = parameters.iter().map(Value::from).collect();
        self.with(ANSWER_WAIT_MAX, move |conn| conn.exec(sql.to_owned(), values)).await
    }

    async fn texts_of(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure> {
        let rows = self.rows(sql, parameters).await?;
        Ok(rows
            .iter()
            .map(|row| {
                (0..row.len())
                    .map(|i| row.get::<Option<String>, _>(i).flatten().unwrap_or_default())
                    .collect()
            })
            .collect())
    }

    /// What SHOW CREATE TABLE says.
    async fn made(&mut self, renderer: &Renderer, table: &str) -> Result<String, Failure> {
        let sql = format!("SHOW CREATE TABLE {}", renderer.table(table));
        let rows = self.with(ANSWER_WAIT_MAX, |conn| conn.query(sql)).await?;
        Ok(rows.first().and_then(|row: &Row| row.get(1)).unwrap_or_default())
    }

    async fn one(&mut self, sql: &str, parameters: &[Parameter]) -> Result<i64, Failure> {
        let rows = self.rows(sql, parameters).await?;
        rows.first().and_then(|row| row.get::<i64, _>(0)).ok_or_else(|| {
            Failure::unavailable("the database gave no answer to a question about itself")
        })
    }

    /// Which of the two it is; and what a session of EDS has to be like.
    async fn set_up(&mut self) -> Result<&'static Dialect, Failure> {
        let rows = self.rows("SELECT VERSION()", &[]).await?;
        let version: String = rows.first().and_then(|row| row.get(0)).unwrap_or_default();
        let dialect = if version.contains("MariaDB") { &MARIADB } else { &MYSQL };
        let needed = if dialect.name == MARIADB.name { (10, 6, 0) } else { (8, 0, 17) };
        if login::version(&version) < needed {
            let text = format!(
                "{} {version} is too old: EDS needs {}.{} or later",
                dialect.name, needed.0, needed.1
            );
            return Err(Failure::misconfigured(text));
        }
        let (mode, more) = match dialect.name == MARIADB.name {
            true => ("", format!(", idle_transaction_timeout = {SILENCE_MAX_SECONDS}")),
            // MariaDB cuts finer times off by itself; MySQL would round them.
            false => (",TIME_TRUNCATE_FRACTIONAL", String::new()),
        };
        let sql = format!(
            "SET SESSION autocommit = 1, time_zone = '+00:00', sql_mode = \
             'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION{mode}', lock_wait_timeout = \
             {LOCK_WAIT_MAX_SECONDS}, \
             innodb_lock_wait_timeout = {LOCK_WAIT_MAX_SECONDS}, wait_timeout = \
             {IDLE_MAX_SECONDS}{more}"
        );
        self.query(&sql).await?;
        Ok(dialect)
    }

    /// Writes the rows at `indices` of the group by as few statements as fit.
    async fn act(
        &mut self,
        action: Action,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let mut conn = self.conn.take().ok_or_else(|| {
            Failure::unavailable("the connection to the database was given up half way")
        })?;
        let done = tokio::time::timeout(
            ANSWER_WAIT_MAX,
            self.statements.run(&mut conn, action, renderer, batch, group),
        )
        .await;
        let done = done.map_err(|_| {
            Failure::unavailable(format!("the database did not answer within {ANSWER_WAIT_MAX:?}"))
        })?;
        self.conn = Some(conn);
        done
    }
}

impl From<&Parameter> for Value {
    fn from(parameter: &Parameter) -> Value {
        match parameter {
            Parameter::Integer(n) => Value::Int(*n),
            Parameter::Text(text) => Value::Bytes(text.as_bytes().to_vec()),
        }
    }
}

#[async_trait]
impl Connection for MySqlConnection {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        self.query(sql).await
    }

    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure> {
        let values: Vec<Value> = parameters.iter().map(Value::from).collect();
        let sql = sql.to_owned();
        self.with(ANSWER_WAIT_MAX, move |conn| {
            Box::pin(async move {
                conn.exec_drop(sql, values).await?;
                Ok(conn.affected_rows())
            })
        })
        .await
    }

    async fn integers(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<i64>>, Failure> {
        let rows = self.rows(sql, parameters).await?;
        Ok(rows
            .iter()
            .map(|row| (0..row.len()).filter_map(|i| row.get::<i64, _>(i)).collect())
            .collect())
    }

    async fn texts(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure> {
        self.texts_of(sql, parameters).await
    }

    async fn columns(&mut self, renderer: &Renderer) -> Result<Vec<ListedColumn>, Failure> {
        // Whoever asks has reason to think that tables changed.
        if let Some(conn) = &mut self.conn {
            self.statements.clear(conn).await;
        }
        let place = &renderer.namespace;
        let sql = "SELECT c.table_name, c.column_name, c.is_nullable = 'YES' OR c.column_default \
                   IS NOT NULL OR c.extra <> '', COALESCE(k.seq_in_index, 0), \
                   COALESCE(t.engine, t.table_type), u.name \
                   FROM information_schema.columns c \
                   JOIN information_schema.tables t ON t.table_schema = c.table_schema AND \
                   t.table_name = c.table_name \
                   LEFT JOIN information_schema.statistics k ON k.table_schema = c.table_schema \
                   AND k.table_name = c.table_name \
                   AND k.column_name = c.column_name AND k.index_name = 'PRIMARY' \
                   LEFT JOIN (SELECT table_name, MIN(index_name) AS name FROM \
                   information_schema.statistics \
                   WHERE table_schema = ? AND non_unique = 0 AND index_name <> 'PRIMARY' GROUP BY \
                   table_name) u ON u.table_name = c.table_name \
                   WHERE c.table_schema = ? ORDER BY c.table_name, c.ordinal_position";
        let schema = Parameter::from(place.schema.as_deref().unwrap_or_default());
        let rows = self.rows(sql, &[schema.clone(), schema]).await?;
        let text = |row: &Row, i: usize| row.get::<Option<String>, _>(i).flatten();
        let listed = rows.iter().filter_map(|row| {
            let table = place.source_of(&text(row, 0)?)?;
            let (nullable, key) = (row.get::<i64, _>(2)? != 0, row.get::<i64, _>(3)?);
            let write_blocker = write_blocker(&text(row, 4)?, text(row, 5).as_deref());
            Some(ListedColumn { table, column: text(row, 1)?, nullable, key, write_blocker })
        });
        Ok(listed.collect())
    }

    /// The line of SHOW CREATE TABLE, which has all there is to say about the column.
    async fn declared(
        &mut self,
        renderer: &Renderer,
        table: &str,
        column: &str,
    ) -> Result<String, Failure> {
        let made = self.made(renderer, table).await?;
        let begin = format!("  {} ", renderer.quoted(column));
        let line = made
            .lines()
            .find_map(|line| line.strip_prefix(&begin))
            .map(|rest| rest.trim_end_matches(','));
        let line = line.ok_or_else(|| {
            Failure::unavailable(format!(
                "column {column:?} of table {table:?} is not there any more"
            ))
        })?;
        Ok(line.replacen(" NOT NULL", " NULL", 1))
    }

    /// Sessions are found by the lock that each has by name; a user may end sessions of their own.
    async fn terminate_sessions(&mut self, tag: SessionTag) -> Result<(), Failure> {
        let held = self
            .rows(
                "SELECT NULLIF(IS_USED_LOCK(?), CONNECTION_ID())",
                &[lock_name(tag).as_str().into()],
            )
            .await?;
        let Some(session) = held.first().and_then(|row| row.get::<Option<u64>, _>(0)).flatten()
        else {
            return Ok(());
        };
        match self.query(&format!("KILL {session}")).await {
            // It ended by itself (1094), or belongs to somebody else (1095).
            Err(failure)
                if !failure.text.contains("(1094)") && !failure.text.contains("(1095)") =>
            {
                Err(failure)
            }
            _ => Ok(()),
        }
    }

    async fn tag_session(&mut self, tag: SessionTag) -> Result<(), Failure> {
        self.rows("SELECT GET_LOCK(?, 5)", &[lock_name(tag).as_str().into()]).await.map(drop)
    }

    fn is_lock_wait(&self, failure: &Failure) -> bool {
        failure.text.contains("(1205)")
    }

    /// Told only where performance_schema is on and the user may read it.
    async fn lock_holders(
        &mut self,
        renderer: &Renderer,
        tables: &[String],
    ) -> Result<Vec<String>, Failure> {
        let place = &renderer.namespace;
        let sql = "SELECT DISTINCT t.processlist_id, t.processlist_user, t.processlist_host FROM \
                   performance_schema.metadata_locks m \
                   JOIN performance_schema.threads t ON t.thread_id = m.owner_thread_id \
                   WHERE m.object_schema = ? AND m.object_name = ? AND m.lock_status = 'GRANTED' \
                   AND t.processlist_id <> CONNECTION_ID()";
        let mut holders = Vec::new();
        for table in tables {
            let rows = self
                .rows(
                    sql,
                    &[
                        place.schema.as_deref().unwrap_or_default().into(),
                        place.name_of(table).as_str().into(),
                    ],
                )
                .await?;
            let told = |row: &Row| {
                Some(format!(
                    "session {} (user {} at {})",
                    row.get::<u64, _>(0)?,
                    row.get::<String, _>(1)?,
                    row.get::<String, _>(2)?
                ))
            };
            holders.extend(rows.iter().filter_map(told));
        }
        Ok(holders)
    }

    fn is_already_there(&self, failure: &Failure) -> bool {
        failure.text.contains("(1060)")
    }

    async fn prepare(
        &mut self,
        _renderer: &Renderer,
        _batch: &Arc<Batch>,
        _group: usize,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.act(Action::Delete, renderer, batch, group).await?;
        self.act(Action::Upsert, renderer, batch, group).await
    }

    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        self.statements.keep_few();
        Ok(())
    }

    async fn load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.act(Action::Insert, renderer, batch, group).await
    }

    async fn finish_load(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<u64, Failure> {
        self.give_indexes(renderer, schema, staged).await?;
        Ok(0)
    }

    async fn swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        self.find_swap_blocker(renderer, schema).await
    }

    async fn close(self) -> Result<(), Failure> {
        let Some(conn) = self.conn else { return Ok(()) };
        // A server that does not take the goodbye is left alone.
        let _ = tokio::time::timeout(Duration::from_secs(2), conn.disconnect()).await;
        Ok(())
    }
}

/// Names of locks have at most 64 characters, and are the whole server's.
fn lock_name(tag: SessionTag) -> String {
    format!("eds-{:016x}", tag.0)
}

/// What keeps rows from being safe: no transactions, or an upsert that could meet another row than
/// the key's.
fn write_blocker(engine: &str, unique: Option<&str>) -> Option<String> {
    match (engine, unique) {
        ("InnoDB", None) => None,
        ("InnoDB", Some(index)) => Some(format!(
            "its unique index {index:?} beside the primary key could make an upsert overwrite \
             another row; make it an ordinary index, or use ?prefix= for tables of EDS's own"
        )),
        ("VIEW" | "SYSTEM VIEW", _) => {
            Some("it is a view; use ?prefix= for tables of EDS's own, or rename it".to_owned())
        }
        (other, _) => Some(format!(
            "it is a table of {other}, which has no transactions; ALTER TABLE … \
             ENGINE=InnoDB cures it"
        )),
    }
}
