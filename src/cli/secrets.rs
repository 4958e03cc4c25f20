//! Secrets among arguments: warned of, and kept out of messages.

use std::ffi::OsString;

use clap::Error;
use tracing::warn;

use crate::secret::{has_login, mask_url};

/// The only argument that is nothing but a secret.
#[cfg(feature = "http")]
const API_KEY: &str = "--api-key";
/// Warned of where it is read: only its driver knows which options are secret.
const URL: &str = "--url";

/// Warns of arguments that hold a login: every user of the machine can read them.
pub fn warn_of_arguments() {
    let arguments: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let found = flags_with_secrets(&arguments);
    if !found.is_empty() {
        warn!(
            "the secret in {} can be read by every user of this machine in the process list",
            found.join(", ")
        );
    }
}

fn flags_with_secrets(arguments: &[String]) -> Vec<&str> {
    let mut found = Vec::new();
    let mut flag = "";
    for word in arguments {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, value),
            _ if word.starts_with("--") => (word.as_str(), ""),
            _ => (flag, word.as_str()),
        };
        let is_url = value.contains("://") && has_login(value) && name != URL;
        #[cfg(feature = "http")]
        let is_url = is_url || (name == API_KEY && !value.is_empty());
        if is_url && !found.contains(&name) {
            found.push(name);
        }
        flag = if value.is_empty() { name } else { "" };
    }
    found
}

/// The text of an error about arguments without the logins that it repeats.
pub fn without_logins(error: &Error, arguments: &[OsString]) -> String {
    let mut text = error.render().to_string();
    for word in arguments {
        let word = word.to_string_lossy();
        for part in [&*word, word.split_once('=').map_or("", |(_, value)| value)] {
            if part.contains("://") {
                text = text.replace(part, &mask_url(part, |_| false));
            }
        }
    }
    text
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::*;

    #[test]
    fn arguments_with_secrets_are_named_and_not_shown() {
        let line = "eds server --server nats://me:s3cret@h --api-key=s3cret --url pg://u:p@h/d \
                    --schema http://h/s --api-url=http://u:s3cret@h --port 1";
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        assert_eq!(flags_with_secrets(&words), ["--server", "--api-key", "--api-url"]);
        let command = clap::Command::new("eds");
        let words = ["eds", "pg://u:s3cret@h/d", "--x=pg://u:s3cret@h/d"].map(OsString::from);
        let error = command.try_get_matches_from(&words).err();
        let text = error.map(|e| without_logins(&e, &words)).unwrap_or_default();
        assert!(text.contains(":****@h/") && !text.contains("cret"), "{text}");
    }
}
