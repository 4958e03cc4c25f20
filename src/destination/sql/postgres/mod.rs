//! PostgreSQL: a few rows by pipelined statements, more by array parameters, many by COPY and one
//! upsert.

pub mod encode;
mod failure;
pub mod import;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::try_join_all;
use futures::{SinkExt, pin_mut};
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::dialect::POSTGRES;
use super::render::{Namespace, Renderer};
use super::{
    ABILITIES, Connection, Fence, ListedColumn, Parameter, SessionTag, SqlDestination, form,
    type_mismatches,
};
use crate::change::{Batch, Column, TableGroup, TableSchema, value};
use crate::destination::settings::server_url;
use crate::destination::{Destination, Driver, Failure, Target};
use encode::{
    COPY_HEADER, COPY_TRAILER, CopyField, CopyFields, put_field, wire_array_type, wire_type,
};
use failure::{failure, refused_connection};

const EXAMPLE: &str = "postgres://user:password@localhost:5432/database";

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
        ("prefix", "what stands before each table's name"),
        ("application_name", "how the connection names itself (eds)"),
        ("connect_timeout", "seconds to wait for a connection (10)"),
        ("options", "settings passed on to the server, e.g. -c work_mem=64MB"),
    ],
    read_url: server_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// From so many rows of one table on, one statement over array parameters beats single ones, and
/// from so many on COPY into a temporary table beats that
/// (docs/decisions/0003-postgres-bulk-path.md).
const ARRAYS_ROWS_MIN: usize = 4;
const COPY_ROWS_MIN: usize = 400;
/// Bytes that are encoded before they are sent.
const CHUNK_BYTES: usize = 128 << 10;
/// How long a lock that another session holds is waited for, before the batch is tried again.
const LOCK_WAIT_MAX: &str = "10s";
/// After so long within a transaction without a word from us, the server ends it: we are gone.
const SILENCE_MAX: &str = "60s";

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let connection = PostgresConnection::connect(target).await?;
    let schema = match settings.parameter("schema") {
        Some(schema) => connection.existing_schema(schema).await?,
        None => connection.current_schema().await?,
    };
    let namespace = Namespace {
        schema: Some(schema),
        prefix: settings.parameter("prefix").unwrap_or_default().to_owned(),
        lower_case: false,
    };
    Ok(Box::new(SqlDestination::new(
        connection,
        Renderer { dialect: &POSTGRES, namespace },
        target,
    )))
}

/// The client, and the task that moves its bytes; it ends with its owner.
struct PostgresConnection {
    client: Client,
    wire: Wire,
    statements: HashMap<String, Statement>,
    /// Temporary tables that exist in this session, by table and version.
    stages: HashMap<(Arc<str>, Arc<str>), String>,
}

