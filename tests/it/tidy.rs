//! The house stays in order: import direction, lengths, first lines.

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// Lengths that may be exceeded by one file or function in a hundred.
const FUNCTION_EXCEPTIONS_MAX: usize = 5;

/// Modules by layer: imports go downwards only, and neighbours do not know each other.
const LAYERS: &[&[&str]] = &[
    &["backoff", "cause", "clock", "duration", "private"],
    &["change", "secret", "http", "logs", "machine", "config", "validator"],
    &["release"],
    &["destination", "export", "feed", "state"],
    &["hq", "registry"],
    &["pipeline", "control"],
    &["status", "sandbox"],
    &["supervisor"],
    &["cli"],
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push((
                path.clone(),
                std::fs::read_to_string(&path)
                    .unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            ));
        }
    }
}

fn all(dirs: &[&str]) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    dirs.iter().for_each(|dir| sources(&root().join(dir), &mut out));
    assert!(out.len() > 10, "the sources are found");
    out
}

/// The layer of a module of the crate.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

#[test]
fn imports_go_downwards_only() {
    let mut wrong = Vec::new();
    for (path, text) in all(&["src"]) {
        let relative = path.strip_prefix(root().join("src")).unwrap_or(&path).to_owned();
        let module = relative
            .iter()
            .next()
            .map(|p| p.to_string_lossy().trim_end_matches(".rs").to_owned())
            .unwrap_or_default();
        let Some(own) = layer(&module) else { continue };
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for piece in code.split("crate::").skip(1) {
            let other: String =
                piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if other != module && layer(&other).is_some_and(|theirs| theirs >= own) {
                wrong.push(format!("{} imports {other}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for_and_is_not_too_long() {
    let mut wrong = Vec::new();
    for (path, text) in all(&["src", "tests", "benches", "xtask/src"]) {
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: its first line does not say what it is for", path.display()));
        }
        if text.lines().count() > FILE_LINES_MAX {
            wrong.push(format!("{}: {} lines", path.display(), text.lines().count()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for (path, text) in all(&["src", "xtask/src"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start();
            let is_function = ["fn ", "pub fn ", "async fn ", "pub async fn ", "const fn "]
                .iter()
                .any(|h| head.starts_with(h));
            if !is_function || head.ends_with(';') || head.ends_with('}') {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|l| *l == close).unwrap_or(0) + 1;
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{} {length} lines", path.display(), start + 1));
            }
        }
    }
    assert!(long.len() <= FUNCTION_EXCEPTIONS_MAX, "{}", long.join("\n"));
}

#[test]
fn nothing_is_unfinished_and_nothing_names_another_place() {
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["unimplemented", "!"].concat(),
        ["#[ign", "ore"].concat(),
        ["../sha", "red"].concat(),
    ];
    let mut wrong = Vec::new();
    for (path, text) in all(&["src", "tests", "benches", "xtask/src"]) {
        wrong.extend(
            words
                .iter()
                .filter(|w| text.contains(w.as_str()))
                .map(|w| format!("{}: {w}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
