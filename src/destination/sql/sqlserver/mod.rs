//! SQL Server, Azure SQL and Babelfish: rows into a temporary table, then one UPDATE and one INSERT
//! for all of them.

mod failure;
mod login;
pub mod rows;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tiberius::{Row, ToSql};
use tokio::net::TcpStream;
use tokio_util::compat::Compat;

use super::dialect::SQLSERVER;
use super::render::{Namespace, Renderer};
use super::{ABILITIES, Connection, Fence, ListedColumn, Parameter, SqlDestination, form};
use crate::change::{Batch, TableSchema};
use crate::destination::settings::server_url;
use crate::destination::{Destination, Driver, Failure, Target};
use failure::failure;

const EXAMPLE: &str = "sqlserver://user:password@localhost:1433/database";

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
    parameters: &[
        ("database", "the database, if the path does not name it"),
        ("encrypt", "disable, false (the login only), true (verified) or strict (TDS 8.0)"),
        ("TrustServerCertificate", "true: encrypt without verifying"),
        ("certificate", "file with the certificate authority to trust"),
        ("hostNameInCertificate", "the name that the certificate is for"),
        ("fedauth", "ActiveDirectoryServicePrincipalAccessToken: the password is an access token"),
        ("schema", "schema of the tables; without it the user's own"),
        ("prefix", "what stands before each table's name"),
        ("app name", "how the connection names itself (eds)"),
        ("connection timeout", "seconds to wait for a connection (15)"),
    ],
    read_url: server_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// Errors end the transaction, whatever they are; a lock that another session holds is waited for
/// 10 seconds, before the batch is tried again.
pub const SESSION: &str = "SET XACT_ABORT ON; SET NOCOUNT OFF; SET ANSI_NULLS ON; SET \
                           QUOTED_IDENTIFIER ON; SET ANSI_WARNINGS ON; SET ANSI_PADDING ON; \
    SET ARITHABORT ON; SET LOCK_TIMEOUT 10000; SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
/// The user's schema, the database's compatibility level, the server's version.
pub const ABOUT: &str = "SELECT SCHEMA_NAME(), CAST(d.compatibility_level AS BIGINT), @@VERSION \
                         FROM sys.databases AS d WHERE d.name = DB_NAME()";
/// Ends a transaction, if an error has not ended it already.
pub const ROLLBACK: &str = "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION";
const SCHEMA_IS_THERE: &str =
    "SELECT COUNT(*) FROM INFORMATION_SCHEMA.SCHEMATA WHERE SCHEMA_NAME = @P1";
/// A statement about rows that takes longer is taken for a connection that went silent.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(300);
/// A change of a table may have to rewrite it.
const DDL_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// OPENJSON is there from this compatibility level on.
const COMPATIBILITY_MIN: i64 = 130;

type Client = tiberius::Client<Compat<TcpStream>>;

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let client = Box::pin(login::connect(settings)).await?;
    let mut connection = SqlServerConnection {
        client: Some(client),
        stages: HashMap::new(),
        narrow: HashMap::new(),
    };
    let own_schema = connection.set_up().await?;
    let schema = settings.parameter("schema").map_or(own_schema, str::to_owned);
    if connection.integers(SCHEMA_IS_THERE, &[schema.as_str().into()]).await? == [[0]] {
        return Err(Failure::misconfigured(format!(
            "the database has no schema {schema:?}: make it with CREATE SCHEMA, or correct ?schema="
        )));
    }
    let namespace = Namespace {
        schema: Some(schema),
        prefix: settings.parameter("prefix").unwrap_or_default().to_owned(),
        lower_case: false,
    };
    Ok(Box::new(SqlDestination::new(
        connection,
        Renderer { dialect: &SQLSERVER, namespace },
        target,
    )))
}

/// What a temporary table is for: table, version, and whether it holds whole rows or keys.
type StageKey = (Arc<str>, Arc<str>, bool);

/// The client is away while a call is under way; a call that was dropped half way takes it along.
struct SqlServerConnection {
    client: Option<Client>,
    /// Temporary tables of this session.
    stages: HashMap<StageKey, String>,
    /// Per table, its columns that hold characters of one code page only.
    narrow: HashMap<String, Vec<String>>,
}

