//! How MySQL and MariaDB write SQL.

use crate::destination::sql::dialect::{Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename};

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
