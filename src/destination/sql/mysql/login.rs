//! How a connection to MySQL comes about: address, login, TLS as `tls` asks for it.

use std::path::PathBuf;
use std::time::Duration;

use mysql_async::{ClientIdentity, Conn, DriverError, Error, Opts, OptsBuilder, SslOpts};
use secrecy::ExposeSecret;

use super::EXAMPLE;
use super::failure::refused_connection;
use super::rows::STATEMENTS_MAX;
use crate::destination::{Failure, Settings};

const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// A connection that went silent is asked after so long whether it is alive.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Statements of EDS's own that the connection keeps, beside those for rows: one that it closed to
/// make room would be used in vain.
const OWN_STATEMENTS_MAX: usize = 64;

/// How much of the server is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tls {
    Off,
    /// Encrypted where the server can; nothing is verified.
    Preferred,
    /// Encrypted; nothing is verified.
    Unverified,
    /// Signed by a known authority for this host.
    Full,
}

pub async fn connect(settings: &Settings) -> Result<Conn, Failure> {
    if settings.path.trim_start_matches('/').is_empty() {
        return Err(Failure::misconfigured(format!(
            "the MySQL URL names no database; it looks like {EXAMPLE}"
        )));
    }
    match attempt(settings, mode(settings)?).await? {
        Some(conn) => Ok(conn),
        None => attempt(settings, Tls::Off)
            .await?
            .ok_or_else(|| Failure::unavailable("MySQL cannot be reached without TLS")),
    }
}

/// A connection; `None` where the server cannot encrypt, which is what "preferred" puts up with.
async fn attempt(settings: &Settings, tls: Tls) -> Result<Option<Conn>, Failure> {
    let port = settings.port.unwrap_or(3306);
    let limit = settings
        .parameter("timeout")
        .and_then(|text| text.trim_end_matches('s').parse().ok())
        .map_or(CONNECT_WAIT_MAX, Duration::from_secs);
    let connecting = tokio::time::timeout(limit, Conn::new(options(settings, port, tls)?));
    match connecting.await {
        Ok(Err(Error::Driver(DriverError::NoClientSslFlagFromServer))) if tls == Tls::Preferred => {
            Ok(None)
        }
        Ok(done) => done.map(Some).map_err(|e| refused_connection(&e, settings, port)),
        Err(_) => Err(Failure::unavailable(format!(
            "MySQL at {}:{port} does not answer within {limit:?}; are host and port right?",
            settings.host
        ))),
    }
}

fn mode(settings: &Settings) -> Result<Tls, Failure> {
    let default = if settings.is_local() { "false" } else { "preferred" };
    match settings.parameter("tls").unwrap_or(default).to_ascii_lowercase().as_str() {
        "false" => Ok(Tls::Off),
        "preferred" => Ok(Tls::Preferred),
        "skip-verify" => Ok(Tls::Unverified),
        "true" => Ok(Tls::Full),
        other => Err(Failure::misconfigured(format!(
            "tls={other:?} is not known; choose false, preferred, skip-verify or true"
        ))),
    }
}

fn options(settings: &Settings, port: u16, tls: Tls) -> Result<Opts, Failure> {
    let user = if settings.user.is_empty() { "root" } else { &settings.user };
    let options = OptsBuilder::default()
        .ip_or_hostname(settings.host.as_str())
        .tcp_port(port)
        .user(Some(user))
        .pass(settings.password.as_ref().map(|p| p.expose_secret()))
        .db_name(Some(settings.path.trim_start_matches('/')))
        // Only the socket that was asked for; how many rows an UPDATE found, not how many it
        // altered.
        .prefer_socket(false)
        .client_found_rows(true)
        .stmt_cache_size(STATEMENTS_MAX + OWN_STATEMENTS_MAX)
        .tcp_keepalive(Some(KEEPALIVE))
        .connect_attribute("program_name", "eds")
        .ssl_opts(if tls == Tls::Off { None } else { Some(ssl(settings, tls)?) });
    Ok(options.into())
}

fn ssl(settings: &Settings, tls: Tls) -> Result<SslOpts, Failure> {
    let mut options = SslOpts::default()
        .with_danger_accept_invalid_certs(matches!(tls, Tls::Preferred | Tls::Unverified));
    if let Some(name) = settings.parameter("ssl-host") {
        options = options.with_danger_tls_hostname_override(Some(name.to_owned()));
    }
    let readable = |key: &str, file: &str| {
        let path = PathBuf::from(file);
        std::fs::File::open(&path).map(|_| path).map_err(|e| {
            Failure::misconfigured(format!("the file in {key}={file} cannot be read: {e}"))
        })
    };
    match settings.parameter("ssl-ca") {
        Some(file) => {
            options = options
                .with_root_certs(vec![readable("ssl-ca", file)?.into()])
                .with_disable_built_in_roots(true);
        }
        None => {
            let system = rustls_native_certs::load_native_certs().certs;
            options =
                options.with_root_certs(system.into_iter().map(|c| c.to_vec().into()).collect());
        }
    }
    if let (Some(certificate), Some(key)) =
        (settings.parameter("ssl-cert"), settings.parameter("ssl-key"))
    {
        let identity = ClientIdentity::new(
            readable("ssl-cert", certificate)?.into(),
            readable("ssl-key", key)?.into(),
        );
        options = options.with_client_identity(Some(identity));
    }
    Ok(options)
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
