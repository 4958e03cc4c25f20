//! What SQL Server's errors mean for EDS, and what of them may be shown.

use tiberius::error::{Error, TokenError};

use super::login::database;
use crate::destination::{Failure, FailureKind, Settings};

/// What to do about an error of this number.
fn kind(code: u32) -> FailureKind {
    match code {
        // Missing table or column; a column that became NOT NULL; a temporary table that does not
        // fit any more.
        208 | 207 | 515 | 213 | 4902 | 4924 => FailureKind::SchemaMismatch,
        // Refused login or right, unknown database or schema.
        18456 | 18452 | 18470 | 18487 | 18488 | 4060 | 911 | 229 | 230 | 262 | 300 | 916 | 2760
        | 1088 | 15247 | 40615 => FailureKind::Misconfigured,
        // Too long, out of range, not of the column's type; broken keys and checks; rows that are
        // too large; a trigger's refusal.
        2628 | 8152 | 8115 | 220 | 232 | 241 | 242 | 245 | 295 | 8114 | 13609 | 2627 | 2601
        | 547 | 511 | 1946 | 50000 | 3621 | 6522 => FailureKind::Rejected,
        _ => FailureKind::Unavailable,
    }
}

fn meaning(code: u32) -> &'static str {
    match code {
        2628 | 8152 => {
            "too long for its column; ALTER TABLE … ALTER COLUMN … NVARCHAR(MAX), or for a key \
             NVARCHAR(400), cures it"
        }
        8115 | 220 | 232 => "number out of range",
        241 | 242 | 245 | 295 | 8114 | 13609 => "not of the column's type",
        2627 | 2601 => "another row has the same value in a unique index",
        547 => "a foreign key points nowhere, or a check of the table fails",
        511 | 1946 => "too large for a row or an index",
        50000 => "refused by a trigger",
        _ => "see SQL Server's list of errors",
    }
}

/// SQL Server quotes values in its messages about data: of those only the number is shown, and the
/// column where it is named in a fixed form.
fn shown(error: &TokenError) -> String {
    if kind(error.code()) != FailureKind::Rejected {
        return format!("SQL Server: {} ({})", error.message(), error.code());
    }
    let column = error
        .message()
        .split_once(", column '")
        .and_then(|(_, rest)| rest.split('\'').next())
        .filter(|_| error.code() == 2628);
    let column = column.map(|name| format!(", column {name:?}")).unwrap_or_default();
    format!("SQL Server refuses a value ({}, {}){column}", error.code(), meaning(error.code()))
}

pub fn failure(error: &Error) -> Failure {
    match error {
        Error::Server(server) => Failure::new(kind(server.code()), shown(server)),
        Error::BulkInput(_) | Error::Encoding(_) => Failure::new(
            FailureKind::Rejected,
            "SQL Server's client refuses a value: it does not fit its column",
        ),
        // Text of these may quote what was read.
        Error::Conversion(_) | Error::Utf8 | Error::Utf16 | Error::ParseInt(_) => {
            Failure::unavailable("SQL Server answered in a form that EDS does not know")
        }
        other => Failure::unavailable(format!("the connection to SQL Server broke: {other}")),
    }
}

/// Why no connection came about, with what cures it.
pub fn refused_connection(error: &Error, settings: &Settings, place: &str) -> Failure {
    match error {
        Error::Server(server) => {
            let text = match server.code() {
                18456 | 18452 => format!(
                    "SQL Server at {place} refuses user {:?} or the password",
                    settings.user
                ),
                4060 | 911 => format!(
                    "SQL Server at {place} has no database {:?} for this user: make it with CREATE \
                     DATABASE, or correct the URL",
                    database(settings)
                ),
                40615 => format!(
                    "the firewall of SQL Server at {place} does not let this machine in: {}",
                    server.message()
                ),
                _ => format!("SQL Server at {place}: {}", shown(server)),
            };
            Failure::new(kind(server.code()), text)
        }
        Error::Tls(why) => Failure::misconfigured(format!(
            "no encrypted connection to SQL Server at {place}: {why}; see encrypt in `eds \
             drivers sqlserver`"
        )),
        other => Failure::unavailable(format!(
            "SQL Server at {place} cannot be reached: {other}; is it running, and are host and \
             port right?"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_says_what_to_do() {
        let cases = [
            (1205, FailureKind::Unavailable),
            (1222, FailureKind::Unavailable),
            (40613, FailureKind::Unavailable),
            (40501, FailureKind::Unavailable),
            (1105, FailureKind::Unavailable),
            (2627, FailureKind::Rejected),
            (8152, FailureKind::Rejected),
            (208, FailureKind::SchemaMismatch),
            (18456, FailureKind::Misconfigured),
        ];
        for (code, expected) in cases {
            assert_eq!(kind(code), expected, "{code}");
        }
    }
}
