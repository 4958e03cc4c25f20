//! Bulk loads: COPY into a table without key, and the indexes, rights and comments that people have
//! given to the old one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, Error, Row};

use super::encode::stage_type;
use super::failure::{UNIQUE_VIOLATION, failure};
use super::{PostgresConnection, login};
use crate::change::{Batch, TableSchema};
use crate::destination::import::{ForeignKey, staged};
use crate::destination::sql::import::statements::key_name;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{BulkLoader, STREAM_LOCK_WAIT_MAX};
use crate::destination::{Failure, FailureKind, Holds};

/// What depends on a table and would be lost if the new table, if there is one, took its place; and
/// where the two differ. Parameters: schema, table, new table, columns of the source that take
/// NULL.
const SWAP_BLOCKERS: &str = include_str!("swap_blockers.sql");

/// The statements that give the new table what the old one has: indexes (under temporary names),
/// rights, comments, storage options. PostgreSQL writes them itself, names and texts quoted. Rights
/// that the new table has by default and the old one has not are revoked. Parameters: schema, old
/// table, new table.
const COPIED_DDL: &str = include_str!("copied_ddl.sql");

/// Once the new table is in its place, its indexes get the names of the old ones; one that was made
/// since the load was finished is created again. Parameters: schema, old table.
const NAMES: &str = include_str!("index_names.sql");

/// Columns: name, table, table that is referred to, whether it can be deferred. Keys within one
/// table are no trouble, as a statement is checked as a whole. Parameter: schema.
const FOREIGN_KEYS: &str = "\
    SELECT k.conname::text, c.relname::text, \
    CASE WHEN p.relnamespace = c.relnamespace THEN p.relname::text ELSE p.oid::regclass::text END, \
    k.condeferrable::text \
    FROM pg_catalog.pg_constraint k \
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid \
    JOIN pg_catalog.pg_class p ON p.oid = k.confrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid <> k.confrelid AND n.nspname = $1";

/// How fine the statistics of a new table are at first: autovacuum makes finer ones within minutes,
/// and without any its readers would have bad plans until then.
const STATISTICS: u32 = 20;

/// Whether the table has a primary key. Parameters: schema, table.
const HAS_KEY: &str = "\
    SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary \
    WHERE n.nspname = $1 AND c.relname = $2)";

/// The codes of a value that is not turned into the type of its column.
const MISTYPED: [&str; 3] = ["42804", "42846", "42883"];

/// The shortest wait for a lock; none at all would be one without limit.
const LOCK_WAIT_MIN: Duration = Duration::from_millis(1);

/// Whether a name is free. Parameters: schema, name.
const IS_FREE: &str = "\
    SELECT NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = left($2, 63))";

/// Deletes the rows whose key another row has that was loaded later.
pub fn delete_repeats(renderer: &Renderer, staged: &TableSchema) -> String {
    let table = renderer.table(&staged.table);
    let same: Vec<String> = staged
        .key_columns()
        .iter()
        .map(|c| renderer.quoted(&c.name))
        .map(|c| format!("older.{c} = newer.{c}"))
        .collect();
    format!(
        "DELETE FROM {table} AS older USING {table} AS newer WHERE {} AND older.ctid < newer.ctid",
        same.join(" AND ")
    )
}

/// Whether the columns of the table take the values of the schema in the form in which they travel.
fn copies_straight(renderer: &Renderer, schema: &TableSchema) -> bool {
    let contents = renderer.contents(schema, &schema.columns);
    schema.columns.iter().zip(contents).all(|(column, contents)| {
        contents == Holds::Anything
            || (renderer.dialect.holds)(stage_type(column.kind, contents)) == contents
    })
}

/// Schema and name of the table.
fn schema_and_name<'r>(renderer: &'r Renderer, table: &str) -> (&'r str, String) {
    (renderer.namespace.schema.as_deref().unwrap_or_default(), renderer.namespace.name_of(table))
}

