//! What SQL Server's errors mean for EDS, and what of them may be shown.

use tiberius::error::{Error, TokenError};

use crate::destination::FailureKind::{Misconfigured, Rejected, SchemaMismatch};
use crate::destination::sql::codes::{CodeRule, Codes, ErrorCode, ShownMessage, rule_for};
use crate::destination::{Failure, Settings};

/// A value too long for its column; the only message that names the column in a fixed form.
const TOO_LONG: u32 = 2628;

/// What the server's numbers mean. Messages about data quote values of rows.
const RULES: &[CodeRule] = &[
    // Missing table or column; a column has become NOT NULL; a temporary table that was made
    // before a table changed.
    CodeRule::own_message(SchemaMismatch, Codes::Numbers(&[208, 207, 515, 213, 4902, 4924])),
    // Refused login.
    CodeRule::own_message(Misconfigured, Codes::Numbers(&[18456, 18452, 18470, 18487, 18488])),
    // Missing right, database or schema; the firewall of Azure.
    CodeRule::own_message(
        Misconfigured,
        Codes::Numbers(&[4060, 911, 229, 230, 262, 300, 916, 2760, 1088, 15247, 40615]),
    ),
    CodeRule::with_reason(
        Rejected,
        "too long for its column; ALTER TABLE … ALTER COLUMN … NVARCHAR(MAX), or for a key \
         NVARCHAR(400), cures it",
        Codes::Numbers(&[TOO_LONG, 8152]),
    ),
    CodeRule::with_reason(Rejected, "number out of range", Codes::Numbers(&[8115, 220, 232])),
    CodeRule::with_reason(
        Rejected,
        "not of the column's type",
        Codes::Numbers(&[241, 242, 245, 295, 8114, 13609]),
    ),
    CodeRule::with_reason(
        Rejected,
        "another row has the same value in a unique index",
        Codes::Numbers(&[2627, 2601]),
    ),
    CodeRule::with_reason(
        Rejected,
        "a foreign key points nowhere, or a check of the table fails",
        Codes::Numbers(&[547]),
    ),
    CodeRule::with_reason(
        Rejected,
        "too large for a row or an index",
        Codes::Numbers(&[511, 1946]),
    ),
    CodeRule::with_reason(Rejected, "refused by a trigger", Codes::Numbers(&[50000])),
    // The statement was ended because of another error; an error in a user's own code.
    CodeRule::with_reason(
        Rejected,
        "see SQL Server's list of errors",
        Codes::Numbers(&[3621, 6522]),
    ),
];

fn rule(code: u32) -> &'static CodeRule {
    rule_for(RULES, &[ErrorCode::Number(code)])
}

/// The failure with this text, of the kind that the rules give the error.
fn with_text(error: &TokenError, text: String) -> Failure {
    Failure::new(rule(error.code()).kind, text).with_code(error.code().to_string())
}

/// What a user reads of the error: its number, and the column where it is named in a fixed form;
/// never values.
fn shown(error: &TokenError) -> String {
    let code = error.code();
    let reason = match rule(code).shown {
        ShownMessage::Own => return format!("SQL Server: {} ({code})", error.message()),
        ShownMessage::Reason(reason) => reason,
    };
    let column = error
        .message()
        .split_once(", column '")
        .and_then(|(_, rest)| rest.split('\'').next())
        .filter(|_| code == TOO_LONG);
    let column = column.map(|name| format!(", column {name:?}")).unwrap_or_default();
    format!("SQL Server refuses a value ({code}, {reason}){column}")
}

/// The failure of a statement.
pub fn failure(error: &Error) -> Failure {
    match error {
        Error::Server(server) => with_text(server, shown(server)),
        Error::BulkInput(_) | Error::Encoding(_) => Failure::new(
            Rejected,
            "SQL Server's client refuses a value: it does not fit its column",
        ),
        // Text of these may quote what was read.
        Error::Conversion(_) | Error::Utf8 | Error::Utf16 | Error::ParseInt(_) => {
            Failure::unavailable("SQL Server answered in a form that EDS does not know")
        }
        other => Failure::unavailable(format!("the connection to SQL Server broke: {other}")),
    }
}

/// The failure of a connection that was not made, with its cure. `place` is host and port,
/// `database` the one that the URL names.
pub fn refused_connection(
    error: &Error,
    settings: &Settings,
    place: &str,
    database: &str,
) -> Failure {
    match error {
        Error::Server(server) => {
            let text = match server.code() {
                18456 | 18452 => format!(
                    "SQL Server at {place} refuses user {:?} or the password",
                    settings.user
                ),
                4060 | 911 => format!(
                    "SQL Server at {place} has no database {database:?} for this user: make it \
                     with CREATE DATABASE, or correct the URL"
                ),
                40615 => format!(
                    "the firewall of SQL Server at {place} does not let this machine in: {}",
                    server.message()
                ),
                _ => format!("SQL Server at {place}: {}", shown(server)),
            };
            with_text(server, text)
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
    use crate::destination::FailureKind::Unavailable;
    use crate::destination::sql::codes::assert_rules;

    #[test]
    fn each_rule_decides() {
        let number = ErrorCode::Number;
        assert_rules(
            RULES,
            &[
                (&[number(208)], SchemaMismatch),
                (&[number(18456)], Misconfigured),
                (&[number(4060)], Misconfigured),
                (&[number(8152)], Rejected),
                (&[number(8115)], Rejected),
                (&[number(245)], Rejected),
                (&[number(2627)], Rejected),
                (&[number(547)], Rejected),
                (&[number(511)], Rejected),
                (&[number(50000)], Rejected),
                (&[number(3621)], Rejected),
                (&[number(1205)], Unavailable),
                (&[number(1222)], Unavailable),
                (&[number(40613)], Unavailable),
                (&[number(40501)], Unavailable),
                (&[number(1105)], Unavailable),
            ],
        );
    }
}
