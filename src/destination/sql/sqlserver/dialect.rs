//! How SQL Server writes SQL.

use crate::destination::shape::{NameLimit, NameUnit, TableLimits};
use crate::destination::sql::dialect::{
    Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename, Widen,
};
use crate::destination::sql::types;

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
    key_bytes_max: None,
    holds: |declared| types::holds(types::SQLSERVER_TYPES, declared),
    limits: TableLimits {
        database: "SQL Server",
        names: NameLimit {
            max: 128,
            unit: NameUnit::Characters,
            cuts: false,
            folds_tables: true,
            folds_columns: true,
        },
        columns_max: Some(1_024),
        drops_not_null: true,
        misfits: types::SQLSERVER_MISFITS,
    },
    widen: Widen::Restate("ALTER COLUMN"),
    table_bytes: None,
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
    unindexable_code: None,
    duplicate_column_code: "2705",
};
