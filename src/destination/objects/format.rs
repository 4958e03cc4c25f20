//! The option `format`: what an object holds, and by which ending and media type it is known; and
//! why changes could not be packed into one.

use crate::destination::{Failure, Settings};

/// What an object holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One change.
    Json,
    /// The changes of a table and an hour, one a line, packed by gzip.
    Ndjson,
    /// The same, typed by the table's schema.
    #[cfg(feature = "parquet")]
    Parquet,
}

impl Format {
    /// The format that the option `format` names; without it one object per change.
    pub fn read(settings: &Settings) -> Result<Format, Failure> {
        match settings.parameter("format") {
            None | Some("json") => Ok(Format::Json),
            Some("ndjson") => Ok(Format::Ndjson),
            #[cfg(feature = "parquet")]
            Some("parquet") => Ok(Format::Parquet),
            #[cfg(not(feature = "parquet"))]
            Some("parquet") => Err(Failure::misconfigured("format=parquet is not in this build")),
            Some(other) => Err(Failure::misconfigured(format!(
                "format={other:?} is not known; there is json (an object per change), ndjson \
                 and parquet"
            ))),
        }
    }

    /// The media type of an object, for those who list them.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Ndjson => "application/gzip",
            #[cfg(feature = "parquet")]
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// The end of an object's name, with its dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Json => ".json",
            Format::Ndjson => ".ndjson.gz",
            #[cfg(feature = "parquet")]
            Format::Parquet => ".parquet",
        }
    }
}

/// Why the changes of a file could not be packed.
pub enum PackError {
    /// A value does not fit its column.
    TypeMismatch,
    /// The library that packs gives this reason.
    Failed(String),
}

impl From<std::io::Error> for PackError {
    fn from(e: std::io::Error) -> PackError {
        PackError::Failed(e.to_string())
    }
}
