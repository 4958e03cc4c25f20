//! What MySQL's errors mean for EDS, and what of them may be shown.

use mysql_async::{DriverError, Error, IoError, ServerError};

use crate::cause::chain;
use crate::destination::FailureKind::{
    Misconfigured, Rejected, SchemaMismatch, TableUnavailable, Unavailable,
};
use crate::destination::sql::codes::{CodeRule, Codes, ErrorCode, ShownMessage, rule_for};
use crate::destination::{Failure, Settings};
use crate::help::HelpCode;

/// KILL of a session that has ended by itself.
pub const NO_SUCH_SESSION: &str = "1094";
/// KILL of a session of another user.
pub const FOREIGN_SESSION: &str = "1095";
/// An INSERT of a key that exists.
pub const REPEATED_KEY: &str = "1062";
/// A packet larger than the server takes.
const PACKET_TOO_LARGE: u16 = 1153;

/// What the server's numbers and, behind them, its SQLSTATEs mean. Messages about data quote values
/// of rows.
const RULES: &[CodeRule] = &[
    CodeRule::own_message(
        SchemaMismatch,
        "a table or column is missing, or has changed since a statement was prepared",
        Codes::Numbers(&[1146, 1054, 1051, 1136, 1243, 1412, 1615]),
    ),
    CodeRule::own_message(
        SchemaMismatch,
        "a column does not take NULL; EDS drops NOT NULL where the source allows null",
        Codes::Numbers(&[1048, 1364]),
    ),
    CodeRule::own_message(
        Misconfigured,
        "a right is missing; GRANT it",
        Codes::Numbers(&[1044, 1142, 1143, 1227, 1370, 1410]),
    )
    .helped_by(HelpCode::DestinationRight),
    CodeRule::own_message(Misconfigured, "no such database", Codes::Numbers(&[1049]))
        .helped_by(HelpCode::DatabaseMissing),
    CodeRule::own_message(
        Misconfigured,
        "the login is refused",
        Codes::Numbers(&[1045, 1130, 1251, 1698, 1820, 3118]),
    )
    .helped_by(HelpCode::DestinationLogin),
    CodeRule::own_message(
        TableUnavailable,
        "a lock of another session, a deadlock, or a conflict with another transaction; it passes",
        Codes::Numbers(&[1205, 1213, 3101, 3572]),
    )
    .helped_by(HelpCode::TableLocked),
    CodeRule::own_message(
        TableUnavailable,
        "the table cannot be written to as it is: a view, a generated column, a broken or \
         read-only table",
        Codes::Numbers(&[1034, 1036, 1194, 1195, 1288, 1348, 1356, 1442, 1471, 1906, 3105]),
    )
    .helped_by(HelpCode::TableShape),
    CodeRule::with_reason(
        TableUnavailable,
        "more columns than a table takes: InnoDB has 1,017, text and JSON columns fewer",
        Codes::Numbers(&[1117]),
    )
    .helped_by(HelpCode::TableDoesNotFit),
    CodeRule::with_reason(
        TableUnavailable,
        "a key that is too long, or too many keys: InnoDB has 3,072 bytes for a key, four for each \
         character, and 64 keys a table",
        Codes::Numbers(&[1069, 1070, 1071, 1074]),
    )
    .helped_by(HelpCode::TableDoesNotFit),
    CodeRule::with_reason(
        TableUnavailable,
        "a foreign key: the parent row is not there yet, or children are still there; it passes \
         once they have come",
        Codes::Numbers(&[1216, 1217, 1451, 1452]),
    )
    .helped_by(HelpCode::ForeignKey),
    CodeRule::own_message(
        TableUnavailable,
        "no room for the table: its disk is full, or a quota is used up; make room",
        Codes::Numbers(&[1030, 1114]),
    )
    .helped_by(HelpCode::DestinationFull),
    CodeRule::own_message(
        Unavailable,
        "the server only reads: a replica, or read_only is on",
        Codes::Numbers(&[1290, 1792, 1836, 1874]),
    )
    .helped_by(HelpCode::DestinationReadOnly),
    CodeRule::own_message(
        Unavailable,
        "the session or the server ends, or lacks disk, memory or connections; EDS connects until \
         it works",
        Codes::Numbers(&[
            1021, 1037, 1038, 1040, 1041, 1047, 1053, 1079, 1080, 1129, 1135, 1152, 1158, 1159,
            1160, 1161, 1180, 1184, 1203, 1206, 1226, 1317, 1461, 1637, 1927, 3032, 3100, 3168,
            3169, 4031,
        ]),
    ),
    CodeRule::with_reason(
        Rejected,
        "too long for its column; ALTER TABLE … MODIFY COLUMN … LONGTEXT, or for a key \
         VARCHAR(255), cures it",
        Codes::Numbers(&[1406]),
    ),
    CodeRule::with_reason(Rejected, "number out of range", Codes::Numbers(&[1264, 1690])),
    CodeRule::with_reason(
        Rejected,
        "a date or time that the column cannot hold; ALTER TABLE … MODIFY COLUMN … DATETIME(6) \
         cures it where it is a TIMESTAMP",
        Codes::Numbers(&[1292]),
    ),
    CodeRule::with_reason(
        Rejected,
        "not of the column's type",
        Codes::Numbers(&[1366, 1265, 1367, 1411]),
    ),
    CodeRule::with_reason(
        Rejected,
        "another row has the same value in a unique index",
        Codes::Numbers(&[1062, 1586]),
    ),
    CodeRule::with_reason(Rejected, "a check of the table fails", Codes::Numbers(&[3819, 4025])),
    CodeRule::with_reason(
        Rejected,
        "no partition of the table is for this value",
        Codes::Numbers(&[1525, 1526]),
    ),
    CodeRule::with_reason(
        Rejected,
        "the row is too large for InnoDB, which has 8,126 bytes for it in a page and 65,535 for \
         all columns but long texts; where it is the table that is refused, shorter VARCHARs or \
         fewer columns cure it",
        Codes::Numbers(&[1118, 1713]),
    ),
    CodeRule::with_reason(
        Rejected,
        "larger than the server's max_allowed_packet; raise it",
        Codes::Numbers(&[PACKET_TOO_LARGE as u32]),
    ),
    CodeRule::with_reason(
        Rejected,
        "not JSON as this server takes it",
        Codes::Numbers(&[3140, 3141, 3144]),
    ),
    CodeRule::with_reason(
        Rejected,
        "JSON nested deeper than this server takes",
        Codes::Numbers(&[3157]),
    ),
    CodeRule::with_reason(Rejected, "a trigger of yours raises it", Codes::Numbers(&[1644])),
    CodeRule::own_message(
        Unavailable,
        "the connection; EDS connects until it works",
        Codes::Classes(&["08"]),
    ),
    CodeRule::with_reason(
        Rejected,
        "a value, a constraint or a trigger; see the server's list of errors",
        Codes::Classes(&["22", "23", "45"]),
    ),
];

