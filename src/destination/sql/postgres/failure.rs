//! What PostgreSQL's errors mean for EDS, and what of them may be shown.

use tokio_postgres::error::DbError;

use crate::cause::chain;
use crate::destination::FailureKind::{Misconfigured, Rejected, SchemaMismatch, Unavailable};
use crate::destination::sql::codes::{CodeRule, Codes, ErrorCode, ShownMessage, rule_for};
use crate::destination::{Failure, Settings};

/// Two rows have the same value in a unique index.
pub const UNIQUE_VIOLATION: &str = "23505";

const SEE_CODES: &str = "see PostgreSQL's error codes";

/// What SQLSTATEs mean. The messages of classes 22, 23, 54 and P0 may quote values of rows.
const RULES: &[CodeRule] = &[
    // Missing table or column; a statement prepared before a table changed.
    CodeRule::own_message(SchemaMismatch, Codes::States(&["42P01", "42703", "0A000"])),
    // A column has become NOT NULL.
    CodeRule::with_reason(SchemaMismatch, SEE_CODES, Codes::States(&["23502"])),
    // Missing right, database or schema.
    CodeRule::own_message(Misconfigured, Codes::States(&["42501", "3D000", "3F000"])),
    // No unique index for ON CONFLICT; wrong kind of object; wrong type of column.
    CodeRule::own_message(Misconfigured, Codes::States(&["42P10", "42809", "42804"])),
    // Refused logins.
    CodeRule::own_message(Misconfigured, Codes::Classes(&["28"])),
    CodeRule::with_reason(
        Rejected,
        "too long for its column; ALTER TABLE … ALTER COLUMN … TYPE text cures it",
        Codes::States(&["22001"]),
    ),
    CodeRule::with_reason(Rejected, "number out of range", Codes::States(&["22003"])),
    CodeRule::with_reason(
        Rejected,
        "date or time out of range",
        Codes::States(&["22007", "22008"]),
    ),
    CodeRule::with_reason(
        Rejected,
        "characters that the database's encoding lacks",
        Codes::States(&["22021", "22P05"]),
    ),
    CodeRule::with_reason(
        Rejected,
        "not of the column's type",
        Codes::States(&["22P02", "22P03", "22032"]),
    ),
    CodeRule::with_reason(Rejected, "a foreign key points nowhere", Codes::States(&["23503"])),
    CodeRule::with_reason(
        Rejected,
        "another row has the same value in a unique column",
        Codes::States(&[UNIQUE_VIOLATION]),
    ),
    CodeRule::with_reason(Rejected, "a check of the table fails", Codes::States(&["23514"])),
    CodeRule::with_reason(Rejected, "too large for an index or a row", Codes::States(&["54000"])),
    // Data exceptions, broken constraints, program limits.
    CodeRule::with_reason(Rejected, SEE_CODES, Codes::Classes(&["22", "23", "54"])),
    // A trigger's own error, which may pass.
    CodeRule::with_reason(Unavailable, SEE_CODES, Codes::Classes(&["P0"])),
];

/// The failure with this text, of the kind that the rules give the error.
fn with_text(error: &DbError, text: String) -> Failure {
    let code = error.code().code();
    let rule = rule_for(RULES, &[ErrorCode::State(code)]);
    Failure::new(rule.kind, text).with_code(code.to_owned())
}

/// What a user reads of the error: names of columns and constraints, never values.
fn shown(error: &DbError) -> String {
    let code = error.code().code();
    let mut text = match rule_for(RULES, &[ErrorCode::State(code)]).shown {
        ShownMessage::Own => format!("PostgreSQL: {} ({code})", error.message()),
        ShownMessage::Reason(reason) => format!("PostgreSQL refuses a value ({code}, {reason})"),
    };
    for (what, name) in [("column", error.column()), ("constraint", error.constraint())] {
        if let Some(name) = name {
            text += &format!(", {what} {name:?}");
        }
    }
    text
}

/// The failure of a statement.
pub fn failure(error: &tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(db) => with_text(db, shown(db)),
        None => {
            Failure::unavailable(format!("the connection to PostgreSQL broke: {}", chain(error)))
        }
    }
}

/// The failure of a connection that was not made, with its cure.
pub fn refused_connection(
    error: &tokio_postgres::Error,
    settings: &Settings,
    port: u16,
) -> Failure {
    let place = format!("{}:{port}", settings.host);
    let Some(db) = error.as_db_error() else {
        let text = chain(error);
        let tls = text.contains("tls") || text.contains("TLS") || text.contains("certificate");
        return match tls {
            true => Failure::misconfigured(format!(
                "no encrypted connection to PostgreSQL at {place}: {text}; see sslmode and \
                 sslrootcert in `eds drivers postgres`"
            )),
            false if text.contains("password missing") => Failure::misconfigured(format!(
                "PostgreSQL at {place} asks for a password and the URL has none"
            )),
            false => Failure::unavailable(format!(
                "PostgreSQL at {place} cannot be reached: {text}; is it running, and are host and \
                 port right?"
            )),
        };
    };
    let text = match db.code().code() {
        "28P01" => {
            format!("PostgreSQL at {place} refuses the password of user {:?}", settings.user)
        }
        "28000" => format!(
            "PostgreSQL at {place} does not let user {:?} in: {}",
            settings.user,
            db.message()
        ),
        "3D000" => format!(
            "PostgreSQL at {place} has no database {:?}: make it with CREATE DATABASE, or \
             correct the URL",
            settings.database()
        ),
        _ => format!("PostgreSQL at {place}: {}", shown(db)),
    };
    with_text(db, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::sql::codes::assert_rules;

    #[test]
    fn each_rule_decides() {
        let state = ErrorCode::State;
        assert_rules(
            RULES,
            &[
                (&[state("42P01")], SchemaMismatch),
                (&[state("23502")], SchemaMismatch),
                (&[state("42501")], Misconfigured),
                (&[state("42P10")], Misconfigured),
                (&[state("28P01")], Misconfigured),
                (&[state("22001")], Rejected),
                (&[state("22003")], Rejected),
                (&[state("22008")], Rejected),
                (&[state("22021")], Rejected),
                (&[state("22P02")], Rejected),
                (&[state("23503")], Rejected),
                (&[state("23505")], Rejected),
                (&[state("23514")], Rejected),
                (&[state("54000")], Rejected),
                (&[state("22012")], Rejected),
                (&[state("23P01")], Rejected),
                (&[state("54001")], Rejected),
                (&[state("P0001")], Unavailable),
                (&[state("53100")], Unavailable),
                (&[state("55P03")], Unavailable),
                (&[state("40P01")], Unavailable),
                (&[state("57P01")], Unavailable),
                (&[state("XX000")], Unavailable),
            ],
        );
    }
}
