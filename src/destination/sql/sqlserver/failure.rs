//! What SQL Server's errors mean for EDS, and what of them may be shown.

use tiberius::error::{Error, TokenError};

use crate::destination::FailureKind::{
    Misconfigured, Rejected, SchemaMismatch, TableUnavailable, Unavailable,
};
use crate::destination::sql::codes::{CodeRule, Codes, ErrorCode, listed_rule};
use crate::destination::{Failure, Settings};
use crate::help::HelpCode;

/// A value too long for its column; the only message that names the column in a fixed form.
const TOO_LONG: u32 = 2628;

/// A FOREIGN KEY and a CHECK that fail.
const BROKEN_CONSTRAINT: u32 = 547;
/// The code that EDS gives the latter: SQL Server has one number for both.
const BROKEN_CHECK: &str = "547 of a CHECK";
/// Errors of this severity and above concern the server or the session, not the statement.
const SERVER_SEVERITY: u8 = 17;

/// What the server's numbers mean. Messages about data quote values of rows.
const RULES: &[CodeRule] = &[
    CodeRule::own_message(
        SchemaMismatch,
        "a table or column is missing, or has changed since a statement was prepared",
        Codes::Numbers(&[207, 208, 213, 2714, 4902, 4924]),
    ),
    CodeRule::own_message(
        SchemaMismatch,
        "a column does not take NULL; EDS drops NOT NULL where the source allows null",
        Codes::Numbers(&[515]),
    ),
    CodeRule::own_message(
        Misconfigured,
        "the login is refused",
        Codes::Numbers(&[18452, 18456, 18470, 18487, 18488, 40615]),
    )
    .helped_by(HelpCode::DestinationLogin),
    CodeRule::own_message(
        Misconfigured,
        "a right, the database or the schema is missing; GRANT or make it",
        Codes::Numbers(&[229, 230, 262, 300, 911, 916, 1088, 2760, 4060, 15247]),
    )
    .helped_by(HelpCode::DestinationRight),
    CodeRule::own_message(
        TableUnavailable,
        "a lock of another session, a deadlock, or a conflict with another transaction; it passes",
        Codes::Numbers(&[1205, 1222, 3960, 3961]),
    )
    .helped_by(HelpCode::TableLocked),
    CodeRule::own_message(
        TableUnavailable,
        "the table is not of the shape that EDS needs: a column of another type or collation, a \
         computed or identity column, a view; ALTER it, or let EDS make it under another name \
         (?prefix=)",
        Codes::Numbers(&[206, 257, 271, 468, 529, 544, 1934, 4405, 4406, 8101]),
    )
    .helped_by(HelpCode::TableShape),
    CodeRule::own_message(
        Misconfigured,
        "a column that cannot be altered: computed, a rowversion, an identity, or of the period of \
         a temporal table",
        Codes::Numbers(&[4928, 8147, 13599]),
    ),
    CodeRule::own_message(
        TableUnavailable,
        "more or larger columns than a table takes (1,024 columns, 8,060 bytes a row without long \
         texts), or a key that is too long (900 bytes)",
        Codes::Numbers(&[1701, 1702, 1904, 1919, 1944]),
    )
    .helped_by(HelpCode::TableDoesNotFit),
    CodeRule::with_reason(Rejected, "a check of the table fails", Codes::States(&[BROKEN_CHECK])),
    CodeRule::with_reason(
        TableUnavailable,
        "a foreign key: the parent row is not there yet, or children are still there; it passes \
         once they have come",
        Codes::Numbers(&[BROKEN_CONSTRAINT]),
    )
    .helped_by(HelpCode::ForeignKey),
    CodeRule::own_message(
        TableUnavailable,
        "no room in the table's filegroup; make room",
        Codes::Numbers(&[1101, 1105]),
    )
    .helped_by(HelpCode::DestinationFull),
    CodeRule::own_message(
        Unavailable,
        "the database only reads, or is not there now: a secondary, a failover, a restore",
        Codes::Numbers(&[
            922, 927, 942, 945, 952, 976, 978, 979, 982, 983, 3906, 3908, 40143, 40197, 40613,
        ]),
    )
    .helped_by(HelpCode::DestinationReadOnly),
    CodeRule::own_message(
        Unavailable,
        "the session or the server ends, or lacks room, memory or connections; EDS connects until \
         it works",
        Codes::Numbers(&[
            596, 701, 802, 1204, 3902, 3903, 3930, 3998, 4221, 6005, 8645, 8651, 9002, 10928,
            10929, 17142, 17148, 40501, 40540, 40544, 40549, 40550, 40551, 40552, 40553, 49918,
            49919, 49920,
        ]),
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
        Codes::Numbers(&[235, 241, 242, 245, 295, 8114, 8169, 13609]),
    ),
    CodeRule::with_reason(Rejected, "not XML as the column takes it", Codes::Range(9_400, 9_499)),
    CodeRule::with_reason(
        Rejected,
        "another row has the same value in a unique index, or a key that its collation takes for \
         this one",
        Codes::Numbers(&[2627, 2601]),
    ),
    CodeRule::with_reason(
        Rejected,
        "too large for a row or an index",
        Codes::Numbers(&[511, 1946]),
    ),
    CodeRule::with_reason(
        Rejected,
        "a trigger of yours raises it, or rolls back",
        Codes::Numbers(&[3609, 3616, 6522]),
    ),
    CodeRule::own_message(
        TableUnavailable,
        "what Babelfish has no number for; the message says more",
        Codes::Numbers(&[33_557_097]),
    ),
    CodeRule::with_reason(
        Rejected,
        "a trigger of yours raises it (RAISERROR, THROW)",
        Codes::Range(50_000, u32::MAX),
    ),
    CodeRule::with_reason(
        Rejected,
        "the statement ended because of another error",
        Codes::Numbers(&[3621]),
    ),
];

