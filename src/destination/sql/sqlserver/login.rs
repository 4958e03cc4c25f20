//! How a connection to SQL Server comes about: address, login, encryption as `encrypt` asks for it.

use std::time::Duration;

use secrecy::ExposeSecret;
use tiberius::error::Error;
use tiberius::{AuthMethod, Config, EncryptionLevel};
use tokio::net::TcpStream;
use tokio_util::compat::TokioAsyncWriteCompatExt;

use super::failure::refused_connection;
use super::{Client, EXAMPLE};
use crate::destination::{Failure, Settings};

const CONNECT_WAIT_MAX: Duration = Duration::from_secs(15);
/// How often a gateway may send us on to another server.
const ROUTES_MAX: usize = 3;
/// The largest packet of the protocol: fewer of them are faster.
const PACKET_BYTES: u32 = 32_767;

pub async fn connect(settings: &Settings) -> Result<Client, Failure> {
    let (mut host, mut port) = (settings.host.clone(), settings.port.unwrap_or(1433));
    let limit = settings
        .parameter("connection timeout")
        .and_then(|text| text.parse().ok())
        .map_or(CONNECT_WAIT_MAX, Duration::from_secs);
    for _ in 0..ROUTES_MAX {
        let config = config(settings, &host, port)?;
        let place = format!("{host}:{port}");
        let connecting = async {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Box::pin(Client::connect(config, stream.compat_write())).await
        };
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(Error::Routing { host: to, port: at })) => (host, port) = (to, at),
            Ok(Err(e)) => return Err(refused_connection(&e, settings, &place)),
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

/// The database that the URL names, in its path or as an option.
pub fn database(settings: &Settings) -> &str {
    settings.parameter("database").unwrap_or_else(|| settings.path.trim_start_matches('/'))
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
    config.packet_size(PACKET_BYTES);
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

fn encrypt(settings: &Settings, config: &mut Config) -> Result<(), Failure> {
    let chosen = settings.parameter("encrypt").map(str::to_ascii_lowercase);
    let level = match chosen.as_deref() {
        None if settings.is_local() => EncryptionLevel::NotSupported,
        None | Some("true" | "mandatory" | "yes") => EncryptionLevel::Required,
        Some("disable") => EncryptionLevel::NotSupported,
        Some("false" | "optional" | "no") => EncryptionLevel::Off,
        Some("strict") => EncryptionLevel::Strict,
        Some(other) => {
            return Err(Failure::misconfigured(format!(
                "encrypt={other:?} is not known; choose disable, false, true or strict"
            )));
        }
    };
    config.encryption(level);
    let trusts =
        settings.parameter("TrustServerCertificate").map(|text| text.eq_ignore_ascii_case("true"));
    if let Some(file) = settings.parameter("certificate") {
        std::fs::File::open(file).map_err(|e| {
            Failure::misconfigured(format!("the file in certificate={file} cannot be read: {e}"))
        })?;
        config.trust_cert_ca(file);
    } else if trusts
        .unwrap_or(chosen.as_deref().is_none_or(|c| matches!(c, "false" | "optional" | "no")))
        && level != EncryptionLevel::Strict
    {
        // Servers come with certificates that nobody signed: verified only where the URL asks for
        // encryption by name.
        config.trust_cert();
    }
    if let Some(name) = settings.parameter("hostNameInCertificate") {
        config.hostname_in_certificate(name);
    }
    Ok(())
}