struct Wire(JoinHandle<()>);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl PostgresConnection {
    async fn connect(target: &Target) -> Result<PostgresConnection, Failure> {
        let settings = &target.settings;
        let port = settings.port.unwrap_or(5432);
        let database = settings.path.trim_start_matches('/');
        if database.is_empty() {
            return Err(Failure::misconfigured(format!(
                "the PostgreSQL URL names no database; it looks like {EXAMPLE}"
            )));
        }
        let (mode, connector) = tls::connector(settings)?;
        let mut config = tokio_postgres::Config::new();
        let seconds =
            settings.parameter("connect_timeout").and_then(|s| s.parse().ok()).unwrap_or(10);
        config.host(&settings.host).port(port).dbname(database).ssl_mode(mode);
        config.application_name(settings.parameter("application_name").unwrap_or("eds"));
        config.connect_timeout(Duration::from_secs(seconds));
        // A connection that went silent is noticed within a minute or so.
        config
            .keepalives_idle(Duration::from_secs(30))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(60));
        let user = if settings.user.is_empty() {
            std::env::var("PGUSER").unwrap_or_else(|_| "postgres".into())
        } else {
            settings.user.clone()
        };
        config.user(&user);
        if let Some(password) = &settings.password {
            config.password(password.expose_secret());
        }
        if let Some(options) = settings.parameter("options") {
            config.options(options);
        }
        let refused = |e: tokio_postgres::Error| refused_connection(&e, settings, port);
        let (client, wire) = if mode == SslMode::Disable {
            let (client, wire) = config.connect(tokio_postgres::NoTls).await.map_err(refused)?;
            (client, tokio::spawn(async move { drop(wire.await) }))
        } else {
            let (client, wire) = config.connect(connector).await.map_err(refused)?;
            (client, tokio::spawn(async move { drop(wire.await) }))
        };
        let connection = PostgresConnection {
            client,
            wire: Wire(wire),
            statements: HashMap::new(),
            stages: HashMap::new(),
        };
        connection.set_up().await?;
        Ok(connection)
    }

    /// A commit has to survive a power cut; the server's own stricter choice is kept.
    async fn set_up(&self) -> Result<(), Failure> {
        let sql = format!(
            "SET client_min_messages = warning; SET lock_timeout = '{LOCK_WAIT_MAX}'; SET \
             idle_in_transaction_session_timeout = '{SILENCE_MAX}'; SET TIME ZONE 'UTC'; \
             SET default_transaction_isolation = 'read committed'; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE \
             current_setting('synchronous_commit') IN ('off', 'local')"
        );
        self.client.batch_execute(&sql).await.map_err(|e| failure(&e))
    }

    async fn existing_schema(&self, schema: &str) -> Result<String, Failure> {
        let found = self
            .client
            .query_opt("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", &[&schema])
            .await
            .map_err(|e| failure(&e))?;
        let none = || {
            Failure::misconfigured(format!(
                "the database has no schema {schema:?}: make it with CREATE SCHEMA, or choose \
                 another with ?schema="
            ))
        };
        found.map(|_| schema.to_owned()).ok_or_else(none)
    }

    async fn current_schema(&self) -> Result<String, Failure> {
        let row = self
            .client
            .query_one("SELECT current_schema()::text", &[])
            .await
            .map_err(|e| failure(&e))?;
        let none = || {
            Failure::misconfigured(
                "the user's search path names no schema that exists: choose one with ?schema=",
            )
        };
        row.get::<_, Option<String>>(0).ok_or_else(none)
    }

    async fn prepared(&mut self, sql: String, types: &[Type]) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(&sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare_typed(&sql, types).await.map_err(|e| failure(&e))?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// One statement for all keys: as many array parameters as the key has columns.
    async fn delete(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let keys = group.schema.key_columns();
        let columns = arrays(batch, &group.deletes, keys)?;
        let types: Vec<Type> = keys.iter().map(|c| wire_array_type(c.kind)).collect();
        let statement = self.prepared(delete_many(renderer, &group.schema), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as _).collect();
        self.client.execute(&statement, &parameters).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    async fn write_group(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        if !group.deletes.is_empty() {
            self.delete(renderer, batch, group).await?;
        }
        let stage =
            self.stages.get(&(group.schema.table.clone(), group.schema.version.clone())).cloned();
        match stage {
            _ if group.upserts.is_empty() => Ok(()),
            Some(stage) if group.upserts.len() >= COPY_ROWS_MIN => {
                self.upsert_by_copy(renderer, batch, group, &stage).await
            }
            _ if group.upserts.len() >= ARRAYS_ROWS_MIN => {
                self.upsert_by_arrays(renderer, batch, group).await
            }
            _ => self.upsert_each(renderer, batch, group).await,
        }
    }

    /// The statement for one row, and the parameters of each.
    async fn single_upserts<'b>(
        &mut self,
        renderer: &Renderer,
        batch: &'b Batch,
        group: &'b TableGroup,
    ) -> Result<(Statement, Vec<Vec<CopyField<'b>>>), Failure> {
        let schema = &group.schema;
        let types: Vec<Type> = schema.columns.iter().map(|c| wire_type(c.kind)).collect();
        let statement = self.prepared(renderer.upsert_one(schema), &types).await?;
        let mut rows = Vec::with_capacity(group.upserts.len());
        for index in &group.upserts {
            let change = batch.change(*index);
            let row: Result<Vec<CopyField<'_>>, _> = schema
                .columns
                .iter()
                .enumerate()
                .map(|(i, c)| value::read(change.token(i), c).map(CopyField))
                .collect();
            rows.push(row.map_err(|_| type_mismatches(batch))?);
        }
        Ok((statement, rows))
    }

    /// Single upserts, sent one behind the other without waiting for answers.
    async fn upsert_each(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let (statement, rows) = self.single_upserts(renderer, batch, group).await?;
        let client = &self.client;
        let sent = rows.iter().map(|row| {
            client.execute_raw(&statement, row.iter().map(|f| f as &(dyn ToSql + Sync)))
        });
        try_join_all(sent).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    /// One statement for all rows: an array parameter per column.
    async fn upsert_by_arrays(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let schema = &group.schema;
        let columns = arrays(batch, &group.upserts, &schema.columns)?;
        let types: Vec<Type> = schema.columns.iter().map(|c| wire_array_type(c.kind)).collect();
        let source = format!("SELECT * FROM unnest({})", numbered(types.len()));
        let statement = self.prepared(renderer.upsert(schema, &source), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as _).collect();
        self.client.execute(&statement, &parameters).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    async fn upsert_by_copy(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
        stage: &str,
    ) -> Result<(), Failure> {
        self.copy_into(stage, batch, group).await?;
        let upsert = self.prepared(renderer.upsert_from(&group.schema, stage), &[]).await?;
        self.client.execute(&upsert, &[]).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    /// The rows to write, into a table that has the schema's columns in its order.
    async fn copy_into(
        &mut self,
        table: &str,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let schema = &group.schema;
        let copy = self.prepared(format!("COPY {table} FROM STDIN (FORMAT binary)"), &[]).await?;
        let sink = self.client.copy_in::<_, Bytes>(&copy).await.map_err(|e| failure(&e))?;
        pin_mut!(sink);
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 2));
        buffer.put_slice(COPY_HEADER);
        for index in &group.upserts {
            let change = batch.change(*index);
            buffer.put_i16(schema.columns.len() as i16);
            for (i, column) in schema.columns.iter().enumerate() {
                let value =
                    value::read(change.token(i), column).map_err(|_| type_mismatches(batch))?;
                put_field(&value, &mut buffer);
            }
            if buffer.len() >= CHUNK_BYTES {
                sink.send(buffer.split().freeze()).await.map_err(|e| failure(&e))?;
                buffer.reserve(CHUNK_BYTES + (CHUNK_BYTES >> 2));
            }
        }
        buffer.put_i16(COPY_TRAILER);
        sink.send(buffer.freeze()).await.map_err(|e| failure(&e))?;
        sink.finish().await.map_err(|e| failure(&e))?;
        Ok(())
    }
}

/// The values of `columns`, an array for each, of the changes at `indices`.
fn arrays<'b>(
    batch: &'b Batch,
    indices: &[u32],
    columns: &[Column],
) -> Result<Vec<CopyFields<'b>>, Failure> {
    let array = |(i, column): (usize, &Column)| {
        indices
            .iter()
            .map(|index| value::read(batch.change(*index).token(i), column))
            .collect::<Result<Vec<_>, _>>()
    };
    columns
        .iter()
        .enumerate()
        .map(|numbered| array(numbered).map(CopyFields).map_err(|_| type_mismatches(batch)))
        .collect()
}

