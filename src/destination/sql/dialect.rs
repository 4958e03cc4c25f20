//! What differs between SQL databases, as data.

use crate::change::ColumnType;

/// One database's way of writing SQL. Everything that is not here is the same for all.
#[derive(Debug)]
pub struct Dialect {
    pub name: &'static str,
    /// Opens and closes a quoted name; the closing one is doubled inside.
    pub quotes: (char, char),
    /// The column type of each kind, in the order of [`ColumnType::ALL`].
    pub types: [&'static str; 8],
    pub integer: &'static str,
    /// The type of a text column of the primary key: every difference between two keys has to
    /// count.
    pub text_key: &'static str,
    /// The type of the name under which a checkpoint is kept.
    pub consumer: &'static str,
    pub begin: &'static str,
    /// How the n-th parameter (from 1) is written. EDS's own statements use each once and in order.
    pub parameter: fn(usize) -> String,
    pub create: Create,
    /// What follows the columns of CREATE TABLE.
    pub table_options: &'static str,
    /// How ALTER TABLE begins a new column.
    pub add_column: &'static str,
    pub not_null: NotNull,
    pub merge: Merge,
    /// When the primary key of a table that is loaded whole is made.
    pub keys: Keys,
    pub rename: Rename,
    /// Whether names have a schema in front; MySQL calls it a database.
    pub has_schemas: bool,
}

/// How CREATE TABLE passes over a table that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Create {
    IfNotExists,
    /// By asking for the object's id first.
    UnlessObject,
}

/// How NOT NULL of a column is taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotNull {
    /// ALTER COLUMN … DROP NOT NULL.
    Drop,
    /// By stating the column anew, as it is, with these words.
    Restate(&'static str),
    /// Not at all: only keys are NOT NULL.
    Never,
}

/// How rows are inserted or, where their key is there, updated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merge {
    /// INSERT … ON CONFLICT (key) DO UPDATE.
    OnConflict,
    /// INSERT … ON DUPLICATE KEY UPDATE.
    OnDuplicateKey,
    /// UPDATE … FROM, then INSERT … WHERE NOT EXISTS: two statements, from a table of rows.
    UpdateThenInsert,
    /// MERGE INTO … USING: keys are not enforced, so nothing else keeps a row from being there
    /// twice.
    MergeInto,
}

/// When the primary key of a table that is loaded whole is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    BeforeLoad,
    AfterLoad,
}

/// How tables change their names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rename {
    /// ALTER TABLE … RENAME TO, within a transaction.
    AlterTable,
    /// sp_rename, within a transaction.
    Procedure,
    /// RENAME TABLE, which ends the transaction but takes many tables at once.
    ManyAtOnce,
    /// Not at all, because it would end the transaction: rows are written over instead.
    Never,
}

impl Dialect {
    pub fn type_of(&self, kind: ColumnType) -> &'static str {
        let at = ColumnType::ALL.iter().position(|k| *k == kind).unwrap_or(0);
        self.types[at]
    }
}

pub const POSTGRES: Dialect = Dialect {
    name: "PostgreSQL",
    quotes: ('"', '"'),
    types: [
        "TEXT",
        "TIMESTAMP WITH TIME ZONE",
        "BIGINT",
        "DOUBLE PRECISION",
        "BOOLEAN",
        "JSONB",
        "JSONB",
        "VARCHAR(64)",
    ],
    integer: "BIGINT",
    text_key: "TEXT",
    consumer: "TEXT",
    begin: "BEGIN",
    parameter: |n| format!("${n}"),
    create: Create::IfNotExists,
    table_options: "",
    add_column: "ADD COLUMN IF NOT EXISTS",
    not_null: NotNull::Drop,
    merge: Merge::OnConflict,
    keys: Keys::AfterLoad,
    rename: Rename::AlterTable,
    has_schemas: true,
};

pub const SQLITE: Dialect = Dialect {
    name: "SQLite",
    quotes: ('"', '"'),
    types: ["TEXT", "TEXT", "INTEGER", "REAL", "INTEGER", "TEXT", "TEXT", "TEXT"],
    integer: "INTEGER",
    text_key: "TEXT",
    consumer: "TEXT",
    begin: "BEGIN IMMEDIATE",
    parameter: |n| format!("?{n}"),
    create: Create::IfNotExists,
    table_options: "",
    add_column: "ADD COLUMN",
    not_null: NotNull::Never,
    merge: Merge::OnConflict,
    keys: Keys::BeforeLoad,
    rename: Rename::AlterTable,
    has_schemas: false,
};

/// LONGTEXT, because TEXT ends at 65,535 bytes (docs/decisions/0005-mysql-types.md).
pub const MYSQL: Dialect = Dialect {
    name: "MySQL",
    quotes: ('`', '`'),
    types: [
        "LONGTEXT",
        "DATETIME(6)",
        "BIGINT",
        "DOUBLE",
        "BOOLEAN",
        "JSON",
        "JSON",
        "VARCHAR(64)",
    ],
    integer: "BIGINT",
    text_key: "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin",
    consumer: "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin",
    begin: "START TRANSACTION",
    parameter: |_| "?".to_owned(),
    create: Create::IfNotExists,
    table_options: " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4",
    add_column: "ADD COLUMN",
    not_null: NotNull::Restate("MODIFY COLUMN"),
    merge: Merge::OnDuplicateKey,
    keys: Keys::BeforeLoad,
    rename: Rename::ManyAtOnce,
    has_schemas: true,
};

pub const MARIADB: Dialect = Dialect {
    name: "MariaDB",
    text_key: "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    consumer: "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    add_column: "ADD COLUMN IF NOT EXISTS",
    ..MYSQL
};

/// Times are text, as the predecessor of EDS stored them.
pub const SQLSERVER: Dialect = Dialect {
    name: "SQL Server",
    quotes: ('[', ']'),
    types: [
        "NVARCHAR(MAX)",
        "NVARCHAR(MAX)",
        "BIGINT",
        "FLOAT",
        "BIT",
        "NVARCHAR(MAX)",
        "NVARCHAR(MAX)",
        "VARCHAR(64)",
    ],
    integer: "BIGINT",
    text_key: "NVARCHAR(64) COLLATE Latin1_General_100_BIN2",
    consumer: "NVARCHAR(255) COLLATE Latin1_General_100_BIN2",
    begin: "BEGIN TRANSACTION",
    parameter: |n| format!("@P{n}"),
    create: Create::UnlessObject,
    table_options: "",
    add_column: "ADD",
    not_null: NotNull::Restate("ALTER COLUMN"),
    merge: Merge::UpdateThenInsert,
    keys: Keys::BeforeLoad,
    rename: Rename::Procedure,
    has_schemas: true,
};

/// The types that the predecessor of EDS made; primary keys are declared, but Snowflake does not
/// enforce them.
pub const SNOWFLAKE: Dialect = Dialect {
    name: "Snowflake",
    quotes: ('"', '"'),
    types: [
        "STRING",
        "TIMESTAMP_NTZ",
        "INTEGER",
        "FLOAT",
        "BOOLEAN",
        "STRING",
        "VARIANT",
        "STRING",
    ],
    integer: "INTEGER",
    text_key: "STRING",
    consumer: "STRING",
    begin: "BEGIN TRANSACTION",
    parameter: |_| "?".to_owned(),
    create: Create::IfNotExists,
    table_options: "",
    add_column: "ADD COLUMN IF NOT EXISTS",
    not_null: NotNull::Drop,
    merge: Merge::MergeInto,
    keys: Keys::AfterLoad,
    rename: Rename::Never,
    has_schemas: true,
};
