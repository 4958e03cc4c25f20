//! What PostgreSQL's errors mean for EDS, and what of them may be shown.

use tokio_postgres::error::DbError;

use crate::cause::chain;
use crate::destination::{Failure, FailureKind, Settings};

/// What to do about an error of this SQLSTATE.
fn kind(code: &str) -> FailureKind {
    match code {
        // Missing table, column or schema object; a plan made before a table changed; a column that
        // became NOT NULL.
        "42P01" | "42703" | "0A000" | "23502" => FailureKind::SchemaMismatch,
        // Refused login or right, unknown database or schema, no unique index for ON CONFLICT,
        // wrong type of object.
        "42501" | "3D000" | "3F000" | "42P10" | "42809" | "42804" => FailureKind::Misconfigured,
        _ if code.starts_with("28") => FailureKind::Misconfigured,
        // Data exceptions, constraint violations, program limits.
        _ if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => {
            FailureKind::Rejected
        }
        _ => FailureKind::Unavailable,
    }
}

/// PostgreSQL quotes values in its messages about data: of those only the code and the names are
/// shown.
fn shown(error: &DbError) -> String {
    let code = error.code().code();
    let about_data = code.starts_with("22")
        || code.starts_with("23")
        || code.starts_with("54")
        || code.starts_with("P0");
    let mut text = if about_data {
        format!("PostgreSQL refuses a value ({code}, {})", meaning(code))
    } else {
        format!("PostgreSQL: {} ({code})", error.message())
    };
    for (what, name) in [("column", error.column()), ("constraint", error.constraint())] {
        if let Some(name) = name {
            text += &format!(", {what} {name:?}");
        }
    }
    text
}

fn meaning(code: &str) -> &'static str {
    match code {
        "22001" => "too long for its column; ALTER TABLE … ALTER COLUMN … TYPE text cures it",
        "22003" => "number out of range",
        "22007" | "22008" => "date or time out of range",
        "22021" | "22P05" => "characters that the database's encoding lacks",
        "22P02" | "22P03" | "22032" => "not of the column's type",
        "23503" => "a foreign key points nowhere",
        "23505" => "another row has the same value in a unique column",
        "23514" => "a check of the table fails",
        "54000" => "too large for an index or a row",
        _ => "see PostgreSQL's error codes",
    }
}

pub fn failure(error: &tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(db) => Failure::new(kind(db.code().code()), shown(db)),
        None => {
            Failure::unavailable(format!("the connection to PostgreSQL broke: {}", chain(error)))
        }
    }
}

/// Why no connection came about, with what cures it.
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
            settings.path.trim_start_matches('/')
        ),
        _ => format!("PostgreSQL at {place}: {}", shown(db)),
    };
    Failure::new(kind(db.code().code()), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_says_what_to_do() {
        let cases = [
            ("53100", FailureKind::Unavailable),
            ("55P03", FailureKind::Unavailable),
            ("40P01", FailureKind::Unavailable),
            ("57P01", FailureKind::Unavailable),
            ("XX000", FailureKind::Unavailable),
            ("22001", FailureKind::Rejected),
            ("23505", FailureKind::Rejected),
            ("42P01", FailureKind::SchemaMismatch),
            ("42501", FailureKind::Misconfigured),
            ("28P01", FailureKind::Misconfigured),
        ];
        for (code, expected) in cases {
            assert_eq!(kind(code), expected, "{code}");
        }
    }
}
