//! SQL Server, Azure SQL and Babelfish: rows into a temporary table, then one UPDATE and one INSERT
//! for all of them.

pub mod catalog;
pub mod dialect;
mod encode;
mod failure;
mod import;
mod login;
mod options;
pub mod rows;
mod tls;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tiberius::{Row, ToSql};
use tokio::net::TcpStream;
use tokio_util::compat::Compat;

use super::dialect::Dialect;
use super::lent::Lent;
use super::render::{Namespace, Renderer};
use super::{
    ABILITIES, ANSWER_WAIT_MAX, DDL_WAIT_MAX, GOODBYE_WAIT_MAX, LOCK_WAIT_MAX, Parameter,
    STREAM_LOCK_WAIT_MAX, SessionTag, SqlDestination, SqlSession, form,
};
use crate::destination::{Abilities, Destination, Driver, Failure, Settings, Target};
use catalog::{TextColumns, tells_keys_apart};
use dialect::{SQLSERVER, SQLSERVER_DATABASE_KEYS};
use failure::failure;
use rows::StageKey;

const EXAMPLE: &str = "sqlserver://user:password@localhost:1433/database";

/// `sqlserver://…`: SQL Server and what speaks its protocol.
pub const DRIVER: Driver = Driver {
    scheme: "sqlserver",
    aliases: &["mssql"],
    title: "Microsoft SQL Server",
    description: "Keeps the rows of each table in SQL Server, Azure SQL or Babelfish.",
    example: EXAMPLE,
    help: "The user needs SELECT, INSERT, UPDATE, DELETE and ALTER on the schema, and CREATE TABLE \
           on the database, whose\n\
           compatibility level has to be 130 or higher.\n\
           Without encrypt the connection is encrypted but not verified, and to this machine not \
           encrypted.\n\
           SQL Server 2016 or later. EDS is tested against a stand-in for SQL Server, not against \
           the product itself.",
    fields: &form::fields("1433"),
    url_of_form: form::url,
    parameters: options::OBEYED,
    accepted: options::ACCEPTED,
    secrets: &["password"],
    read_url: options::database_url,
    abilities: |_| Abilities { batch_changes_max: BATCH_CHANGES_MAX, ..ABILITIES },
    open: |target| Box::pin(open(target)),
};

/// A statement that holds 5,000 locks on a table locks all of it, and its readers wait. Each row
/// may be one, and its page another.
const BATCH_CHANGES_MAX: usize = 2_000;

/// How a session of EDS is set, whatever the server's and the login's defaults are: any error ends
/// the transaction, a lock of another session is waited for only so long, and of two sessions that
/// wait for each other EDS's is the one that gives way.
pub fn session_settings() -> String {
    let lock_wait = lock_wait(LOCK_WAIT_MAX);
    format!(
        "SET XACT_ABORT ON; \
         SET NOCOUNT OFF; \
         SET IMPLICIT_TRANSACTIONS OFF; \
         SET ANSI_NULLS ON; \
         SET ANSI_NULL_DFLT_ON ON; \
         SET QUOTED_IDENTIFIER ON; \
         SET ANSI_WARNINGS ON; \
         SET ANSI_PADDING ON; \
         SET ARITHABORT ON; \
         SET CONCAT_NULL_YIELDS_NULL ON; \
         SET NUMERIC_ROUNDABORT OFF; \
         SET DATEFORMAT ymd; \
         SET DEADLOCK_PRIORITY LOW; \
         {lock_wait}; \
         SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
    )
}

/// How long statements wait for a lock.
pub fn lock_wait(limit: Duration) -> String {
    format!("SET LOCK_TIMEOUT {}", limit.as_millis())
}

/// The user's schema, the database's compatibility level, the server's version, the database's
/// collation.
pub const ABOUT: &str = "\
    SELECT SCHEMA_NAME(), CAST(d.compatibility_level AS BIGINT), @@VERSION, d.collation_name \
    FROM sys.databases AS d \
    WHERE d.name = DB_NAME()";
/// Ends a transaction, if an error has not ended it already.
pub const ROLLBACK: &str = "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION";
const KEY_COLLATION: &str = "keyCollation";
const SCHEMA_IS_THERE: &str =
    "SELECT COUNT(*) FROM INFORMATION_SCHEMA.SCHEMATA WHERE SCHEMA_NAME = @P1";
/// The first compatibility level that has OPENJSON.
const COMPATIBILITY_MIN: i64 = 130;

/// Where a connection has come to.
struct Arrival {
    /// The user's own schema.
    schema: String,
    /// The database's collation; empty where it does not tell.
    collation: String,
}

/// How the texts of new keys are compared (docs/decisions/0017).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KeyCollation {
    /// As the database does, where that tells keys apart; else character by character.
    Apart,
    /// As the database does.
    Database,
    /// Character by character.
    Binary,
}

impl KeyCollation {
    /// What the URL wants.
    fn wanted(settings: &Settings) -> Result<KeyCollation, Failure> {
        match settings.parameter(KEY_COLLATION) {
            None => Ok(KeyCollation::Apart),
            Some("database") => Ok(KeyCollation::Database),
            Some("binary") => Ok(KeyCollation::Binary),
            Some(other) => Err(Failure::misconfigured(format!(
                "{KEY_COLLATION}={other:?} is not known: it is database or binary"
            ))),
        }
    }

    fn dialect(self, collation: &str) -> &'static Dialect {
        match self {
            KeyCollation::Apart if tells_keys_apart(collation) => &SQLSERVER_DATABASE_KEYS,
            KeyCollation::Database => &SQLSERVER_DATABASE_KEYS,
            KeyCollation::Apart | KeyCollation::Binary => &SQLSERVER,
        }
    }
}

