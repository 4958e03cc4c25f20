//! What PostgreSQL's errors mean for EDS, and what of them may be shown.

use tokio_postgres::error::{DbError, Severity};

use crate::cause::chain;
use crate::destination::FailureKind::{
    Misconfigured, Rejected, SchemaMismatch, TableUnavailable, Unavailable,
};
use crate::destination::sql::codes::{CodeRule, Codes, ErrorCode, listed_rule};
use crate::destination::sql::render::Namespace;
use crate::destination::{Failure, Settings};
use crate::help::HelpCode;

/// Two rows have the same value in a unique index.
pub const UNIQUE_VIOLATION: &str = "23505";
/// RAISE without a code of its own.
const RAISED: &str = "P0001";
/// The function of the server that RAISE runs, whatever code it was given.
const RAISE_ROUTINE: &str = "exec_stmt_raise";

/// Classes of codes that are about the session or the server where they end the session, and about
/// one statement where they do not.
const OF_STATEMENTS: [&str; 3] = ["08 (ERROR)", "53 (ERROR)", "57 (ERROR)"];

/// What EDS cannot work through.
pub const SHARED_SESSION: &str = "a pooler in transaction mode shares the session with others; connect to the server itself, \
     or to a pool in session mode";

/// What SQLSTATEs mean. The messages of classes 22, 23, 54 and P0 may quote values of rows.
const RULES: &[CodeRule] = &[
    CodeRule::own_message(
        SchemaMismatch,
        "a table or column is missing, or has changed since a statement was prepared",
        Codes::States(&["42P01", "42703", "0A000"]),
    ),
    CodeRule::with_reason(
        SchemaMismatch,
        "a column does not take NULL; EDS drops NOT NULL where the source allows null",
        Codes::States(&["23502"]),
    ),
    CodeRule::own_message(
        Misconfigured,
        "a right is missing (GRANT it), or a row level security policy hides rows from EDS (ALTER \
         ROLE … BYPASSRLS)",
        Codes::States(&["42501"]),
    )
    .helped_by(HelpCode::DestinationRight),
    CodeRule::own_message(
        Misconfigured,
        "no such database or schema",
        Codes::States(&["3D000", "3F000"]),
    )
    .helped_by(HelpCode::DatabaseMissing),
    CodeRule::own_message(Misconfigured, "the login is refused", Codes::Classes(&["28"]))
        .helped_by(HelpCode::DestinationLogin),
    CodeRule::own_message(
        TableUnavailable,
        "a lock of another session, a deadlock, or a conflict with another transaction; it passes",
        Codes::States(&["55P03", "40P01", "40001"]),
    )
    .helped_by(HelpCode::TableLocked),
    CodeRule::own_message(
        TableUnavailable,
        "the table is not of the shape that EDS needs: no unique index on the key, a column of \
         another type, no table at all; ALTER it, or let EDS make it under another name (?prefix=)",
        Codes::States(&["42P10", "42809", "42804", "42846", "42883", "428C9"]),
    )
    .helped_by(HelpCode::TableShape),
    CodeRule::own_message(
        TableUnavailable,
        "more columns than a table takes (1,600, wide ones fewer)",
        Codes::States(&["54011", "54023"]),
    )
    .helped_by(HelpCode::TableDoesNotFit),
    CodeRule::with_reason(
        TableUnavailable,
        "a foreign key: the parent row is not there yet, or children are still there; it passes \
         once they have come",
        Codes::States(&["23503", "23001"]),
    )
    .helped_by(HelpCode::ForeignKey),
    CodeRule::own_message(
        TableUnavailable,
        "the disk of the table is full, or a quota is used up; make room",
        Codes::States(&["53100", "53400"]),
    )
    .helped_by(HelpCode::DestinationFull),
    CodeRule::own_message(
        TableUnavailable,
        "somebody has cancelled the statement",
        Codes::States(&["57014"]),
    ),
    CodeRule::own_message(
        Unavailable,
        "the server only reads: a standby, or default_transaction_read_only is on",
        Codes::States(&["25006"]),
    )
    .helped_by(HelpCode::DestinationReadOnly),
    CodeRule::with_reason(Unavailable, SHARED_SESSION, Codes::States(&["26000", "42P05"]))
        .helped_by(HelpCode::Pooler),
    CodeRule::own_message(
        TableUnavailable,
        "the session goes on: another server, which a trigger or a foreign table of yours asks, or \
         room that one statement lacks",
        Codes::States(&OF_STATEMENTS),
    ),
    CodeRule::own_message(
        Unavailable,
        "the session or the server ends, or lacks memory or connections; EDS connects until it \
         works",
        Codes::Classes(&["08", "25", "40003", "53", "57", "F0"]),
    ),
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
    CodeRule::with_reason(
        Rejected,
        "another row has the same value in a unique column",
        Codes::States(&[UNIQUE_VIOLATION]),
    ),
    CodeRule::with_reason(Rejected, "a check of the table fails", Codes::States(&["23514"])),
    CodeRule::with_reason(
        Rejected,
        "two keys that the table's index does not tell apart",
        Codes::States(&["21000"]),
    ),
    CodeRule::with_reason(Rejected, "too large for an index or a row", Codes::States(&["54000"])),
    CodeRule::with_reason(
        Rejected,
        "a trigger or function of yours raises it",
        Codes::Classes(&["09", "20", "27", "2F", "38", "39", "P0"]),
    ),
    CodeRule::with_reason(
        Rejected,
        "a value, a constraint or a limit; see PostgreSQL's error codes",
        Codes::Classes(&["22", "23", "44", "54"]),
    ),
];

