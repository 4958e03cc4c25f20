//! Why a call of a destination failed, and what the caller does about it.

use std::borrow::Cow;

use crate::help::HelpCode;

/// What the caller does about a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// The caller waits, connects again, reads the checkpoint again and retries from there. Also
    /// the kind of everything that is not known to be one of the others.
    Unavailable,
    /// A change cannot be stored as it is: the caller narrows the batch down to the changes at
    /// fault and writes those as dead letters.
    Rejected,
    /// The tables differ from what this process read of them: the caller reads them again and
    /// retries once.
    SchemaMismatch,
    /// One table cannot be written now, whatever the change: a lock, a missing right, another
    /// shape, a program limit. Others can: the caller keeps the table's changes apart, and tries
    /// again. The connection still works. Where no table is named, it counts as `Unavailable`.
    TableUnavailable,
    /// Only a person can cure it: settings, rights, a missing database.
    Misconfigured,
    /// Another process has taken over: this one exits.
    Fenced,
}

/// Why a call failed: what a user reads, without values of rows and without secrets.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", self.help().tag(text))]
pub struct Failure {
    /// What the caller does about it.
    pub kind: FailureKind,
    /// What happened and, where there is one, the cure. Names of tables and columns appear in it,
    /// values of rows never.
    pub text: String,
    /// The database's own code of the error, as the database writes it: SQLSTATE of PostgreSQL
    /// (`40P01`), number of MySQL and SQL Server (`1205`), extended code of SQLite (`2067`), code
    /// of Snowflake with its zeros (`000625`). `None` where no database named one, as when a
    /// connection breaks.
    pub code: Option<Cow<'static, str>>,
    /// The table that it is about, as the source calls it; `None` where it is not about one.
    pub table: Option<Box<str>>,
    /// The changes of the batch that are known to be at fault, by index, each with the reason.
    /// Empty where the destination does not tell which ones are.
    pub culprits: Vec<(u32, String)>,
    /// What a user can do about it, where more than the kind is known.
    pub known_help: Option<HelpCode>,
}

impl Failure {
    /// A failure of this kind, without code or culprits.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Failure {
        Failure {
            kind,
            text: text.into(),
            code: None,
            table: None,
            culprits: Vec::new(),
            known_help: None,
        }
    }

    /// The destination cannot be used now; trying again later may help.
    pub fn unavailable(text: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Unavailable, text)
    }

    /// Only a person can cure it.
    pub fn misconfigured(text: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Misconfigured, text)
    }

    /// The changes `culprits` do not fit their columns.
    pub fn rejected(culprits: Vec<(u32, String)>) -> Failure {
        let text = culprits.first().map(|(_, why)| why.clone()).unwrap_or_default();
        Failure { culprits, ..Failure::new(FailureKind::Rejected, text) }
    }

    /// The same failure with the database's own code.
    pub fn with_code(self, code: impl Into<Cow<'static, str>>) -> Failure {
        Failure { code: Some(code.into()), ..self }
    }

    /// The same failure with the page that helps.
    pub fn with_help(self, help: impl Into<Option<HelpCode>>) -> Failure {
        Failure { known_help: help.into(), ..self }
    }

    /// The page that helps: its own, or that of its kind.
    pub fn help(&self) -> HelpCode {
        self.known_help.unwrap_or(match self.kind {
            FailureKind::Unavailable => HelpCode::DestinationUnavailable,
            FailureKind::Rejected => HelpCode::LetterRefused,
            FailureKind::SchemaMismatch => HelpCode::TableShape,
            FailureKind::TableUnavailable => HelpCode::TableUnavailable,
            FailureKind::Misconfigured => HelpCode::DestinationSettings,
            FailureKind::Fenced => HelpCode::TakenOver,
        })
    }

    /// Whether the database reported exactly this code.
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether a row that another one refers to is missing, or still referred to: it passes once
    /// the rows of another table have come.
    pub fn is_of_foreign_key(&self) -> bool {
        const CODES: [&str; 9] =
            ["23503", "23001", "1216", "1217", "1451", "1452", "1761", "547", "787"];
        self.code.as_deref().is_some_and(|code| CODES.contains(&code))
    }

    /// Names the table in front of the text, where the failure is about one and no culprit names
    /// it yet.
    pub fn of_table(self, table: &str) -> Failure {
        let is_about_table = match self.kind {
            FailureKind::Rejected => self.culprits.is_empty(),
            FailureKind::TableUnavailable
            | FailureKind::SchemaMismatch
            | FailureKind::Misconfigured => true,
            FailureKind::Unavailable | FailureKind::Fenced => false,
        };
        // What the database itself refuses of one table, a right, stops no other.
        let kind = match self.kind {
            FailureKind::Misconfigured if self.code.is_some() => FailureKind::TableUnavailable,
            kind => kind,
        };
        match is_about_table && self.table.is_none() {
            true => Failure {
                kind,
                text: format!("table {table:?}: {}", self.text),
                table: Some(table.into()),
                ..self
            },
            false => self,
        }
    }
}
