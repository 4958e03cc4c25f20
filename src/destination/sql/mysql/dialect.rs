//! How MySQL and MariaDB write SQL.

use crate::destination::shape::{NameLimit, NameUnit, TableLimits};
use crate::destination::sql::dialect::{
    Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename, Widen,
};
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
    lock_wait_code: Some("1205"),
    unindexable_code: Some("1170"),
    duplicate_column_code: "1060",
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
