//! What the error codes of a database mean for EDS: a table per database, read by one function.

use std::fmt::Display;

use crate::destination::{Failure, FailureKind};
use crate::help::HelpCode;

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
    /// What the rule says instead, because the database's own message may quote values of rows.
    Meaning,
}

/// One row of a database's table of errors.
#[derive(Debug)]
pub struct CodeRule {
    /// The codes that it is about.
    pub codes: Codes,
    /// What the caller does about such an error.
    pub kind: FailureKind,
    /// What such an error is and, where there is one, the cure. The documentation of the database
    /// lists it.
    pub meaning: &'static str,
    /// What a user reads of it.
    pub shown: ShownMessage,
    /// The page that helps, where it is not that of the kind.
    pub help: Option<HelpCode>,
}

impl CodeRule {
    /// The rule for errors that no row is about: the statement was about one table, which does not
    /// stop the others.
    pub const OTHER: CodeRule = CodeRule::own_message(
        FailureKind::TableUnavailable,
        "any other; the message says more",
        Codes::Numbers(&[]),
    );

    /// The rule for errors that no row is about and that concern more than one table.
    pub const OTHER_OF_SERVER: CodeRule = CodeRule::own_message(
        FailureKind::Unavailable,
        "any other that ends the session; the message says more",
        Codes::Numbers(&[]),
    );

    /// A row for errors whose message quotes no values of rows.
    pub const fn own_message(kind: FailureKind, meaning: &'static str, codes: Codes) -> CodeRule {
        CodeRule { codes, kind, meaning, shown: ShownMessage::Own, help: None }
    }

    /// A row for errors of which `meaning` is shown instead of the message.
    pub const fn with_reason(kind: FailureKind, meaning: &'static str, codes: Codes) -> CodeRule {
        CodeRule { codes, kind, meaning, shown: ShownMessage::Meaning, help: None }
    }

    /// The same row with a page of its own.
    pub const fn helped_by(self, help: HelpCode) -> CodeRule {
        CodeRule { help: Some(help), ..self }
    }

    /// The failure of an error that this row is about.
    pub fn failure(&self, text: String) -> Failure {
        Failure::new(self.kind, text).with_help(self.help)
    }

    /// What a user reads of an error of this code and message of `server`.
    pub fn text(&self, server: &str, code: impl Display, message: &str) -> String {
        match (self.shown, self.kind) {
            (ShownMessage::Own, _) => format!("{server}: {message} ({code})"),
            (ShownMessage::Meaning, FailureKind::Rejected) => {
                format!("{server} {REFUSES_VALUE} ({code}, {})", self.meaning)
            }
            (ShownMessage::Meaning, _) => format!("{server} {REFUSES} ({code}, {})", self.meaning),
        }
    }
}

/// How the text of a failure about values begins.
const REFUSES_VALUE: &str = "refuses a value";
/// The same of a failure about a table.
const REFUSES: &str = "refuses";

/// The failure of a change of a table: no row is written by it, so what a database refuses there is
/// the table's new shape, never a row.
pub fn of_schema_step(failure: Failure) -> Failure {
    match failure.kind {
        FailureKind::Rejected => Failure {
            kind: FailureKind::TableUnavailable,
            text: failure.text.replacen(REFUSES_VALUE, REFUSES, 1),
            culprits: Vec::new(),
            ..failure
        },
        _ => failure,
    }
}

