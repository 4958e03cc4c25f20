//! Why a message is not a change event.

use crate::change::json::NotJson;
use crate::change::value;

/// Why a message is not a change event. Names fields, never shows values: the text goes to logs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Its bytes are not UTF-8.
    #[error("the message is not UTF-8")]
    NotUtf8,
    /// It breaks the grammar of RFC 8259, or nests too deep.
    #[error("the message is {0}")]
    NotJson(#[from] NotJson),
    /// It is JSON, but an array or a scalar.
    #[error("the message is not a JSON object")]
    NotAnObject,
    /// Slots hold offsets of 32 bits.
    #[error("the message is larger than 4 GiB")]
    TooLarge,
    /// A field without which the change means nothing is absent or null.
    #[error("the field {0:?} is missing")]
    Missing(&'static str),
    /// A field holds a value of another JSON type than the contract says.
    #[error("the field {0:?} is not of the expected type")]
    WrongType(&'static str),
    /// `operation` is a word that the contract does not have.
    #[error("the operation is neither INSERT, UPDATE nor DELETE")]
    UnknownOperation,
    /// Neither `key` nor the row names the record.
    #[error("the event has no primary key")]
    NoKey,
    /// A part of the primary key is not a value of its column's type.
    #[error("the primary key does not fit its column: {0}")]
    KeyTypeMismatch(value::TypeMismatch),
    /// The transport says that the payload is packed in a way that EDS cannot unpack.
    #[error("the message has the content encoding {0:?}, which is not known")]
    UnknownEncoding(String),
    /// The transport says gzip, and the payload is not.
    #[error("the message is not valid gzip")]
    NotGzip,
}
