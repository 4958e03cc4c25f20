//! How a connection to SQL Server is made: address and login.

use std::time::Duration;

use secrecy::ExposeSecret;
use socket2::{SockRef, TcpKeepalive};
use tiberius::error::Error;
use tiberius::{AuthMethod, Config};
use tokio::net::TcpStream;
use tokio_util::compat::TokioAsyncWriteCompatExt;

use super::failure::refused_connection;
use super::tls::encrypt;
use super::{Client, EXAMPLE};
use crate::destination::{Failure, Settings};

/// How long a connection is waited for, unless the URL says otherwise.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(15);
/// A connection that went silent is asked after so long whether it is alive, and then so often.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_interval(Duration::from_secs(10));
const IDLE: Duration = Duration::from_secs(30);
/// How often a gateway may redirect the connection to another server.
const ROUTES_MAX: usize = 3;
/// The largest packet of the protocol: fewer of them are faster.
const PACKET_BYTES: usize = 32_767;

/// A connection, before its session is set.
pub async fn connect(settings: &Settings) -> Result<Client, Failure> {
    let (mut host, mut port) = (settings.host.clone(), settings.port.unwrap_or(1433));
    let limit = connect_wait(settings)?;
    let keepalive = KEEPALIVE.with_time(idle(settings)?);
    for _ in 0..ROUTES_MAX {
        let config = config(settings, &host, port)?;
        let place = format!("{host}:{port}");
        let connecting = async {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Box::pin(Client::connect(config, stream.compat_write())).await
        };
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(Error::Routing { host: to, port: at })) => (host, port) = (to, at),
            Ok(Err(e)) => return Err(refused_connection(&e, settings, &place, database(settings))),
            Err(_) => {
                return Err(Failure::unavailable(format!(
                    "SQL Server at {place} does not answer within {limit:?}; are host and \
                     port right?"
                )));
            }
        }
    }
    Err(Failure::unavailable(format!(
        "SQL Server at {} sends us from one server to the next",
        settings.host
    )))
}

/// How long a connection is waited for. 0 means the usual time, as with the Go program.
fn connect_wait(settings: &Settings) -> Result<Duration, Failure> {
    for name in ["dial timeout", "connection timeout"] {
        if settings.parameter(name).is_some_and(|text| text != "0") {
            return Ok(settings.wait(name)?.unwrap_or(CONNECT_WAIT_MAX));
        }
    }
    Ok(CONNECT_WAIT_MAX)
}

/// After how long a silence the server is asked whether it lives.
fn idle(settings: &Settings) -> Result<Duration, Failure> {
    match settings.parameter("keepAlive") {
        None | Some("0") => Ok(IDLE),
        Some(_) => Ok(settings.wait("keepAlive")?.unwrap_or(IDLE)),
    }
}

/// The database that the URL names, in its path or as an option.
fn database(settings: &Settings) -> &str {
    settings.parameter("database").unwrap_or_else(|| settings.database())
}

fn config(settings: &Settings, host: &str, port: u16) -> Result<Config, Failure> {
    let database = database(settings);
    if database.is_empty() {
        return Err(Failure::misconfigured(format!(
            "the SQL Server URL names no database; it looks like {EXAMPLE}"
        )));
    }
    let mut config = Config::new();
    config.host(host);
    config.port(port);
    config.database(database);
    config.application_name(settings.parameter("app name").unwrap_or("eds"));
    let bytes = settings.number("packet size", 512..=PACKET_BYTES)?.unwrap_or(PACKET_BYTES);
    config.packet_size(u32::try_from(bytes).unwrap_or_default());
    if let Some(name) = settings.parameter("workstation id") {
        config.client_name(name);
    }
    // Waits are bounded where calls are made; DDL may take its time.
    config.command_timeout(None);
    let password = settings.password.as_ref().map(|p| p.expose_secret()).unwrap_or_default();
    config.authentication(match settings.parameter("fedauth") {
        None => AuthMethod::sql_server(&settings.user, password),
        Some("ActiveDirectoryServicePrincipalAccessToken") => AuthMethod::aad_token(password),
        Some(other) => {
            let text = format!(
                "fedauth={other:?} is not known; there is \
                                ActiveDirectoryServicePrincipalAccessToken, or none for user \
                                and password"
            );
            return Err(Failure::misconfigured(text));
        }
    });
    encrypt(settings, &mut config)?;
    Ok(config)
}
