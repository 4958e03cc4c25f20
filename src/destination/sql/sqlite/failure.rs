//! What SQLite's errors mean for EDS.

use std::borrow::Cow;

use crate::destination::sql::codes::{CodeRule, Codes, ErrorCode, rule_for};
use crate::destination::{Failure, FailureKind};
use crate::help::HelpCode;

/// SQLite has one code for all errors in SQL, so EDS gives those that it has to tell apart codes of
/// its own, by a part of their message.
const SQL_ERRORS: [(&str, &str); 4] = [
    ("no such", MISSING),
    ("has no column", MISSING),
    ("cannot modify", MISSING),
    ("duplicate column name", DUPLICATE_COLUMN),
];
/// The code that EDS gives an SQLite error about a column that exists: SQLite itself has one code
/// for all errors in SQL.
pub(super) const DUPLICATE_COLUMN: &str = "duplicate column";
/// A table or column that does not exist, or a view in a table's place.
const MISSING: &str = "missing";
/// `SQLITE_ERROR` and `SQLITE_SCHEMA`: the codes of errors in SQL.
const SQL_ERROR_CODES: [u32; 2] = [1, 17];

/// What SQLite's extended result codes and, behind them, their lowest eight bits mean.
const RULES: &[CodeRule] = &[
    CodeRule::own_message(
        FailureKind::SchemaMismatch,
        "a table or column is missing, or a view has its name; EDS makes what is missing again",
        Codes::States(&[MISSING]),
    ),
    CodeRule::own_message(
        FailureKind::TableUnavailable,
        "a column is there already",
        Codes::States(&[DUPLICATE_COLUMN]),
    ),
    CodeRule::own_message(
        FailureKind::TableUnavailable,
        "a foreign key (CONSTRAINT_FOREIGNKEY): the parent row is not there yet, or children are \
         still there; it passes once they have come",
        Codes::Numbers(&[787]),
    )
    .helped_by(HelpCode::ForeignKey),
    CodeRule::own_message(
        FailureKind::Rejected,
        "a value, a constraint or a trigger (TOOBIG, CONSTRAINT, MISMATCH)",
        Codes::Numbers(&[18, 19, 20]),
    ),
    CodeRule::own_message(
        FailureKind::Misconfigured,
        "the file cannot be written, or is no SQLite file (PERM, READONLY, CORRUPT, CANTOPEN, \
         NOTADB)",
        Codes::Numbers(&[3, 8, 11, 14, 26]),
    ),
    CodeRule::own_message(
        FailureKind::Unavailable,
        "another program writes to the file, the disk fails, memory is short (BUSY, NOMEM, \
         INTERRUPT, IOERR, PROTOCOL)",
        Codes::Numbers(&[5, 7, 9, 10, 15]),
    ),
    CodeRule::own_message(
        FailureKind::Unavailable,
        "the disk is full (FULL); EDS goes on once there is room",
        Codes::Numbers(&[13]),
    )
    .helped_by(HelpCode::DestinationFull),
];

pub(super) fn failure(error: &rusqlite::Error) -> Failure {
    let text = error.to_string();
    let extended = match error {
        rusqlite::Error::SqliteFailure(e, _) => Some(e.extended_code),
        rusqlite::Error::SqlInputError { error, .. } => Some(error.extended_code),
        _ => None,
    };
    let Some(extended) = extended.and_then(|code| u32::try_from(code).ok()) else {
        return Failure::unavailable(text);
    };
    let result = extended & 0xff;
    let told = SQL_ERRORS.iter().find(|(part, _)| text.contains(part)).map(|(_, code)| *code);
    let (rule, code) = match told.filter(|_| SQL_ERROR_CODES.contains(&result)) {
        Some(code) => (rule_for(RULES, &[ErrorCode::State(code)]), code.into()),
        None => {
            let codes = [extended, result].map(ErrorCode::Number);
            (rule_for(RULES, &codes), Cow::from(extended.to_string()))
        }
    };
    rule.failure(text).with_code(code)
}

/// The failure of the statement that writes the change at `index`: SQLite writes rows one by one,
/// so the culprit is known.
pub(super) fn failure_of_row(error: &rusqlite::Error, index: u32) -> Failure {
    match failure(error) {
        rejected if rejected.kind == FailureKind::Rejected => {
            Failure { culprits: vec![(index, rejected.text.clone())], ..rejected }
        }
        other => other,
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
                (&[ErrorCode::State(MISSING)], FailureKind::SchemaMismatch),
                (&[ErrorCode::State(DUPLICATE_COLUMN)], FailureKind::TableUnavailable),
                (&[number(787), number(19)], FailureKind::TableUnavailable),
                (&[number(1), number(1)], FailureKind::TableUnavailable),
                (&[number(19)], FailureKind::Rejected),
                (&[number(8)], FailureKind::Misconfigured),
                (&[number(5)], FailureKind::Unavailable),
                (&[number(13)], FailureKind::Unavailable),
            ],
        );
    }

    #[test]
    fn errors_have_codes() -> rusqlite::Result<()> {
        let db = rusqlite::Connection::open_in_memory()?;
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")?;
        let failed = |sql: &str| {
            let failed = db.execute_batch(sql).err().map(|e| failure(&e));
            failed.map(|f| (f.kind, f.code.unwrap_or_default().into_owned()))
        };
        let coded = |kind, code: &str| Some((kind, code.to_owned()));
        assert_eq!(
            failed("ALTER TABLE t ADD COLUMN id TEXT"),
            coded(FailureKind::TableUnavailable, DUPLICATE_COLUMN)
        );
        for sql in ["INSERT INTO u VALUES (1)", "INSERT INTO t (x) VALUES (1)", "SELECT x FROM t"] {
            assert_eq!(failed(sql), coded(FailureKind::SchemaMismatch, MISSING), "{sql}");
        }
        assert_eq!(failed("INSERT INTO t VALUES (1)"), coded(FailureKind::Rejected, "1555"));
        db.execute_batch(
            "PRAGMA foreign_keys = ON; CREATE TABLE child (t INTEGER REFERENCES t (id))",
        )?;
        assert_eq!(
            failed("INSERT INTO child VALUES (2)"),
            coded(FailureKind::TableUnavailable, "787")
        );
        Ok(())
    }

    #[test]
    fn the_codes_are_documented() -> std::io::Result<()> {
        assert_documented(RULES, "sqlite")
    }
}
