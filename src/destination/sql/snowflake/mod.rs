//! Snowflake: a batch becomes a file on a stage, one COPY, then one MERGE and one DELETE a table; a
//! small one is a parameter of these statements.

mod answer;
pub mod catalog;
pub mod dialect;
mod encode;
mod failure;
mod form;
pub mod import;
mod key;
mod login;
mod options;
pub mod rows;
mod session;
mod stage;

use std::time::Duration;

use async_trait::async_trait;

use super::render::{Namespace, Renderer};
use super::{ABILITIES, Parameter, SessionTag, SqlDestination, SqlSession};
use crate::destination::settings::server_url;
use crate::destination::{
    Abilities, Destination, Driver, Epoch, Failure, FailureKind, Settings, Target,
};
use answer::QueryAnswer;
use dialect::SNOWFLAKE;
use login::Login;
use session::SnowflakeSession;

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
     Changes are collected for 10 seconds before they are written (?freshness=), so that a \
                    warehouse can suspend.\n\
     EDS is tested against a stand-in for Snowflake, not against the service itself.";

/// What both forms of the URL know.
macro_rules! parameters {
    ($($own:expr),*) => {
        &[
            $($own,)*
            ("warehouse", "the warehouse that does the work; without it the user's own"),
            ("role", "the role to take; without it the user's own"),
            ("schema", "schema of the tables, if the path does not name it (PUBLIC)"),
            ("prefix", "prefix of each table's name"),
            ("freshness", "how long changes are collected before they are written (10s)"),
            ("update-strategy", "standard: stream order decides; after: a row stays that has a \
                                 later updatedDate"),
            ("account", "the account, if the host does not name it"),
            ("host", "where the account answers, instead of account.snowflakecomputing.com"),
            ("protocol", "https; http for a host on this machine"),
            ("loginTimeout", "seconds to wait for a connection (15)"),
            ("requestTimeout", "seconds to wait for an answer (120)"),
        ]
    };
}

/// `snowflake://…`: by user and password or token.
pub const DRIVER: Driver = Driver {
    scheme: "snowflake",
    aliases: &[],
    title: "Snowflake [DEPRECATED]",
    description: "Keeps the rows of each table in Snowflake, by user and password or token.",
    example: "snowflake://user:password@host/database",
    help: HELP,
    fields: &form::WAREHOUSE,
    url_of_form: super::form::url,
    parameters: parameters![
        ("authenticator", "snowflake, oauth or programmatic_access_token: what the password is"),
        ("token", "the token, if the password is not it")
    ],
    accepted: options::ACCEPTED,
    secrets: &["token"],
    read_url: server_url,
    abilities: |_| SNOWFLAKE_ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// `snowflake-keypair://…`: by a user's key pair.
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
         (SNOWFLAKE_SECRET_ACCESS_KEY), or with _FILE its file; its passphrase is in \
         NAME_PASSPHRASE"
    )],
    secrets: &[],
    ..DRIVER
};

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let newer_only = newer_only(settings)?;
    let session = SnowflakeSession::open(Login::read(settings)?).await?;
    let (database, schema) = session.namespace()?;
    let namespace = Namespace::new(settings, Some(schema.clone()));
    let load_name = format!("{database} {schema} {}", namespace.prefix);
    let connection = SnowflakeConnection {
        session,
        load_name: format!("eds_load_{:016x}", xxhash_rust::xxh3::xxh3_64(load_name.as_bytes())),
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
    let renderer = Renderer::new(&SNOWFLAKE, namespace);
    Ok(Box::new(SqlDestination::new(connection, renderer, target)))
}

/// Whether a row stays that has a later `updatedDate`.
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
    /// What other sessions find this one's transactions by, once it holds an epoch.
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
    /// The name of the transactions of sessions with this tag. It contains the database, because
    /// transactions of all databases of the account are listed together.
    fn transaction_name(&self, tag: SessionTag) -> String {
        format!(
            "eds_{:016x}",
            xxhash_rust::xxh3::xxh3_64_with_seed(self.database.as_bytes(), tag.0)
        )
    }

    async fn run(&mut self, sql: &str, parameters: &[Parameter]) -> Result<QueryAnswer, Failure> {
        self.session.run(sql, parameters, &self.query_tag).await
    }

    /// Ends the transactions of this name: Snowflake keeps one open for minutes, with its locks,
    /// after its client has gone.
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
                // The transaction has ended meanwhile.
                Err(failure) if failure.kind != FailureKind::Unavailable => {}
                done => drop(done?),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SqlSession for SnowflakeConnection {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        // Even if the answer is lost: a transaction that may be open is ended before the next
        // batch.
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

    async fn close(mut self) -> Result<(), Failure> {
        self.session.close().await;
        Ok(())
    }
}
