//! How SQL Server writes SQL.

use crate::destination::Holds;
use crate::destination::shape::{NameLimit, NameUnit, TableLimits};
use crate::destination::sql::dialect::{
    Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename, Widen,
};
use crate::destination::sql::read_back::ReadBack;
use crate::destination::sql::types;

/// A text of a key that is compared character by character.
const BINARY_KEY: &str = "NVARCHAR(64) COLLATE Latin1_General_100_BIN2";
/// A text of a key that is compared as the database compares texts.
const DATABASE_KEY: &str = "NVARCHAR(64)";

/// Writes a text so that it is compared character by character: as Unicode first, so that nothing
/// is lost between code pages; then the explicit collation is that of the comparison, whatever the
/// other side has.
pub fn exact(text: &str, characters_max: usize) -> String {
    format!("CAST({text} AS NVARCHAR({characters_max})) COLLATE Latin1_General_100_BIN2")
}

/// SQL Server where new keys compare as the database does.
pub const SQLSERVER_DATABASE_KEYS: Dialect = Dialect {
    text_key: DATABASE_KEY,
    key_note: None,
    limits: TableLimits { misfits: &types::sqlserver_misfits(DATABASE_KEY), ..SQLSERVER.limits },
    ..SQLSERVER
};

/// SQL Server 2016 or later, with keys that the database would not tell apart by itself. Times are
/// text, as the predecessor of EDS stored them.
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
    text_key: BINARY_KEY,
    key_note: Some(
        "its texts are compared character by character, because the database would take keys for \
         one that differ in case or accents; a join with a column of the database's collation \
         needs COLLATE Latin1_General_100_BIN2 (see keyCollation in `eds drivers sqlserver`)",
    ),
    exact_text: Some(|text| exact(text, 64)),
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
        misfits: &types::sqlserver_misfits(BINARY_KEY),
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
    fence: FenceOrder::CheckpointLocked,
    commit_may_be_void: false,
    pipelines: false,
    lock_wait_code: Some("1222"),
    unindexable_code: None,
    duplicate_column_code: "2705",
    as_of: None,
    read_back: ReadBack {
        // READ COMMITTED: what moves between two rows is looked at again, and a database need not
        // allow SNAPSHOT.
        begin: &[],
        text: |column, holds| match holds {
            Holds::Text | Holds::Word => column.to_owned(),
            // All digits of a double.
            Holds::Float => format!("CONVERT(NVARCHAR(MAX), {column}, 3)"),
            // What is neither EDS's nor a number may be a time: in one form, whatever the language.
            Holds::Anything => format!("CONVERT(NVARCHAR(MAX), {column}, 126)"),
            _ => format!("CONVERT(NVARCHAR(MAX), {column})"),
        },
        join: |text| format!("COALESCE(N'=' + {text}, N'')"),
        limit: |rows| format!("OFFSET 0 ROWS FETCH NEXT {rows} ROWS ONLY"),
        float_digits: None,
        concerns: Some(
            "SELECT OBJECT_NAME(r.parent_id), N'', \
             CONCAT(N'it has the trigger ', r.name, N', which runs for each statement and may \
             refuse rows'), N'keep it cheap, or DROP TRIGGER' \
             FROM sys.triggers AS r INNER JOIN sys.tables AS t ON t.object_id = r.parent_id \
             WHERE r.is_disabled = 0 AND \
             SCHEMA_NAME(t.schema_id) = COALESCE(NULLIF(@P1, N''), SCHEMA_NAME()) ORDER BY r.name",
        ),
    },
};
