//! Files of a full export: their names, their lines, and how they come from HQ.

#[cfg(feature = "http")]
pub mod download;
pub mod lines;
pub mod name;

use std::path::{Path, PathBuf};

pub use name::FileName;

/// A file of an export on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportFile {
    /// What its name tells.
    pub name: FileName,
    /// Where it is.
    pub path: PathBuf,
    /// Its size as it is stored, in bytes.
    pub bytes: u64,
}

/// The files of an export in a directory, in the order of their names. What is no such file by its
/// ending is passed over; one whose name cannot be read is an error.
pub fn in_directory(dir: &Path) -> Result<Vec<ExportFile>, String> {
    let unreadable =
        |e: std::io::Error| format!("the directory {} cannot be read: {e}", dir.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let text = entry.file_name().to_string_lossy().into_owned();
        if !name::is_export(&text) || !entry.file_type().map_err(unreadable)?.is_file() {
            continue;
        }
        let name = FileName::parse(&text).ok_or_else(|| {
            format!(
                "the name of {} is not that of an export's file (<time>-…-<table>-<id>.ndjson.gz)",
                entry.path().display()
            )
        })?;
        files.push(ExportFile {
            name,
            path: entry.path(),
            bytes: entry.metadata().map_err(unreadable)?.len(),
        });
    }
    files.sort_by(|a, b| a.name.text.cmp(&b.name.text));
    Ok(files)
}
