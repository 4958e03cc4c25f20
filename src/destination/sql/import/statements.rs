//! The SQL of imports. Golden files keep every statement.

use std::collections::BTreeSet;

use crate::change::{Column, TableSchema};
use crate::destination::sql::dialect::{Dialect, Keys, Merge, NotNull, Rename};
use crate::destination::sql::render::{CHECKPOINT, FORMAT, Renderer};
use crate::destination::{Holds, TableShape};

/// The name of the table that holds the cutover.
pub const CUTOVERS: &str = "_eds_import";
/// The name of the table that records how far the files of an import are loaded.
pub const PROGRESS: &str = "_eds_import_progress";
/// The line of [`PROGRESS`] that stands for the whole job.
pub const WHOLE_JOB: &str = "";
/// What stands before the name of a table that is about to be removed.
pub const REPLACED_PREFIX: &str = "_eds_old_";

impl Renderer {
    fn numbers(&self, names: &[&str]) -> String {
        names
            .iter()
            .map(|name| format!("{name} {} NOT NULL", self.dialect.integer))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Creates a table of cutovers under this name: consumer (empty for all), table, and the
    /// cutover as JSON.
    pub fn create_cutovers(&self, name: &str) -> String {
        let Dialect { consumer, text_key, types, .. } = self.dialect;
        let columns = format!(
            "consumer {consumer} NOT NULL, table_name {text_key} NOT NULL, cutover {} NOT NULL, {}",
            types[0],
            self.numbers(&["format"])
        );
        self.create(&self.table(name), &format!("{columns}, PRIMARY KEY (consumer, table_name)"))
    }

    /// Creates a table of progress under this name.
    pub fn create_progress(&self, name: &str) -> String {
        let Dialect { consumer, text_key, .. } = self.dialect;
        let numbers = self.numbers(&["lines_done", "rows_loaded", "rows_skipped", "is_done"]);
        self.create(
            &self.table(name),
            &format!(
                "job {text_key} NOT NULL, file_name {consumer} NOT \
            NULL, {numbers}, PRIMARY KEY (job, file_name)"
            ),
        )
    }

    /// Columns: consumer, table, cutover.
    pub fn read_cutovers(&self) -> String {
        format!("SELECT consumer, table_name, cutover FROM {}", self.table(CUTOVERS))
    }

    /// Parameters: consumer, table, cutover.
    pub fn insert_cutover(&self, name: &str) -> String {
        let p = self.dialect.parameter;
        format!(
            "INSERT INTO {} (consumer, table_name, cutover, format) VALUES ({}, {}, {}, {FORMAT})",
            self.table(name),
            p(1),
            p(2),
            p(3)
        )
    }

    /// Columns: job, file.
    pub fn read_progress_names(&self) -> String {
        format!("SELECT job, file_name FROM {} ORDER BY job, file_name", self.table(PROGRESS))
    }

    /// Columns: lines, rows, skipped, done. Parameters: job, file.
    pub fn read_progress(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "SELECT lines_done, rows_loaded, rows_skipped, is_done FROM {} WHERE job = {} AND \
             file_name = {}",
            self.table(PROGRESS),
            p(1),
            p(2)
        )
    }

    /// Parameters: job, file, whether it is done.
    pub fn insert_progress(&self, name: &str) -> String {
        let p = self.dialect.parameter;
        format!(
            "INSERT INTO {} (job, file_name, lines_done, rows_loaded, rows_skipped, is_done) \
             VALUES ({}, {}, 0, 0, 0, {})",
            self.table(name),
            p(1),
            p(2),
            p(3)
        )
    }

