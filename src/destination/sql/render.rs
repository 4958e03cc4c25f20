//! The SQL that EDS writes, made from a dialect and a schema. Pure; golden files keep every
//! statement.

use std::sync::Arc;

use super::dialect::{Create, Dialect, Merge, NotNull};
use crate::change::{Column, ColumnType, TableSchema};
use crate::destination::{Holds, Settings, Tables};

/// The name of the table that holds the checkpoint.
pub const CHECKPOINT: &str = "_eds_checkpoint";
/// The version of the layout of EDS's own tables.
pub const FORMAT: i64 = 1;

/// Characters of a text column of the key, where its length is limited by the key's bytes.
const KEY_CHARACTERS: usize = 255;
/// Characters of a column for an enumeration.
const ENUM_CHARACTERS: usize = 64;
/// The most bytes of a character in utf8mb4.
const CHARACTER_BYTES_MAX: usize = 4;

/// Where tables are: a schema, where the database has schemas, and a prefix of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// The schema, unquoted; MySQL's database. `None` for the connection's own.
    pub schema: Option<String>,
    /// What stands before each table's name.
    pub prefix: String,
    /// Whether the database stores names of tables in lower case.
    pub lower_case: bool,
}

impl Namespace {
    /// In `schema`, with the prefix that the URL asks for.
    pub fn new(settings: &Settings, schema: Option<String>) -> Namespace {
        let prefix = settings.parameter("prefix").unwrap_or_default().to_owned();
        Namespace { schema, prefix, lower_case: false }
    }

    /// The name, without schema, of the table that keeps the rows of `table`.
    pub fn name_of(&self, table: &str) -> String {
        let name = format!("{}{table}", self.prefix);
        if self.lower_case { name.to_lowercase() } else { name }
    }

    /// What the source calls the table of this name, if it has the prefix.
    pub fn source_of(&self, name: &str) -> Option<String> {
        let prefix = if self.lower_case { self.prefix.to_lowercase() } else { self.prefix.clone() };
        name.strip_prefix(&prefix).map(str::to_owned)
    }
}

/// Renders the statements of one destination.
#[derive(Clone, Debug)]
pub struct Renderer {
    /// The database's way of writing SQL.
    pub dialect: &'static Dialect,
    /// Where the tables are.
    pub namespace: Namespace,
    /// The tables as they were last read.
    pub known: Arc<Tables>,
}

impl Renderer {
    /// Renders for tables of which nothing is known yet.
    pub fn new(dialect: &'static Dialect, namespace: Namespace) -> Renderer {
        Renderer { dialect, namespace, known: Arc::default() }
    }

    /// What can be in each of the columns, which are the table's of `schema`.
    pub fn contents(&self, schema: &TableSchema, columns: &[Column]) -> Vec<Holds> {
        self.known.contents(&schema.table, columns)
    }

    /// The name as a quoted identifier.
    pub fn quoted(&self, name: &str) -> String {
        let (open, close) = self.dialect.quotes;
        let mut out = String::with_capacity(name.len() + 2);
        out.push(open);
        for c in name.chars() {
            out.push(c);
            if c == close {
                out.push(c);
            }
        }
        out.push(close);
        out
    }

    /// The full name of the table that holds the rows of `table`.
    pub fn table(&self, table: &str) -> String {
        let name = self.quoted(&self.namespace.name_of(table));
        match &self.namespace.schema {
            Some(schema) if self.dialect.has_schemas => format!("{}.{name}", self.quoted(schema)),
            _ => name,
        }
    }

    /// The name of the table for `table` as the catalog has it.
    pub fn listed_name(&self, table: &str) -> String {
        let name = self.namespace.name_of(table);
        self.dialect.limits.names.stored(&name).into_owned()
    }

