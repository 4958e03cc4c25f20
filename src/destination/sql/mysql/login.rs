//! How a connection to MySQL is made: address and login.

use std::time::Duration;

use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder};
use secrecy::ExposeSecret;

use super::EXAMPLE;
use super::failure::refused_connection;
use super::rows::STATEMENTS_MAX;
use super::tls::{self, TlsMode};
use crate::destination::{Failure, Settings};

/// How long a connection is waited for, unless the URL says otherwise.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// A connection that went silent is asked after so long whether it is alive.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Statements of EDS's own that the client caches, beside those for rows. The cache must hold all
/// of them: it closes a statement that it evicts, and the next use of it would fail.
const OWN_STATEMENTS_MAX: usize = 64;

/// A connection, before its session is set.
pub async fn connect(settings: &Settings) -> Result<Conn, Failure> {
    if settings.database().is_empty() {
        return Err(Failure::misconfigured(format!(
            "the MySQL URL names no database; it looks like {EXAMPLE}"
        )));
    }
    match attempt(settings, tls::mode(settings)?).await? {
        Some(conn) => Ok(conn),
        None => attempt(settings, TlsMode::Off)
            .await?
            .ok_or_else(|| Failure::unavailable("MySQL cannot be reached without TLS")),
    }
}

/// A connection; `None` where the server cannot encrypt and the mode is `preferred`.
async fn attempt(settings: &Settings, mode: TlsMode) -> Result<Option<Conn>, Failure> {
    let port = settings.port.unwrap_or(3306);
    let limit = settings.wait("timeout")?.unwrap_or(CONNECT_WAIT_MAX);
    let connecting = tokio::time::timeout(limit, Conn::new(options(settings, port, mode)?));
    match connecting.await {
        Ok(Err(Error::Driver(DriverError::NoClientSslFlagFromServer)))
            if mode == TlsMode::Preferred =>
        {
            Ok(None)
        }
        Ok(done) => done.map(Some).map_err(|e| refused_connection(&e, settings, port)),
        Err(_) => Err(Failure::unavailable(format!(
            "MySQL at {}:{port} does not answer within {limit:?}; are host and port right?",
            settings.host
        ))),
    }
}

fn options(settings: &Settings, port: u16, mode: TlsMode) -> Result<Opts, Failure> {
    let user = if settings.user.is_empty() { "root" } else { &settings.user };
    let socket = settings.host.starts_with('/').then(|| settings.host.clone());
    let options = OptsBuilder::default()
        .ip_or_hostname(if socket.is_some() { "localhost" } else { &settings.host })
        .tcp_port(port)
        .socket(socket)
        .user(Some(user))
        .pass(settings.password.as_ref().map(|p| p.expose_secret()))
        .db_name(Some(settings.database()))
        // Only the socket that was asked for; how many rows an UPDATE found, not how many it
        // altered.
        .prefer_socket(false)
        .client_found_rows(true)
        .stmt_cache_size(STATEMENTS_MAX + OWN_STATEMENTS_MAX)
        .tcp_keepalive(Some(KEEPALIVE))
        .connect_attribute("program_name", "eds")
        .enable_cleartext_plugin(shows_password(settings, mode)?)
        .ssl_opts(if mode == TlsMode::Off { None } else { Some(tls::options(settings, mode)?) });
    Ok(options.into())
}

/// Whether the server may ask for the password itself, which does not travel in the open.
fn shows_password(settings: &Settings, mode: TlsMode) -> Result<bool, Failure> {
    let values = [("true", true), ("1", true), ("false", false), ("0", false)];
    let asked = settings.one_of("allowCleartextPasswords", &values)?.unwrap_or(false);
    if asked && mode == TlsMode::Off && !settings.is_local() {
        return Err(Failure::misconfigured(
            "allowCleartextPasswords=true needs TLS: a password does not travel in the open",
        ));
    }
    Ok(asked)
}

/// The first three numbers of what VERSION() says.
pub fn version(text: &str) -> (u32, u32, u32) {
    let mut numbers = text.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_servers_write_them() {
        let cases = [
            ("8.0.36", (8, 0, 36)),
            ("10.11.6-MariaDB-0+deb12u1", (10, 11, 6)),
            ("8.0.mysql_aurora.3.04.0", (8, 0, 0)),
            ("9.7.4-2", (9, 7, 4)),
        ];
        for (text, expected) in cases {
            assert_eq!(version(text), expected, "{text}");
        }
    }
}