    /// Parameters: lines, rows, skipped, done, job, file, and the lines before.
    pub fn advance_progress(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "UPDATE {} SET lines_done = {}, rows_loaded = {}, rows_skipped = {}, is_done = {} \
             WHERE job = {} AND file_name = {} AND lines_done = {} AND is_done = 0",
            self.table(PROGRESS),
            p(1),
            p(2),
            p(3),
            p(4),
            p(5),
            p(6),
            p(7)
        )
    }

    /// Deletes all rows of a table.
    pub fn clear(&self, name: &str) -> String {
        format!("DELETE FROM {}", self.table(name))
    }

    /// Resets a checkpoint and raises its epoch, so that the process that holds it can no longer
    /// commit. Parameters: consumer, epoch and sequence as they were read.
    pub fn set_back_checkpoint(&self) -> String {
        let (p, table) = (self.dialect.parameter, self.table(CHECKPOINT));
        format!(
            "UPDATE {table} SET epoch = epoch + 1, stream_sequence = 0, stream_time_ns = 0 WHERE \
             consumer = {} AND lane = 0 AND epoch = {} AND stream_sequence = {}",
            p(1),
            p(2),
            p(3)
        )
    }

    /// Raises all epochs, so that no process that streams can commit any more. Positions are reset
    /// later.
    pub fn raise_epochs(&self) -> String {
        format!("UPDATE {} SET epoch = epoch + 1", self.table(CHECKPOINT))
    }

    /// Copies all checkpoints into this table, reset.
    pub fn copy_checkpoints(&self, name: &str) -> String {
        let columns = "consumer, lane, epoch, stream_sequence, stream_time_ns, companies, format";
        format!(
            "INSERT INTO {} ({columns}) SELECT consumer, lane, epoch, 0, 0, companies, \
             format FROM {}",
            self.table(name),
            self.table(CHECKPOINT)
        )
    }

    /// Sets the progress of a file to its start. Parameters: job, file.
    pub fn reset_progress(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "UPDATE {} SET lines_done = 0, rows_loaded = 0, rows_skipped = 0, is_done = 0 \
             WHERE job = {} AND file_name = {}",
            self.table(PROGRESS),
            p(1),
            p(2)
        )
    }

    /// Creates the table `staged` that the rows of `schema` are loaded into, without its key where
    /// that is created later.
    pub fn create_staged(&self, schema: &TableSchema, staged: &TableSchema) -> String {
        let contents = self.contents(schema, &schema.columns);
        let columns: Vec<String> = (0..schema.columns.len())
            .map(|i| self.definition_holding(schema, i, contents[i]))
            .collect();
        let key = match self.dialect.keys {
            Keys::BeforeLoad => format!(", PRIMARY KEY ({})", self.list(schema.key_columns())),
            Keys::AfterLoad => String::new(),
        };
        self.create(&self.table(&staged.table), &format!("{}{key}", columns.join(", ")))
    }

    /// Whether `shape` is what `create_staged` makes, as far as types are known.
    pub fn is_staged(&self, schema: &TableSchema, shape: &TableShape) -> bool {
        let contents = self.contents(schema, &schema.columns);
        let stays = self.dialect.not_null == NotNull::Never;
        let is_made = |(i, column): (usize, &Column)| {
            let (made, is_key) = (self.type_holding(schema, i, contents[i]), i < schema.keys);
            let there = shape.columns.get(&*self.dialect.limits.names.stored(&column.name));
            there.is_some_and(|there| {
                there.holds == (self.dialect.holds)(&made)
                    && (is_key || stays || there.takes_null || !column.nullable)
            })
        };
        let keys: BTreeSet<&str> = schema.key_columns().iter().map(|c| &*c.name).collect();
        shape.columns.len() == schema.columns.len()
            && schema.columns.iter().enumerate().all(is_made)
            && (shape.keys.is_empty()
                || shape.keys.iter().map(String::as_str).collect::<BTreeSet<&str>>() == keys)
    }

    /// Creates the primary key of a table that has none.
    pub fn add_key(&self, schema: &TableSchema) -> String {
        let name = self.quoted(&key_name(&self.namespace.name_of(&schema.table)));
        format!(
            "ALTER TABLE {} ADD CONSTRAINT {name} PRIMARY KEY ({})",
            self.table(&schema.table),
            self.list(schema.key_columns())
        )
    }

    /// Drops a table, if it exists.
    pub fn drop_table(&self, name: &str) -> String {
        format!("DROP TABLE IF EXISTS {}", self.table(name))
    }

    /// Renames one table.
    pub fn rename(&self, from: &str, to: &str) -> String {
        match self.dialect.rename {
            Rename::AlterTable => format!(
                "ALTER TABLE {} RENAME TO {}",
                self.table(from),
                self.quoted(&self.namespace.name_of(to))
            ),
            Rename::Procedure => format!(
                "EXEC sp_rename {}, {}",
                literal(&self.table(from)),
                literal(&self.namespace.name_of(to))
            ),
            Rename::ManyAtOnce | Rename::Never => {
                self.rename_all(&[(from.to_owned(), to.to_owned())])
            }
        }
    }

    /// Renames many tables, from and to, in one statement.
    pub fn rename_all(&self, renames: &[(String, String)]) -> String {
        let each: Vec<String> = renames
            .iter()
            .map(|(from, to)| format!("{} TO {}", self.table(from), self.table(to)))
            .collect();
        format!("RENAME TABLE {}", each.join(", "))
    }

    /// Upserts the rows of `staged` into the table; several statements where the dialect has no
    /// upsert.
    pub fn merge_staged(&self, schema: &TableSchema, staged: &TableSchema) -> Vec<String> {
        let from = self.table(&staged.table);
        let own = |i: usize| self.quoted(&schema.columns[i].name);
        match self.dialect.merge {
            Merge::UpdateThenInsert => {
                let same = self.same_as_staged(schema, "t");
                return self
                    .update_by(schema, &from, &same, own)
                    .into_iter()
                    .chain([self.insert_by(schema, &from, &same, own)])
                    .collect();
            }
            Merge::MergeInto => return vec![self.merge(schema, &from, own, None)],
            Merge::OnConflict | Merge::OnDuplicateKey => {}
        }
        // Without the condition SQLite reads the ON of the upsert as that of a join.
        vec![self.upsert(
            schema,
            &format!("SELECT {} FROM {from} WHERE 1 = 1", self.list(&schema.columns)),
        )]
    }

    /// Inserts the rows of `staged` into the table, which is empty.
    pub fn insert_staged(&self, schema: &TableSchema, staged: &TableSchema) -> String {
        self.insert(
            schema,
            &format!("SELECT {} FROM {}", self.list(&schema.columns), self.table(&staged.table)),
        )
    }

    /// Deletes the rows that `staged` lacks.
    pub fn delete_missing(&self, schema: &TableSchema, staged: &TableSchema) -> String {
        let table = self.table(&schema.table);
        format!(
            "DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM {} AS s WHERE {})",
            self.table(&staged.table),
            self.same_as_staged(schema, &table)
        )
    }

    /// Where a row of `table`, which may have keys of another collation, has the key of a row `s`
    /// of the table that was loaded.
    fn same_as_staged(&self, schema: &TableSchema, table: &str) -> String {
        let contents = self.contents(schema, schema.key_columns());
        let same = |(i, holds): (usize, &Holds)| {
            let column = self.quoted(&schema.columns[i].name);
            let made = (self.dialect.holds)(&self.type_holding(schema, i, *holds));
            let own = format!("s.{column}");
            let staged = match self.dialect.exact_text {
                Some(exact) if [Holds::Text, Holds::Word].contains(&made) => exact(&own),
                _ => own,
            };
            format!("{staged} = {table}.{column}")
        };
        contents.iter().enumerate().map(same).collect::<Vec<_>>().join(" AND ")
    }
}

/// The name of a table's primary key, where keys have names.
pub fn key_name(table: &str) -> String {
    format!("{table}_pkey")
}

fn literal(name: &str) -> String {
    format!("N'{}'", name.replace('\'', "''"))
}
