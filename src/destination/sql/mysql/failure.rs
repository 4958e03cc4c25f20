//! What MySQL's errors mean for EDS, and what of them may be shown.

use mysql_async::{DriverError, Error, IoError, ServerError};

use crate::cause::chain;
use crate::destination::{Failure, FailureKind, Settings};

/// What to do about an error of this number and SQLSTATE.
fn kind(code: u16, state: &str) -> FailureKind {
    match code {
        // Missing table or column; a statement made before a table changed; a column that became
        // NOT NULL.
        1146 | 1054 | 1051 | 1615 | 1243 | 1136 | 1048 | 1364 => FailureKind::SchemaMismatch,
        // Refused login or right, unknown database.
        1044 | 1045 | 1049 | 1142 | 1143 | 1227 | 1370 | 1410 | 1698 | 1130 | 1251 | 1820
        | 3118 => FailureKind::Misconfigured,
        // Data too long, out of range, of the wrong form; broken keys and checks; rows and packets
        // that are too large; invalid or too deep JSON; a trigger's own refusal.
        1406 | 1264 | 1292 | 1366 | 1265 | 1690 | 1062 | 1586 | 1451 | 1452 | 1216 | 1217
        | 3819 | 4025 | 1118 | 1153 | 3140 | 3141 | 3144 | 3157 | 1644 | 1367 | 1411 => {
            FailureKind::Rejected
        }
        // Deadlock and lock wait have states of their own; everything else of these classes is
        // about data.
        1205 | 1213 => FailureKind::Unavailable,
        _ if state.starts_with("22") || state.starts_with("23") => FailureKind::Rejected,
        _ => FailureKind::Unavailable,
    }
}

fn meaning(code: u16) -> &'static str {
    match code {
        1406 => {
            "too long for its column; ALTER TABLE … MODIFY COLUMN … LONGTEXT, or for a key \
             VARCHAR(255), cures it"
        }
        1264 | 1690 => "number out of range",
        1292 => {
            "a date or time that the column cannot hold; ALTER TABLE … MODIFY COLUMN … DATETIME(6) \
             cures it where it is a TIMESTAMP"
        }
        1366 | 1265 | 1367 | 1411 => "not of the column's type",
        1062 | 1586 => "another row has the same value in a unique index",
        1451 | 1452 | 1216 | 1217 => "a foreign key points nowhere",
        3819 | 4025 => "a check of the table fails",
        1118 => "the row is too large for InnoDB",
        1153 => "larger than the server's max_allowed_packet; raise it",
        3140 | 3141 | 3144 => "not JSON as this server takes it",
        3157 => "JSON nested deeper than this server takes",
        1644 => "refused by a trigger",
        _ => "see the server's list of errors",
    }
}

/// The name that the server puts last behind the word "column", if it names one: 'c', or
/// `d`.`t`.`c`. Values come before it.
fn column(message: &str) -> Option<&str> {
    let (_, rest) = message.rsplit_once("column '").or_else(|| message.rsplit_once("column `"))?;
    let whole = rest.split_once(" at row ").map_or(rest, |(name, _)| name);
    let name = whole.trim_end_matches(['\'', '`']).rsplit(['`', '\'']).next()?;
    (!name.is_empty() && name.len() <= 64).then_some(name)
}

/// MySQL quotes values in its messages about data: of those only number and names are shown.
fn shown(error: &ServerError) -> String {
    if kind(error.code, &error.state) != FailureKind::Rejected {
        return format!("MySQL: {} ({})", error.message, error.code);
    }
    let column =
        column(&error.message).map(|name| format!(", column {name:?}")).unwrap_or_default();
    format!("MySQL refuses a value ({}, {}){column}", error.code, meaning(error.code))
}

