//! How PostgreSQL writes SQL.

use crate::destination::Holds;
use crate::destination::shape::{NameLimit, NameUnit, TableLimits};
use crate::destination::sql::as_of::AsOf;
use crate::destination::sql::dialect::{
    Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename, Widen,
};
use crate::destination::sql::read_back::ReadBack;
use crate::destination::sql::types;

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
    key_note: None,
    exact_text: None,
    key_bytes_max: None,
    holds: |declared| types::holds(types::POSTGRES_TYPES, declared),
    limits: TableLimits {
        database: "PostgreSQL",
        names: NameLimit {
            max: 63,
            unit: NameUnit::Bytes,
            cuts: true,
            folds_tables: false,
            folds_columns: false,
        },
        columns_max: Some(1_600),
        drops_not_null: true,
        misfits: types::POSTGRES_MISFITS,
    },
    widen: Widen::Using,
    table_bytes: Some(
        "SELECT coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::int8 \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2",
    ),
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
    pipelines: true,
    lock_wait_code: Some("55P03"),
    unindexable_code: None,
    duplicate_column_code: "42701",
    as_of: Some(AsOf {
        time: |ns| format!("to_timestamp(({ns})::numeric / 1000000000)"),
        field: |column, field| format!("({column}::json ->> '{field}')"),
        number: |text| format!("{text}::bigint"),
    }),
    read_back: ReadBack {
        begin: &[
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            // All digits of a double, whatever the server's default is.
            "SET LOCAL extra_float_digits = 1",
        ],
        text: |column, holds| match holds {
            // In one form, whatever DateStyle is.
            Holds::Time => format!(
                "to_char({column}::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
            ),
            _ => format!("{column}::text"),
        },
        join: |text| format!("COALESCE('=' || {text}, '')"),
        limit: |rows| format!("LIMIT {rows}"),
        float_digits: None,
        concerns: Some(include_str!("concerns.sql")),
    },
};
