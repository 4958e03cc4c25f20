//! `config.toml` in the data directory: an enrolled server's identity and settings.

use std::io::Write;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use toml_edit::{DocumentMut, value};

use crate::private;

/// The name of the file.
pub const FILE_NAME: &str = "config.toml";

/// The settings of the file; flags of the command line win over them.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Authenticates the server at HQ.
    pub token: Option<SecretString>,
    /// The server's name at HQ.
    pub server_id: Option<String>,
    /// The destination's URL.
    pub url: Option<SecretString>,
    /// `standard` or `after`.
    pub update_strategy: Option<String>,
    /// Where alerts are posted to.
    pub webhook: Option<SecretString>,
    /// Keep logs after they are uploaded to HQ.
    pub keep_logs: bool,
    /// Columns that are left out, as `table.column`.
    pub exclude: Vec<String>,
    /// Columns whose values are hashed.
    pub hash: Vec<String>,
    /// The file with the key of the hashes.
    pub hash_key_file: Option<PathBuf>,
    /// Types of new columns, as `table.column=type`.
    pub types: Vec<String>,
    /// `hard` or `soft`.
    pub deletes: Option<String>,
    /// Columns that are added to every table.
    pub add_columns: Vec<String>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error("{} cannot be {done}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        done: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML. The parser's message is left out: it shows the line, and with it maybe
    /// a secret.
    #[error("{} is not TOML: correct it, or remove it and enrol again", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
    },
    /// A setting is of another kind: taken for nothing, it would let through what it names, or
    /// delete what is to be kept.
    #[error("{key} in {} has to be {wanted}", path.display())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
        /// What it has to be.
        wanted: &'static str,
    },
}

/// A key and the text to write; `None` removes the key.
pub type ConfigEntry<'a> = (&'static str, Option<&'a str>);

fn document(path: &Path) -> Result<DocumentMut, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(DocumentMut::new()),
        Err(source) => return Err(ConfigError::Io { path: path.to_owned(), done: "read", source }),
    };
    text.parse().map_err(|_| ConfigError::NotToml { path: path.to_owned() })
}

/// Puts a new file in the place of the old one: at every moment there is a whole one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let unfinished = path.with_file_name(format!("{FILE_NAME}.{}", std::process::id()));
    let _ = std::fs::remove_file(&unfinished);
    let written = private::create_new(&unfinished)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written?;
    // Makes the new name survive a power cut, where directories can be synced.
    if let Some(dir) = path.parent().and_then(|dir| std::fs::File::open(dir).ok()) {
        let _ = dir.sync_all();
    }
    Ok(())
}

