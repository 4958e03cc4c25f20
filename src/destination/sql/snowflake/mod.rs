//! Snowflake: a batch becomes a file on a stage, one COPY, then one MERGE and one DELETE a table; a
//! small one goes along with the statements.

mod failure;
mod form;
mod key;
mod login;
pub mod rows;
mod session;
mod stage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::dialect::SNOWFLAKE;
use super::render::{Namespace, Renderer};
use super::{ABILITIES, Connection, Fence, ListedColumn, Parameter, SessionTag, SqlDestination};
use crate::change::{Batch, TableSchema};
use crate::destination::settings::server_url;
use crate::destination::{
    Abilities, Destination, Driver, Epoch, Failure, FailureKind, Settings, Target,
};
use login::Login;
use rows::{LINES, MAKE_LINES, MAKE_STAGE, StagePath};
use session::{QueryAnswer, SnowflakeSession};

/// Up to so many bytes of events a batch goes along with its statements: a file costs three
/// requests more.
const BOUND_BYTES_MAX: usize = 128 << 10;

/// Statements cost a moment each however few rows they write, and a warehouse by the second: larger
/// batches, and fewer.
const SNOWFLAKE_ABILITIES: Abilities = Abilities {
    batch_changes_max: 20_000,
    batch_bytes_max: 32 << 20,
    loaders_max: 8,
    flush_interval_preferred: Duration::from_secs(10),
    ..ABILITIES
};

const HELP: &str = "The role needs USAGE on warehouse, database and schema, and CREATE TABLE and \
                    CREATE STAGE on the schema.\n\
     The account is written organisation-account, or locator.region; the schema without being \
                    named is PUBLIC.\n\
     Changes are gathered for 10 seconds before they are written (?freshness=), so that a \
                    warehouse can rest.\n\
     EDS is tested against a stand-in for Snowflake, not against the service itself.";

/// What both forms of the URL know.
macro_rules! parameters {
    ($($own:expr),*) => {
        &[
            $($own,)*
            ("warehouse", "the warehouse that does the work; without it the user's own"),
            ("role", "the role to take; without it the user's own"),
            ("schema", "schema of the tables, if the path does not name it (PUBLIC)"),
            ("prefix", "what stands before each table's name"),
            ("freshness", "how long changes are gathered before they are written (10s)"),
            ("update-strategy", "standard: stream order decides; after: a row stays that has a \
                                 later updatedDate"),
            ("account", "the account, if the host does not name it"),
            ("host", "where the account answers, instead of account.snowflakecomputing.com"),
            ("protocol", "https; http for a host on this machine"),
        ]
    };
}

pub const DRIVER: Driver = Driver {
    scheme: "snowflake",
    aliases: &[],
    title: "Snowflake [DEPRECATED]",
    description: "Keeps the rows of each table in Snowflake, by user and password or token.",
    example: "snowflake://user:password@host/database",
    help: HELP,
    fields: &form::WAREHOUSE,
    url_of_form: super::form::url,
    parameters: parameters![(
        "authenticator",
        "snowflake, oauth or programmatic_access_token: what the password is"
    )],
    read_url: server_url,
    abilities: |_| SNOWFLAKE_ABILITIES,
    open: |target| Box::pin(open(target)),
};

