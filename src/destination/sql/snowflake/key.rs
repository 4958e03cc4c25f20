//! The private key of a Snowflake user, and the token that it signs.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
use secrecy::{ExposeSecret, SecretString};

/// How long a token is good for, from a minute before it is made: clocks differ a little. Snowflake
/// takes an hour at most.
const TOKEN_TIME: Duration = Duration::from_secs(300);
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(60);

/// An RSA key that can sign.
pub struct Key {
    pair: RsaKeyPair,
}

/// A key that cannot be used, with what would cure it. Never shows any of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error(
        "it is not a private key in PEM form (PKCS#8: it begins with -----BEGIN PRIVATE KEY----- \
         or -----BEGIN ENCRYPTED PRIVATE KEY-----)"
    )]
    NotPem,
    #[error("it is a {0}; `openssl pkcs8 -topk8 -nocrypt -in key.pem` makes PKCS#8 of it")]
    OtherForm(String),
    #[error("it is encrypted: its passphrase belongs into the environment variable {0}")]
    NeedsPassphrase(String),
    #[error(
        "the passphrase does not open it, or it is encrypted in a way that EDS does not know \
         (PBES2 with AES or 3DES is known)"
    )]
    WrongPassphrase,
    #[error("it is not an RSA key of 2048 bits or more")]
    NotRsa,
}

impl Key {
    /// Reads PKCS#8 in PEM form, whose line ends may be written `\n` as environment files do.
    /// `passphrase_name`: the variable that the passphrase is in.
    pub fn read(
        pem: &SecretString,
        passphrase: Option<&SecretString>,
        passphrase_name: &str,
    ) -> Result<Key, BadKey> {
        let text: SecretString =
            format!("{}\n", pem.expose_secret().replace("\\n", "\n").trim()).into();
        let (label, document) =
            SecretDocument::from_pem(text.expose_secret()).map_err(|_| BadKey::NotPem)?;
        let document = match (label, passphrase) {
            ("PRIVATE KEY", _) => document,
            ("ENCRYPTED PRIVATE KEY", None) => {
                return Err(BadKey::NeedsPassphrase(passphrase_name.to_owned()));
            }
            ("ENCRYPTED PRIVATE KEY", Some(passphrase)) => {
                let encrypted = EncryptedPrivateKeyInfo::try_from(document.as_bytes())
                    .map_err(|_| BadKey::NotPem)?;
                encrypted
                    .decrypt(passphrase.expose_secret())
                    .map_err(|_| BadKey::WrongPassphrase)?
            }
            (other, _) => return Err(BadKey::OtherForm(other.to_owned())),
        };
        RsaKeyPair::from_pkcs8(document.as_bytes())
            .map(|pair| Key { pair })
            .map_err(|_| BadKey::NotRsa)
    }

    /// `SHA256:…` of the public key, as `DESC USER` shows it (RSA_PUBLIC_KEY_FP). Not a secret.
    pub fn fingerprint(&self) -> Result<String, BadKey> {
        let public: PublicKeyX509Der<'_> =
            self.pair.public_key().as_der().map_err(|_| BadKey::NotRsa)?;
        Ok(format!("SHA256:{}", BASE64.encode(digest(&SHA256, public.as_ref()).as_ref())))
    }

    /// A token by which Snowflake knows the user (JSON Web Token, RS256); `account` without region.
    pub fn token(&self, account: &str, user: &str) -> Result<SecretString, BadKey> {
        let whose = format!("{}.{}", account.to_uppercase(), user.to_uppercase());
        let from = crate::clock::now().saturating_sub(CLOCK_DIFFERENCE_MAX);
        let claims = serde_json::json!({
            "iss": format!("{whose}.{}", self.fingerprint()?),
            "sub": whose,
            "iat": from.as_secs(),
            "exp": (from + CLOCK_DIFFERENCE_MAX + TOKEN_TIME).as_secs(),
        });
        let signed = format!(
            "{}.{}",
            BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"RS256"}"#),
            BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
        );
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| BadKey::NotRsa)?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of nobody's, made for the tests by `openssl pkcs8 -topk8 -v2 des3`.
    const ENCRYPTED: &str = include_str!("../../../../tests/it/services/snowflake_key.p8");

    fn read(pem: &str, passphrase: Option<&str>) -> Result<Key, BadKey> {
        Key::read(&pem.into(), passphrase.map(SecretString::from).as_ref(), "KEY_PASSPHRASE")
    }

    #[test]
    fn an_encrypted_key_is_opened_and_has_the_fingerprint_that_openssl_computes()
    -> Result<(), BadKey> {
        let expected = "SHA256:1ccjtTpULcv/YtgwpQOYoRnHWYjpRG3HQa29pqxbrE0=";
        assert_eq!(read(ENCRYPTED, Some("open-sesame"))?.fingerprint()?, expected);
        assert_eq!(
            read(&ENCRYPTED.replace('\n', "\\n"), Some("open-sesame"))?.fingerprint()?,
            expected
        );
        Ok(())
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said() {
        let wrong = |pem: &str, passphrase| read(pem, passphrase).err();
        assert_eq!(wrong(ENCRYPTED, None), Some(BadKey::NeedsPassphrase("KEY_PASSPHRASE".into())));
        assert_eq!(wrong(ENCRYPTED, Some("sesame")), Some(BadKey::WrongPassphrase));
        assert_eq!(wrong("no key", None), Some(BadKey::NotPem));
        assert_eq!(
            wrong("-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----", None),
            Some(BadKey::OtherForm("RSA PRIVATE KEY".into()))
        );
        assert_eq!(
            wrong("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----", None),
            Some(BadKey::NotRsa)
        );
    }
}
