//! The SQL that EDS writes, made from a dialect and a schema. Pure; golden files keep every statement.

use super::dialect::Dialect;
use crate::change::{Column, TableSchema};

/// The name of the table that holds the checkpoint.
pub const CHECKPOINT: &str = "_eds_checkpoint";
/// The form of the tables that are EDS's own.
pub const FORMAT: i64 = 1;

/// Where tables are: a schema, where the database has such, and what stands before each table's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub schema: Option<String>,
    pub prefix: String,
}

/// Renders the statements of one destination.
#[derive(Clone, Debug)]
pub struct Renderer {
    pub dialect: &'static Dialect,
    pub place: Place,
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
        let name = self.quoted(&format!("{}{table}", self.place.prefix));
        match &self.place.schema {
            Some(schema) if self.dialect.has_schemas => format!("{}.{name}", self.quoted(schema)),
            _ => name,
        }
    }

    fn list<'a>(&self, columns: impl IntoIterator<Item = &'a Column>) -> String {
        columns.into_iter().map(|c| self.quoted(&c.name)).collect::<Vec<_>>().join(", ")
    }

    fn definition(&self, schema: &TableSchema, index: usize) -> String {
        let column = &schema.columns[index];
        let is_key = index < schema.keys;
        let kind = match self.dialect.type_of(column.kind) {
            text if is_key && text == self.dialect.types[0] => self.dialect.text_key,
            other => other,
        };
        let strict = is_key || (!column.nullable && self.dialect.drops_not_null);
        format!("{} {kind}{}", self.quoted(&column.name), if strict { " NOT NULL" } else { "" })
    }

    pub fn create_table(&self, schema: &TableSchema) -> String {
        let columns: Vec<String> = (0..schema.columns.len()).map(|i| self.definition(schema, i)).collect();
        let key = self.list(schema.key_columns());
        format!("CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({key}))", self.table(&schema.table), columns.join(", "))
    }

    /// One statement per column: it may be there already, where somebody was faster.
    pub fn add_column(&self, schema: &TableSchema, index: usize) -> String {
        let column = &schema.columns[index];
        let unless = if self.dialect.adds_if_missing { "IF NOT EXISTS " } else { "" };
        format!("ALTER TABLE {} ADD COLUMN {unless}{} {}", self.table(&schema.table), self.quoted(&column.name), self.dialect.type_of(column.kind))
    }

    pub fn drop_not_null(&self, table: &str, column: &str) -> String {
        format!("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", self.table(table), self.quoted(column))
    }

    /// An upsert of whole rows; `source` yields the schema's columns in order: `VALUES (…)` or `SELECT … FROM …`.
    pub fn upsert(&self, schema: &TableSchema, source: &str) -> String {
        let set: Vec<String> = schema.columns[schema.keys..].iter().map(|c| format!("{0} = EXCLUDED.{0}", self.quoted(&c.name))).collect();
        let action = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        format!("INSERT INTO {} ({}) {source} ON CONFLICT ({}) DO {action}", self.table(&schema.table), self.list(&schema.columns), self.list(schema.key_columns()))
    }

    pub fn upsert_one(&self, schema: &TableSchema) -> String {
        self.upsert(schema, &format!("VALUES ({})", self.parameters(schema.columns.len())))
    }

    pub fn upsert_from(&self, schema: &TableSchema, stage: &str) -> String {
        self.upsert(schema, &format!("SELECT {} FROM {stage}", self.list(&schema.columns)))
    }

    pub fn delete_one(&self, schema: &TableSchema) -> String {
        let keys: Vec<String> = (0..schema.keys).map(|i| format!("{} = {}", self.quoted(&schema.columns[i].name), (self.dialect.parameter)(i + 1))).collect();
        format!("DELETE FROM {} WHERE {}", self.table(&schema.table), keys.join(" AND "))
    }

    fn parameters(&self, count: usize) -> String {
        (1..=count).map(self.dialect.parameter).collect::<Vec<_>>().join(", ")
    }

    /// The columns of a staging table, in the schema's order, all nullable.
    pub fn stage_columns(&self, schema: &TableSchema) -> String {
        let columns: Vec<String> = schema.columns.iter().map(|c| format!("{} {}", self.quoted(&c.name), self.dialect.type_of(c.kind))).collect();
        columns.join(", ")
    }

    pub fn create_checkpoint(&self) -> String {
        let d = self.dialect;
        format!(
            "CREATE TABLE IF NOT EXISTS {} (consumer {} NOT NULL, lane {i} NOT NULL, epoch {i} NOT NULL, stream_sequence {i} NOT NULL, \
             stream_time_ns {i} NOT NULL, companies {} NOT NULL, format {i} NOT NULL, PRIMARY KEY (consumer, lane))",
            self.table(CHECKPOINT),
            d.text_key,
            d.types[0],
            i = d.integer
        )
    }

    /// Parameters: consumer, companies.
    pub fn insert_checkpoint(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "INSERT INTO {} (consumer, lane, epoch, stream_sequence, stream_time_ns, companies, format) VALUES ({}, 0, 0, 0, 0, {}, {FORMAT}) \
             ON CONFLICT (consumer, lane) DO NOTHING",
            self.table(CHECKPOINT),
            p(1),
            p(2)
        )
    }

    /// Raises the epoch above what is recorded and above what the caller held. Parameters: consumer, companies, the
    /// caller's epoch.
    pub fn take_checkpoint(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "UPDATE {} SET epoch = CASE WHEN epoch > {} THEN epoch ELSE {} END + 1, companies = {} WHERE consumer = {} AND lane = 0",
            self.table(CHECKPOINT),
            p(3),
            p(3),
            p(2),
            p(1)
        )
    }

    /// Columns: epoch, sequence, time, format. Parameter: consumer.
    pub fn read_checkpoint(&self) -> String {
        let p = self.dialect.parameter;
        format!("SELECT epoch, stream_sequence, stream_time_ns, format FROM {} WHERE consumer = {} AND lane = 0", self.table(CHECKPOINT), p(1))
    }

    /// The fence: parameters are the new sequence and time, consumer, epoch, and the sequence that was written last.
    pub fn advance_checkpoint(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "UPDATE {} SET stream_sequence = {}, stream_time_ns = {} WHERE consumer = {} AND lane = 0 AND epoch = {} AND stream_sequence = {}",
            self.table(CHECKPOINT),
            p(1),
            p(2),
            p(3),
            p(4),
            p(5)
        )
    }
}
