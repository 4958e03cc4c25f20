//! What differs between SQL databases, as data: its types. Each database has its own constant.

use super::as_of::AsOf;
use super::read_back::ReadBack;
use crate::change::ColumnType;
use crate::destination::Holds;
use crate::destination::shape::TableLimits;

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
    /// The type of a text column of the primary key. Its collation tells apart any two keys that
    /// differ in a byte, or the driver refuses what it would take for one.
    pub text_key: &'static str,
    /// What to know of the text columns of a new key; `None` where they are as any other.
    pub key_note: Option<&'static str>,
    /// Writes a text of a key as `text_key` so that comparing it tells apart any two that differ,
    /// whatever the collations of the tables; `None` where all keys are compared so anyway.
    pub exact_text: Option<fn(&str) -> String>,
    /// The most bytes of a key, where a key of long texts could be longer; `None` where it cannot.
    pub key_bytes_max: Option<usize>,
    /// What can be in a column of this declared type.
    pub holds: fn(&str) -> Holds,
    /// What the database takes of names, columns and types.
    pub limits: TableLimits,
    /// How a column gets a wider type.
    pub widen: Widen,
    /// Answers how many bytes a table has, where the database tells. Parameters: schema, table.
    pub table_bytes: Option<&'static str>,
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
    /// Whether a whole batch can be sent while the one before is under way.
    pub pipelines: bool,
    /// The error code of a lock that another session held for too long; `None` where no code tells.
    pub lock_wait_code: Option<&'static str>,
    /// The error code of a column that cannot have a type because it is in an index; `None` where
    /// all types can be.
    pub unindexable_code: Option<&'static str>,
    /// The error code of ADD COLUMN where the column exists already.
    pub duplicate_column_code: &'static str,
    /// How rows are read back to be compared.
    pub read_back: ReadBack,
    /// What the view about the age of rows needs; `None` where there is no such view.
    pub as_of: Option<AsOf>,
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
    /// The same, and it moves with the last statement: what a trigger commits in between is not
    /// beyond it.
    CheckpointLocked,
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

/// How a column gets a wider type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Widen {
    /// ALTER COLUMN … TYPE … USING, by way of text, which loses no digit.
    Using,
    /// By these words and the column's new definition.
    Restate(&'static str),
    /// By a new column that takes the place of the old one, in one transaction.
    Replace,
    /// Not at all: a person has to.
    ByHand,
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

impl Dialect {
    /// The column type of a kind.
    pub fn type_of(&self, kind: ColumnType) -> &'static str {
        let at = ColumnType::ALL.iter().position(|k| *k == kind).unwrap_or(0);
        self.types[at]
    }

    /// Whether columns of numbers become NUMERIC, which holds them all.
    pub fn widens_to_decimals(&self) -> bool {
        self.limits.misfits.iter().any(|misfit| misfit.becomes == "NUMERIC")
    }
}