pub fn failure(error: &Error) -> Failure {
    match error {
        Error::Server(server) => Failure::new(kind(server.code, &server.state), shown(server)),
        Error::Driver(DriverError::PacketTooLarge) => Failure::new(
            FailureKind::Rejected,
            format!("MySQL refuses a value (1153, {})", meaning(1153)),
        ),
        Error::Driver(DriverError::FromValue { .. } | DriverError::FromRow { .. }) => {
            Failure::unavailable("MySQL answered in a form that EDS does not know")
        }
        other => Failure::unavailable(format!("the connection to MySQL broke: {}", cause(other))),
    }
}

/// Why no connection came about, with what cures it.
pub fn refused_connection(error: &Error, settings: &Settings, port: u16) -> Failure {
    let place = format!("{}:{port}", settings.host);
    match error {
        Error::Server(server) => {
            let text = match server.code {
                1045 | 1698 => {
                    format!("MySQL at {place} refuses user {:?} or the password", settings.user)
                }
                1044 => format!(
                    "MySQL at {place} does not let user {:?} into database {:?}: GRANT the rights \
                     that `eds drivers mysql` names",
                    settings.user,
                    database(settings)
                ),
                1049 => format!(
                    "MySQL at {place} has no database {:?}: make it with CREATE DATABASE, or \
                     correct the URL",
                    database(settings)
                ),
                _ => format!("MySQL at {place}: {}", shown(server)),
            };
            Failure::new(kind(server.code, &server.state), text)
        }
        Error::Io(IoError::Tls(tls)) => Failure::misconfigured(format!(
            "no encrypted connection to MySQL at {place}: {}; see tls and ssl-ca in `eds \
             drivers mysql`",
            chain(tls)
        )),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => Failure::misconfigured(format!(
            "MySQL at {place} cannot encrypt, and the URL asks for it; see tls in `eds \
             drivers mysql`"
        )),
        other => {
            let text = cause(other);
            match text.contains("certificate") {
                true => Failure::misconfigured(format!(
                    "no encrypted connection to MySQL at {place}: {text}; see tls and ssl-ca in \
                     `eds drivers mysql`"
                )),
                false => Failure::unavailable(format!(
                    "MySQL at {place} cannot be reached: {text}; is it running, and are host and \
                     port right?"
                )),
            }
        }
    }
}

/// The innermost cause says it best; those around it only repeat that it is about input or output.
fn cause(error: &Error) -> String {
    match error {
        Error::Io(IoError::Io(io)) => io.to_string(),
        other => chain(other),
    }
}

fn database(settings: &Settings) -> &str {
    settings.path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_says_what_to_do() {
        let cases = [
            (1213, "40001", FailureKind::Unavailable),
            (1205, "HY000", FailureKind::Unavailable),
            (1290, "HY000", FailureKind::Unavailable),
            (1114, "HY000", FailureKind::Unavailable),
            (1146, "42S02", FailureKind::SchemaMismatch),
            (1054, "42S22", FailureKind::SchemaMismatch),
            (1406, "22001", FailureKind::Rejected),
            (1062, "23000", FailureKind::Rejected),
            (1045, "28000", FailureKind::Misconfigured),
            (1142, "42000", FailureKind::Misconfigured),
        ];
        for (code, state, expected) in cases {
            assert_eq!(kind(code, state), expected, "{code}");
        }
    }

    #[test]
    fn values_are_not_shown() {
        let error = |code, message: &str| ServerError {
            code,
            message: message.into(),
            state: "22007".into(),
        };
        let text = shown(&error(
            1366,
            "Incorrect integer value: 'secret column 'x'' for column 'n' at row 3",
        ));
        assert!(text.contains("column \"n\"") && !text.contains("secret"), "{text}");
        let text = shown(&error(
            1292,
            "Incorrect datetime value: '2039' for column `shop`.`t`.`at` at row 1",
        ));
        assert!(text.contains("column \"at\"") && !text.contains("2039"), "{text}");
        let text = shown(&error(1062, "Duplicate entry 'secret' for key 't.u'"));
        assert!(!text.contains("secret"), "{text}");
    }
}
