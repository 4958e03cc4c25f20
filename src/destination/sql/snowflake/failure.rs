//! What Snowflake's errors mean for EDS, and what of them may be shown.

use crate::destination::Failure;
use crate::destination::FailureKind::{Misconfigured, Rejected, SchemaMismatch, Unavailable};
use crate::destination::sql::codes::{CodeRule, Codes, ErrorCode, ShownMessage, rule_for};

/// The answer's code where the session's token is to be renewed.
pub const TOKEN_EXPIRED: &str = "390112";
/// The answer's codes where a statement still runs.
pub const IN_PROGRESS: [&str; 2] = ["333333", "333334"];

const SEE_LIST: &str = "see Snowflake's list of errors";

/// What Snowflake's numbers mean. Messages about data quote values of rows.
const RULES: &[CodeRule] = &[
    // Missing table, column or stage; a column has become NOT NULL.
    CodeRule::own_message(SchemaMismatch, Codes::Numbers(&[2003, 2043, 904, 100_072])),
    // Missing right, warehouse, database or schema.
    CodeRule::own_message(Misconfigured, Codes::Numbers(&[3001, 606, 90_105, 90_106])),
    // Refused logins: wrong password, locked or disabled user, unknown role or database, network
    // policy, bad key or token.
    CodeRule::own_message(Misconfigured, Codes::Range(390_100, 390_103)),
    CodeRule::own_message(Misconfigured, Codes::Range(390_106, 390_109)),
    CodeRule::own_message(
        Misconfigured,
        Codes::Numbers(&[390_144, 390_186, 390_189, 390_190, 390_191, 390_201, 390_303, 390_318]),
    ),
    CodeRule::own_message(Misconfigured, Codes::Range(390_420, 390_432)),
    CodeRule::own_message(Misconfigured, Codes::Range(394_300, 394_599)),
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
    CodeRule::with_reason(Rejected, SEE_LIST, Codes::Range(100_033, 100_099)),
    CodeRule::with_reason(Rejected, SEE_LIST, Codes::Numbers(&[100_316])),
    // Other errors about data, which may pass.
    CodeRule::with_reason(Unavailable, SEE_LIST, Codes::Range(100_000, 100_999)),
];

fn rule(code: &str) -> &'static CodeRule {
    let number = code.trim_start_matches('0').parse().unwrap_or_default();
    rule_for(RULES, &[ErrorCode::Number(number)])
}

/// The failure of a statement. `code` and `message` are as Snowflake answers them; the code has its
/// leading zeros.
pub fn failure(code: &str, message: &str) -> Failure {
    let rule = rule(code);
    let text = match (rule.shown, rule.kind) {
        (ShownMessage::Own, _) => {
            format!("Snowflake: {} ({code})", message.replace('\n', " "))
        }
        (ShownMessage::Reason(reason), Rejected) => {
            format!("Snowflake refuses a value ({code}, {reason})")
        }
        (ShownMessage::Reason(_), _) => format!("Snowflake could not do it ({code})"),
    };
    coded(Failure::new(rule.kind, text), code)
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
    let kind = match rule(code).kind {
        Misconfigured => Misconfigured,
        _ => Unavailable,
    };
    coded(Failure::new(kind, text), code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::sql::codes::assert_rules;

    #[test]
    fn each_rule_decides() {
        let number = ErrorCode::Number;
        assert_rules(
            RULES,
            &[
                (&[number(2003)], SchemaMismatch),
                (&[number(3001)], Misconfigured),
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
                (&[number(100_999)], Unavailable),
                (&[number(625)], Unavailable),
                (&[number(390_112)], Unavailable),
                (&[number(90_073)], Unavailable),
            ],
        );
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