/// The rule for an error of this code. `ends_session`: the server ends the session with it.
/// `raised`: PL/pgSQL's RAISE has made it, so that the code may be any.
fn rule(code: &str, ends_session: bool, raised: bool) -> &'static CodeRule {
    let class = code.get(..2).unwrap_or_default();
    let of_statement =
        OF_STATEMENTS.iter().find(|listed| !ends_session && listed.starts_with(class));
    let state = ErrorCode::State;
    let codes: &[ErrorCode<'_>] = match (of_statement, raised) {
        (Some(_), true) => &[state(RAISED)],
        (Some(listed), false) => &[state(code), state(listed)],
        (None, true) => &[state(code), state(RAISED)],
        (None, false) => &[state(code)],
    };
    match listed_rule(RULES, codes) {
        Some(rule) => rule,
        None if ends_session => &CodeRule::OTHER_OF_SERVER,
        None => &CodeRule::OTHER,
    }
}

fn rule_of(error: &DbError) -> &'static CodeRule {
    let ends_session = matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    rule(error.code().code(), ends_session, error.routine() == Some(RAISE_ROUTINE))
}

/// The failure with this text, of the kind that the rules give the error.
fn with_text(error: &DbError, text: String) -> Failure {
    rule_of(error).failure(text).with_code(error.code().code().to_owned())
}

/// What a user reads of the error: names of columns and constraints, never values.
fn shown(error: &DbError) -> String {
    let mut text = rule_of(error).text("PostgreSQL", error.code().code(), error.message());
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

/// The failure of a statement that may be about any table, as a COMMIT that checks deferred
/// constraints: the server names the table.
pub fn failure_of_commit(error: &tokio_postgres::Error, namespace: &Namespace) -> Failure {
    let named = error.as_db_error().filter(|db| db.schema() == namespace.schema.as_deref());
    match named.and_then(|db| db.table()).and_then(|name| namespace.source_of(name)) {
        Some(table) => failure(error).of_table(&table),
        None => failure(error),
    }
}

/// The connection cannot be encrypted as the settings ask.
fn no_tls(text: String) -> Failure {
    Failure::misconfigured(text).with_help(HelpCode::DestinationTls)
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
            true => no_tls(format!(
                "no encrypted connection to PostgreSQL at {place}: {text}; see sslmode and \
                 sslrootcert in `eds drivers postgres`"
            )),
            false if text.contains("password missing") => Failure::misconfigured(format!(
                "PostgreSQL at {place} asks for a password and the URL has none"
            ))
            .with_help(HelpCode::DestinationLogin),
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
    match with_text(db, text) {
        refused if refused.kind == Misconfigured => refused,
        other => Failure { kind: Unavailable, ..other },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::sql::codes::{assert_documented, assert_rules};

    #[test]
    fn each_rule_decides() {
        let state = ErrorCode::State;
        assert_rules(
            RULES,
            &[
                (&[state("42P01")], SchemaMismatch),
                (&[state("23502")], SchemaMismatch),
                (&[state("42501")], Misconfigured),
                (&[state("3F000")], Misconfigured),
                (&[state("28P01")], Misconfigured),
                (&[state("55P03")], TableUnavailable),
                (&[state("40P01")], TableUnavailable),
                (&[state("42P10")], TableUnavailable),
                (&[state("42804")], TableUnavailable),
                (&[state("54011")], TableUnavailable),
                (&[state("23503")], TableUnavailable),
                (&[state("53100")], TableUnavailable),
                (&[state("57014")], TableUnavailable),
                (&[state("55000")], TableUnavailable),
                (&[state("XX000")], TableUnavailable),
                (&[state("08001"), state("08 (ERROR)")], TableUnavailable),
                (&[state("25006")], Unavailable),
                (&[state("26000")], Unavailable),
                (&[state("08006")], Unavailable),
                (&[state("25P04")], Unavailable),
                (&[state("40003")], Unavailable),
                (&[state("53300")], Unavailable),
                (&[state("57P01")], Unavailable),
                (&[state("22001")], Rejected),
                (&[state("22003")], Rejected),
                (&[state("22008")], Rejected),
                (&[state("22021")], Rejected),
                (&[state("22P02")], Rejected),
                (&[state("23505")], Rejected),
                (&[state("23514")], Rejected),
                (&[state("21000")], Rejected),
                (&[state("54000")], Rejected),
                (&[state("P0001")], Rejected),
                (&[state("38000")], Rejected),
                (&[state("22012")], Rejected),
                (&[state("23P01")], Rejected),
                (&[state("54001")], Rejected),
            ],
        );
    }

    #[test]
    fn who_raised_it_and_what_it_ends_tell_what_the_code_does_not() {
        let kind = |code, ends_session, raised| rule(code, ends_session, raised).kind;
        assert_eq!(kind("XX000", false, false), TableUnavailable);
        assert_eq!(kind("XX000", true, false), Unavailable);
        assert_eq!(kind("ZZ001", false, true), Rejected);
        assert_eq!(kind("40001", false, true), TableUnavailable);
        for code in ["08001", "53200", "57P05"] {
            assert_eq!(kind(code, true, false), Unavailable, "{code}");
            assert_eq!(kind(code, false, false), TableUnavailable, "{code}");
            assert_eq!(kind(code, false, true), Rejected, "{code}");
        }
    }

    #[test]
    fn the_codes_are_documented() -> std::io::Result<()> {
        assert_documented(RULES, "postgres")
    }
}
