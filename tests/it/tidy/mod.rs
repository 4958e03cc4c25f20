//! The house stays in order: sizes, first lines, names, imports, documents.

pub mod documents;
mod errors;
mod evidence;
mod imports;
mod sizes;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the project: its path from the root, and its text.
pub struct File {
    pub path: String,
    pub text: String,
}

fn collect(dir: &Path, ending: &str, out: &mut Vec<File>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, ending, out);
        } else if path.extension().is_some_and(|e| e == ending) {
            let text = std::fs::read_to_string(&path);
            let text = text.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let path = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().into_owned();
            out.push(File { path, text });
        }
    }
}

/// All files with this ending below these directories of the project.
fn files(dirs: &[&str], ending: &str) -> Vec<File> {
    let mut out = Vec::new();
    dirs.iter().for_each(|dir| collect(&root().join(dir), ending, &mut out));
    assert!(!out.is_empty(), "there are files in {dirs:?}");
    out
}

/// All Rust code.
fn code() -> Vec<File> {
    files(&["src", "tests", "benches", "xtask/src"], "rs")
}

/// Fails with the list, if there is anything on it.
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