impl SqlServerConnection {
    async fn with<T: Send>(
        &mut self,
        limit: Duration,
        call: impl for<'c> FnOnce(&'c mut Client) -> BoxFuture<'c, tiberius::Result<T>> + Send,
    ) -> Result<T, Failure> {
        let mut client = self.client.take().ok_or_else(|| {
            Failure::unavailable("the connection to SQL Server was given up half way")
        })?;
        let Ok(done) = tokio::time::timeout(limit, call(&mut client)).await else {
            return Err(Failure::unavailable(format!(
                "SQL Server did not answer within {limit:?}"
            )));
        };
        self.client = Some(client);
        done.map_err(|e| failure(&e))
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

    /// What a session of EDS has to be like; the user's own schema.
    async fn set_up(&mut self) -> Result<String, Failure> {
        self.batch(ANSWER_WAIT_MAX, SESSION.to_owned()).await?;
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
                "the database is too old in its ways: ALTER DATABASE … SET COMPATIBILITY_LEVEL = \
                 {COMPATIBILITY_MIN} (SQL Server 2016) or higher cures it"
            );
            return Err(Failure::misconfigured(text));
        }
        row.get::<&str, _>(0).map(str::to_owned).ok_or_else(|| {
            Failure::misconfigured("the user has no schema of their own: choose one with ?schema=")
        })
    }

    /// The temporary table for whole rows or keys: its columns have the types of the table's own,
    /// whoever made that.
    async fn stage(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        whole: bool,
    ) -> Result<(), Failure> {
        let key = (schema.table.clone(), schema.version.clone(), whole);
        if self.stages.contains_key(&key) {
            return Ok(());
        }
        let stage = format!("#eds_{}", self.stages.len() + 1);
        let columns = if whole { &schema.columns[..] } else { schema.key_columns() };
        self.batch(ANSWER_WAIT_MAX, rows::make_stage(renderer, schema, columns.len(), &stage))
            .await?;
        self.stages.insert(key, stage);
        Ok(())
    }

    /// Fills the stage with the rows at `indices`.
    async fn fill(
        &mut self,
        batch: &Arc<Batch>,
        group: usize,
        whole: bool,
    ) -> Result<Option<String>, Failure> {
        let rows = &batch.groups[group];
        let schema = &rows.schema;
        let (indices, columns) = if whole {
            (&rows.upserts, &schema.columns[..])
        } else {
            (&rows.deletes, schema.key_columns())
        };
        let stage =
            self.stages.get(&(schema.table.clone(), schema.version.clone(), whole)).cloned();
        let stage = stage.ok_or_else(|| Failure::unavailable("a temporary table was not made"))?;
        if indices.is_empty() {
            return Ok(None);
        }
        let narrow = self.narrow.get(&*schema.table).cloned().unwrap_or_default();
        rows::check(batch, group, indices, columns, &narrow)?;
        self.batch(ANSWER_WAIT_MAX, format!("TRUNCATE TABLE {stage}")).await?;
        if rows::takes_bulk(batch, indices) {
            let (rows, name) = (rows::tokens(batch, indices, columns)?, stage.clone());
            self.with(ANSWER_WAIT_MAX, move |client| {
                Box::pin(async move { rows::bulk(client, &name, rows).await })
            })
            .await?;
        } else {
            for piece in indices.chunks(rows::JSON_ROWS_MAX) {
                let json = rows::json(batch, piece, columns)?;
                self.change(&rows::fill(&stage, columns), &[Parameter::Text(json)]).await?;
            }
        }
        Ok(Some(stage))
    }
}

fn to_wire(parameter: &Parameter) -> &dyn ToSql {
    match parameter {
        Parameter::Integer(n) => n,
        Parameter::Text(text) => text,
    }
}

#[async_trait]
impl Connection for SqlServerConnection {
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