type Client = tiberius::Client<Compat<TcpStream>>;

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let client = Box::pin(login::connect(settings)).await?;
    let mut connection = SqlServerConnection {
        client: Lent::new(client, "SQL Server"),
        stages: HashMap::new(),
        stages_made: 0,
        texts: HashMap::new(),
    };
    let keys = KeyCollation::wanted(settings)?;
    let Arrival { schema: own_schema, collation } = connection.set_up().await?;
    let schema = settings.parameter("schema").map_or(own_schema, str::to_owned);
    if connection.integers(SCHEMA_IS_THERE, &[schema.as_str().into()]).await? == [[0]] {
        return Err(Failure::misconfigured(format!(
            "the database has no schema {schema:?}: make it with CREATE SCHEMA, or correct ?schema="
        )));
    }
    let namespace = Namespace::new(settings, Some(schema));
    Ok(Box::new(SqlDestination::new(
        connection,
        Renderer::new(keys.dialect(&collation), namespace),
        target,
    )))
}

struct SqlServerConnection {
    client: Lent<Client>,
    /// Temporary tables of this session.
    stages: HashMap<StageKey, String>,
    /// How many there have been: the number of the last one.
    stages_made: u64,
    /// Per table, what the catalog tells of its columns of texts.
    texts: HashMap<String, TextColumns>,
}

impl SqlServerConnection {
    async fn with<T: Send>(
        &mut self,
        limit: Duration,
        call: impl for<'c> FnOnce(&'c mut Client) -> BoxFuture<'c, tiberius::Result<T>> + Send,
    ) -> Result<T, Failure> {
        self.client.call(limit, call).await?.map_err(|e| failure(&e))
    }

    async fn batch(&mut self, limit: Duration, sql: String) -> Result<(), Failure> {
        self.with(limit, move |client| {
            Box::pin(async move { client.simple_query(sql).await?.into_results().await.map(drop) })
        })
        .await
    }

    async fn rows(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Vec<Row>, Failure> {
        let (sql, parameters) = (sql.to_owned(), parameters.to_vec());
        self.with(ANSWER_WAIT_MAX, move |client| {
            Box::pin(async move {
                let values: Vec<&dyn ToSql> = parameters.iter().map(to_wire).collect();
                client.query(sql, &values).await?.into_first_result().await
            })
        })
        .await
    }

    /// Sets the session.
    async fn set_up(&mut self) -> Result<Arrival, Failure> {
        self.batch(ANSWER_WAIT_MAX, session_settings()).await?;
        let rows = self.rows(ABOUT, &[]).await?;
        let row = rows.first().ok_or_else(|| {
            Failure::unavailable("SQL Server gave no answer to a question about itself")
        })?;
        let version: &str = row.get(2).unwrap_or_default();
        // Babelfish has OPENJSON whatever level it tells.
        if row.get::<i64, _>(1).is_some_and(|level| level < COMPATIBILITY_MIN)
            && !version.contains("Babelfish")
        {
            let text = format!(
                "the database's compatibility level is too low: ALTER DATABASE … SET \
                 COMPATIBILITY_LEVEL = {COMPATIBILITY_MIN} (SQL Server 2016) or higher cures it"
            );
            return Err(Failure::misconfigured(text));
        }
        let schema = row.get::<&str, _>(0).map(str::to_owned).ok_or_else(|| {
            Failure::misconfigured("the user has no schema of their own: choose one with ?schema=")
        })?;
        let collation = row.get::<&str, _>(3).unwrap_or_default().to_owned();
        Ok(Arrival { schema, collation })
    }
}

fn to_wire(parameter: &Parameter) -> &dyn ToSql {
    match parameter {
        Parameter::Integer(n) => n,
        Parameter::Text(text) => text,
    }
}

#[async_trait]
impl SqlSession for SqlServerConnection {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        let sql = if sql == "ROLLBACK" { ROLLBACK } else { sql };
        self.batch(DDL_WAIT_MAX, sql.to_owned()).await
    }

    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure> {
        let (sql, parameters) = (sql.to_owned(), parameters.to_vec());
        self.with(ANSWER_WAIT_MAX, move |client| {
            Box::pin(async move {
                let values: Vec<&dyn ToSql> = parameters.iter().map(to_wire).collect();
                Ok(client.execute(sql, &values).await?.total())
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
        let integer = |row: &Row, i: usize| {
            row.try_get::<i64, _>(i)
                .or_else(|_| row.try_get::<i32, _>(i).map(|n| n.map(i64::from)))
                .ok()
                .flatten()
                .unwrap_or(0)
        };
        Ok(rows.iter().map(|row| (0..row.len()).map(|i| integer(row, i)).collect()).collect())
    }

    async fn texts(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure> {
        let rows = self.rows(sql, parameters).await?;
        let text = |row: &Row, i: usize| row.get::<&str, _>(i).unwrap_or_default().to_owned();
        Ok(rows.iter().map(|row| (0..row.len()).map(|i| text(row, i)).collect()).collect())
    }

    /// No other session can end this one: that takes rights that EDS does not ask for.
    async fn tag_session(&mut self, _tag: SessionTag) -> Result<(), Failure> {
        self.batch(ANSWER_WAIT_MAX, lock_wait(STREAM_LOCK_WAIT_MAX)).await
    }

    async fn close(self) -> Result<(), Failure> {
        let Some(client) = self.client.into_held() else { return Ok(()) };
        // A server that does not take the goodbye is not waited for.
        let _ = tokio::time::timeout(GOODBYE_WAIT_MAX, client.close()).await;
        Ok(())
    }
}
