//! What Snowflake's errors mean for EDS, and what of them may be shown.

use crate::destination::Failure;
use crate::destination::FailureKind::{
    Misconfigured, Rejected, SchemaMismatch, TableUnavailable, Unavailable,
};
use crate::destination::sql::codes::{CodeRule, Codes, ErrorCode, listed_rule};
use crate::help::HelpCode;

/// The answer's code where the session's token is to be renewed.
pub const TOKEN_EXPIRED: &str = "390112";
/// The answer's codes where a statement still runs.
pub const IN_PROGRESS: [&str; 2] = ["333333", "333334"];

const LOGIN: &str = "the login is refused: wrong password, key or token, locked or disabled user, \
                     unknown role or database, network policy";

/// What Snowflake's numbers mean. Messages about data quote values of rows.
const RULES: &[CodeRule] = &[
    CodeRule::own_message(
        SchemaMismatch,
        "a table, column or stage is missing",
        Codes::Numbers(&[904, 2003, 2043]),
    ),
    CodeRule::own_message(
        SchemaMismatch,
        "a column does not take NULL; EDS drops NOT NULL where the source allows null",
        Codes::Numbers(&[100_072]),
    ),
    CodeRule::own_message(Misconfigured, "a right is missing; GRANT it", Codes::Numbers(&[3001]))
        .helped_by(HelpCode::DestinationRight),
    CodeRule::own_message(
        Misconfigured,
        "no warehouse, database or schema; name it in the URL, or GRANT USAGE on it",
        Codes::Numbers(&[606, 90_105, 90_106]),
    )
    .helped_by(HelpCode::DatabaseMissing),
    CodeRule::own_message(Misconfigured, LOGIN, Codes::Range(390_100, 390_103))
        .helped_by(HelpCode::DestinationLogin),
    CodeRule::own_message(Misconfigured, LOGIN, Codes::Range(390_106, 390_109))
        .helped_by(HelpCode::DestinationLogin),
    CodeRule::own_message(
        Misconfigured,
        LOGIN,
        Codes::Numbers(&[390_144, 390_186, 390_189, 390_190, 390_191, 390_201, 390_303, 390_318]),
    )
    .helped_by(HelpCode::DestinationLogin),
    CodeRule::own_message(Misconfigured, LOGIN, Codes::Range(390_420, 390_432))
        .helped_by(HelpCode::DestinationLogin),
    CodeRule::own_message(Misconfigured, LOGIN, Codes::Range(394_300, 394_599))
        .helped_by(HelpCode::DestinationLogin),
    CodeRule::own_message(
        TableUnavailable,
        "a lock of another transaction; it passes",
        Codes::Numbers(&[625]),
    )
    .helped_by(HelpCode::TableLocked),
    CodeRule::own_message(
        TableUnavailable,
        "the table is not of the shape that EDS needs: a column of another type; ALTER it, or let \
         EDS make it under another name (?prefix=)",
        Codes::Numbers(&[2023]),
    )
    .helped_by(HelpCode::TableShape),
    CodeRule::own_message(
        Unavailable,
        "the warehouse cannot resume: its resource monitor's quota is used up",
        Codes::Numbers(&[90_073]),
    )
    .helped_by(HelpCode::DestinationFull),
    CodeRule::own_message(
        Unavailable,
        "the session ends; EDS logs in again",
        Codes::Range(390_000, 394_999),
    ),
    CodeRule::with_reason(
        Rejected,
        "number out of range",
        Codes::Numbers(&[100_039, 100_046, 100_058, 100_132]),
    ),
    CodeRule::with_reason(
        Rejected,
        "not of the column's type",
        Codes::Numbers(&[
            100_033, 100_034, 100_035, 100_036, 100_037, 100_038, 100_040, 100_071, 100_145,
        ]),
    ),
    CodeRule::with_reason(
        Rejected,
        "not JSON that Snowflake reads",
        Codes::Numbers(&[100_069, 100_183]),
    ),
    CodeRule::with_reason(Rejected, "too long for its column", Codes::Numbers(&[100_078])),
    CodeRule::with_reason(Rejected, "too large for Snowflake", Codes::Numbers(&[100_082])),
    CodeRule::with_reason(Rejected, "the same key twice", Codes::Numbers(&[100_090])),
    CodeRule::with_reason(
        Rejected,
        "a value; see Snowflake's list of errors",
        Codes::Range(100_033, 100_099),
    ),
    CodeRule::with_reason(
        Rejected,
        "a value; see Snowflake's list of errors",
        Codes::Numbers(&[100_316]),
    ),
    CodeRule::with_reason(
        TableUnavailable,
        "another error about data; see Snowflake's list of errors",
        Codes::Range(100_000, 100_999),
    ),
];

