//! One object per change.

#[cfg(feature = "file")]
pub mod file;
pub mod name;

#[cfg(feature = "s3")]
pub mod s3;
