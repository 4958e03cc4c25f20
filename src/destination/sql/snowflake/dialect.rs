//! How Snowflake writes SQL.

use crate::destination::Holds;
use crate::destination::shape::{NameLimit, NameUnit, TableLimits};
use crate::destination::sql::dialect::{
    Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename, Widen,
};
use crate::destination::sql::read_back::ReadBack;
use crate::destination::sql::types;

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
    key_note: None,
    exact_text: None,
    key_bytes_max: None,
    holds: |declared| types::holds(types::SNOWFLAKE_TYPES, declared),
    limits: TableLimits {
        database: "Snowflake",
        names: NameLimit {
            max: 255,
            unit: NameUnit::Characters,
            cuts: false,
            folds_tables: false,
            folds_columns: false,
        },
        columns_max: None,
        drops_not_null: true,
        misfits: types::SNOWFLAKE_MISFITS,
    },
    widen: Widen::ByHand,
    table_bytes: None,
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
    pipelines: false,
    lock_wait_code: Some("000625"),
    unindexable_code: None,
    duplicate_column_code: "001430",
    as_of: None,
    read_back: ReadBack {
        // A statement reads all rows of one moment.
        begin: &[],
        text: |column, holds| match holds {
            Holds::Text | Holds::Word => column.to_owned(),
            // Whatever the session's format is.
            Holds::Time => format!("TO_VARCHAR({column}, 'YYYY-MM-DD HH24:MI:SS.FF6')"),
            // VARIANT, above all.
            Holds::Anything => format!("TO_JSON(TO_VARIANT({column}))"),
            _ => format!("TO_VARCHAR({column})"),
        },
        join: |text| format!("COALESCE('=' || {text}, '')"),
        limit: |rows| format!("LIMIT {rows}"),
        float_digits: Some(15),
        concerns: None,
    },
};