/// The rule for an error of this code. An answer without a number is none about a table.
fn rule(code: &str) -> &'static CodeRule {
    match code.trim_start_matches('0').parse() {
        Ok(number) => listed_rule(RULES, &[ErrorCode::Number(number)]).unwrap_or(&CodeRule::OTHER),
        Err(_) => &CodeRule::OTHER_OF_SERVER,
    }
}

/// The failure of a statement. `code` and `message` are as Snowflake answers them; the code has its
/// leading zeros.
pub fn failure(code: &str, message: &str) -> Failure {
    let rule = rule(code);
    let text = rule.text("Snowflake", code, &message.replace('\n', " "));
    coded(rule.failure(text), code)
}

/// The failure with its code; some answers have none.
fn coded(failure: Failure, code: &str) -> Failure {
    if code.is_empty() { failure } else { failure.with_code(code.to_owned()) }
}

/// The failure of a login, with its cure. `fingerprint` is that of the key that signed, where one
/// did.
pub fn refused_login(
    code: &str,
    message: &str,
    user: &str,
    base: &str,
    fingerprint: Option<&str>,
) -> Failure {
    let said = format!("{} ({code})", message.replace('\n', " "));
    let text = match (code, fingerprint) {
        ("390144", Some(fingerprint)) => format!(
            "Snowflake at {base} does not take the key of user {user:?}: {said}. The account in \
             the URL has to be the user's, this machine's clock right, \
             and DESC USER has to show RSA_PUBLIC_KEY_FP = {fingerprint} (ALTER USER … SET \
             RSA_PUBLIC_KEY = '…')"
        ),
        ("390100", _) => {
            format!("Snowflake at {base} refuses user {user:?} or the password: {said}")
        }
        _ => format!("Snowflake at {base} does not let user {user:?} in: {said}"),
    };
    let failure = rule(code).failure(text);
    let kind = match failure.kind {
        Misconfigured => Misconfigured,
        _ => Unavailable,
    };
    coded(Failure { kind, ..failure }, code)
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
                (&[number(2003)], SchemaMismatch),
                (&[number(100_072)], SchemaMismatch),
                (&[number(3001)], Misconfigured),
                (&[number(606)], Misconfigured),
                (&[number(390_100)], Misconfigured),
                (&[number(390_106)], Misconfigured),
                (&[number(390_144)], Misconfigured),
                (&[number(390_432)], Misconfigured),
                (&[number(394_300)], Misconfigured),
                (&[number(100_058)], Rejected),
                (&[number(100_038)], Rejected),
                (&[number(100_069)], Rejected),
                (&[number(100_078)], Rejected),
                (&[number(100_082)], Rejected),
                (&[number(100_090)], Rejected),
                (&[number(100_097)], Rejected),
                (&[number(100_316)], Rejected),
                (&[number(100_999)], TableUnavailable),
                (&[number(625)], TableUnavailable),
                (&[number(2023)], TableUnavailable),
                (&[number(603)], TableUnavailable),
                (&[number(390_112)], Unavailable),
                (&[number(90_073)], Unavailable),
            ],
        );
    }

    #[test]
    fn the_codes_are_documented() -> std::io::Result<()> {
        assert_documented(RULES, "snowflake")
    }

    #[test]
    fn codes_are_read_with_their_zeros() {
        assert_eq!(failure("000904", "").kind, SchemaMismatch);
        assert!(failure("000625", "").has_code("000625"));
        assert_eq!(failure("", "").kind, Unavailable);
    }

    #[test]
    fn messages_about_data_are_not_shown() {
        for code in ["100038", "100078", "100999"] {
            assert!(
                !failure(code, "Numeric value 'my secret' is not recognized")
                    .text
                    .contains("my secret"),
                "{code}"
            );
        }
    }
}
