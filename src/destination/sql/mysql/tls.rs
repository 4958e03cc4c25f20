//! TLS as `tls` asks for it: `false`, `preferred`, `skip-verify` or `true`.

use std::path::PathBuf;

use mysql_async::{ClientIdentity, SslOpts};

use crate::destination::{Failure, Settings};

/// How a connection is encrypted, and what is verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsMode {
    /// Not encrypted.
    Off,
    /// Encrypted where the server can; nothing is verified.
    Preferred,
    /// Encrypted; nothing is verified.
    Unverified,
    /// Encrypted; the certificate is signed by a known authority for this host.
    Full,
}

/// The mode that the URL asks for.
pub fn mode(settings: &Settings) -> Result<TlsMode, Failure> {
    let usual = if settings.is_local() { TlsMode::Off } else { TlsMode::Preferred };
    let modes = [
        ("false", TlsMode::Off),
        ("preferred", TlsMode::Preferred),
        ("skip-verify", TlsMode::Unverified),
        ("true", TlsMode::Full),
        ("0", TlsMode::Off),
        ("1", TlsMode::Full),
    ];
    Ok(settings.one_of("tls", &modes)?.unwrap_or(usual))
}

/// The client's options of an encrypted connection.
pub fn options(settings: &Settings, mode: TlsMode) -> Result<SslOpts, Failure> {
    let mut options = SslOpts::default()
        .with_danger_accept_invalid_certs(matches!(mode, TlsMode::Preferred | TlsMode::Unverified));
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
