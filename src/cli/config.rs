//! `config.toml` in the data directory: what an enrolled server knows of itself.

use std::path::Path;

use secrecy::SecretString;
use toml_edit::DocumentMut;

use super::exit::Exit;

/// The name of the file.
pub const FILE_NAME: &str = "config.toml";

/// What the file says; flags win over it.
#[derive(Debug, Default)]
pub struct Config {
    pub token: Option<SecretString>,
    /// The destination.
    pub url: Option<String>,
}

impl Config {
    /// Reads the file, if there is one.
    pub fn read(data_dir: &Path) -> Result<Config, Exit> {
        let path = data_dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(e) => return Err(Exit::Failed(format!("{} cannot be read: {e}", path.display()))),
        };
        // The message of the parser would show the line, and with it a secret.
        let document: DocumentMut = text.parse().map_err(|_| Exit::Failed(format!("{} is not TOML: correct it, or remove it and enrol again", path.display())))?;
        let word = |key: &str| document.get(key).and_then(|item| item.as_str()).filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Config { token: word("token").map(SecretString::from), url: word("url") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_is_named_without_what_it_holds() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert!(Config::read(dir.path()).is_ok_and(|c| c.url.is_none()));
        std::fs::write(dir.path().join(FILE_NAME), "# mine\ntoken = \"s3cret\"\nurl = \"sqlite://x.db\"\nkeep_logs = true\n")?;
        assert!(Config::read(dir.path()).is_ok_and(|c| c.url.as_deref() == Some("sqlite://x.db") && c.token.is_some()));
        std::fs::write(dir.path().join(FILE_NAME), "token = s3cret\n")?;
        assert!(Config::read(dir.path()).is_err_and(|e| !e.text().contains("s3cret") && e.text().contains(FILE_NAME)));
        Ok(())
    }
}