pub const KEY_PAIR_DRIVER: Driver = Driver {
    scheme: "snowflake-keypair",
    title: "Snowflake Key Pair",
    description: "Keeps the rows of each table in Snowflake, by a user's key pair.",
    example: "snowflake-keypair://user@account/database/schema?secret-key=SECRET_ENV_VAR_NAME",
    fields: &form::WAREHOUSE_BY_KEY,
    url_of_form: form::key_pair_url,
    parameters: parameters![(
        "secret-key",
        "the environment variable that holds the private key in PEM form \
         (SNOWFLAKE_SECRET_ACCESS_KEY); its passphrase is in NAME_PASSPHRASE"
    )],
    ..DRIVER
};

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let newer_only = newer_only(settings)?;
    let login = Login::read(settings)?;
    let (database, schema) = (login.database.clone(), login.schema.clone());
    let session = SnowflakeSession::open(login).await?;
    let info = session.info.clone();
    let may_not = |what: &str, name: &str| {
        Failure::misconfigured(format!(
            "Snowflake has no {what} {name:?} for user {:?}: make it, or GRANT USAGE on it",
            settings.user
        ))
    };
    let database = info.database_name.ok_or_else(|| may_not("database", &database))?;
    let schema = info.schema_name.ok_or_else(|| may_not("schema", &schema))?;
    if info.warehouse_name.is_none() {
        let text = format!(
            "user {:?} has no warehouse in Snowflake: name one with ?warehouse=, or ALTER USER … \
             SET DEFAULT_WAREHOUSE; the role needs USAGE on it",
            settings.user
        );
        return Err(Failure::misconfigured(text));
    }
    let connection = SnowflakeConnection {
        session,
        load_name: format!(
            "eds_load_{:016x}",
            xxhash_rust::xxh3::xxh3_64(
                format!("{database} {schema} {}", settings.parameter("prefix").unwrap_or_default())
                    .as_bytes()
            )
        ),
        database,
        tag: None,
        in_transaction: false,
        has_stage: false,
        is_staged: false,
        newer_only,
        consumer: target.consumer.clone(),
        epoch: target.epoch.clone(),
        query_tag: String::new(),
    };
    let namespace = Namespace {
        schema: Some(schema),
        prefix: settings.parameter("prefix").unwrap_or_default().to_owned(),
        lower_case: false,
    };
    Ok(Box::new(SqlDestination::new(
        connection,
        Renderer { dialect: &SNOWFLAKE, namespace },
        target,
    )))
}

fn newer_only(settings: &Settings) -> Result<bool, Failure> {
    match settings.parameter("update-strategy") {
        None | Some("standard" | "") => Ok(false),
        Some("after") => Ok(true),
        Some(other) => Err(Failure::misconfigured(format!(
            "update-strategy={other:?} is not known; there is standard and after"
        ))),
    }
}

struct SnowflakeConnection {
    session: SnowflakeSession,
    database: String,
    /// By which this session's transactions are found, once it holds an epoch.
    tag: Option<SessionTag>,
    /// What transactions of imports into this place are called.
    load_name: String,
    in_transaction: bool,
    /// Whether the session has its stage.
    has_stage: bool,
    /// Whether the rows of the batch that was prepared last are in the temporary table.
    is_staged: bool,
    newer_only: bool,
    consumer: String,
    epoch: Epoch,
    /// What the account's query history shows.
    query_tag: String,
}

impl SnowflakeConnection {
    /// The name of a transaction that `mark` finds, among those of all databases of the account.
    fn transaction_name(&self, tag: SessionTag) -> String {
        format!(
            "eds_{:016x}",
            xxhash_rust::xxh3::xxh3_64_with_seed(self.database.as_bytes(), tag.0)
        )
    }

    async fn run(&mut self, sql: &str, parameters: &[Parameter]) -> Result<QueryAnswer, Failure> {
        self.session.run(sql, parameters, &self.query_tag).await
    }

    /// A transaction that its client left is kept open for minutes, with its locks.
    async fn end_transactions(&mut self, name: &str) -> Result<(), Failure> {
        let open = self.run(rows::SHOW_TRANSACTIONS, &[]).await?;
        let ids: Vec<i64> = open
            .column("id")
            .zip(open.column("name"))
            .filter(|(_, n)| n.eq_ignore_ascii_case(name))
            .filter_map(|(id, _)| id.parse().ok())
            .collect();
        for id in ids {
            match self.run(&rows::abort(id), &[]).await {
                // It came to its end meanwhile.
                Err(failure) if failure.kind != FailureKind::Unavailable => {}
                done => drop(done?),
            }
        }
        Ok(())
    }

    /// What has to be true before a batch: no transaction is open, which a CREATE would commit, and
    /// the session lives.
    async fn roll_back_pending(&mut self) -> Result<(), Failure> {
        if self.session.is_over() {
            // Nobody asked for it for hours, so nothing is open in it.
            self.session.log_in().await?;
            (self.in_transaction, self.has_stage) = (false, false);
        }
        if self.in_transaction {
            self.execute("ROLLBACK").await?;
        }
        Ok(())
    }

