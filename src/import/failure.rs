//! Why an import failed, in words that name the cure.

use crate::destination::Failure;
use crate::help::HelpCode;
use crate::pipeline::import::ImportError;
use crate::state::StateError;

/// Why an import did not come to its end. The tables are as they were, but for those that are
/// loaded by adding to them.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    /// What the user asked for cannot be done; the text says what to change.
    #[error("{0}")]
    Refused(String),
    /// The destination does not let it go on.
    #[error("{0}")]
    Destination(#[from] Failure),
    /// Anything else: HQ, a file, a row; the text says whether the same command goes on.
    #[error("{0}")]
    Failed(String),
}

impl From<StateError> for ImportFailure {
    fn from(error: StateError) -> ImportFailure {
        ImportFailure::Failed(error.to_string())
    }
}

impl From<ImportError> for ImportFailure {
    fn from(error: ImportError) -> ImportFailure {
        let help = match error {
            ImportError::BadRow(_) => HelpCode::ImportBadRow,
            ImportError::Damaged { .. } => HelpCode::ImportDamagedFile,
            _ => HelpCode::ImportFailed,
        };
        let text = match error {
            ImportError::Destination(failure) => return failure.into(),
            ImportError::BadRow(bad) => format!(
                "{bad}\nNothing was replaced. --skip-bad-rows N skips up to N such rows and lists \
                 them; the same command resumes the import"
            ),
            ImportError::Stopped => "stopped: loaded rows are kept, and nothing was replaced; the \
                same command resumes the import"
                .into(),
            ImportError::Damaged { .. } => format!(
                "{error}; nothing was replaced. The same command downloads the file again; replace \
                 a file of --dir by a complete one"
            ),
            other => format!("{other}; nothing was replaced"),
        };
        ImportFailure::Failed(help.tag(&text))
    }
}
