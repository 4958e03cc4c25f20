//! Whatever docs/compatibility.md names as evidence is there: a test that vanishes is missed.

use std::collections::BTreeSet;

use super::{File, files, none};

/// Names of tests begin with these; behind them come the modules and the function.
const CRATES: [(&str, &[&str]); 3] =
    [("it", &["tests/it"]), ("eds", &["src"]), ("xtask", &["xtask/src"])];

/// The names of tests in a text: words in backticks with one of [`CRATES`] in front.
fn named(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|word| CRATES.iter().any(|(name, _)| word.starts_with(&format!("{name}::"))))
        .collect()
}

/// Whether one of these files has the test: its function beside an attribute that makes it one, or
/// a case of a suite that a macro runs for several databases.
fn is_there(test: &str, all: &[File]) -> bool {
    let mut modules: Vec<&str> = test.split("::").skip(1).filter(|part| *part != "tests").collect();
    let Some(function) = modules.pop() else { return false };
    let in_place = |file: &&File| {
        let path = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let parts: Vec<&str> = path.split('/').collect();
        match modules.as_slice() {
            // The suite's modules are databases and have no files.
            ["conformance", ..] => parts.contains(&"conformance"),
            modules => parts.ends_with(modules) || parts.ends_with(&[modules, &["tests"]].concat()),
        }
    };
    let is_test = |file: &File| {
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        lines.iter().enumerate().any(|(at, line)| {
            let declared = [format!("fn {function}("), format!("async fn {function}(")];
            let is_declared = declared.iter().any(|start| line.starts_with(start.as_str()));
            let is_case =
                [" =>", ":"].iter().any(|mark| line.starts_with(&format!("{function}{mark}")));
            let mut above = lines[..at].iter().rev().take_while(|l| l.starts_with(['#', '/']));
            is_case || (is_declared && above.any(|l| l.starts_with("#[") && l.contains("test")))
        })
    };
    all.iter().filter(in_place).any(is_test)
}

#[test]
fn the_evidence_of_compatibility_is_there() {
    let text = files(&["docs"], "md").into_iter().find(|f| f.path == "docs/compatibility.md");
    let text = text.map(|file| file.text).unwrap_or_default();
    let names = named(&text);
    assert!(names.len() > 100, "the document names its evidence: {}", names.len());
    let mut wrong = Vec::new();
    for (name, dirs) in CRATES {
        let all = files(dirs, "rs");
        let of_crate = names.iter().filter(|test| test.starts_with(&format!("{name}::")));
        wrong.extend(of_crate.filter(|test| !is_there(test, &all)).map(|test| (*test).to_owned()));
    }
    none(&wrong);
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
    let all = [
        file("src/a/b.rs", "#[test]\n    fn works() {\n}\nfn helps() {"),
        file("src/a/c/mod.rs", "#[tokio::test(x)]\nasync fn waits() {"),
        file("tests/it/conformance/mod.rs", "case =>\n  body,"),
    ];
    for (test, expected) in [
        ("eds::a::b::tests::works", true),
        ("eds::a::c::waits", true),
        ("it::conformance::mysql::case", true),
        ("eds::a::b::tests::helps", false),
        ("eds::a::c::works", false),
        ("eds::a::b::tests::work", false),
        ("it::conformance::mysql::cas", false),
    ] {
        assert_eq!(is_there(test, &all), expected, "{test}");
    }
    let text = "`it::a::b` and `no` and `eds::c`";
    assert_eq!(named(text), BTreeSet::from(["it::a::b", "eds::c"]));
}
