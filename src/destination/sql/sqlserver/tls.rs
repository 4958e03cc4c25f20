//! TLS as `encrypt` asks for it: `disable`, `false`, `true` or `strict`.

use tiberius::{Config, EncryptionLevel};

use crate::destination::{Failure, Settings};

/// Sets how the connection is encrypted, and what is verified.
pub fn encrypt(settings: &Settings, config: &mut Config) -> Result<(), Failure> {
    let chosen = settings.parameter("encrypt").map(str::to_ascii_lowercase);
    let level = match chosen.as_deref() {
        None if settings.is_local() => EncryptionLevel::NotSupported,
        None | Some("true" | "mandatory" | "yes" | "1" | "t") => EncryptionLevel::Required,
        Some("disable") => EncryptionLevel::NotSupported,
        Some("false" | "optional" | "no" | "0" | "f") => EncryptionLevel::Off,
        Some("strict") => EncryptionLevel::Strict,
        Some(other) => {
            return Err(Failure::misconfigured(format!(
                "encrypt={other:?} is not known; choose disable, false, true or strict"
            )));
        }
    };
    config.encryption(level);
    let truths = [
        ("true", true),
        ("yes", true),
        ("1", true),
        ("t", true),
        ("false", false),
        ("no", false),
        ("0", false),
        ("f", false),
    ];
    let trusts = settings.one_of("TrustServerCertificate", &truths)?;
    if let Some(file) = settings.parameter("certificate") {
        std::fs::File::open(file).map_err(|e| {
            Failure::misconfigured(format!("the file in certificate={file} cannot be read: {e}"))
        })?;
        config.trust_cert_ca(file);
    } else if trusts.unwrap_or(
        chosen.as_deref().is_none_or(|c| matches!(c, "false" | "optional" | "no" | "0" | "f")),
    ) && level != EncryptionLevel::Strict
    {
        // Servers come with certificates that nobody signed, so one is verified only where the URL
        // asks for encryption.
        config.trust_cert();
    }
    if let Some(name) = settings.parameter("hostNameInCertificate") {
        config.hostname_in_certificate(name);
    }
    Ok(())
}
