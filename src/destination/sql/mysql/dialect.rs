//! How MySQL and MariaDB write SQL.

use crate::destination::shape::{NameLimit, NameUnit, TableLimits};
use crate::destination::sql::as_of::AsOf;
use crate::destination::sql::dialect::{
    Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename, Widen,
};
use crate::destination::sql::read_back::ReadBack;
use crate::destination::sql::types;

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
    text_key: "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin",
    key_note: None,
    exact_text: None,
    key_bytes_max: Some(3_072),
    holds: |declared| types::holds(types::MYSQL_TYPES, declared),
    limits: TableLimits {
        database: "MySQL",
        names: NameLimit {
            max: 64,
            unit: NameUnit::Characters,
            cuts: false,
            folds_tables: false,
            folds_columns: true,
        },
        columns_max: Some(1_017),
        drops_not_null: true,
        misfits: types::MYSQL_MISFITS,
    },
    widen: Widen::Restate("MODIFY COLUMN"),
    table_bytes: Some(
        "SELECT CAST(COALESCE(MAX(data_length), 0) AS SIGNED) FROM information_schema.tables \
         WHERE table_schema = ? AND table_name = ?",
    ),
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
    pipelines: false,
    lock_wait_code: Some("1205"),
    unindexable_code: Some("1170"),
    duplicate_column_code: "1060",
    as_of: Some(AsOf {
        time: |ns| {
            format!("TIMESTAMPADD(MICROSECOND, ({ns}) DIV 1000, CAST('1970-01-01' AS DATETIME(6)))")
        },
        field: |column, field| format!("JSON_UNQUOTE(JSON_EXTRACT({column}, '$.{field}'))"),
        number: |text| format!("CAST({text} AS SIGNED)"),
    }),
    read_back: ReadBack {
        begin: &[
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        ],
        text: |column, _| format!("CAST({column} AS CHAR)"),
        join: |text| format!("COALESCE(CONCAT('=', {text}), '')"),
        limit: |rows| format!("LIMIT {rows}"),
        float_digits: None,
        concerns: Some(
            "SELECT CAST(EVENT_OBJECT_TABLE AS CHAR), '', \
                   CONCAT('it has triggers, which run for each row and may refuse it: ', \
                   GROUP_CONCAT(TRIGGER_NAME ORDER BY TRIGGER_NAME SEPARATOR ', ')), \
                   'keep them cheap, or DROP TRIGGER' \
                   FROM information_schema.TRIGGERS \
                   WHERE EVENT_OBJECT_SCHEMA = COALESCE(NULLIF(?, ''), DATABASE()) \
                   GROUP BY EVENT_OBJECT_TABLE ORDER BY 1",
        ),
    },
};

/// MariaDB 10.6 or later: MySQL but for collations, and it can skip a column that exists.
pub const MARIADB: Dialect = Dialect {
    name: "MariaDB",
    text_key: "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    consumer: "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    limits: TableLimits { database: "MariaDB", misfits: types::MARIADB_MISFITS, ..MYSQL.limits },
    add_column: "ADD COLUMN IF NOT EXISTS",
    ..MYSQL
};
