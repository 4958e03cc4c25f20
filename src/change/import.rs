//! What is recorded of an import's files.

/// How far a file is loaded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileProgress {
    /// The file's name.
    pub file: String,
    /// Lines from its beginning that were loaded or skipped.
    pub lines: u64,
    /// Rows that were loaded.
    pub rows: u64,
    /// Lines that could not be loaded, or that the user's rules do not want.
    pub skipped: u64,
    /// Whether that was the whole file.
    pub done: bool,
}
