//! PostgreSQL: a few rows by pipelined statements, more by array parameters, many by COPY and one
//! upsert.

mod catalog;
pub mod dialect;
pub mod encode;
mod failure;
pub mod import;
mod login;
pub mod rows;
mod tls;

use std::collections::HashMap;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use super::render::{Namespace, Renderer};
use super::{
    ABILITIES, GOODBYE_WAIT_MAX, Parameter, STREAM_LOCK_WAIT_MAX, SessionTag, SqlDestination,
    SqlSession, TableVersion, form,
};
use crate::destination::settings::server_url;
use crate::destination::{Destination, Driver, Failure, Target};
use dialect::POSTGRES;
use failure::failure;

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
    parameters: &[
        ("sslmode", "disable, allow, prefer, require, verify-ca or verify-full"),
        ("sslrootcert", "file with the certificate authorities to trust"),
        ("sslcert", "file with the client's certificate"),
        ("sslkey", "file with the client's key"),
        ("schema", "schema of the tables; without it the first of the search path"),
        ("prefix", "prefix of each table's name"),
        ("application_name", "how the connection names itself (eds)"),
        ("connect_timeout", "seconds to wait for a connection (10)"),
        ("options", "settings passed on to the server, e.g. -c work_mem=64MB"),
    ],
    read_url: server_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let (client, wire) = login::connect(settings).await?;
    let namespace = Namespace::new(settings, Some(login::schema(&client, settings).await?));
    let connection = PostgresConnection {
        client,
        wire: Wire(wire),
        namespace: namespace.clone(),
        statements: HashMap::new(),
        stages: HashMap::new(),
    };
    let renderer = Renderer::new(&POSTGRES, namespace);
    Ok(Box::new(SqlDestination::new(connection, renderer, target)))
}

/// A prepared statement's text and the types of its parameters: two versions of a table may differ
/// in nothing else.
#[derive(PartialEq, Eq, Hash)]
struct StatementKey {
    sql: String,
    types: Vec<u32>,
}

/// The client, and the task that moves its bytes.
struct PostgresConnection {
    client: Client,
    wire: Wire,
    /// Where the tables are that failures may name.
    namespace: Namespace,
    /// Prepared statements.
    statements: HashMap<StatementKey, Statement>,
    /// Temporary tables that exist in this session, by what they are for.
    stages: HashMap<TableVersion, String>,
}

/// The task that moves bytes; it ends with its owner.
struct Wire(JoinHandle<()>);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl PostgresConnection {
    async fn prepared(&mut self, sql: String, types: &[Type]) -> Result<Statement, Failure> {
        let key = StatementKey { sql, types: types.iter().map(Type::oid).collect() };
        if let Some(statement) = self.statements.get(&key) {
            return Ok(statement.clone());
        }
        let statement =
            self.client.prepare_typed(&key.sql, types).await.map_err(|e| failure(&e))?;
        self.statements.insert(key, statement.clone());
        Ok(statement)
    }

    /// The failure of a statement that may be about any table, as a COMMIT that checks deferred
    /// constraints: the server names the table.
    fn failure_of_commit(&self, error: &tokio_postgres::Error) -> Failure {
        let named =
            error.as_db_error().filter(|db| db.schema() == self.namespace.schema.as_deref());
        let table = named.and_then(|db| db.table()).and_then(|name| self.namespace.source_of(name));
        match table {
            Some(table) => failure(error).of_table(&table),
            None => failure(error),
        }
    }

    async fn query(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Vec<Row>, Failure> {
        let types: Vec<Type> = parameters.iter().map(Parameter::wire_type).collect();
        let statement = self.prepared(sql.to_owned(), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(Parameter::to_wire).collect();
        self.client.query(&statement, &parameters).await.map_err(|e| failure(&e))
    }
}

#[async_trait]
impl SqlSession for PostgresConnection {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        self.client.batch_execute(sql).await.map_err(|e| self.failure_of_commit(&e))
    }

    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure> {
        let types: Vec<Type> = parameters.iter().map(Parameter::wire_type).collect();
        let statement = self.prepared(sql.to_owned(), &types).await?;
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
        let PostgresConnection { client, mut wire, .. } = self;
        drop(client);
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
