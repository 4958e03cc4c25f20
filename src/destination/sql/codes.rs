//! What the error codes of a database mean for EDS: a table per database, read by one function.

use crate::destination::FailureKind;

/// A code as a database reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode<'a> {
    /// The database's own number.
    Number(u32),
    /// A code of letters and digits; an SQLSTATE begins with its class of two characters.
    State(&'a str),
}

/// The codes that one rule is about.
#[derive(Debug)]
pub enum Codes {
    /// Each of these numbers.
    Numbers(&'static [u32]),
    /// All numbers from the first to the last, both included.
    Range(u32, u32),
    /// Each of these states.
    States(&'static [&'static str]),
    /// All SQLSTATEs of these classes.
    Classes(&'static [&'static str]),
}

impl Codes {
    fn include(&self, code: ErrorCode<'_>) -> bool {
        match (self, code) {
            (Codes::Numbers(numbers), ErrorCode::Number(n)) => numbers.contains(&n),
            (Codes::Range(first, last), ErrorCode::Number(n)) => (*first..=*last).contains(&n),
            (Codes::States(states), ErrorCode::State(s)) => states.contains(&s),
            (Codes::Classes(classes), ErrorCode::State(s)) => {
                classes.iter().any(|class| s.starts_with(class))
            }
            _ => false,
        }
    }
}

/// What a user reads of an error beside its code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShownMessage {
    /// The database's own message.
    Own,
    /// This reason instead, because the database's own message may quote values of rows.
    Reason(&'static str),
}

/// One row of a database's table of errors.
#[derive(Debug)]
pub struct CodeRule {
    /// The codes that it is about.
    pub codes: Codes,
    /// What the caller does about such an error.
    pub kind: FailureKind,
    /// What a user reads of it.
    pub shown: ShownMessage,
}

impl CodeRule {
    /// The rule for errors that no row is about: they may pass, and their message is shown.
    pub const OTHER: CodeRule =
        CodeRule::own_message(FailureKind::Unavailable, Codes::Numbers(&[]));

    /// A row for errors whose message quotes no values of rows.
    pub const fn own_message(kind: FailureKind, codes: Codes) -> CodeRule {
        CodeRule { codes, kind, shown: ShownMessage::Own }
    }

    /// A row for errors of which `reason` is shown instead of the message.
    pub const fn with_reason(kind: FailureKind, reason: &'static str, codes: Codes) -> CodeRule {
        CodeRule { codes, kind, shown: ShownMessage::Reason(reason) }
    }
}

/// The first of `rules` that is about any of the `codes` of one error; [`CodeRule::OTHER`] where
/// none is.
pub fn rule_for<'r>(rules: &'r [CodeRule], codes: &[ErrorCode<'_>]) -> &'r CodeRule {
    rules
        .iter()
        .find(|rule| codes.iter().any(|code| rule.codes.include(*code)))
        .unwrap_or(&CodeRule::OTHER)
}

/// Checks a database's table: each of `cases` has its kind, each row decides at least one of them,
/// and no code that a row names is decided by an earlier row.
#[cfg(test)]
pub fn assert_rules(rules: &[CodeRule], cases: &[(&[ErrorCode<'_>], FailureKind)]) {
    for (codes, expected) in cases {
        assert_eq!(rule_for(rules, codes).kind, *expected, "{codes:?}");
    }
    for rule in rules {
        let decides = |codes: &[ErrorCode<'_>]| std::ptr::eq(rule_for(rules, codes), rule);
        assert!(cases.iter().any(|(codes, _)| decides(codes)), "no case for {rule:?}");
        match rule.codes {
            Codes::Numbers(numbers) => numbers
                .iter()
                .for_each(|n| assert!(decides(&[ErrorCode::Number(*n)]), "{n} is listed twice")),
            Codes::States(states) => states
                .iter()
                .for_each(|s| assert!(decides(&[ErrorCode::State(s)]), "{s} is listed twice")),
            Codes::Range(..) | Codes::Classes(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_is_about_a_code_decides() {
        const RULES: &[CodeRule] = &[
            CodeRule::own_message(FailureKind::SchemaMismatch, Codes::States(&["22001"])),
            CodeRule::with_reason(FailureKind::Rejected, "bad", Codes::Classes(&["22"])),
            CodeRule::own_message(FailureKind::Misconfigured, Codes::Range(10, 12)),
        ];
        let kind = |codes: &[ErrorCode<'_>]| rule_for(RULES, codes).kind;
        assert_eq!(kind(&[ErrorCode::State("22001")]), FailureKind::SchemaMismatch);
        assert_eq!(
            kind(&[ErrorCode::Number(13), ErrorCode::State("22003")]),
            FailureKind::Rejected
        );
        assert_eq!(kind(&[ErrorCode::Number(12)]), FailureKind::Misconfigured);
        assert_eq!(kind(&[ErrorCode::Number(13)]), FailureKind::Unavailable);
    }
}
