//! MySQL and MariaDB: upserts of many rows by one prepared statement.

mod catalog;
pub mod dialect;
pub mod encode;
mod failure;
mod import;
mod login;
mod options;
pub mod rows;
mod tls;

use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::dialect::Dialect;
use super::lent::Lent;
use super::render::{Namespace, Renderer};
use super::{
    ABILITIES, ANSWER_WAIT_MAX, DDL_WAIT_MAX, GOODBYE_WAIT_MAX, LOCK_WAIT_MAX, Parameter,
    STREAM_LOCK_WAIT_MAX, SessionTag, SqlDestination, SqlSession, form,
};
use crate::destination::{Destination, Driver, Failure, Target};
use dialect::{MARIADB, MYSQL};
use failure::{FOREIGN_SESSION, NO_SUCH_SESSION, failure};
use rows::Statements;

const EXAMPLE: &str = "mysql://user:password@localhost:3306/database";

/// `mysql://…` and `mariadb://…`: which of the two it is, the server says.
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
           A unix socket stands in the host's place, encoded: mysql://user@%2Frun%2Fmysqld%2Fmysqld.sock/db\n\
           MySQL 8.0.17 or later, MariaDB 10.6 or later.",
    fields: &form::fields("3306"),
    url_of_form: form::url,
    parameters: options::OBEYED,
    accepted: options::ACCEPTED,
    secrets: &[],
    read_url: options::database_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// After so many seconds without a statement within a transaction MariaDB ends the session: this
/// process is gone.
const SILENCE_MAX_SECONDS: u32 = 60;
/// An idle session is kept as long as the server allows: 24 days.
const IDLE_MAX_SECONDS: u32 = 2_147_483;
/// What failures call the server before it has said which of the two it is.
const SERVER: &str = "the database";

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let conn = login::connect(settings).await?;
    let mut connection =
        MySqlConnection { conn: Lent::new(conn, SERVER), statements: Statements::new(0) };
    let dialect = connection.set_up().await?;
    if let Some(switches) = options::session_switches(settings)? {
        connection.query(&switches).await.map_err(|failure| options::refused(settings, failure))?;
    }
    connection.statements = Statements::new(
        usize::try_from(connection.one("SELECT @@max_allowed_packet", &[]).await?).unwrap_or(0),
    );
    let schema = settings.parameter("schema").unwrap_or(settings.database()).to_owned();
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
    let namespace = Namespace { lower_case, ..Namespace::new(settings, Some(schema)) };
    Ok(Box::new(SqlDestination::new(connection, Renderer::new(dialect, namespace), target)))
}

struct MySqlConnection {
    conn: Lent<Conn>,
    statements: Statements,
}

impl MySqlConnection {
    async fn with<T, F>(&mut self, limit: Duration, call: F) -> Result<T, Failure>
    where
        F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, mysql_async::Result<T>> + Send,
        T: Send,
    {
        self.conn.call(limit, call).await?.map_err(|e| failure(&e))
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

    async fn one(&mut self, sql: &str, parameters: &[Parameter]) -> Result<i64, Failure> {
        let rows = self.rows(sql, parameters).await?;
        rows.first().and_then(|row| row.get::<i64, _>(0)).ok_or_else(|| {
            Failure::unavailable("the database gave no answer to a question about itself")
        })
    }

    /// Finds out which of the two it is, and sets the session.
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
        // Values are sent in UTF-8, whatever the server sets for its clients.
        self.query("SET NAMES utf8mb4").await?;
        self.query(&session_settings(dialect)).await?;
        self.query(&lock_wait(LOCK_WAIT_MAX)).await?;
        self.set_isolation().await?;
        if self.one("SELECT @@explicit_defaults_for_timestamp", &[]).await? == 0 {
            // A TIMESTAMP that is altered would become NOT NULL. Where the setting is the server's
            // alone, EDS writes NULL where it means it.
            let _ = self.query("SET SESSION explicit_defaults_for_timestamp = 1").await;
        }
        Ok(dialect)
    }

    /// READ COMMITTED locks the rows that are written and no gaps between them; a log of statements
    /// does not go with it.
    async fn set_isolation(&mut self) -> Result<(), Failure> {
        let logged = self
            .texts_of("SHOW VARIABLES WHERE variable_name IN ('log_bin', 'binlog_format')", &[])
            .await?;
        let is = |name: &str, value: &str| {
            logged.iter().any(|line| line[0] == name && line[1].eq_ignore_ascii_case(value))
        };
        let level = match is("log_bin", "ON") && is("binlog_format", "STATEMENT") {
            true => "REPEATABLE READ",
            false => "READ COMMITTED",
        };
        self.query(&format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}")).await
    }
}

/// How a session is set, whatever the server's defaults are: strict, in UTC, without limits that
/// are meant for people.
fn session_settings(dialect: &Dialect) -> String {
    let (mode, more) = match dialect.name == MARIADB.name {
        true => (
            "",
            format!("idle_transaction_timeout = {SILENCE_MAX_SECONDS}, max_statement_time = 0"),
        ),
        // MariaDB cuts finer times off by itself; MySQL would round them.
        false => (",TIME_TRUNCATE_FRACTIONAL", "max_execution_time = 0".to_owned()),
    };
    format!(
        "SET SESSION autocommit = 1, \
         time_zone = '+00:00', \
         sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION{mode}', \
         sql_safe_updates = 0, \
         wait_timeout = {IDLE_MAX_SECONDS}, \
         {more}"
    )
}

/// How long statements wait for a lock of a table or a row; the server's smallest limit is a
/// second.
fn lock_wait(limit: Duration) -> String {
    let seconds = limit.as_secs().max(1);
    format!("SET SESSION lock_wait_timeout = {seconds}, innodb_lock_wait_timeout = {seconds}")
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
impl SqlSession for MySqlConnection {
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
            Err(failure)
                if failure.has_code(NO_SUCH_SESSION) || failure.has_code(FOREIGN_SESSION) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    async fn tag_session(&mut self, tag: SessionTag) -> Result<(), Failure> {
        self.rows("SELECT GET_LOCK(?, 5)", &[lock_name(tag).as_str().into()]).await?;
        self.query(&lock_wait(STREAM_LOCK_WAIT_MAX)).await
    }

    /// Told only where performance_schema is on and the user may read it.
    async fn lock_holders(
        &mut self,
        renderer: &Renderer,
        tables: &[String],
    ) -> Result<Vec<String>, Failure> {
        let place = &renderer.namespace;
        let sql = include_str!("lock_holders.sql");
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

    async fn close(self) -> Result<(), Failure> {
        let Some(conn) = self.conn.into_held() else { return Ok(()) };
        // A server that does not take the goodbye is not waited for.
        let _ = tokio::time::timeout(GOODBYE_WAIT_MAX, conn.disconnect()).await;
        Ok(())
    }
}

/// Names of locks have at most 64 characters, and are the whole server's.
fn lock_name(tag: SessionTag) -> String {
    format!("eds-{:016x}", tag.0)
}
