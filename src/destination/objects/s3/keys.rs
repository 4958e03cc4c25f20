//! With which keys requests are signed: the URL's, the environment's, those of a file, the
//! machine's role. A file is read for each request, so that keys in it may change at any time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use object_store::{CredentialProvider, StaticCredentialProvider};

use crate::destination::{Failure, Settings};

/// The keys that the client would not find by itself; `None` where those of the environment or the
/// machine's role count.
pub fn chosen(settings: &Settings) -> Result<Option<AwsCredentialProvider>, Failure> {
    let option = |name: &str| settings.parameter(name).filter(|value| !value.is_empty());
    if let Some(key_id) = option("access-key-id") {
        let keys = AwsCredential {
            key_id: key_id.to_owned(),
            secret_key: option("secret-access-key").unwrap_or_default().to_owned(),
            // Not the environment's: that belongs to other keys.
            token: option("session-token").map(str::to_owned),
        };
        return Ok(Some(Arc::new(StaticCredentialProvider::new(keys))));
    }
    if option("session-token").is_some() || option("secret-access-key").is_some() {
        return Err(Failure::misconfigured(
            "the S3 URL has secret-access-key or session-token without the access-key-id that it \
             belongs to",
        ));
    }
    let has = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if has("AWS_ACCESS_KEY_ID") || (has("AWS_WEB_IDENTITY_TOKEN_FILE") && has("AWS_ROLE_ARN")) {
        return Ok(None);
    }
    let file = KeyFile::of_environment();
    Ok(file.filter(|file| file.read().is_some()).map(|file| Arc::new(file) as _))
}

/// A file of keys as the AWS tools write it, with a section for each profile.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    profile: String,
    /// The keys that were read last: the file may be away for the moment in which it is replaced.
    last: Mutex<Option<Arc<AwsCredential>>>,
}

impl KeyFile {
    fn new(path: &Path, profile: &str) -> KeyFile {
        KeyFile { path: path.into(), profile: profile.into(), last: Mutex::new(None) }
    }

    fn of_environment() -> Option<KeyFile> {
        let named = std::env::var_os("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let usual = || std::env::home_dir().map(|home| home.join(".aws/credentials"));
        let profile = std::env::var("AWS_PROFILE").ok().filter(|profile| !profile.is_empty());
        let path = named.filter(|path| !path.as_os_str().is_empty()).or_else(usual)?;
        Some(KeyFile::new(&path, profile.as_deref().unwrap_or("default")))
    }

    /// The keys as the file has them now; `None` where it cannot be read or has none.
    fn read(&self) -> Option<AwsCredential> {
        keys_of(&std::fs::read_to_string(&self.path).ok()?, &self.profile)
    }
}

#[async_trait]
impl CredentialProvider for KeyFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = self.read() {
            *last = Some(Arc::new(keys));
        }
        last.clone().ok_or_else(|| object_store::Error::Generic {
            store: "S3",
            source: std::io::Error::other("the file of keys has none for this profile").into(),
        })
    }
}

/// The keys of a profile in the text of a file of keys.
fn keys_of(text: &str, profile: &str) -> Option<AwsCredential> {
    let mut is_in_profile = false;
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_in_profile = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| is_in_profile) {
            let slot = match name.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" => &mut key_id,
                "aws_secret_access_key" => &mut secret_key,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            *slot = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    Some(AwsCredential { key_id: key_id?, secret_key: secret_key?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_their_profile() {
        let text = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=s/+=\n\
                    [ other ]\nAWS_ACCESS_KEY_ID=B\naws_secret_access_key = t\n\
                    aws_session_token = x==\nregion = r\n[half]\naws_access_key_id=C\n";
        let of = |profile: &str| {
            keys_of(text, profile).map(|keys| (keys.key_id, keys.secret_key, keys.token))
        };
        assert_eq!(of("default"), Some(("A".into(), "s/+=".into(), None)));
        assert_eq!(of("other"), Some(("B".into(), "t".into(), Some("x==".into()))));
        assert_eq!((of("half"), of("none")), (None, None));
    }

    #[tokio::test]
    async fn a_file_is_read_for_each_request() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("credentials");
        let file = KeyFile::new(&path, "default");
        assert!(file.get_credential().await.is_err());
        for key in ["A", "B"] {
            let text = format!("[default]\naws_access_key_id={key}\naws_secret_access_key=s\n");
            std::fs::write(&path, text)?;
            assert_eq!(file.get_credential().await?.key_id, key);
        }
        // Away, and half written.
        std::fs::write(&path, "[default]\naws_access_key_id=C\n")?;
        assert_eq!(file.get_credential().await?.key_id, "B");
        std::fs::remove_file(&path)?;
        assert_eq!(file.get_credential().await?.key_id, "B");
        Ok(())
    }
}