    async fn stage(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        if !self.has_stage {
            self.run(MAKE_STAGE, &[]).await?;
            self.has_stage = true;
        }
        let whole = batch.clone();
        let packed = tokio::task::spawn_blocking(move || rows::file(&whole)).await;
        let (content, count) = packed
            .map_err(|e| Failure::unavailable(format!("rows could not be packed: {e}")))??;
        let file = format!("{}.json.gz", Uuid::new_v4());
        self.run(MAKE_LINES, &[]).await?;
        let place = self.run(&rows::put(&file), &[]).await?.stage;
        let place = place
            .ok_or_else(|| Failure::unavailable("Snowflake did not say where to put a file"))?;
        place.put(&file, Bytes::from(content)).await?;
        let copied = self.run(&rows::copy(&file), &[]).await?;
        let loaded: u64 = copied.column("rows_loaded").filter_map(|n| n.parse::<u64>().ok()).sum();
        if loaded != count {
            return Err(Failure::unavailable(format!(
                "Snowflake read {loaded} of {count} rows into {LINES}"
            )));
        }
        self.is_staged = true;
        Ok(())
    }

    fn way(&self, group: usize) -> StagePath {
        if self.is_staged { StagePath::Staged(group) } else { StagePath::Bound }
    }

    /// Runs a statement over the rows of a group.
    async fn over(
        &mut self,
        sql: &str,
        batch: &Batch,
        deletes: bool,
        group: usize,
    ) -> Result<(), Failure> {
        let found = &batch.groups[group];
        let parameters = match self.way(group) {
            StagePath::Staged(_) => Vec::new(),
            StagePath::Bound if deletes => vec![Parameter::Text(rows::bound(
                batch,
                &found.deletes,
                found.schema.key_columns(),
            )?)],
            StagePath::Bound => {
                vec![Parameter::Text(rows::bound(batch, &found.upserts, &found.schema.columns)?)]
            }
        };
        self.run(sql, &parameters).await.map(drop).map_err(|e| e.of_table(&found.schema.table))
    }

    /// Place in the primary key by table and column.
    async fn keys(
        &mut self,
        renderer: &Renderer,
    ) -> Result<HashMap<(String, String), i64>, Failure> {
        let listed = self.run(&rows::primary_keys(renderer), &[]).await?;
        let (tables, columns, places) = (
            listed.column("table_name"),
            listed.column("column_name"),
            listed.column("key_sequence"),
        );
        Ok(tables
            .zip(columns)
            .zip(places)
            .map(|((table, column), place)| {
                ((table.to_owned(), column.to_owned()), place.parse().unwrap_or(0))
            })
            .collect())
    }
}

