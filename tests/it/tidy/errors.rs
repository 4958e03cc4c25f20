//! Every code of an error has its page, every page its code, and every code an error.

use std::collections::BTreeSet;

use eds::help::HelpCode;

use super::{files, none, root};

/// The list of all codes.
const LIST: &str = "docs/errors/README.md";

#[test]
fn every_page_is_of_a_code_and_has_its_parts() {
    let mut wrong = Vec::new();
    let codes: BTreeSet<&str> = HelpCode::ALL.iter().map(|code| code.as_str()).collect();
    for file in files(&["docs/errors"], "md") {
        let name = file.path.trim_start_matches("docs/errors/").trim_end_matches(".md");
        if file.path != LIST && !codes.contains(name) {
            wrong.push(format!("{}: there is no such code", file.path));
        }
    }
    for code in HelpCode::ALL {
        let (name, page) = (code.as_str(), code.page());
        let parts = [&format!("# {name}: "), "\n## Cause\n", "\n## Cure\n", "\n## Example\n"];
        let mut at = 0;
        for part in parts {
            match page[at..].find(part) {
                Some(found) => at += found,
                None => wrong.push(format!("{name} lacks {part:?}, or has it in another place")),
            }
        }
        if !page[at..].contains(&format!("[{name}]")) {
            wrong.push(format!("the example of {name} does not show the code"));
        }
    }
    none(&wrong);
}

/// A code that no error has is one that nobody will look up.
#[test]
fn every_code_is_used() {
    let code: String = files(&["src"], "rs")
        .into_iter()
        .filter(|file| file.path != "src/help.rs")
        .map(|file| file.text)
        .collect();
    let unused = HelpCode::ALL.iter().filter(|help| {
        let named = format!("HelpCode::{help:?}");
        let is_whole =
            |at: usize| !code[at + named.len()..].starts_with(|c: char| c.is_alphanumeric());
        !code.match_indices(&named).any(|(at, _)| is_whole(at))
    });
    none(&unused.map(|help| format!("{help:?} ({})", help.as_str())).collect::<Vec<_>>());
}

/// The list is made of the titles; `EDS_GOLDEN=write` rewrites it.
#[test]
fn the_list_of_codes_is_complete() {
    let line = |code: &HelpCode| format!("- [{0}]({0}.md) {1}", code.as_str(), code.title());
    let lines: Vec<String> = HelpCode::ALL.iter().map(line).collect();
    let wanted = format!(
        "# Codes of errors\n\nErrors end with a code in brackets; errors with the same cure have \
         the same code. `eds explain CODE`\nshows the page without a network.\n\n{}\n",
        lines.join("\n")
    );
    let path = root().join(LIST);
    if std::env::var_os("EDS_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, &wanted).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, wanted, "EDS_GOLDEN=write makes {LIST} anew");
}