/// The rule for an error of this number, severity and message. Of the message only the words count
/// that stand before the first name and are the same in every language of the server.
fn rule(code: u32, severity: u8, message: &str) -> &'static CodeRule {
    let kind = message.split(['"', '\'']).next().unwrap_or_default();
    let codes = match code == BROKEN_CONSTRAINT && kind.contains("CHECK") {
        true => [ErrorCode::State(BROKEN_CHECK)],
        false => [ErrorCode::Number(code)],
    };
    match listed_rule(RULES, &codes) {
        Some(rule) => rule,
        None if severity >= SERVER_SEVERITY => &CodeRule::OTHER_OF_SERVER,
        None => &CodeRule::OTHER,
    }
}

fn rule_of(error: &TokenError) -> &'static CodeRule {
    rule(error.code(), error.class(), error.message())
}

/// The failure with this text, of the kind that the rules give the error.
fn with_text(error: &TokenError, text: String) -> Failure {
    rule_of(error).failure(text).with_code(error.code().to_string())
}

/// What a user reads of the error: its number, and the column where it is named in a fixed form;
/// never values.
fn shown(error: &TokenError) -> String {
    let code = error.code();
    let text = rule_of(error).text("SQL Server", code, error.message());
    let column = error
        .message()
        .split_once(", column '")
        .and_then(|(_, rest)| rest.split('\'').next())
        .filter(|_| code == TOO_LONG);
    match column {
        Some(name) => format!("{text}, column {name:?}"),
        None => text,
    }
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

/// The connection cannot be encrypted as the settings ask.
fn no_tls(text: String) -> Failure {
    Failure::misconfigured(text).with_help(HelpCode::DestinationTls)
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
            match with_text(server, text) {
                refused if refused.kind == Misconfigured => refused,
                other => Failure { kind: Unavailable, ..other },
            }
        }
        Error::Tls(why) => no_tls(format!(
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
    use crate::destination::sql::codes::{assert_documented, assert_rules};

    #[test]
    fn each_rule_decides() {
        let number = ErrorCode::Number;
        assert_rules(
            RULES,
            &[
                (&[number(208)], SchemaMismatch),
                (&[number(515)], SchemaMismatch),
                (&[number(18456)], Misconfigured),
                (&[number(229)], Misconfigured),
                (&[number(1205)], TableUnavailable),
                (&[number(1222)], TableUnavailable),
                (&[number(206)], TableUnavailable),
                (&[number(468)], TableUnavailable),
                (&[number(4928)], Misconfigured),
                (&[number(1702)], TableUnavailable),
                (&[number(547)], TableUnavailable),
                (&[number(1105)], TableUnavailable),
                (&[number(102)], TableUnavailable),
                (&[number(3906)], Unavailable),
                (&[number(40613)], Unavailable),
                (&[number(40501)], Unavailable),
                (&[number(9002)], Unavailable),
                (&[ErrorCode::State(BROKEN_CHECK)], Rejected),
                (&[number(8152)], Rejected),
                (&[number(8115)], Rejected),
                (&[number(245)], Rejected),
                (&[number(9420)], Rejected),
                (&[number(2627)], Rejected),
                (&[number(511)], Rejected),
                (&[number(3609)], Rejected),
                (&[number(33_557_097)], TableUnavailable),
                (&[number(50_000)], Rejected),
                (&[number(50_001)], Rejected),
                (&[number(2_147_483_647)], Rejected),
                (&[number(3621)], Rejected),
            ],
        );
    }

    #[test]
    fn severity_and_the_kind_of_constraint_tell_what_the_number_does_not() {
        assert_eq!(rule(823, 24, "").kind, Unavailable);
        assert_eq!(rule(823, 16, "").kind, TableUnavailable);
        let conflict = |constraint: &str| {
            let text =
                format!("The INSERT statement conflicted with the {constraint}. The conflict");
            rule(547, 16, &text).kind
        };
        assert_eq!(conflict("CHECK constraint \"FOREIGN KEY\""), Rejected);
        assert_eq!(conflict("FOREIGN KEY constraint \"CHECK\""), TableUnavailable);
        assert_eq!(conflict("REFERENCE constraint \"CHECK\""), TableUnavailable);
    }

    #[test]
    fn the_codes_are_documented() -> std::io::Result<()> {
        assert_documented(RULES, "sqlserver")
    }
}