/// `$1, $2, …`
fn numbered(count: usize) -> String {
    (1..=count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

/// Deletes the rows whose keys are in array parameters.
fn delete_many(renderer: &Renderer, schema: &TableSchema) -> String {
    let keys = schema.key_columns();
    let names: Vec<String> = (1..=keys.len()).map(|n| format!("k{n}")).collect();
    let equal: Vec<String> = keys
        .iter()
        .zip(&names)
        .map(|(c, k)| format!("t.{} = d.{k}", renderer.quoted(&c.name)))
        .collect();
    format!(
        "DELETE FROM {} AS t USING unnest({}) AS d({}) WHERE {}",
        renderer.table(&schema.table),
        numbered(keys.len()),
        names.join(", "),
        equal.join(" AND ")
    )
}

#[async_trait]
impl Connection for PostgresConnection {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        self.client.batch_execute(sql).await.map_err(|e| failure(&e))
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
        let types: Vec<Type> = parameters.iter().map(Parameter::wire_type).collect();
        let statement = self.prepared(sql.to_owned(), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(Parameter::to_wire).collect();
        let rows = self.client.query(&statement, &parameters).await.map_err(|e| failure(&e))?;
        rows.iter()
            .map(|row| (0..row.len()).map(|i| row.try_get(i).map_err(|e| failure(&e))).collect())
            .collect()
    }

    async fn texts(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure> {
        let types: Vec<Type> = parameters.iter().map(Parameter::wire_type).collect();
        let statement = self.prepared(sql.to_owned(), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(Parameter::to_wire).collect();
        let rows = self.client.query(&statement, &parameters).await.map_err(|e| failure(&e))?;
        let text = |row: &tokio_postgres::Row, i: usize| {
            row.try_get::<_, Option<String>>(i)
                .map(Option::unwrap_or_default)
                .map_err(|e| failure(&e))
        };
        rows.iter().map(|row| (0..row.len()).map(|i| text(row, i)).collect()).collect()
    }

    async fn columns(&mut self, renderer: &Renderer) -> Result<Vec<ListedColumn>, Failure> {
        // Whoever asks has reason to think that tables changed: plans made before are void.
        self.statements.clear();
        let place = &renderer.namespace;
        let sql = "SELECT c.relname::text, a.attname::text, NOT a.attnotnull OR a.atthasdef OR \
                   a.attidentity <> '', \
                   coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0)::int8, c.relkind \
                   NOT IN ('r', 'p') \
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = \
                   c.relnamespace \
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT \
                   a.attisdropped \
                   LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary \
                   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY \
                   1, a.attnum";
        let schema = place.schema.clone().unwrap_or_default();
        let rows = self.client.query(sql, &[&schema]).await.map_err(|e| failure(&e))?;
        let listed = rows.iter().filter_map(|row| {
            let table = place.source_of(row.get(0))?;
            let write_blocker = row.get::<_, bool>(4).then(|| {
                "it is a view or a foreign table; \
                choose another schema with ?schema=, or rename it"
                    .to_owned()
            });
            Some(ListedColumn {
                table,
                column: row.get(1),
                nullable: row.get(2),
                key: row.get(3),
                write_blocker,
            })
        });
        Ok(listed.collect())
    }

    /// Sessions are found by the advisory lock that they share.
    async fn terminate_sessions(&mut self, tag: SessionTag) -> Result<(), Failure> {
        let sql = "SELECT pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l \
                   JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid AND a.usename = \
                   current_user \
                   WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM \
                   pg_catalog.pg_database WHERE datname = current_database()) \
                   AND (l.classid::int8 << 32) | l.objid::int8 = $1 AND l.objsubid = 1 AND l.pid \
                   <> pg_backend_pid()";
        self.client.execute(sql, &[&(tag.0 as i64)]).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    async fn tag_session(&mut self, tag: SessionTag) -> Result<(), Failure> {
        self.client
            .execute("SELECT pg_advisory_lock_shared($1)", &[&(tag.0 as i64)])
            .await
            .map_err(|e| failure(&e))?;
        Ok(())
    }

    fn is_lock_wait(&self, failure: &Failure) -> bool {
        failure.text.contains("(55P03)")
    }

    async fn lock_holders(
        &mut self,
        renderer: &Renderer,
        tables: &[String],
    ) -> Result<Vec<String>, Failure> {
        let place = &renderer.namespace;
        let names: Vec<String> = tables.iter().map(|table| place.name_of(table)).collect();
        let sql = "SELECT DISTINCT format('session %s (user %s, %s, %s since %s)', a.pid, \
                   a.usename, coalesce(nullif(a.application_name, ''), 'unnamed'), a.state, \
                   a.state_change::timestamptz(0)) \
                   FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
                   JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n \
                   ON n.oid = c.relnamespace \
                   WHERE l.granted AND n.nspname = $1 AND c.relname = ANY($2) AND a.pid <> \
                   pg_backend_pid()";
        let rows = self
            .client
            .query(sql, &[&place.schema.clone().unwrap_or_default(), &names])
            .await
            .map_err(|e| failure(&e))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn is_already_there(&self, failure: &Failure) -> bool {
        failure.text.contains("(42701)")
    }

    async fn prepare(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        let shape = (group.schema.table.clone(), group.schema.version.clone());
        if group.upserts.len() < COPY_ROWS_MIN || self.stages.contains_key(&shape) {
            return Ok(());
        }
        let stage = format!("pg_temp._eds_stage_{}", self.stages.len() + 1);
        let sql = format!(
            "CREATE TEMP TABLE {} ({}) ON COMMIT DELETE ROWS",
            stage.trim_start_matches("pg_temp."),
            renderer.stage_columns(&group.schema)
        );
        self.execute(&sql).await?;
        self.stages.insert(shape, stage);
        Ok(())
    }

    /// A change or two: everything but the commit goes out at once, and one answer is waited for.
    async fn transact(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        fence: &Fence,
    ) -> Result<u64, Failure> {
        let [group] = &batch.groups[..] else {
            return self.transact_in_order(renderer, batch, fence).await;
        };
        if !group.deletes.is_empty() || group.upserts.len() >= ARRAYS_ROWS_MIN {
            return self.transact_in_order(renderer, batch, fence).await;
        }
        let types: Vec<Type> = fence.parameters.iter().map(Parameter::wire_type).collect();
        let advance = self.prepared(fence.sql.clone(), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            fence.parameters.iter().map(Parameter::to_wire).collect();
        let (upsert, rows) = self.single_upserts(renderer, batch, group).await?;
        let client = &self.client;
        let sent =
            try_join_all(rows.iter().map(|row| {
                client.execute_raw(&upsert, row.iter().map(|f| f as &(dyn ToSql + Sync)))
            }));
        let done = futures::try_join!(
            client.batch_execute(renderer.dialect.begin),
            sent,
            client.execute(&advance, &parameters)
        );
        done.map(|(_, _, advanced)| advanced).map_err(|e| failure(&e).of_table(&group.schema.table))
    }

    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        self.write_group(renderer, batch, group).await.map_err(|e| e.of_table(&group.schema.table))
    }

    /// The swap at the end is committed durably, and by that everything before it.
    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        self.client.batch_execute("SET synchronous_commit = off").await.map_err(|e| failure(&e))
    }

    async fn prepare_load(
        &mut self,
        _renderer: &Renderer,
        _batch: &Arc<Batch>,
        _group: usize,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        self.copy_into(&renderer.table(&group.schema.table), batch, group).await
    }

    async fn finish_load(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<u64, Failure> {
        import::finish_load(&self.client, renderer, schema, staged).await
    }

    async fn swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        import::swap_blocker(&self.client, renderer, schema).await
    }

    async fn copied_ddl(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<Vec<String>, Failure> {
        import::copied_ddl(&self.client, renderer, schema, staged).await
    }

    async fn close(self) -> Result<(), Failure> {
        let PostgresConnection { client, mut wire, .. } = self;
        drop(client);
        // The goodbye is sent by the task; a server that does not take it is left alone.
        let _ = tokio::time::timeout(Duration::from_secs(2), &mut wire.0).await;
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
