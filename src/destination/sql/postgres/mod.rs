//! PostgreSQL: a batch in one exchange; where the server is near, many rows of a table by COPY and
//! one upsert.

mod catalog;
pub mod dialect;
pub mod encode;
mod failure;
mod flight;
pub mod import;
mod login;
mod options;
mod pooler;
pub mod rows;
mod tls;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lru::LruCache;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use super::render::{Namespace, Renderer};
use super::{
    ABILITIES, GOODBYE_WAIT_MAX, Parameter, STREAM_LOCK_WAIT_MAX, SessionTag, SqlDestination,
    SqlSession, TableVersion, form,
};
use crate::destination::{Abilities, Destination, Driver, Failure, Target};
use dialect::POSTGRES;
use failure::{failure, failure_of_commit};
use flight::Flights;

/// Prepared statements of a session; the server keeps some hundred kilobytes for a wide one.
const STATEMENTS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
/// Temporary tables of a session: each commit empties them all, used or not. No batch needs as
/// many.
const STAGES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);
/// Two batches are under way while the next one is collected, so that smaller ones lose no time.
const BATCHES: Abilities =
    Abilities { batch_changes_max: 5_000, batch_bytes_max: 8 << 20, ..ABILITIES };
const EXAMPLE: &str = "postgres://user:password@localhost:5432/database";

/// `postgres://…`: PostgreSQL and what speaks its protocol.
pub const DRIVER: Driver = Driver {
    scheme: "postgres",
    aliases: &["postgresql"],
    title: "PostgreSQL",
    description: "Keeps the rows of each table in a PostgreSQL database.",
    example: EXAMPLE,
    help: "The user needs CONNECT on the database, and USAGE and CREATE on the schema; tables that \
           EDS made belong to that user.\n\
           Without sslmode the connection is encrypted but not verified, and to this machine not \
           encrypted. Version 12 or later.",
    fields: &form::fields("5432"),
    url_of_form: form::url,
    parameters: options::OBEYED,
    accepted: options::ACCEPTED,
    secrets: &["password"],
    read_url: options::database_url,
    abilities: |_| BATCHES,
    open: |target| Box::pin(open(target)),
};

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let (client, wire) = login::connect(settings).await?;
    if target.epoch.get() == 0 {
        pooler::refuse_shared_sessions(&client, settings).await?;
    }
    let namespace = Namespace::new(settings, Some(login::schema(&client, settings).await?));
    let connection = PostgresConnection {
        round_trip: flight::round_trip(&client).await?,
        client: Arc::new(client),
        flights: Flights::default(),
        wire,
        namespace: namespace.clone(),
        statements: LruCache::new(STATEMENTS_MAX),
        stages: Stages { made: LruCache::new(STAGES_MAX), number: 0 },
    };
    let renderer = Renderer::new(&POSTGRES, namespace);
    Ok(Box::new(SqlDestination::new(connection, renderer, target)))
}

/// A prepared statement's text and the types of its parameters: two versions of a table may differ
/// in nothing else.
#[derive(Clone, PartialEq, Eq, Hash)]
struct StatementKey {
    sql: String,
    types: Vec<Type>,
}

impl StatementKey {
    /// One of EDS's own statements.
    fn own(sql: String, parameters: &[Parameter]) -> StatementKey {
        StatementKey { sql, types: parameters.iter().map(Parameter::wire_type).collect() }
    }
}

/// The client, and the task that moves its bytes.
struct PostgresConnection {
    client: Arc<Client>,
    /// The batches under way.
    flights: Flights,
    wire: Wire,
    /// How far away the server is.
    round_trip: Duration,
    /// Where the tables are that failures may name.
    namespace: Namespace,
    /// Prepared statements. One that is dropped is closed at the server when nobody uses it.
    statements: LruCache<StatementKey, Statement>,
    stages: Stages,
}

/// Temporary tables that exist in this session.
struct Stages {
    /// By what they are for.
    made: LruCache<TableVersion, String>,
    /// The number of the last one.
    number: u64,
}

/// The task that moves bytes; it ends with its owner.
struct Wire(JoinHandle<()>);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl PostgresConnection {
    async fn prepared(&mut self, key: StatementKey) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(&key) {
            return Ok(statement.clone());
        }
        let statement =
            self.client.prepare_typed(&key.sql, &key.types).await.map_err(|e| failure(&e))?;
        self.statements.put(key, statement.clone());
        Ok(statement)
    }

    async fn query(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Vec<Row>, Failure> {
        let statement = self.prepared(StatementKey::own(sql.to_owned(), parameters)).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(Parameter::to_wire).collect();
        self.client.query(&statement, &parameters).await.map_err(|e| failure(&e))
    }
}

#[async_trait]
impl SqlSession for PostgresConnection {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        self.client.batch_execute(sql).await.map_err(|e| failure_of_commit(&e, &self.namespace))
    }

    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure> {
        let statement = self.prepared(StatementKey::own(sql.to_owned(), parameters)).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(Parameter::to_wire).collect();
        self.client.execute(&statement, &parameters).await.map_err(|e| failure(&e))
    }

    async fn integers(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<i64>>, Failure> {
        let rows = self.query(sql, parameters).await?;
        rows.iter()
            .map(|row| (0..row.len()).map(|i| row.try_get(i).map_err(|e| failure(&e))).collect())
            .collect()
    }

    async fn texts(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure> {
        let rows = self.query(sql, parameters).await?;
        let text = |row: &Row, i: usize| {
            row.try_get::<_, Option<String>>(i)
                .map(Option::unwrap_or_default)
                .map_err(|e| failure(&e))
        };
        rows.iter().map(|row| (0..row.len()).map(|i| text(row, i)).collect()).collect()
    }

    /// Sessions are found by the advisory lock that they share.
    async fn terminate_sessions(&mut self, tag: SessionTag) -> Result<(), Failure> {
        let sql = include_str!("terminate_sessions.sql");
        self.client.execute(sql, &[&(tag.0 as i64)]).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    async fn tag_session(&mut self, tag: SessionTag) -> Result<(), Failure> {
        self.client
            .execute("SELECT pg_advisory_lock_shared($1)", &[&(tag.0 as i64)])
            .await
            .map_err(|e| failure(&e))?;
        self.execute(&login::lock_wait(STREAM_LOCK_WAIT_MAX)).await
    }

    async fn lock_holders(
        &mut self,
        renderer: &Renderer,
        tables: &[String],
    ) -> Result<Vec<String>, Failure> {
        let place = &renderer.namespace;
        let names: Vec<String> = tables.iter().map(|table| place.name_of(table)).collect();
        let sql = include_str!("lock_holders.sql");
        let rows = self
            .client
            .query(sql, &[&place.schema.clone().unwrap_or_default(), &names])
            .await
            .map_err(|e| failure(&e))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn close(self) -> Result<(), Failure> {
        let PostgresConnection { client, flights, mut wire, .. } = self;
        drop((client, flights));
        // The task sends the goodbye; a server that does not take it is not waited for.
        let _ = tokio::time::timeout(GOODBYE_WAIT_MAX, &mut wire.0).await;
        Ok(())
    }
}

impl Parameter {
    fn wire_type(&self) -> Type {
        match self {
            Parameter::Integer(_) => Type::INT8,
            Parameter::Text(_) => Type::TEXT,
        }
    }

    fn to_wire(&self) -> &(dyn ToSql + Sync) {
        match self {
            Parameter::Integer(n) => n,
            Parameter::Text(text) => text,
        }
    }
}
