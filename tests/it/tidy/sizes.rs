//! How long files, functions and lines may be, and what must not stand in them.

use std::collections::BTreeMap;

use super::{code, none};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 60;
const COLUMNS_MAX: usize = 100;

#[test]
fn every_file_says_what_it_is_for_and_is_not_too_long() {
    let mut wrong = Vec::new();
    for file in code() {
        if !file.text.starts_with("//! ") {
            wrong.push(format!("{}: its first line does not say what it is for", file.path));
        }
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}: {lines} lines", file.path));
        }
    }
    none(&wrong);
}

/// Whether a function begins on this line: `fn` behind nothing but its modifiers.
fn begins_function(line: &str) -> bool {
    let Some(at) = line.find("fn ") else { return false };
    let modifiers = ["pub", "const", "async", "default", "extern", "\"C\""];
    let is_modifier = |word: &str| modifiers.contains(&word) || word.starts_with("pub(");
    line[..at].split_whitespace().all(is_modifier) && !line.ends_with(';')
}

#[test]
fn functions_are_short() {
    let mut wrong = Vec::new();
    for file in code() {
        let lines: Vec<&str> = file.text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            if !begins_function(line.trim_start()) || line.ends_with('}') {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let close = format!("{}}}", " ".repeat(indent));
            let declared = format!("{});", " ".repeat(indent));
            let end = lines[start..].iter().position(|l| *l == close || l.starts_with(&declared));
            let length = end.map_or(0, |end| end + 1);
            if length > FUNCTION_LINES_MAX {
                wrong.push(format!("{}:{} {length} lines", file.path, start + 1));
            }
        }
    }
    none(&wrong);
}

#[test]
fn beginnings_of_functions_are_seen() {
    for line in ["fn a() {", "pub fn a() {", "pub(super) async fn a(", "pub(crate) const fn a() {"]
    {
        assert!(begins_function(line), "{line}");
    }
    for line in ["let f = fn_of();", "// a fn of ours", "type F = fn ();", "fn declared();"] {
        assert!(!begins_function(line), "{line}");
    }
}

/// Code and comments keep to the width; a text in quotation marks may be longer.
#[test]
fn lines_are_not_too_long() {
    let mut wrong = Vec::new();
    for file in code() {
        for (n, line) in file.text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX && !line.contains('"') && !line.ends_with('\\') {
                wrong.push(format!("{}:{}", file.path, n + 1));
            }
        }
    }
    none(&wrong);
}

/// Type names by where they are defined: one name has one meaning.
#[test]
fn every_type_name_is_defined_once() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in code() {
        let lines: Vec<&str> = file.text.lines().map(str::trim_start).collect();
        for (n, line) in lines.iter().enumerate() {
            // Two systems or sets of features may each have their form of one thing.
            let attributes = lines[..n].iter().rev().take_while(|l| l.starts_with(['#', '/']));
            if attributes.into_iter().any(|l| l.starts_with("#[cfg(")) {
                continue;
            }
            let mut words =
                line.split_whitespace().filter(|w| *w != "pub" && !w.starts_with("pub("));
            let is_type =
                words.next().is_some_and(|w| ["struct", "enum", "trait", "type"].contains(&w));
            let Some(name) = words.next().filter(|_| is_type) else { continue };
            let name =
                name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(name);
            // An associated type has the name that its trait gives it.
            if !line.starts_with("type ")
                || !line.contains(" = ")
                || file.text.contains(&format!("\n{line}"))
            {
                places.entry(name.to_owned()).or_default().push(file.path.clone());
            }
        }
    }
    let twice = places.iter().filter(|(_, places)| places.len() > 1);
    none(&twice.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect::<Vec<_>>());
}

#[test]
fn nothing_is_unfinished_silenced_or_of_another_place() {
    // In pieces, so that this file does not name them itself.
    let anywhere =
        [["TO", "DO"], ["FIX", "ME"], ["unimplemented", "!"], ["#[ign", "ore"], ["../sha", "red"]];
    // In the library no code is without use, and error codes are data.
    let in_library = [["#[allow", "("], ["text.contains(\"", "("]];
    let mut wrong = Vec::new();
    for file in code().into_iter().chain(super::documents::documents()) {
        let library = in_library.iter().filter(|_| file.path.starts_with("src/"));
        let words = anywhere.iter().chain(library).map(|word| word.concat());
        let found = words.filter(|word| file.text.contains(word.as_str()));
        wrong.extend(found.map(|word| format!("{}: {word}", file.path)));
    }
    none(&wrong);
}
