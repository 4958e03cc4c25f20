//! What differs between SQL databases, as data.

use crate::change::ColumnType;

/// How one database differs from the others: its SQL, its transactions, its error codes. What is
/// not here is the same for all.
#[derive(Debug)]
pub struct Dialect {
    /// What users read; golden files are named after it.
    pub name: &'static str,
    /// Opens and closes a quoted name; the closing one is doubled inside.
    pub quotes: (char, char),
    /// The column type of each kind, in the order of [`ColumnType::ALL`].
    pub types: [&'static str; 8],
    /// The type of EDS's own numbers: 64 bits, signed.
    pub integer: &'static str,
    /// The type of a text column of the primary key. Its collation must tell apart any two keys
    /// that differ in a byte.
    pub text_key: &'static str,
    /// The type of the name under which a checkpoint is kept.
    pub consumer: &'static str,
    /// The statement that begins a transaction.
    pub begin: &'static str,
    /// How the n-th parameter (from 1) is written. EDS's own statements use each once and in order.
    pub parameter: fn(usize) -> String,
    /// How CREATE TABLE skips a table that exists.
    pub create: Create,
    /// What follows the columns of CREATE TABLE.
    pub table_options: &'static str,
    /// How ALTER TABLE begins a new column.
    pub add_column: &'static str,
    /// How a column is allowed to be null.
    pub not_null: NotNull,
    /// How rows are upserted.
    pub merge: Merge,
    /// When the primary key of a table that is loaded whole is created.
    pub keys: Keys,
    /// How a table is renamed.
    pub rename: Rename,
    /// Whether names have a schema in front; MySQL calls it a database.
    pub has_schemas: bool,
    /// When the checkpoint is written within the transaction of a batch.
    pub fence: FenceOrder,
    /// Whether COMMIT reports success although another session has ended the transaction before
    /// it. The caller then reads back what the transaction should have written.
    pub commit_may_be_void: bool,
    /// The error code of a lock that another session held for too long; `None` where no code tells.
    pub lock_wait_code: Option<&'static str>,
    /// The error code of ADD COLUMN where the column exists already.
    pub duplicate_column_code: &'static str,
}

/// When the checkpoint is written within the transaction of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FenceOrder {
    /// As the last statement before COMMIT: its row is locked for as short as possible.
    CheckpointLast,
    /// As the first statement: whoever holds the lock on its row is the only writer of the tables,
    /// and nothing is written in vain where another process has taken over. Needed where an upsert
    /// is not one atomic statement, or keys are not enforced.
    CheckpointFirst,
}

/// How CREATE TABLE skips a table that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Create {
    /// CREATE TABLE IF NOT EXISTS.
    IfNotExists,
    /// By asking for the object's id first.
    UnlessObject,
}

/// How a column is allowed to be null.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotNull {
    /// ALTER COLUMN … DROP NOT NULL.
    Drop,
    /// By these words and the column's whole definition without NOT NULL.
    Restate(&'static str),
    /// Not at all, because only keys are declared NOT NULL.
    Never,
}

/// How rows are inserted or, where their key exists, updated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merge {
    /// INSERT … ON CONFLICT (key) DO UPDATE.
    OnConflict,
    /// INSERT … ON DUPLICATE KEY UPDATE.
    OnDuplicateKey,
    /// UPDATE … FROM, then INSERT … WHERE NOT EXISTS: two statements, from a table of rows.
    UpdateThenInsert,
    /// MERGE INTO … USING. Keys are not enforced, so only this statement prevents two rows of one
    /// key.
    MergeInto,
}

/// When the primary key of a table that is loaded whole is created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    /// With the table.
    BeforeLoad,
    /// Once all rows are loaded, which is faster.
    AfterLoad,
}

/// How a table is renamed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rename {
    /// ALTER TABLE … RENAME TO, within a transaction.
    AlterTable,
    /// sp_rename, within a transaction.
    Procedure,
    /// RENAME TABLE, which ends the transaction but takes many tables at once.
    ManyAtOnce,
    /// Not at all, because it would end the transaction. The table's rows are replaced instead.
    Never,
}

/// The code that EDS gives an SQLite error about a column that exists: SQLite itself has one code
/// for all errors in SQL.
pub const SQLITE_DUPLICATE_COLUMN: &str = "duplicate column";

impl Dialect {
    /// The column type of a kind.
    pub fn type_of(&self, kind: ColumnType) -> &'static str {
        let at = ColumnType::ALL.iter().position(|k| *k == kind).unwrap_or(0);
        self.types[at]
    }
}

/// PostgreSQL 12 or later.
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
    fence: FenceOrder::CheckpointLast,
    commit_may_be_void: false,
    lock_wait_code: Some("55P03"),
    duplicate_column_code: "42701",
};

/// SQLite.
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
    fence: FenceOrder::CheckpointLast,
    commit_may_be_void: false,
    lock_wait_code: None,
    duplicate_column_code: SQLITE_DUPLICATE_COLUMN,
};

/// MySQL 8.0.17 or later. LONGTEXT, because TEXT ends at 65,535 bytes
/// (docs/decisions/0005-mysql-types.md).
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
    fence: FenceOrder::CheckpointLast,
    commit_may_be_void: false,
    lock_wait_code: Some("1205"),
    duplicate_column_code: "1060",
};

/// MariaDB 10.6 or later: MySQL but for collations, and it can skip a column that exists.
pub const MARIADB: Dialect = Dialect {
    name: "MariaDB",
    text_key: "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    consumer: "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    add_column: "ADD COLUMN IF NOT EXISTS",
    ..MYSQL
};

/// SQL Server 2016 or later. Times are text, as the predecessor of EDS stored them.
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
    fence: FenceOrder::CheckpointFirst,
    commit_may_be_void: false,
    lock_wait_code: Some("1222"),
    duplicate_column_code: "2705",
};

/// Snowflake, with the types that the predecessor of EDS created. Primary keys are declared, but
/// Snowflake does not enforce them.
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
    fence: FenceOrder::CheckpointFirst,
    commit_may_be_void: true,
    lock_wait_code: Some("000625"),
    duplicate_column_code: "001430",
};
