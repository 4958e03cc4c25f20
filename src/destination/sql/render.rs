//! The SQL that EDS writes, made from a dialect and a schema. Pure; golden files keep every
//! statement.

use super::dialect::{Create, Dialect, Merge, NotNull};
use crate::change::{Column, TableSchema};

/// The name of the table that holds the checkpoint.
pub const CHECKPOINT: &str = "_eds_checkpoint";
/// The form of the tables that are EDS's own.
pub const FORMAT: i64 = 1;

/// Where tables are: a schema, where the database has such, and what stands before each table's
/// name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    pub schema: Option<String>,
    pub prefix: String,
    /// Whether the database keeps names of tables in lower case, however they are written.
    pub lower_case: bool,
}

impl Namespace {
    /// The name, without schema, of the table that keeps the rows of `table`.
    pub fn name_of(&self, table: &str) -> String {
        let name = format!("{}{table}", self.prefix);
        if self.lower_case { name.to_lowercase() } else { name }
    }

    /// What the source calls the table of this name, if it is one of this place.
    pub fn source_of(&self, name: &str) -> Option<String> {
        let prefix = if self.lower_case { self.prefix.to_lowercase() } else { self.prefix.clone() };
        name.strip_prefix(&prefix).map(str::to_owned)
    }
}

/// Renders the statements of one destination.
#[derive(Clone, Debug)]
pub struct Renderer {
    pub dialect: &'static Dialect,
    pub namespace: Namespace,
}

impl Renderer {
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

