//! TLS as `sslmode` asks for it, from `disable` to `verify-full`.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::destination::{Failure, Settings};

/// How much of the server's certificate is believed unseen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trust {
    /// Encrypt, ask nothing.
    Any,
    /// Signed by a known authority, under any name.
    Authority,
    /// Signed by a known authority for this host.
    Full,
}

/// The mode for the driver, and the connector that verifies what it asks for.
pub fn connector(settings: &Settings) -> Result<(SslMode, MakeRustlsConnect), Failure> {
    // As libpq: with a root certificate at hand, require verifies the authority.
    let has_root = settings.parameter("sslrootcert").is_some();
    let require = (SslMode::Require, if has_root { Trust::Authority } else { Trust::Any });
    let disable = (SslMode::Disable, Trust::Any);
    let modes = [
        ("disable", disable),
        ("allow", (SslMode::Prefer, Trust::Any)),
        ("prefer", (SslMode::Prefer, Trust::Any)),
        ("require", require),
        ("verify-ca", (SslMode::Require, Trust::Authority)),
        ("verify-full", (SslMode::Require, Trust::Full)),
    ];
    let usual = if settings.is_local() { disable } else { require };
    let (mode, trust) = settings.one_of("sslmode", &modes)?.unwrap_or(usual);
    Ok((mode, MakeRustlsConnect::new(config(settings, trust)?)))
}

fn config(settings: &Settings, trust: Trust) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let wrong = |e: rustls::Error| Failure::misconfigured(format!("TLS cannot be set up: {e}"));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let builder = match trust {
        Trust::Full => builder.with_root_certificates(roots(settings)?),
        _ => {
            let authority = match trust {
                Trust::Authority => {
                    let roots = Arc::new(roots(settings)?);
                    let built =
                        WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                            .build();
                    Some(built.map_err(|e| {
                        Failure::misconfigured(format!("TLS cannot be set up: {e}"))
                    })?)
                }
                _ => None,
            };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Lenient { authority, provider }))
        }
    };
    let (certificate, key) = (settings.parameter("sslcert"), settings.parameter("sslkey"));
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let unreadable = |e: rustls::pki_types::pem::Error| {
                Failure::misconfigured(format!("sslcert or sslkey cannot be read: {e}"))
            };
            let certificate = pem(settings, "sslcert", certificate)?;
            let key = pem(settings, "sslkey", key)?;
            let chain = CertificateDer::pem_slice_iter(&certificate)
                .collect::<Result<Vec<_>, _>>()
                .map_err(unreadable)?;
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&key).map_err(unreadable)?;
            builder.with_client_auth_cert(chain, key).map_err(wrong)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// What an option about a certificate or a key holds, or the file that it names. A failure does not
/// show the option: it may hold a key.
fn pem(settings: &Settings, option: &str, text: &str) -> Result<Vec<u8>, Failure> {
    let values = [("true", true), ("1", true), ("false", false), ("0", false)];
    if settings.one_of("sslinline", &values)?.unwrap_or(false) {
        return Ok(text.as_bytes().to_vec());
    }
    std::fs::read(text).map_err(|e| {
        let text = format!(
            "the file that {option} names cannot be read: {e}; sslinline=true says that it holds \
             the text itself"
        );
        Failure::misconfigured(text)
    })
}

fn roots(settings: &Settings) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    match settings.parameter("sslrootcert").filter(|file| *file != "system") {
        Some(text) => {
            let unreadable = |e: &dyn std::fmt::Display| {
                Failure::misconfigured(format!(
                    "the certificates in sslrootcert cannot be read: {e}"
                ))
            };
            for certificate in CertificateDer::pem_slice_iter(&pem(settings, "sslrootcert", text)?)
            {
                roots.add(certificate.map_err(|e| unreadable(&e))?).map_err(|e| unreadable(&e))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(Failure::misconfigured(
            "no certificate authority is known: name a file with sslrootcert=",
        ));
    }
    Ok(roots)
}

/// Verifies signatures always, the authority where there is one, the name never.
#[derive(Debug)]
struct Lenient {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