    /// The quoted names of the columns, separated by commas.
    pub fn list<'a>(&self, columns: impl IntoIterator<Item = &'a Column>) -> String {
        columns.into_iter().map(|c| self.quoted(&c.name)).collect::<Vec<_>>().join(", ")
    }

    /// Name, type and NOT NULL of a column, as CREATE TABLE has them.
    pub fn definition(&self, schema: &TableSchema, index: usize) -> String {
        self.definition_holding(schema, index, Holds::Anything)
    }

    /// The same for a table that is to take the rows of one whose column holds `contents`.
    pub fn definition_holding(
        &self,
        schema: &TableSchema,
        index: usize,
        contents: Holds,
    ) -> String {
        let column = &schema.columns[index];
        let kind = self.type_holding(schema, index, contents);
        let strict =
            index < schema.keys || (!column.nullable && self.dialect.not_null != NotNull::Never);
        format!("{} {kind}{}", self.quoted(&column.name), if strict { " NOT NULL" } else { "" })
    }

    /// The type of a column of the schema, or the wider one that it has got since.
    pub fn type_holding(&self, schema: &TableSchema, index: usize, contents: Holds) -> String {
        let (own, text) = (self.own_type(&schema.columns[index]), self.dialect.types[0]);
        let own_holds = (self.dialect.holds)(own);
        let kind = match contents {
            Holds::Text if own_holds != Holds::Text => text,
            Holds::Decimal if self.dialect.widens_to_decimals() && own_holds != contents => {
                "NUMERIC"
            }
            _ => own,
        };
        match kind == text && index < schema.keys {
            true => self.text_key(schema),
            false => kind.to_owned(),
        }
    }

    /// The type in which EDS makes a column: the user's, or that of its kind.
    fn own_type<'c>(&self, column: &'c Column) -> &'c str {
        column.declared.as_deref().unwrap_or(self.dialect.type_of(column.kind))
    }

    /// Why rows could not be written to a column of the type that the user wants.
    pub fn unfit_type(&self, schema: &TableSchema, index: usize) -> Option<String> {
        let column = &schema.columns[index];
        let declared = column.declared.as_deref()?;
        let (holds, dialect) = ((self.dialect.holds)(declared), self.dialect);
        let is_fit =
            holds != Holds::Anything && dialect.limits.misfit(holds, column.kind).is_none();
        (!is_fit).then(|| {
            format!(
                "--types {}.{}={declared}: EDS cannot write {} into a column of that type in {}; \
                 the page about columns has those that it can",
                schema.table, column.name, column.kind, dialect.name
            )
        })
    }

    /// The type of a text column of the key: as long as the whole key may be.
    fn text_key(&self, schema: &TableSchema) -> String {
        let longest = self.dialect.text_key;
        let Some(key_bytes_max) = self.dialect.key_bytes_max else { return longest.to_owned() };
        let (texts, others): (Vec<&Column>, Vec<&Column>) = schema
            .key_columns()
            .iter()
            .partition(|c| self.dialect.type_of(c.kind) == self.dialect.types[0]);
        let bytes = |column: &&Column| match column.kind {
            ColumnType::Enum => ENUM_CHARACTERS * CHARACTER_BYTES_MAX,
            _ => size_of::<i64>(),
        };
        let room = key_bytes_max.saturating_sub(others.iter().map(bytes).sum());
        let characters = (room / CHARACTER_BYTES_MAX / texts.len().max(1)).min(KEY_CHARACTERS);
        longest.replacen(&format!("({KEY_CHARACTERS})"), &format!("({characters})"), 1)
    }

    /// What to know of the key of a new table; `None` where it has no texts, or is as any other.
    pub fn key_note(&self, schema: &TableSchema) -> Option<&'static str> {
        let is_text =
            |i: usize| self.dialect.types[0] == self.dialect.type_of(schema.columns[i].kind);
        self.dialect.key_note.filter(|_| (0..schema.keys).any(is_text))
    }

    /// Creates the table with its key, unless it exists.
    pub fn create_table(&self, schema: &TableSchema) -> String {
        let columns: Vec<String> =
            (0..schema.columns.len()).map(|i| self.definition(schema, i)).collect();
        let key = self.list(schema.key_columns());
        self.create(
            &self.table(&schema.table),
            &format!("{}, PRIMARY KEY ({key})", columns.join(", ")),
        )
    }

    /// CREATE TABLE, unless it exists. `name` is a full name, `columns` their definitions.
    pub fn create(&self, name: &str, columns: &str) -> String {
        let made = format!("{name} ({columns}){}", self.dialect.table_options);
        match self.dialect.create {
            Create::IfNotExists => format!("CREATE TABLE IF NOT EXISTS {made}"),
            Create::UnlessObject => {
                format!("IF OBJECT_ID(N'{}') IS NULL CREATE TABLE {made}", name.replace('\'', "''"))
            }
        }
    }

    /// Adds one column as nullable. One statement per column, because any of them may exist
    /// already.
    pub fn add_column(&self, schema: &TableSchema, index: usize) -> String {
        let column = &schema.columns[index];
        let d = self.dialect;
        format!(
            "ALTER TABLE {} {} {} {} NULL",
            self.table(&schema.table),
            d.add_column,
            self.quoted(&column.name),
            self.own_type(column)
        )
    }

    /// Lets a column be null. `definition` is the column's nullable one, for dialects that restate
    /// it; others ignore it.
    pub fn drop_not_null(&self, table: &str, column: &str, definition: &str) -> String {
        let (table, column) = (self.table(table), self.quoted(column));
        match self.dialect.not_null {
            NotNull::Restate(words) => format!("ALTER TABLE {table} {words} {column} {definition}"),
            NotNull::Drop | NotNull::Never => {
                format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL")
            }
        }
    }

    /// An upsert of whole rows; `source` yields the schema's columns in order: `VALUES (…)` or
    /// `SELECT … FROM …`.
    pub fn upsert(&self, schema: &TableSchema, source: &str) -> String {
        let set = |each: &dyn Fn(&str) -> String| {
            schema.columns[schema.keys..]
                .iter()
                .map(|c| each(&self.quoted(&c.name)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let is_key_only = schema.columns.len() == schema.keys;
        let action = match (self.dialect.merge, is_key_only) {
            (Merge::OnDuplicateKey, _) => {
                let values = set(&|c| format!("{c} = VALUES({c})"));
                let separator = if is_key_only { "" } else { ", " };
                format!(
                    "ON DUPLICATE KEY UPDATE {values}{separator}{}",
                    self.same_key_or_null(schema)
                )
            }
            // The drivers of the latter two have upserts of their own and do not ask for this one.
            (Merge::OnConflict | Merge::UpdateThenInsert | Merge::MergeInto, true) => {
                format!("ON CONFLICT ({}) DO NOTHING", self.list(schema.key_columns()))
            }
            (Merge::OnConflict | Merge::UpdateThenInsert | Merge::MergeInto, false) => format!(
                "ON CONFLICT ({}) DO UPDATE SET {}",
                self.list(schema.key_columns()),
                set(&|c| format!("{c} = EXCLUDED.{c}"))
            ),
        };
        format!("{} {action}", self.insert(schema, source))
    }

    /// The assignments of an upsert that leave the key as it is. Where another unique index than
    /// the key's has found the row, it is another row: then the key would become NULL, which is an
    /// error. Without that the other row would be overwritten.
    fn same_key_or_null(&self, schema: &TableSchema) -> String {
        let guard = |column: &Column| {
            let c = self.quoted(&column.name);
            // A table that the rows come from may have a column of this name, too.
            let own = format!("{}.{c}", self.table(&schema.table));
            format!("{c} = IF({own} = VALUES({c}), {own}, NULL)")
        };
        schema.key_columns().iter().map(guard).collect::<Vec<_>>().join(", ")
    }

    /// Inserts the rows of `source`, whose keys do not exist yet.
    pub fn insert(&self, schema: &TableSchema, source: &str) -> String {
        format!(
            "INSERT INTO {} ({}) {source}",
            self.table(&schema.table),
            self.list(&schema.columns)
        )
    }

    /// An upsert of one row, whose values are parameters in the schema's order.
    pub fn upsert_one(&self, schema: &TableSchema) -> String {
        self.upsert(schema, &format!("VALUES ({})", self.parameters(schema.columns.len())))
    }

    /// Deletes one row. Parameters: the columns of the key.
    pub fn delete_one(&self, schema: &TableSchema) -> String {
        let keys: Vec<String> = (0..schema.keys)
            .map(|i| {
                format!(
                    "{} = {}",
                    self.quoted(&schema.columns[i].name),
                    (self.dialect.parameter)(i + 1)
                )
            })
            .collect();
        format!("DELETE FROM {} WHERE {}", self.table(&schema.table), keys.join(" AND "))
    }

    /// Where the rows of `t` and `s` have the same key; `name` says what `s` calls a column.
    pub(super) fn same_key(&self, schema: &TableSchema, name: impl Fn(usize) -> String) -> String {
        schema
            .key_columns()
            .iter()
            .enumerate()
            .map(|(i, c)| format!("t.{} = s.{}", self.quoted(&c.name), name(i)))
            .collect::<Vec<_>>()
            .join(" AND ")
    }

    /// Updates the rows `t` to which `same` finds a row `s` of the table `from`; `name` says what
    /// `from` calls a column. `None` where every column is part of the key.
    pub fn update_by(
        &self,
        schema: &TableSchema,
        from: &str,
        same: &str,
        name: impl Fn(usize) -> String,
    ) -> Option<String> {
        let set: Vec<String> = (schema.keys..schema.columns.len())
            .map(|i| format!("{} = s.{}", self.quoted(&schema.columns[i].name), name(i)))
            .collect();
        let table = self.table(&schema.table);
        (!set.is_empty()).then(|| {
            format!(
                "UPDATE t SET {} FROM {table} AS t INNER JOIN {from} AS s ON {same}",
                set.join(", ")
            )
        })
    }

    /// Inserts the rows `s` of the table `from` to which `same` finds no row `t`; `name` says what
    /// `from` calls a column.
    pub fn insert_by(
        &self,
        schema: &TableSchema,
        from: &str,
        same: &str,
        name: impl Fn(usize) -> String,
    ) -> String {
        let (table, columns) = (self.table(&schema.table), self.list(&schema.columns));
        let values: Vec<String> =
            (0..schema.columns.len()).map(|i| format!("s.{}", name(i))).collect();
        format!(
            "INSERT INTO {table} ({columns}) SELECT {} FROM {from} AS s WHERE NOT EXISTS (SELECT 1 \
             FROM {table} AS t WHERE {same})",
            values.join(", ")
        )
    }

    /// Upserts the rows of `source` in one statement. `source` is a query or a table, and `name`
    /// says what it calls a column; rows that exist are only updated where `condition` holds.
    pub fn merge(
        &self,
        schema: &TableSchema,
        source: &str,
        name: impl Fn(usize) -> String,
        condition: Option<&str>,
    ) -> String {
        let own = |i: usize| self.quoted(&schema.columns[i].name);
        let set: Vec<String> = (schema.keys..schema.columns.len())
            .map(|i| format!("{} = s.{}", own(i), name(i)))
            .collect();
        let condition = condition.map(|c| format!(" AND {c}")).unwrap_or_default();
        let update = if set.is_empty() {
            String::new()
        } else {
            format!(" WHEN MATCHED{condition} THEN UPDATE SET {}", set.join(", "))
        };
        let values: Vec<String> =
            (0..schema.columns.len()).map(|i| format!("s.{}", name(i))).collect();
        format!(
            "MERGE INTO {} AS t USING {source} AS s ON {}{update} WHEN NOT MATCHED THEN INSERT \
             ({}) VALUES ({})",
            self.table(&schema.table),
            self.same_key(schema, &name),
            self.list(&schema.columns),
            values.join(", ")
        )
    }

    fn parameters(&self, count: usize) -> String {
        (1..=count).map(self.dialect.parameter).collect::<Vec<_>>().join(", ")
    }

    /// Creates a table of checkpoints under this name.
    pub fn create_checkpoint(&self, name: &str) -> String {
        let d = self.dialect;
        let names = ["lane", "epoch", "stream_sequence", "stream_time_ns", "format"]
            .map(|name| format!("{name} {} NOT NULL", d.integer));
        let columns = format!(
            "consumer {} NOT NULL, {}, companies {} NOT NULL, PRIMARY KEY (consumer, lane)",
            d.consumer,
            names.join(", "),
            d.types[0]
        );
        self.create(&self.table(name), &columns)
    }

    /// Parameters: consumer, epoch, companies.
    pub fn insert_checkpoint(&self) -> String {
        let p = self.dialect.parameter;
        let table = self.table(CHECKPOINT);
        let columns = "consumer, lane, epoch, stream_sequence, stream_time_ns, companies, format";
        let (consumer, epoch, companies) = (p(1), p(2), p(3));
        match self.dialect.merge {
            // Keys are not enforced, and only one of two processes may insert it.
            Merge::MergeInto => format!(
                "MERGE INTO {table} AS t USING (SELECT CAST({consumer} AS STRING) AS consumer, \
                 CAST({epoch} AS INTEGER) AS epoch, CAST({companies} AS STRING) AS companies) AS s \
                 ON t.consumer = s.consumer AND t.lane = 0 \
                 WHEN NOT MATCHED THEN INSERT ({columns}) VALUES (s.consumer, 0, s.epoch, 0, 0, \
                 s.companies, {FORMAT})"
            ),
            Merge::OnConflict | Merge::OnDuplicateKey | Merge::UpdateThenInsert => format!(
                "INSERT INTO {table} ({columns}) VALUES ({consumer}, 0, {epoch}, 0, 0, \
                 {companies}, {FORMAT})"
            ),
        }
    }

    /// Raises the epoch of a checkpoint that is as it was read. Parameters: new epoch, companies,
    /// consumer, the epoch and the sequence that were read.
    pub fn take_checkpoint(&self) -> String {
        let p = self.dialect.parameter;
        let table = self.table(CHECKPOINT);
        format!(
            "UPDATE {table} SET epoch = {}, companies = {} WHERE consumer = {} AND lane = 0 AND \
             epoch = {} AND stream_sequence = {}",
            p(1),
            p(2),
            p(3),
            p(4),
            p(5)
        )
    }

    /// Columns: consumer, companies.
    pub fn read_records(&self) -> String {
        format!(
            "SELECT consumer, companies FROM {} WHERE lane = 0 ORDER BY consumer",
            self.table(CHECKPOINT)
        )
    }

    /// Columns: epoch, sequence, time, format. Parameter: consumer.
    pub fn read_checkpoint(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "SELECT epoch, stream_sequence, stream_time_ns, format FROM {} WHERE consumer = {} \
             AND lane = 0",
            self.table(CHECKPOINT),
            p(1)
        )
    }

    /// The fence: parameters are the new sequence and time, consumer, epoch, and the sequence that
    /// was written last.
    pub fn advance_checkpoint(&self) -> String {
        let p = self.dialect.parameter;
        let table = self.table(CHECKPOINT);
        format!(
            "UPDATE {table} SET stream_sequence = {}, stream_time_ns = {} WHERE consumer = {} AND \
             lane = 0 AND epoch = {} AND stream_sequence = {}",
            p(1),
            p(2),
            p(3),
            p(4),
            p(5)
        )
    }
}
