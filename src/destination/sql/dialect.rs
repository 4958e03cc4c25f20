//! What differs between SQL databases, as data.

use crate::change::Kind;

/// One database's way of writing SQL. Everything that is not here is the same for all.
#[derive(Debug)]
pub struct Dialect {
    pub name: &'static str,
    /// Opens and closes a quoted name; the closing one is doubled inside.
    pub quotes: (char, char),
    /// The column type of each kind, in the order of [`Kind::ALL`].
    pub types: [&'static str; 8],
    pub integer: &'static str,
    pub text_key: &'static str,
    pub begin: &'static str,
    /// How the n-th parameter (from 1) is written.
    pub parameter: fn(usize) -> String,
    /// Whether NOT NULL of a column can be taken back later; where it cannot, only keys are NOT NULL.
    pub drops_not_null: bool,
    /// Whether ADD COLUMN takes IF NOT EXISTS.
    pub adds_if_missing: bool,
    /// Whether names have a schema in front.
    pub has_schemas: bool,
}

impl Dialect {
    pub fn type_of(&self, kind: Kind) -> &'static str {
        let at = Kind::ALL.iter().position(|k| *k == kind).unwrap_or(0);
        self.types[at]
    }
}

pub const POSTGRES: Dialect = Dialect {
    name: "PostgreSQL",
    quotes: ('"', '"'),
    types: ["TEXT", "TIMESTAMP WITH TIME ZONE", "BIGINT", "DOUBLE PRECISION", "BOOLEAN", "JSONB", "JSONB", "VARCHAR(64)"],
    integer: "BIGINT",
    text_key: "TEXT",
    begin: "BEGIN",
    parameter: |n| format!("${n}"),
    drops_not_null: true,
    adds_if_missing: true,
    has_schemas: true,
};

pub const SQLITE: Dialect = Dialect {
    name: "SQLite",
    quotes: ('"', '"'),
    types: ["TEXT", "TEXT", "INTEGER", "REAL", "INTEGER", "TEXT", "TEXT", "TEXT"],
    integer: "INTEGER",
    text_key: "TEXT",
    begin: "BEGIN IMMEDIATE",
    parameter: |n| format!("?{n}"),
    drops_not_null: false,
    adds_if_missing: false,
    has_schemas: false,
};