    async fn columns(&mut self, renderer: &Renderer) -> Result<Vec<ListedColumn>, Failure> {
        // Whoever asks has reason to think that tables changed: stages may have the wrong columns.
        for (_, stage) in std::mem::take(&mut self.stages) {
            self.batch(ANSWER_WAIT_MAX, format!("DROP TABLE {stage}")).await?;
        }
        self.narrow.clear();
        let place = &renderer.namespace;
        let rows =
            self.rows(rows::COLUMNS, &[place.schema.as_deref().unwrap_or_default().into()]).await?;
        let mut listed = Vec::with_capacity(rows.len());
        for row in &rows {
            let text = |i: usize| row.get::<&str, _>(i).unwrap_or_default();
            let Some(table) = place.source_of(text(0)) else { continue };
            if matches!(text(4), "varchar" | "char" | "text") {
                self.narrow.entry(table.clone()).or_default().push(text(1).to_owned());
            }
            let write_blocker = (text(6) == "VIEW").then(|| {
                "it is a view; choose another schema with ?schema=, or rename it".to_owned()
            });
            let nullable = text(2) == "YES" || row.get::<&str, _>(3).is_some();
            listed.push(ListedColumn {
                table,
                column: text(1).to_owned(),
                nullable,
                key: row.get::<i64, _>(5).unwrap_or(0),
                write_blocker,
            });
        }
        Ok(listed)
    }

    async fn declared(
        &mut self,
        renderer: &Renderer,
        table: &str,
        column: &str,
    ) -> Result<String, Failure> {
        let place = &renderer.namespace;
        let parameters = [
            place.schema.as_deref().unwrap_or_default().into(),
            place.name_of(table).as_str().into(),
            column.into(),
        ];
        let rows = self.rows(rows::DECLARED, &parameters).await?;
        let row = rows.first().ok_or_else(|| {
            Failure::unavailable(format!(
                "column {column:?} of table {table:?} is not there any more"
            ))
        })?;
        Ok(rows::declared(
            row.get(0).unwrap_or_default(),
            row.get(1),
            row.get(2),
            row.get(3),
            row.get(4),
        ))
    }

    fn is_lock_wait(&self, failure: &Failure) -> bool {
        failure.text.contains("(1222)")
    }

    fn is_already_there(&self, failure: &Failure) -> bool {
        failure.text.contains("(2705)")
    }

    async fn prepare(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        self.stage(renderer, &group.schema, true).await?;
        self.stage(renderer, &group.schema, false).await
    }

    /// UPDATE and INSERT have to meet nobody between them.
    async fn transact(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        fence: &Fence,
    ) -> Result<u64, Failure> {
        self.transact_after_fence(renderer, batch, renderer.dialect.begin, fence).await
    }

    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let schema = batch.groups[group].schema.clone();
        let named = |mut failure: Failure| {
            failure.text = rows::with_column(&failure.text, &schema);
            failure.of_table(&schema.table)
        };
        if let Some(stage) = self.fill(batch, group, false).await.map_err(named)? {
            self.batch(ANSWER_WAIT_MAX, renderer.delete_from(&schema, &stage))
                .await
                .map_err(named)?;
        }
        if let Some(stage) = self.fill(batch, group, true).await.map_err(named)? {
            let statements = renderer
                .update_from(&schema, &stage)
                .into_iter()
                .chain([renderer.insert_from(&schema, &stage)]);
            self.batch(ANSWER_WAIT_MAX, statements.collect::<Vec<_>>().join(";\n"))
                .await
                .map_err(named)?;
        }
        Ok(())
    }

    /// Indexes, rights and what refers to a table are not looked up here: an old table always
    /// stays.
    async fn swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        let exists = "SELECT COUNT(*) FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = @P1 AND \
                      TABLE_NAME = @P2";
        let name = renderer.namespace.name_of(&schema.table);
        let there = self
            .integers(
                exists,
                &[
                    renderer.namespace.schema.as_deref().unwrap_or_default().into(),
                    name.as_str().into(),
                ],
            )
            .await?;
        Ok((there != [[0]]).then(|| "in SQL Server a table that is there always stays".to_owned()))
    }

    async fn close(self) -> Result<(), Failure> {
        let Some(client) = self.client else { return Ok(()) };
        // A server that does not take the goodbye is left alone.
        let _ = tokio::time::timeout(Duration::from_secs(2), client.close()).await;
        Ok(())
    }
}