/// Writes into the file that is there: one that is mounted into a container cannot be replaced.
/// `why`: what came of replacing it.
fn write_in_place(path: &Path, text: &str, why: std::io::Error) -> std::io::Result<()> {
    let Ok(mut file) = std::fs::File::options().write(true).open(path) else { return Err(why) };
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

impl Config {
    /// Reads the file; without one, nothing is configured. Empty texts count as absent.
    pub fn read(data_dir: &Path) -> Result<Config, ConfigError> {
        let path = data_dir.join(FILE_NAME);
        let document = document(&path)?;
        let wrong = |key, wanted| ConfigError::WrongKind { path: path.clone(), key, wanted };
        let list = |key: &'static str| {
            let Some(item) = document.get(key) else { return Ok(Vec::new()) };
            let all = item.as_array().and_then(|array| {
                array.iter().map(|text| text.as_str().map(str::to_owned)).collect()
            });
            all.ok_or_else(|| wrong(key, "a list of texts, as in [\"customers.email\"]"))
        };
        let text = |key: &'static str, wanted| match document.get(key).map(|item| item.as_str()) {
            Some(None) => Err(wrong(key, wanted)),
            Some(Some("")) | None => Ok(None),
            Some(Some(text)) => Ok(Some(text.to_owned())),
        };
        let word = |key: &str| {
            document
                .get(key)
                .and_then(|item| item.as_str())
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let flag = |key: &str| {
            document
                .get(key)
                .is_some_and(|item| item.as_bool().unwrap_or_else(|| item.as_str() == Some("true")))
        };
        Ok(Config {
            token: word("token").map(SecretString::from),
            server_id: word("server_id"),
            url: word("url").map(SecretString::from),
            update_strategy: word("update_strategy"),
            webhook: word("webhook").map(SecretString::from),
            keep_logs: flag("keep_logs"),
            exclude: list("exclude")?,
            hash: list("hash")?,
            hash_key_file: text("hash_key_file", "the name of a file")?.map(PathBuf::from),
            types: list("types")?,
            deletes: text("deletes", "\"hard\" or \"soft\"")?,
            add_columns: list("add_columns")?,
        })
    }

    /// Writes `entries` and keeps everything else in the file, comments too. The file is replaced
    /// atomically where it can be, and only its owner can read it.
    pub fn write(data_dir: &Path, entries: &[ConfigEntry<'_>]) -> Result<(), ConfigError> {
        let path = data_dir.join(FILE_NAME);
        let failed = |source| ConfigError::Io { path: path.clone(), done: "written", source };
        let mut document = document(&path)?;
        for (key, text) in entries {
            match text {
                // Replaces the value only, so that comments beside it stay.
                Some(text) => match document.get_mut(key).and_then(|item| item.as_value_mut()) {
                    Some(old) => {
                        let decor = old.decor().clone();
                        *old = (*text).into();
                        *old.decor_mut() = decor;
                    }
                    None => document[*key] = value(*text),
                },
                None => drop(document.remove(key)),
            }
        }
        std::fs::create_dir_all(data_dir).map_err(failed)?;
        let text = document.to_string();
        replace(&path, &text).or_else(|why| write_in_place(&path, &text, why)).map_err(failed)
    }

    /// The destination's URL as a text.
    pub fn url(&self) -> Option<&str> {
        self.url.as_ref().map(ExposeSecret::expose_secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Tested = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_broken_file_is_named_without_what_it_holds() -> Tested {
        let dir = tempfile::tempdir()?;
        assert!(Config::read(dir.path())?.url.is_none());
        std::fs::write(
            dir.path().join(FILE_NAME),
            "# mine\ntoken = \"s3cret\"\nurl = \"sqlite://x.db\"\nkeep_logs = true\n",
        )?;
        let config = Config::read(dir.path())?;
        assert!(
            config.url() == Some("sqlite://x.db") && config.token.is_some() && config.keep_logs
        );
        std::fs::write(dir.path().join(FILE_NAME), "token = s3cret\n")?;
        assert!(
            Config::read(dir.path()).is_err_and(
                |e| !e.to_string().contains("s3cret") && e.to_string().contains(FILE_NAME)
            )
        );
        Ok(())
    }

    #[test]
    fn what_a_person_wrote_stays() -> Tested {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(FILE_NAME);
        std::fs::write(
            &path,
            "# the shop in Dresden\ntoken = \"old\" # from May\nserver_id = \"s1\"\n\n# keep \
             them\nkeep_logs = true\nmine = [1, 2]\n",
        )?;
        Config::write(
            dir.path(),
            &[("token", Some("new\"\n")), ("server_id", None), ("url", Some("sqlite://x.db"))],
        )?;
        let text = std::fs::read_to_string(&path)?;
        for kept in [
            "# the shop in Dresden\n",
            "# from May\n",
            "# keep them\nkeep_logs = true\n",
            "mine = [1, 2]\n",
        ] {
            assert!(text.contains(kept), "{text}");
        }
        let config = Config::read(dir.path())?;
        assert_eq!(config.token.as_ref().map(|t| t.expose_secret()), Some("new\"\n"));
        assert!(config.server_id.is_none() && config.url() == Some("sqlite://x.db"));
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path)?) & 0o777, 0o600);
        Ok(())
    }
}