fn rule(code: u16, state: &str) -> &'static CodeRule {
    rule_for(RULES, &[ErrorCode::Number(code.into()), ErrorCode::State(state)])
}

/// The failure with this text, of the kind that the rules give the error.
fn with_text(error: &ServerError, text: String) -> Failure {
    rule(error.code, &error.state).failure(text).with_code(error.code.to_string())
}

/// The name behind the last word "column" of the message, if there is one: 'c', or `d`.`t`.`c`.
/// Quoted values stand before it.
fn column(message: &str) -> Option<&str> {
    let (_, rest) = message.rsplit_once("column '").or_else(|| message.rsplit_once("column `"))?;
    let whole = rest.split_once(" at row ").map_or(rest, |(name, _)| name);
    let name = whole.trim_end_matches(['\'', '`']).rsplit(['`', '\'']).next()?;
    (!name.is_empty() && name.len() <= 64).then_some(name)
}

/// What a user reads of the error: its number and names, never values.
fn shown(error: &ServerError) -> String {
    let rule = rule(error.code, &error.state);
    let text = rule.text("MySQL", error.code, &error.message);
    match column(&error.message).filter(|_| rule.shown == ShownMessage::Meaning) {
        Some(name) => format!("{text}, column {name:?}"),
        None => text,
    }
}

