//! Documents are wrapped, and their links lead somewhere.

use super::{files, none, root};

const COLUMNS_MAX: usize = 120;

/// The documents: those of the project's root and all below `docs/`.
pub fn documents() -> Vec<super::File> {
    let mut all = files(&["docs"], "md");
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let path = root().join(name);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        all.push(super::File { path: name.to_owned(), text });
    }
    all
}

/// Prose is wrapped; tables and what a program printed are as they are.
#[test]
fn documents_are_wrapped() {
    let mut wrong = Vec::new();
    for file in documents() {
        let mut is_code = false;
        for (n, line) in file.text.lines().enumerate() {
            is_code ^= line.trim_start().starts_with("```");
            let is_table = line.trim_start().starts_with('|');
            if !is_code && !is_table && line.chars().count() > COLUMNS_MAX {
                wrong.push(format!("{}:{}", file.path, n + 1));
            }
        }
    }
    none(&wrong);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    for file in documents() {
        let from = root().join(&file.path);
        let targets = file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path = target.split('#').next().unwrap_or(target);
            if !from.parent().is_some_and(|dir| dir.join(path).exists()) {
                wrong.push(format!("{}: {target}", file.path));
            }
        }
    }
    none(&wrong);
}
