//! How a connection to PostgreSQL is made: address, login, and how a session of EDS is set.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::{Client, Config};

use super::failure::{failure, refused_connection};
use super::options::{hosts, server_settings};
use super::{EXAMPLE, Wire, tls};
use crate::destination::sql::LOCK_WAIT_MAX;
use crate::destination::{Failure, Settings};

const PORT: u16 = 5432;
/// What may be asked of a host; EDS writes, so that it does not look for one that only reads.
const SESSIONS: [(&str, TargetSessionAttrs); 4] = [
    ("any", TargetSessionAttrs::Any),
    ("read-write", TargetSessionAttrs::ReadWrite),
    ("primary", TargetSessionAttrs::ReadWrite),
    ("prefer-standby", TargetSessionAttrs::ReadWrite),
];
const BINDINGS: [(&str, ChannelBinding); 3] = [
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];
const NEGOTIATIONS: [(&str, SslNegotiation); 2] =
    [("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
/// A connection that went silent is asked after so long whether it is alive.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a connection is waited for, unless the URL says otherwise.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// After so long without a statement within a transaction the server ends the session: this process
/// is gone.
const SILENCE_MAX: &str = "60s";

/// A connection, and the task that moves its bytes.
pub async fn connect(settings: &Settings) -> Result<(Client, Wire), Failure> {
    let port = settings.port.unwrap_or(PORT);
    let mut config = config(settings, port)?;
    let (asked, connector) = tls::connector(settings)?;
    // Within this machine's own socket there is nothing to encrypt.
    let mode = if settings.host.starts_with('/') { SslMode::Disable } else { asked };
    config.ssl_mode(mode);
    let refused = |e: tokio_postgres::Error| refused_connection(&e, settings, port);
    let (client, wire) = if mode == SslMode::Disable {
        let (client, wire) = config.connect(tokio_postgres::NoTls).await.map_err(refused)?;
        (client, Wire(tokio::spawn(async move { drop(wire.await) })))
    } else {
        let (client, wire) = config.connect(connector).await.map_err(refused)?;
        (client, Wire(tokio::spawn(async move { drop(wire.await) })))
    };
    set_up(&client).await?;
    Ok((client, wire))
}

fn config(settings: &Settings, port: u16) -> Result<Config, Failure> {
    let database = settings.database();
    if database.is_empty() {
        return Err(Failure::misconfigured(format!(
            "the PostgreSQL URL names no database; it looks like {EXAMPLE}"
        )));
    }
    let mut config = Config::new();
    for (host, port) in hosts(settings, port) {
        config.host(host).port(port);
    }
    config.dbname(database);
    // Of several hosts only one can be written to.
    let usual = match settings.other_hosts.is_empty() {
        true => TargetSessionAttrs::Any,
        false => TargetSessionAttrs::ReadWrite,
    };
    let attributes = settings.one_of("target_session_attrs", &SESSIONS)?.unwrap_or(usual);
    config.target_session_attrs(attributes);
    if let Some(binding) = settings.one_of("channel_binding", &BINDINGS)? {
        config.channel_binding(binding);
    }
    if let Some(negotiation) = settings.one_of("sslnegotiation", &NEGOTIATIONS)? {
        config.ssl_negotiation(negotiation);
    }
    config.application_name(settings.parameter("application_name").unwrap_or("eds"));
    config.connect_timeout(settings.wait("connect_timeout")?.unwrap_or(CONNECT_WAIT_MAX));
    // A connection that went silent is noticed within a minute or so.
    config
        .keepalives_idle(settings.wait("keepalives_idle")?.unwrap_or(KEEPALIVE))
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
    if let Some(options) = server_settings(settings) {
        config.options(options);
    }
    Ok(config)
}

/// Settings that not every version has: what an administrator has set for the role is meant for
/// people, policies that hide rows make statements fail instead of skipping these rows, and where
/// a column becomes text its numbers keep every digit and its times have one form.
const OWN_SETTINGS: &str = "\
    SELECT set_config(own.name, own.value, false) \
    FROM (VALUES ('transaction_timeout', '0'), ('idle_session_timeout', '0'), \
    ('row_security', 'off'), ('standard_conforming_strings', 'on'), \
    ('extra_float_digits', '1'), ('DateStyle', 'ISO, YMD')) AS own (name, value) \
    JOIN pg_catalog.pg_settings USING (name)";

/// How long statements wait for a lock.
pub fn lock_wait(limit: Duration) -> String {
    format!("SET lock_timeout = '{}ms'", limit.as_millis())
}

/// A commit has to survive a power cut; the server's own stricter choice is kept.
async fn set_up(client: &Client) -> Result<(), Failure> {
    let lock_wait = lock_wait(LOCK_WAIT_MAX);
    let sql = format!(
        "SET statement_timeout = 0; \
         SET client_min_messages = warning; \
         {lock_wait}; \
         SET idle_in_transaction_session_timeout = '{SILENCE_MAX}'; \
         SET TIME ZONE 'UTC'; \
         SET default_transaction_isolation = 'read committed'; \
         {OWN_SETTINGS}; \
         SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') IN ('off', 'local')"
    );
    client.batch_execute(&sql).await.map_err(|e| failure(&e))
}

/// The schema of the tables: the one that the URL names, or the first of the search path.
pub async fn schema(client: &Client, settings: &Settings) -> Result<String, Failure> {
    match settings.parameter("schema") {
        Some(schema) => existing_schema(client, schema).await,
        None => current_schema(client).await,
    }
}

async fn existing_schema(client: &Client, schema: &str) -> Result<String, Failure> {
    let found = client
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

async fn current_schema(client: &Client) -> Result<String, Failure> {
    let row =
        client.query_one("SELECT current_schema()::text", &[]).await.map_err(|e| failure(&e))?;
    let none = || {
        Failure::misconfigured(
            "the user's search path names no schema that exists: choose one with ?schema=",
        )
    };
    row.get::<_, Option<String>>(0).ok_or_else(none)
}