/// The first of `rules` that is about any of the `codes` of one error.
pub fn listed_rule<'r>(rules: &'r [CodeRule], codes: &[ErrorCode<'_>]) -> Option<&'r CodeRule> {
    rules.iter().find(|rule| codes.iter().any(|code| rule.codes.include(*code)))
}

/// The same; [`CodeRule::OTHER`] where no rule is about the error.
pub fn rule_for<'r>(rules: &'r [CodeRule], codes: &[ErrorCode<'_>]) -> &'r CodeRule {
    listed_rule(rules, codes).unwrap_or(&CodeRule::OTHER)
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

/// Checks that `docs/destinations/NAME.md` lists `rules` as they are; with `EDS_GOLDEN=write` it
/// is made to.
#[cfg(test)]
pub fn assert_documented(rules: &[CodeRule], name: &str) -> std::io::Result<()> {
    const HEADER: &str = "| code | what it is | what EDS does |";
    let path = format!("{}/docs/destinations/{name}.md", env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(&path)?;
    let lines: Vec<String> = rules.iter().chain([&CodeRule::OTHER]).map(documented).collect();
    let wanted = format!("{HEADER}\n| --- | --- | --- |\n{}\n", lines.join("\n"));
    if document.contains(&wanted) {
        return Ok(());
    }
    assert!(
        std::env::var_os("EDS_GOLDEN").is_some_and(|mode| mode == "write"),
        "{path} does not list the codes as they are; EDS_GOLDEN=write makes it so"
    );
    let (before, rest) = document.split_once(HEADER).unwrap_or((&document, ""));
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let gap = if after.is_empty() { "" } else { "\n" };
    std::fs::write(&path, format!("{before}{wanted}{gap}{after}"))
}

/// A rule as a line of a table in Markdown.
#[cfg(test)]
fn documented(rule: &CodeRule) -> String {
    let codes = match rule.codes {
        Codes::Numbers([]) => "others".to_owned(),
        Codes::Numbers(numbers) => {
            numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        }
        Codes::Range(first, u32::MAX) => format!("{first} and higher"),
        Codes::Range(first, last) => format!("{first} to {last}"),
        Codes::States(states) => states.join(", "),
        Codes::Classes(classes) => {
            classes.iter().map(|class| format!("{class}…")).collect::<Vec<_>>().join(", ")
        }
    };
    let action = match rule.kind {
        FailureKind::Unavailable => "connects again",
        FailureKind::Rejected => "dead letter",
        FailureKind::SchemaMismatch => "reads the tables again",
        FailureKind::TableUnavailable => "the table waits",
        FailureKind::Misconfigured => "needs you",
        FailureKind::Fenced => "ends",
    };
    format!("| {codes} | {} | {action} |", rule.meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_is_about_a_code_decides() {
        const RULES: &[CodeRule] = &[
            CodeRule::own_message(FailureKind::SchemaMismatch, "", Codes::States(&["22001"])),
            CodeRule::with_reason(FailureKind::Rejected, "bad", Codes::Classes(&["22"])),
            CodeRule::own_message(FailureKind::Misconfigured, "", Codes::Range(10, 12)),
        ];
        let kind = |codes: &[ErrorCode<'_>]| rule_for(RULES, codes).kind;
        assert_eq!(kind(&[ErrorCode::State("22001")]), FailureKind::SchemaMismatch);
        assert_eq!(
            kind(&[ErrorCode::Number(13), ErrorCode::State("22003")]),
            FailureKind::Rejected
        );
        assert_eq!(kind(&[ErrorCode::Number(12)]), FailureKind::Misconfigured);
        assert_eq!(kind(&[ErrorCode::Number(13)]), FailureKind::TableUnavailable);
    }

    #[test]
    fn what_a_schema_step_is_refused_is_the_shape_of_the_table() {
        let rule = CodeRule::with_reason(FailureKind::Rejected, "too wide", Codes::Numbers(&[7]));
        let rejected = Failure {
            culprits: vec![(0, String::new())],
            ..Failure::new(rule.kind, rule.text("The server", 7, "'secret' is too wide"))
        };
        assert_eq!(rejected.text, "The server refuses a value (7, too wide)");
        let expected =
            Failure::new(FailureKind::TableUnavailable, "The server refuses (7, too wide)");
        assert_eq!(of_schema_step(rejected), expected);
        assert_eq!(of_schema_step(Failure::unavailable("gone")), Failure::unavailable("gone"));
    }
}
