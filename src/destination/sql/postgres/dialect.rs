//! How PostgreSQL writes SQL.

use crate::destination::sql::dialect::{Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename};

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