/// The failure of a statement.
pub fn failure(error: &Error) -> Failure {
    match error {
        Error::Server(server) => with_text(server, shown(server)),
        // The client itself refuses to send it; to a user it is the server's own error.
        Error::Driver(DriverError::PacketTooLarge) => failure(&Error::Server(ServerError {
            code: PACKET_TOO_LARGE,
            message: String::new(),
            state: String::new(),
        })),
        Error::Driver(DriverError::FromValue { .. } | DriverError::FromRow { .. }) => {
            Failure::unavailable("MySQL answered in a form that EDS does not know")
        }
        other => Failure::unavailable(format!("the connection to MySQL broke: {}", cause(other))),
    }
}

/// The connection cannot be encrypted as the settings ask.
fn no_tls(text: String) -> Failure {
    Failure::misconfigured(text).with_help(HelpCode::DestinationTls)
}

/// The failure of a connection that was not made, with its cure.
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
            match with_text(server, text) {
                refused if refused.kind == Misconfigured => refused,
                other => Failure { kind: Unavailable, ..other },
            }
        }
        Error::Io(IoError::Tls(tls)) => no_tls(format!(
            "no encrypted connection to MySQL at {place}: {}; see tls and ssl-ca in `eds \
             drivers mysql`",
            chain(tls)
        )),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => no_tls(format!(
            "MySQL at {place} cannot encrypt, and the URL asks for it; see tls in `eds \
             drivers mysql`"
        )),
        other => {
            let text = cause(other);
            match text.contains("certificate") {
                true => no_tls(format!(
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
    settings.database()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::sql::codes::{assert_documented, assert_rules};

    #[test]
    fn each_rule_decides() {
        let (number, state) = (ErrorCode::Number, ErrorCode::State);
        assert_rules(
            RULES,
            &[
                (&[number(1146), state("42S02")], SchemaMismatch),
                (&[number(1054), state("42S22")], SchemaMismatch),
                (&[number(1048), state("23000")], SchemaMismatch),
                (&[number(1142), state("42000")], Misconfigured),
                (&[number(1049), state("42000")], Misconfigured),
                (&[number(1045), state("28000")], Misconfigured),
                (&[number(1213), state("40001")], TableUnavailable),
                (&[number(1205), state("HY000")], TableUnavailable),
                (&[number(1288), state("HY000")], TableUnavailable),
                (&[number(1117), state("HY000")], TableUnavailable),
                (&[number(1071), state("42000")], TableUnavailable),
                (&[number(1452), state("23000")], TableUnavailable),
                (&[number(1114), state("HY000")], TableUnavailable),
                (&[number(1105), state("HY000")], TableUnavailable),
                (&[number(1290), state("HY000")], Unavailable),
                (&[number(1053), state("08S01")], Unavailable),
                (&[number(1317), state("70100")], Unavailable),
                (&[number(1043), state("08S01")], Unavailable),
                (&[number(1406), state("22001")], Rejected),
                (&[number(1264), state("22003")], Rejected),
                (&[number(1292), state("22007")], Rejected),
                (&[number(1366), state("HY000")], Rejected),
                (&[number(1062), state("23000")], Rejected),
                (&[number(3819), state("HY000")], Rejected),
                (&[number(1118), state("42000")], Rejected),
                (&[number(1526), state("HY000")], Rejected),
                (&[number(1153), state("08S01")], Rejected),
                (&[number(3140), state("22032")], Rejected),
                (&[number(3157), state("22032")], Rejected),
                (&[number(1644), state("45000")], Rejected),
                (&[number(1365), state("22012")], Rejected),
                (&[number(1022), state("23000")], Rejected),
                (&[number(5000), state("45000")], Rejected),
            ],
        );
    }

    #[test]
    fn the_codes_are_documented() -> std::io::Result<()> {
        assert_documented(RULES, "mysql")
    }

    #[test]
    fn a_packet_that_the_client_refuses_is_the_servers_error() {
        let failed = failure(&Error::Driver(DriverError::PacketTooLarge));
        let text = "MySQL refuses a value (1153, larger than the server's max_allowed_packet; \
                    raise it)";
        assert_eq!(failed, Failure::new(Rejected, text).with_code("1153"));
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