#[async_trait]
impl Connection for SnowflakeConnection {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        // Whatever comes of it: a transaction that may be open is ended before the next batch.
        self.in_transaction |= sql.starts_with("BEGIN");
        if sql == SNOWFLAKE.begin {
            let named = format!("{sql} NAME {}", self.load_name);
            return self.run(&named, &[]).await.map(drop);
        }
        self.run(sql, &[]).await?;
        if matches!(sql, "COMMIT" | "ROLLBACK") {
            self.in_transaction = false;
        }
        Ok(())
    }

    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure> {
        let answer = self.run(sql, parameters).await?;
        let count =
            answer.rows.first().and_then(|row| row.first()).and_then(|cell| cell.as_deref());
        Ok(count.and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    async fn integers(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<i64>>, Failure> {
        let number = |cell: Option<String>| {
            cell.as_deref().unwrap_or_default().parse().map_err(|_| {
                Failure::unavailable("Snowflake answered with no number where one belongs")
            })
        };
        let rows = self.run(sql, parameters).await?.rows;
        rows.into_iter().map(|row| row.into_iter().map(number).collect()).collect()
    }

    async fn texts(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure> {
        let rows = self.run(sql, parameters).await?.rows;
        Ok(rows
            .into_iter()
            .map(|row| row.into_iter().map(Option::unwrap_or_default).collect())
            .collect())
    }

    async fn columns(&mut self, renderer: &Renderer) -> Result<Vec<ListedColumn>, Failure> {
        let place = &renderer.namespace;
        let keys = self.keys(renderer).await?;
        let rows = self
            .run(rows::COLUMNS, &[place.schema.as_deref().unwrap_or_default().into()])
            .await?
            .rows;
        let mut listed = Vec::with_capacity(rows.len());
        for row in rows {
            let [Some(name), Some(column), nullable, default, kind] =
                <[Option<String>; 5]>::try_from(row).unwrap_or_default()
            else {
                continue;
            };
            let Some(table) = place.source_of(&name) else { continue };
            let write_blocker =
                kind.is_some_and(|k| k.contains("VIEW") || k.contains("EXTERNAL")).then(|| {
                    "it is no table of its own; choose another schema with ?schema=, or rename it"
                        .to_owned()
                });
            let key = keys.get(&(name, column.clone())).copied().unwrap_or(0);
            listed.push(ListedColumn {
                table,
                column,
                nullable: nullable.as_deref() == Some("YES") || default.is_some(),
                key,
                write_blocker,
            });
        }
        Ok(listed)
    }

    async fn terminate_sessions(&mut self, tag: SessionTag) -> Result<(), Failure> {
        let name = self.transaction_name(tag);
        self.end_transactions(&name).await
    }

    async fn terminate_loads(&mut self) -> Result<(), Failure> {
        let name = self.load_name.clone();
        self.end_transactions(&name).await
    }

    async fn tag_session(&mut self, tag: SessionTag) -> Result<(), Failure> {
        self.tag = Some(tag);
        Ok(())
    }

    fn commit_may_be_void(&self) -> bool {
        true
    }

    fn is_lock_wait(&self, failure: &Failure) -> bool {
        failure.text.contains("(000625)")
    }

    fn is_already_there(&self, failure: &Failure) -> bool {
        failure.text.contains("(001430)")
    }

    /// All groups at once, with the first.
    async fn prepare(
        &mut self,
        _renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        if group > 0 {
            return Ok(());
        }
        self.roll_back_pending().await?;
        self.is_staged = false;
        self.query_tag = serde_json::json!({ "application": "eds", "consumer": self.consumer, "epoch": self.epoch.get(), "through": batch.through.sequence }).to_string();
        let size: usize = batch
            .groups
            .iter()
            .flat_map(|g| g.deletes.iter().chain(&g.upserts))
            .map(|index| batch.change(*index).size())
            .sum();
        if size > BOUND_BYTES_MAX { self.stage(batch).await } else { Ok(()) }
    }

    /// Keys that nobody enforces need one writer at a time; and nothing is written in vain.
    async fn transact(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        fence: &Fence,
    ) -> Result<u64, Failure> {
        if batch.groups.is_empty() {
            // Only the checkpoint moves, so nothing was prepared.
            self.roll_back_pending().await?;
        }
        let begin = renderer.dialect.begin;
        let begin = self.tag.map_or_else(
            || begin.to_owned(),
            |tag| format!("{begin} NAME {}", self.transaction_name(tag)),
        );
        self.transact_after_fence(renderer, batch, &begin, fence).await
    }

    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let (found, way) = (&batch.groups[group], self.way(group));
        if !found.deletes.is_empty() {
            self.over(&rows::delete(renderer, &found.schema, way), batch, true, group).await?;
        }
        if !found.upserts.is_empty() {
            self.over(
                &rows::merge(renderer, &found.schema, way, self.newer_only),
                batch,
                false,
                group,
            )
            .await?;
        }
        Ok(())
    }

    async fn load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.over(
            &rows::insert(renderer, &batch.groups[group].schema, self.way(group)),
            batch,
            false,
            group,
        )
        .await
    }

    /// No key keeps a row from being there twice, so that is looked for.
    async fn finish_load(
        &mut self,
        renderer: &Renderer,
        _schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<u64, Failure> {
        let repeats = self.integers(&rows::count_repeats(renderer, staged), &[]).await?;
        let repeats = repeats.first().and_then(|row| row.first()).copied().unwrap_or(0);
        if repeats > 0 {
            self.execute(&rows::delete_repeats(renderer, staged)).await?;
        }
        Ok(repeats.max(0) as u64)
    }

    async fn close(mut self) -> Result<(), Failure> {
        self.session.close().await;
        Ok(())
    }
}
