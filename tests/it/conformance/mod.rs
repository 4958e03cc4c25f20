//! What every keeper of tables promises, asked of each on a real server, and read back with a
//! client of its own.

mod catalog;
pub mod columns;
pub mod databases;
mod letters;
mod promises;
mod shapes;
mod texts;
mod troubles;
mod values;
mod widening;

use std::path::Path;
use std::process::Output;

use async_trait::async_trait;
use serde_json::Value;

use crate::services::eds::replay_in;
use eds::change::ColumnType;

/// A fresh database on a real server.
#[async_trait]
pub trait Database: Send + Sync {
    fn url(&self) -> String;
    /// How the database quotes a name.
    fn quoted(&self, name: &str) -> String;
    /// Columns of all rows as text, in the order of the first column as bytes.
    async fn read(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>>;
    /// Runs a statement as the owner of the database.
    async fn run(&self, sql: &str);
    /// What the database itself cannot do.
    fn limits(&self) -> DatabaseLimits;
}

/// What a database itself cannot do, whoever writes to it; the documentation of each destination
/// says so.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseLimits {
    /// Text cannot hold NUL.
    pub without_nul: bool,
    /// Numbers within JSON are doubles or integers of 64 bits.
    pub short_json_numbers: bool,
    /// Keys that differ in trailing spaces only are one.
    pub pads_keys: bool,
    /// The longest key.
    pub key_characters_max: usize,
    /// Enumerations longer than 64 characters are refused.
    pub bounds_enumerations: bool,
    /// NOT NULL can be taken back.
    pub drops_not_null: bool,
    /// What can become of the type of a column.
    pub widens: Widens,
    /// Names of tables that differ only in case are one.
    pub folds_tables: bool,
    /// Names of columns that differ only in case are one.
    pub folds_columns: bool,
    /// Names of 300 characters are names as others.
    pub takes_long_names: bool,
    /// The most columns of a table.
    pub columns_max: Option<usize>,
}

/// What can become of the type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Widens {
    /// Any column gets a wider type.
    Any,
    /// Any but those of the key.
    AnyButKeys,
    /// None does.
    Never,
}

/// Once row by row, once in bulk.
pub const WAYS: [&[&str]; 2] = [&["--maxPendingLatency", "1ns"], &["--minPendingLatency", "200ms"]];

/// Replays a journal and expects success; what the program said.
pub fn replayed(
    dir: &Path,
    database: &dyn Database,
    schemas: &Value,
    journal: &str,
    args: &[&str],
) -> String {
    let Output { status, stderr, .. } = replay_in(dir, &database.url(), schemas, journal, args);
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.success(), "{said}");
    said
}

/// A value as it was read, in one form for all databases: instants in UTC to the microsecond, JSON
/// as JSON.
pub fn canonical(kind: ColumnType, text: Option<&str>) -> Value {
    let Some(text) = text else { return Value::Null };
    match kind {
        ColumnType::Text | ColumnType::Enum => text.into(),
        ColumnType::Integer => {
            text.parse::<i64>().map(Value::from).unwrap_or_else(|_| panic!("{text} is no integer"))
        }
        ColumnType::Number => {
            text.parse::<f64>().map(Value::from).unwrap_or_else(|_| panic!("{text} is no number"))
        }
        ColumnType::Boolean => matches!(text, "1" | "t" | "true").into(),
        ColumnType::Object | ColumnType::Array => {
            serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
        }
        ColumnType::Time => instant(text).into(),
    }
}

/// `2024-02-03T02:05:06.700000Z`, however a database writes it; all of them write UTC.
fn instant(text: &str) -> String {
    let text = text
        .trim_end_matches("+00:00")
        .trim_end_matches("+00")
        .trim_end_matches('Z')
        .replace(' ', "T");
    let at: jiff::civil::DateTime = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    format!("{at:.6}Z")
}

macro_rules! conformance {
    ($($name:ident => $fresh:expr;)*) => {
        $(mod $name {
            use super::{catalog, columns, databases, letters, promises, shapes, texts};
            use super::{values, widening};
            conformance!(@cases $fresh;
                texts_of_every_kind_arrive_unchanged => texts::arrive_unchanged,
                keys_are_told_apart => texts::keys_are_told_apart,
                scalars_meet_columns_of_every_kind => values::scalars_meet_columns_of_every_kind,
                numbers_keep_every_digit => values::numbers_keep_every_digit,
                instants_keep_their_microseconds => values::instants_keep_their_microseconds,
                nulls_and_missing_values => values::nulls_and_missing_values,
                tables_follow_the_source => shapes::tables_follow_the_source,
                keys_of_several_columns => shapes::keys_of_several_columns,
                a_hundred_columns => shapes::a_hundred_columns,
                columns_of_others_are_kept => shapes::columns_of_others_are_kept,
                a_bad_row_leaves_nothing => promises::a_bad_row_leaves_nothing,
                the_checkpoint_comes_back => promises::the_checkpoint_comes_back,
                the_replaced_commit_nothing => promises::the_replaced_commit_nothing,
                a_table_of_a_former_version_is_refused =>
                    promises::a_table_of_a_former_version_is_refused,
                steps_can_be_repeated => promises::steps_can_be_repeated,
                a_table_is_read_alone => catalog::a_table_is_read_alone,
                a_prefix_keeps_apart => promises::a_prefix_keeps_apart,
                a_dry_run_writes_nothing => promises::a_dry_run_writes_nothing,
                a_default_does_not_stop_the_table => widening::a_default_does_not_stop_the_table,
                another_key_is_named => widening::another_key_is_named,
                names_that_fall_together_are_named =>
                    widening::names_that_fall_together_are_named,
                too_many_columns_are_counted => widening::too_many_columns_are_counted,
                columns_change_their_types => widening::columns_change_their_types,
                a_user_says_what_becomes_of_changed_schemas =>
                    widening::a_user_says_what_becomes_of_changed_schemas,
                values_that_are_left_out_are_nowhere =>
                    columns::values_that_are_left_out_are_nowhere,
                deleted_rows_stay_where_they_are_marked =>
                    columns::deleted_rows_stay_where_they_are_marked,
                new_columns_have_the_types_that_were_asked_for =>
                    columns::new_columns_have_the_types_that_were_asked_for,
                dead_letters_are_kept_shown_and_dropped =>
                    letters::dead_letters_are_kept_shown_and_dropped,
            );
        })*
    };
    (@cases $fresh:expr; $($case:ident => $body:path,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $case() {
            $body(&$fresh.await).await;
        })*
    };
}

conformance! {
    postgres => databases::PostgresCase::fresh();
    mysql => databases::MySqlCase::fresh(crate::services::mysql::Flavour::MySql);
    mariadb => databases::MySqlCase::fresh(crate::services::mysql::Flavour::MariaDb);
    sqlite => databases::SqliteCase::fresh();
    sqlserver => databases::SqlServerCase::fresh();
    snowflake => databases::SnowflakeCase::fresh();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_reads_one_table() {
    use databases::{MySqlCase, PostgresCase, SqlServerCase};
    catalog::a_schema_change_reads_one_table(&PostgresCase::fresh().await).await;
    catalog::a_schema_change_reads_one_table(&SqlServerCase::fresh().await).await;
    for flavour in
        [crate::services::mysql::Flavour::MySql, crate::services::mysql::Flavour::MariaDb]
    {
        catalog::a_schema_change_reads_one_table(&MySqlCase::fresh(flavour).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_void_commit_is_no_success_in_snowflake() {
    let database = databases::SnowflakeCase::fresh().await;
    promises::a_void_commit_is_no_success(&database, |all| database.steal_commits(all)).await;
}
