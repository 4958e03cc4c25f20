//! One object per change.

#[cfg(feature = "file")]
pub mod file;
pub mod name;