    pub fn list<'a>(&self, columns: impl IntoIterator<Item = &'a Column>) -> String {
        columns.into_iter().map(|c| self.quoted(&c.name)).collect::<Vec<_>>().join(", ")
    }

    pub fn definition(&self, schema: &TableSchema, index: usize) -> String {
        let column = &schema.columns[index];
        let is_key = index < schema.keys;
        let kind = match self.dialect.type_of(column.kind) {
            text if is_key && text == self.dialect.types[0] => self.dialect.text_key,
            other => other,
        };
        let strict = is_key || (!column.nullable && self.dialect.not_null != NotNull::Never);
        format!("{} {kind}{}", self.quoted(&column.name), if strict { " NOT NULL" } else { "" })
    }

    pub fn create_table(&self, schema: &TableSchema) -> String {
        let columns: Vec<String> =
            (0..schema.columns.len()).map(|i| self.definition(schema, i)).collect();
        let key = self.list(schema.key_columns());
        self.create(
            &self.table(&schema.table),
            &format!("{}, PRIMARY KEY ({key})", columns.join(", ")),
        )
    }

    pub fn create(&self, name: &str, columns: &str) -> String {
        let made = format!("{name} ({columns}){}", self.dialect.table_options);
        match self.dialect.create {
            Create::IfNotExists => format!("CREATE TABLE IF NOT EXISTS {made}"),
            Create::UnlessObject => {
                format!("IF OBJECT_ID(N'{}') IS NULL CREATE TABLE {made}", name.replace('\'', "''"))
            }
        }
    }

    /// One statement per column: it may be there already, where somebody was faster.
    pub fn add_column(&self, schema: &TableSchema, index: usize) -> String {
        let column = &schema.columns[index];
        let d = self.dialect;
        format!(
            "ALTER TABLE {} {} {} {} NULL",
            self.table(&schema.table),
            d.add_column,
            self.quoted(&column.name),
            d.type_of(column.kind)
        )
    }

    /// `declared`: what the column is to be, where NOT NULL is taken back by stating it anew.
    pub fn drop_not_null(&self, table: &str, column: &str, declared: &str) -> String {
        let (table, column) = (self.table(table), self.quoted(column));
        match self.dialect.not_null {
            NotNull::Restate(words) => format!("ALTER TABLE {table} {words} {column} {declared}"),
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
        let action = match self.dialect.merge {
            Merge::OnDuplicateKey if schema.columns.len() == schema.keys => {
                format!("ON DUPLICATE KEY UPDATE {0} = {0}", self.quoted(&schema.columns[0].name))
            }
            Merge::OnDuplicateKey => {
                format!("ON DUPLICATE KEY UPDATE {}", set(&|c| format!("{c} = VALUES({c})")))
            }
            _ if schema.columns.len() == schema.keys => {
                format!("ON CONFLICT ({}) DO NOTHING", self.list(schema.key_columns()))
            }
            _ => format!(
                "ON CONFLICT ({}) DO UPDATE SET {}",
                self.list(schema.key_columns()),
                set(&|c| format!("{c} = EXCLUDED.{c}"))
            ),
        };
        format!("{} {action}", self.insert(schema, source))
    }

    /// Rows that are not there yet.
    pub fn insert(&self, schema: &TableSchema, source: &str) -> String {
        format!(
            "INSERT INTO {} ({}) {source}",
            self.table(&schema.table),
            self.list(&schema.columns)
        )
    }

    pub fn upsert_one(&self, schema: &TableSchema) -> String {
        self.upsert(schema, &format!("VALUES ({})", self.parameters(schema.columns.len())))
    }

    pub fn upsert_from(&self, schema: &TableSchema, stage: &str) -> String {
        self.upsert(schema, &format!("SELECT {} FROM {stage}", self.list(&schema.columns)))
    }

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
    fn same_key(&self, schema: &TableSchema, name: impl Fn(usize) -> String) -> String {
        schema
            .key_columns()
            .iter()
            .enumerate()
            .map(|(i, c)| format!("t.{} = s.{}", self.quoted(&c.name), name(i)))
            .collect::<Vec<_>>()
            .join(" AND ")
    }

    /// Updates the rows whose keys the table `stage` has, whose columns are c0, c1, … in the
    /// schema's order; nothing where every column is part of the key.
    pub fn update_from(&self, schema: &TableSchema, stage: &str) -> Option<String> {
        self.update_by(schema, stage, |i| format!("c{i}"))
    }

    /// Inserts the rows of the table `stage` whose keys are not there yet.
    pub fn insert_from(&self, schema: &TableSchema, stage: &str) -> String {
        self.insert_by(schema, stage, |i| format!("c{i}"))
    }

    pub fn update_by(
        &self,
        schema: &TableSchema,
        from: &str,
        name: impl Fn(usize) -> String,
    ) -> Option<String> {
        let set: Vec<String> = (schema.keys..schema.columns.len())
            .map(|i| format!("{} = s.{}", self.quoted(&schema.columns[i].name), name(i)))
            .collect();
        let table = self.table(&schema.table);
        (!set.is_empty()).then(|| {
            format!(
                "UPDATE t SET {} FROM {table} AS t INNER JOIN {from} AS s ON {}",
                set.join(", "),
                self.same_key(schema, &name)
            )
        })
    }

    pub fn insert_by(
        &self,
        schema: &TableSchema,
        from: &str,
        name: impl Fn(usize) -> String,
    ) -> String {
        let (table, columns) = (self.table(&schema.table), self.list(&schema.columns));
        let values: Vec<String> =
            (0..schema.columns.len()).map(|i| format!("s.{}", name(i))).collect();
        format!(
            "INSERT INTO {table} ({columns}) SELECT {} FROM {from} AS s WHERE NOT EXISTS (SELECT 1 \
             FROM {table} AS t WHERE {})",
            values.join(", "),
            self.same_key(schema, &name)
        )
    }

    /// Writes the rows of `source` over those of their keys, one statement. `source` is a query or
    /// the name of a table whose columns `name` tells; rows that are there are only written over
    /// where `condition` holds.
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

    /// Deletes the rows whose keys the query `source` has, whose columns are c0, c1, … in the
    /// schema's order.
    pub fn delete_using(&self, schema: &TableSchema, source: &str) -> String {
        format!(
            "DELETE FROM {} AS t USING {source} AS s WHERE {}",
            self.table(&schema.table),
            self.same_key(schema, |i| format!("c{i}"))
        )
    }

    /// Deletes the rows whose keys the table `stage` has.
    pub fn delete_from(&self, schema: &TableSchema, stage: &str) -> String {
        format!(
            "DELETE t FROM {} AS t INNER JOIN {stage} AS s ON {}",
            self.table(&schema.table),
            self.same_key(schema, |i| format!("c{i}"))
        )
    }

    fn parameters(&self, count: usize) -> String {
        (1..=count).map(self.dialect.parameter).collect::<Vec<_>>().join(", ")
    }

    /// The columns of a staging table, in the schema's order, all nullable.
    pub fn stage_columns(&self, schema: &TableSchema) -> String {
        let columns: Vec<String> = schema
            .columns
            .iter()
            .map(|c| format!("{} {}", self.quoted(&c.name), self.dialect.type_of(c.kind)))
            .collect();
        columns.join(", ")
    }

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
        if self.dialect.merge == Merge::MergeInto {
            // Of two processes at once only one may write it, though no key says so.
            let source = format!(
                "(SELECT CAST({} AS STRING) AS consumer, CAST({} AS INTEGER) AS epoch, CAST({} AS \
                 STRING) AS companies)",
                p(1),
                p(2),
                p(3)
            );
            return format!(
                "MERGE INTO {table} AS t USING {source} AS s ON t.consumer = s.consumer AND \
                 t.lane = 0 \
                 WHEN NOT MATCHED THEN INSERT ({columns}) VALUES (s.consumer, 0, s.epoch, 0, 0, \
                 s.companies, {FORMAT})"
            );
        }
        format!(
            "INSERT INTO {table} ({columns}) VALUES ({}, 0, {}, 0, 0, {}, {FORMAT})",
            p(1),
            p(2),
            p(3)
        )
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
