//! Which module may know which: imports go downwards only, and neighbours do not know each other.

use std::collections::BTreeSet;

use super::{files, none, root};

/// The modules of the crate by layer, lowest first. ARCHITECTURE.md shows the same table.
const LAYERS: &[&[&str]] = &[
    &["backoff", "cause", "clock", "duration", "help", "private", "secret", "systemd"],
    &["change", "config", "http", "logs", "machine", "signals", "validator"],
    &["release"],
    &["destination", "export", "feed", "state"],
    &["hq", "registry"],
    &["pipeline"],
    &["import"],
    &["sandbox", "status", "verify"],
    &["worker"],
    &["supervisor"],
    &["doctor"],
    &["cli"],
];

/// A room, and its modules by layer, lowest first. What a room's `mod.rs` itself defines is below
/// all of them.
struct Room {
    path: &'static [&'static str],
    layers: &'static [&'static [&'static str]],
}

const ROOMS: &[Room] = &[Room { path: &[], layers: LAYERS }];

/// The module that a file is: `src/a/b.rs` and `src/a/b/mod.rs` are both `a::b`.
fn module(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').filter(|part| *part != "mod").map(str::to_owned).collect()
}

/// The paths that the code of a module names: `crate::…`, `super::…` and `self::…`, in full.
fn named_paths(text: &str, own: &[String]) -> BTreeSet<Vec<String>> {
    let code: String = text
        .split("#[cfg(test)]\nmod ")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for keyword in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            expand(&code[at..], own, &mut found);
        }
    }
    found
}

/// Follows one path, and the branches of its braces.
fn expand(text: &str, own: &[String], found: &mut BTreeSet<Vec<String>>) {
    let mut base: Vec<String> = Vec::new();
    let mut rest = text;
    let mut is_first = true;
    loop {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let word = &rest[..end];
        match word {
            "crate" => base.clear(),
            "self" if is_first => base = own.to_vec(),
            "super" => {
                if is_first {
                    base = own.to_vec();
                }
                base.pop();
            }
            "" => {}
            word => base.push(word.to_owned()),
        }
        is_first = false;
        rest = &rest[end..];
        let Some(next) = rest.strip_prefix("::") else { break };
        rest = next;
        if let Some(inner) = rest.strip_prefix('{') {
            for branch in branches(inner) {
                let word = branch.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next();
                let word = word.filter(|word| !word.is_empty() && *word != "self");
                found.insert(base.iter().cloned().chain(word.map(str::to_owned)).collect());
            }
            return;
        }
    }
    found.insert(base);
}

/// What stands between the commas of a pair of braces; `text` begins behind the opening one.
fn branches(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                out.push(&text[start..at]);
                return out;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out
}

/// What is wrong with `own` naming `other`, in this room.
fn violation(room: &Room, own: &[String], other: &[String]) -> Option<String> {
    let inside = |path: &[String]| {
        let is_in = path.len() > room.path.len() && path.iter().zip(room.path).all(|(a, b)| a == b);
        is_in.then(|| path[room.path.len()].clone())
    };
    let (from, to) = (inside(own)?, inside(other)?);
    let layer = |name: &str| room.layers.iter().position(|layer| layer.contains(&name));
    // What is no module is defined by the room's own file.
    let below = layer(&to)?;
    (from != to && layer(&from).is_some_and(|above| below >= above))
        .then(|| format!("{} names {}", own.join("::"), other.join("::")))
}

#[test]
fn imports_go_downwards_only() {
    let mut wrong = BTreeSet::new();
    for file in files(&["src"], "rs") {
        let own = module(&file.path);
        for other in named_paths(&file.text, &own) {
            wrong.extend(ROOMS.iter().filter_map(|room| violation(room, &own, &other)));
        }
    }
    none(&wrong.into_iter().collect::<Vec<_>>());
}

#[test]
fn every_module_has_its_layer() {
    let mut wrong = Vec::new();
    for room in ROOMS {
        let dir = room.path.iter().fold(root().join("src"), |dir, part| dir.join(part));
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let there: BTreeSet<String> = entries
            .flatten()
            .map(|e| e.file_name().to_string_lossy().trim_end_matches(".rs").to_owned())
            .filter(|name| !["mod", "lib", "main"].contains(&name.as_str()))
            .collect();
        let known: BTreeSet<String> =
            room.layers.iter().flat_map(|layer| layer.iter().map(|m| (*m).to_owned())).collect();
        let unlike = there.symmetric_difference(&known);
        wrong.extend(unlike.map(|name| format!("{}: {name}", dir.display())));
    }
    none(&wrong);
}

/// ARCHITECTURE.md tells the layers as they are.
#[test]
fn the_architecture_shows_the_layers() {
    let path = root().join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let rows = text.lines().filter(|l| l.starts_with("| `"));
    let shown: Vec<BTreeSet<String>> = rows
        .map(|row| {
            let modules = row.split('|').nth(1).unwrap_or_default();
            modules.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        })
        .collect();
    let layers: Vec<BTreeSet<String>> =
        LAYERS.iter().map(|layer| layer.iter().map(|m| (*m).to_owned()).collect()).collect();
    assert_eq!(shown, layers);
}

#[test]
fn paths_are_found_in_code() {
    let own = ["a".to_owned(), "b".to_owned()];
    let text = "use crate::x::{y, z::{self, W}};\n// crate::no\nfn f() { super::c::g(self::d); }\n\
                #[cfg(test)]\nmod tests { use crate::q; }";
    let found: Vec<String> = named_paths(text, &own).iter().map(|p| p.join("::")).collect();
    assert_eq!(found, ["a::b::d", "a::c::g", "x::y", "x::z"]);
    let room = Room { path: &["a"], layers: &[&["c"], &["b", "e"]] };
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(violation(&room, &own, &path("a::c::g")), None);
    assert_eq!(violation(&room, &own, &path("a::Thing")), None);
    assert!(violation(&room, &path("a::c"), &own).is_some(), "upwards");
    assert!(violation(&room, &path("a::e"), &own).is_some(), "sideways");
}