#[async_trait]
impl BulkLoader for PostgresConnection {
    /// The swap at the end is committed durably, and by that everything before it.
    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        self.client.batch_execute("SET synchronous_commit = off").await.map_err(|e| failure(&e))
    }

    /// COPY goes straight into the table, where that has the types of the schema.
    async fn prepare_load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let schema = &batch.groups[group].schema;
        match copies_straight(renderer, schema) {
            true => Ok(()),
            false => self.make_stage(renderer, schema).await,
        }
    }

    async fn load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        match copies_straight(renderer, &group.schema) {
            true => {
                let table = renderer.table(&group.schema.table);
                self.copy_into(renderer, &table, batch, group).await
            }
            false => self.insert_by_stage(renderer, batch, group).await,
        }
    }

    async fn finish_load(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
        exchanges: bool,
    ) -> Result<u64, Failure> {
        let copied = match exchanges {
            true => copied_ddl(&self.client, renderer, schema, staged).await?,
            false => Vec::new(),
        };
        finish_load(&self.client, renderer, schema, staged, copied).await
    }

    /// PostgreSQL looks at the types as soon as a statement is prepared.
    async fn row_refusal(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        let contents = renderer.contents(schema, &schema.columns);
        let nulls: Vec<String> = schema
            .columns
            .iter()
            .zip(contents)
            .map(|(column, contents)| {
                format!("CAST(NULL AS {})", stage_type(column.kind, contents))
            })
            .collect();
        let upsert = renderer.upsert(schema, &format!("SELECT {}", nulls.join(", ")));
        match self.client.prepare(&upsert).await.map_err(|e| failure(&e)) {
            Ok(_) => Ok(None),
            Err(refused) if MISTYPED.iter().any(|code| refused.has_code(code)) => {
                Ok(Some(refused.text))
            }
            Err(broken) if broken.kind == FailureKind::Unavailable => Err(broken),
            // A table without a key gets one, and where it is exchanged no row is upserted.
            Err(_) => Ok(None),
        }
    }

    async fn swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        let (schema_name, table) = schema_and_name(renderer, &schema.table);
        let new = renderer.namespace.name_of(&staged(schema).table);
        let nullable: Vec<&str> =
            schema.columns.iter().filter(|c| c.nullable).map(|c| &*c.name).collect();
        let found =
            self.client.query_opt(SWAP_BLOCKERS, &[&schema_name, &table, &new, &nullable]).await;
        Ok(found.map_err(|e| failure(&e))?.map(|row| row.get(0)))
    }

    async fn foreign_keys(&mut self, renderer: &Renderer) -> Result<Vec<ForeignKey>, Failure> {
        let schema = renderer.namespace.schema.as_deref().unwrap_or_default();
        let rows = self.client.query(FOREIGN_KEYS, &[&schema]).await.map_err(|e| failure(&e))?;
        let listed = |row: &Row| ForeignKey {
            name: row.get(0),
            table: row.get(1),
            refers_to: row.get(2),
            is_deferrable: row.get::<_, String>(3) == "true",
        };
        Ok(rows.iter().map(listed).collect())
    }

    /// Order, types, collations and storage; what else belongs to a column keeps it from being
    /// exchanged, or is copied when the load is finished.
    async fn create_like(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<bool, Failure> {
        let (old, new) = (renderer.table(&schema.table), renderer.table(&staged.table));
        let like = format!(
            "CREATE TABLE {new} (LIKE {old} INCLUDING ALL EXCLUDING COMMENTS EXCLUDING CONSTRAINTS \
             EXCLUDING DEFAULTS EXCLUDING GENERATED EXCLUDING IDENTITY EXCLUDING INDEXES EXCLUDING \
             STATISTICS)"
        );
        self.client.batch_execute(&like).await.map_err(|e| failure(&e).of_table(&schema.table))?;
        Ok(true)
    }

    async fn limit_lock_wait(&mut self, limit: Duration) -> Result<(), Failure> {
        self.client.batch_execute(&login::lock_wait(limit)).await.map_err(|e| failure(&e))
    }

    async fn defer_constraints(&mut self) -> Result<(), Failure> {
        self.client.batch_execute("SET CONSTRAINTS ALL DEFERRED").await.map_err(|e| failure(&e))
    }

    async fn lock_tables(&mut self, renderer: &Renderer, tables: &[String]) -> Result<(), Failure> {
        let run = async |sql: &str| self.client.batch_execute(sql).await.map_err(|e| failure(&e));
        run("SAVEPOINT eds_locks").await?;
        let began = Instant::now();
        for table in tables {
            // Whoever waits behind the first lock waits for all of them.
            let left = STREAM_LOCK_WAIT_MAX.saturating_sub(began.elapsed()).max(LOCK_WAIT_MIN);
            let limit = login::lock_wait(left);
            let lock =
                format!("{limit}; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", renderer.table(table));
            if let Err(failure) = run(&lock).await {
                run("ROLLBACK TO SAVEPOINT eds_locks").await?;
                return Err(failure);
            }
        }
        run(&login::lock_wait(STREAM_LOCK_WAIT_MAX)).await
    }

    async fn copied_ddl(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<Vec<String>, Failure> {
        copied_names(&self.client, renderer, schema, staged).await
    }
}

/// What the old table has and the new one lacks.
async fn copied_ddl(
    client: &Client,
    renderer: &Renderer,
    schema: &TableSchema,
    staged: &TableSchema,
) -> Result<Vec<String>, Failure> {
    let (schema_name, new) = schema_and_name(renderer, &staged.table);
    let old = renderer.namespace.name_of(&schema.table);
    let rows =
        client.query(COPIED_DDL, &[&schema_name, &old, &new]).await.map_err(|e| failure(&e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The key, then what the old table has, all in one transaction: a table with a key is a finished
/// one.
async fn finish_load(
    client: &Client,
    renderer: &Renderer,
    schema: &TableSchema,
    staged: &TableSchema,
    copied: Vec<String>,
) -> Result<u64, Failure> {
    let (schema_name, new) = schema_and_name(renderer, &staged.table);
    let row = client.query_one(HAS_KEY, &[&schema_name, &new]).await.map_err(|e| failure(&e))?;
    if row.get(0) {
        // Statements that are sent together are one transaction.
        client.batch_execute(&copied.join(";\n")).await.map_err(|e| failure(&e))?;
        return Ok(0);
    }
    let mut repeats = 0;
    loop {
        let statements = [
            "BEGIN".to_owned(),
            format!("SET LOCAL default_statistics_target = {STATISTICS}"),
            renderer.add_key(staged),
        ]
        .into_iter()
        .chain(copied.iter().cloned());
        let statements: Vec<String> = statements
            .chain([format!("ANALYZE {}", renderer.table(&staged.table)), "COMMIT".to_owned()])
            .collect();
        let Err(e) = client.batch_execute(&statements.join(";\n")).await else {
            return Ok(repeats);
        };
        let failed = failure(&e);
        let repeated = failed.has_code(UNIQUE_VIOLATION)
            && constraint(&e).is_some_and(|name| *name == key_name(&new));
        client.batch_execute("ROLLBACK").await.map_err(|e| failure(&e))?;
        if !repeated || repeats > 0 {
            return Err(failed.of_table(&schema.table));
        }
        repeats = client
            .execute(&delete_repeats(renderer, staged), &[])
            .await
            .map_err(|e| failure(&e))?;
        if repeats == 0 {
            return Err(failed.of_table(&schema.table));
        }
    }
}

/// The names that the new table's key and indexes are to have.
async fn copied_names(
    client: &Client,
    renderer: &Renderer,
    schema: &TableSchema,
    staged: &TableSchema,
) -> Result<Vec<String>, Failure> {
    let (schema_name, old) = schema_and_name(renderer, &schema.table);
    let rows = client.query(NAMES, &[&schema_name, &old]).await.map_err(|e| failure(&e))?;
    let mut statements: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let wanted = key_name(&old);
    let own = client.query_one(HAS_KEY, &[&schema_name, &old]).await.map_err(|e| failure(&e))?;
    let free =
        client.query_one(IS_FREE, &[&schema_name, &wanted]).await.map_err(|e| failure(&e))?;
    if own.get(0) || free.get(0) {
        let passing = format!(
            "{}.{}",
            renderer.quoted(schema_name),
            renderer.quoted(&key_name(&renderer.namespace.name_of(&staged.table)))
        );
        statements.push(format!("ALTER INDEX {passing} RENAME TO {}", renderer.quoted(&wanted)));
    }
    Ok(statements)
}

/// The constraint that the server says is broken.
fn constraint(error: &Error) -> Option<&str> {
    error.as_db_error().and_then(DbError::constraint)
}
