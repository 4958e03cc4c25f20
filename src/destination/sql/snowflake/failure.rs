//! What Snowflake's errors mean for EDS, and what of them may be shown.

use crate::destination::{Failure, FailureKind};

/// The answer's code where the session's token is to be renewed.
pub const TOKEN_EXPIRED: &str = "390112";
/// The answer's codes where a statement still runs.
pub const IN_PROGRESS: [&str; 2] = ["333333", "333334"];

/// What to do about an error of this number.
fn kind(code: u32) -> FailureKind {
    match code {
        // Missing table, column or stage; a column that became NOT NULL.
        2003 | 2043 | 904 | 100_072 => FailureKind::SchemaMismatch,
        // Rights, no warehouse, unknown database or schema.
        3001 | 606 | 90_105 | 90_106 => FailureKind::Misconfigured,
        // Login: wrong password, locked or disabled user, unknown role or database, network policy,
        // bad key or token.
        390_100..=390_103
        | 390_106..=390_109
        | 390_144
        | 390_186
        | 390_189
        | 390_190
        | 390_191
        | 390_201
        | 390_303
        | 390_318
        | 390_420..=390_432
        | 394_300..=394_599 => FailureKind::Misconfigured,
        // Not of the column's type, out of range, too long, too large, no JSON, one row twice.
        100_033..=100_071 | 100_073..=100_099 | 100_132 | 100_145 | 100_183 | 100_316 => {
            FailureKind::Rejected
        }
        _ => FailureKind::Unavailable,
    }
}

fn meaning(code: u32) -> &'static str {
    match code {
        100_033..=100_038 | 100_040 | 100_071 | 100_145 => "not of the column's type",
        100_039 | 100_046 | 100_058 | 100_132 => "number out of range",
        100_069 | 100_183 => "not JSON that Snowflake reads",
        100_078 => "too long for its column",
        100_082 => "too large for Snowflake",
        100_090 => "the same key twice",
        _ => "see Snowflake's list of errors",
    }
}

/// `message` as Snowflake words it; of messages about data, which quote it, only the number is
/// shown.
pub fn failure(code: &str, message: &str) -> Failure {
    let number = code.trim_start_matches('0').parse().unwrap_or_default();
    let kind = kind(number);
    let message = message.replace('\n', " ");
    match kind {
        FailureKind::Rejected => {
            Failure::new(kind, format!("Snowflake refuses a value ({code}, {})", meaning(number)))
        }
        // Any other error about data may quote it, too.
        FailureKind::Unavailable if (100_000..101_000).contains(&number) => {
            Failure::new(kind, format!("Snowflake could not do it ({code})"))
        }
        _ => Failure::new(kind, format!("Snowflake: {message} ({code})")),
    }
}

/// Why no session came about, with what cures it. `fingerprint`: of the key that signed, where one
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
    match failure(code, "").kind {
        FailureKind::Misconfigured => Failure::misconfigured(text),
        _ => Failure::unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_says_what_to_do() {
        let cases = [
            ("002003", FailureKind::SchemaMismatch),
            ("000904", FailureKind::SchemaMismatch),
            ("003001", FailureKind::Misconfigured),
            ("000606", FailureKind::Misconfigured),
            ("390144", FailureKind::Misconfigured),
            ("100038", FailureKind::Rejected),
            ("100078", FailureKind::Rejected),
            ("000625", FailureKind::Unavailable),
            ("390112", FailureKind::Unavailable),
            ("090073", FailureKind::Unavailable),
        ];
        for (code, expected) in cases {
            assert_eq!(failure(code, "").kind, expected, "{code}");
        }
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
