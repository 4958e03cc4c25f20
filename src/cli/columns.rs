//! `--exclude`, `--hash`, `--types`, `--deletes`, `--add-columns`: the arguments about columns.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

use super::Global;
use super::exit::Exit;
use crate::change::ColumnRules;
use crate::change::stamps::AddedStamps;
#[cfg(feature = "http")]
use crate::config::Config;
use crate::secret::{kept, secret_in};

/// The variable of the environment with the key of `--hash`.
const HASH_KEY_VARIABLE: &str = "EDS_HASH_KEY";

/// What becomes of single columns.
#[derive(Args, Clone, Debug)]
pub struct ColumnArgs {
    /// Leave these columns out: their values reach no destination, dead letter or log
    #[arg(long, value_name = "TABLE.COLUMN,…", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Replace the values of these columns by a keyed hash (HMAC-SHA-256): equal ones stay equal
    #[arg(long, value_name = "TABLE.COLUMN,…", value_delimiter = ',')]
    hash: Vec<String>,
    /// Read the key of --hash from this file [default: EDS_HASH_KEY]
    #[arg(long, value_name = "FILE")]
    hash_key_file: Option<PathBuf>,
    /// Make new columns in these types of the database, as in orders.total=numeric(12,2)
    #[arg(long, value_name = "TABLE.COLUMN=TYPE,…")]
    types: Vec<String>,
    /// When a row is deleted at the source: delete it (hard), or keep it and set _eds_deleted_at
    /// (soft) [default: hard]
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    deletes: Option<Deletes>,
    /// Add these columns to every table: version (_eds_version), applied-at (_eds_applied_at)
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', hide_possible_values = true)]
    add_columns: Vec<AddedColumn>,
}

/// What becomes of a row that is deleted at the source.
#[derive(Clone, Copy, PartialEq, Debug, ValueEnum)]
enum Deletes {
    Hard,
    Soft,
}

/// A column that is added to every table.
#[derive(Clone, Copy, PartialEq, Debug, ValueEnum)]
enum AddedColumn {
    Version,
    AppliedAt,
}

/// The words of the configuration.
fn words<T: ValueEnum>(key: &str, words: &[String]) -> Result<Vec<T>, Exit> {
    let word = |word: &String| {
        T::from_str(word, false).map_err(|_| {
            let all: Vec<String> = T::value_variants()
                .iter()
                .filter_map(|one| Some(one.to_possible_value()?.get_name().to_owned()))
                .collect();
            let all = all.join(", ");
            Exit::Usage(format!("{key} in config.toml has {word:?}; it may have: {all}"))
        })
    };
    words.iter().map(word).collect()
}

impl ColumnArgs {
    /// The rules about columns: the arguments go before the environment, and that before the
    /// configuration in the data directory.
    pub fn rules(&self, global: &Global) -> Result<Arc<ColumnRules>, Exit> {
        let ConfiguredColumns { exclude, hash, hash_key_file, types, deletes, add_columns } =
            configured(global)?;
        // An empty variable names nothing, and takes nothing back.
        let is_empty = |given: &[String]| given.iter().all(|text| text.trim().is_empty());
        let chosen = |given: &[String], configured| match is_empty(given) {
            true => configured,
            false => given.to_vec(),
        };
        let (exclude, hash) = (chosen(&self.exclude, exclude), chosen(&self.hash, hash));
        let key = match (&self.hash_key_file, hash.is_empty()) {
            (_, true) => None,
            (Some(file), false) => Some(hash_key_in(file)?),
            (None, false) => {
                match (kept(HASH_KEY_VARIABLE).map_err(Exit::Usage)?, &hash_key_file) {
                    (None, Some(file)) => Some(hash_key_in(file)?),
                    (kept, _) => kept,
                }
            }
        };
        let rules = ColumnRules::new(&exclude, &hash, key.as_ref());
        let rules = rules.and_then(|rules| rules.with_types(&chosen(&self.types, types)));
        let rules = rules.map_err(|e| Exit::Usage(e.to_string()))?;
        let deletes = match self.deletes {
            Some(deletes) => Some(deletes),
            None => words("deletes", &deletes)?.first().copied(),
        };
        let added = match self.add_columns.is_empty() {
            true => words("add_columns", &add_columns)?,
            false => self.add_columns.clone(),
        };
        Ok(Arc::new(rules.adding(AddedStamps {
            deleted_at: deletes == Some(Deletes::Soft),
            version: added.contains(&AddedColumn::Version),
            applied_at: added.contains(&AddedColumn::AppliedAt),
        })))
    }
}

/// What the configuration in the data directory says of columns.
#[derive(Default)]
struct ConfiguredColumns {
    exclude: Vec<String>,
    hash: Vec<String>,
    hash_key_file: Option<PathBuf>,
    types: Vec<String>,
    deletes: Vec<String>,
    add_columns: Vec<String>,
}

#[cfg(feature = "http")]
fn configured(global: &Global) -> Result<ConfiguredColumns, Exit> {
    let config = super::args::configured(global)?;
    let Config { exclude, hash, hash_key_file, types, deletes, add_columns, .. } = config;
    let deletes = deletes.into_iter().collect();
    Ok(ConfiguredColumns { exclude, hash, hash_key_file, types, deletes, add_columns })
}

/// This build reads no configuration.
#[cfg(not(feature = "http"))]
fn configured(_: &Global) -> Result<ConfiguredColumns, Exit> {
    Ok(ConfiguredColumns::default())
}

/// The key that a file has.
fn hash_key_in(file: &Path) -> Result<SecretString, Exit> {
    secret_in(file).map_err(|e| {
        Exit::Usage(format!("the key file of --hash, {}, cannot be read: {e}", file.display()))
    })
}
