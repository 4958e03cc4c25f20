//! What a destination tells of its tables, what can be in their columns, and the changes of tables
//! that it can be asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::change::stamps::Stamp;
use crate::change::{Column, ColumnType, TableSchema};

/// The tables of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// By the name that the source gives them; in lower case where the destination knows no other.
    pub shapes: BTreeMap<String, TableShape>,
    /// What stands before each table's name in the destination.
    pub prefix: String,
    /// What the destination takes of names, columns and types.
    pub limits: &'static TableLimits,
    /// Whether the destination stores names of tables in lower case.
    pub lower_case: bool,
}

impl Tables {
    /// The schema by which rows of `schema` lose the mark of those that are deleted: whoever writes
    /// rows that do not stay says nothing of it. `None` where the table has no mark, or `schema`
    /// has it, too.
    pub fn clearing_mark(&self, schema: &TableSchema) -> Option<TableSchema> {
        let shape = self.get(&schema.table).filter(|_| !schema.keeps_deleted())?;
        let mark = self.limits.names.stored(Stamp::DeletedAt.name());
        shape.columns.contains_key(&*mark).then(|| schema.clearing_mark())
    }

    /// Brings the list up to date with `step`, which the destination has made.
    pub fn take(&mut self, step: &Migration) {
        let name = self.name_of(step.table());
        let shape = self.shapes.entry(name).or_default();
        match step {
            Migration::CreateTable(schema) => {
                shape.keys = schema.key_columns().iter().map(|c| c.name.to_string()).collect();
                shape.columns.extend(schema.columns.iter().map(|column| {
                    let made =
                        ColumnShape { takes_null: column.nullable, ..ColumnShape::default() };
                    (column.name.to_string(), made)
                }));
            }
            Migration::AddColumns(schema, columns) => shape.columns.extend(
                columns
                    .iter()
                    .map(|i| (schema.columns[*i].name.to_string(), ColumnShape::default())),
            ),
            Migration::DropNotNull { columns, .. } => {
                for name in columns {
                    shape.columns.entry(name.clone()).or_default().takes_null = true;
                }
            }
            Migration::WidenColumn { column, to, .. } => {
                let widened = shape.columns.entry(column.clone()).or_default();
                (widened.declared, widened.holds) = ((*to).to_owned(), Holds::Anything);
            }
        }
    }

    /// The table that keeps the rows of the source's `table`.
    pub fn get(&self, table: &str) -> Option<&TableShape> {
        self.shapes.get(&self.name_of(table))
    }

    /// The table that keeps the rows of the source's `table` is as `shape` says, or is not there.
    pub fn put(&mut self, table: &str, shape: Option<TableShape>) {
        let name = self.name_of(table);
        match shape {
            Some(shape) => drop(self.shapes.insert(name, shape)),
            None => drop(self.shapes.remove(&name)),
        }
    }

    /// What can be in each of the columns of the source's `table`; `Anything` where it is not
    /// known.
    pub fn contents(&self, table: &str, columns: &[Column]) -> Vec<Holds> {
        let shape = self.get(table);
        let contents = |column: &Column| {
            let found = shape?.columns.get(&*self.limits.names.stored(&column.name))?;
            Some(found.holds)
        };
        columns.iter().map(|column| contents(column).unwrap_or(Holds::Anything)).collect()
    }

    fn name_of(&self, table: &str) -> String {
        let room = self.limits.names.without(&self.prefix);
        let stored = room.stored(table);
        if self.lower_case { stored.to_lowercase() } else { stored.into_owned() }
    }
}

/// A table of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableShape {
    /// Its columns by name.
    pub columns: BTreeMap<String, ColumnShape>,
    /// Columns of the primary key, in its order.
    pub keys: Vec<String>,
    /// Why rows must not be written to it, with the cure.
    pub write_blocker: Option<String>,
}

/// A column of a destination's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnShape {
    /// Its type, as the destination writes it.
    pub declared: String,
    /// What can be in it.
    pub holds: Holds,
    /// Whether NULL can be written to it.
    pub takes_null: bool,
    /// Whether an insert may leave it out though it takes no NULL.
    pub has_default: bool,
}

impl Default for ColumnShape {
    fn default() -> ColumnShape {
        ColumnShape {
            declared: String::new(),
            holds: Holds::Anything,
            takes_null: true,
            has_default: false,
        }
    }
}

/// What can be in a column, as far as it decides whether the values of a schema fit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holds {
    /// Whole numbers of at most 32 bits.
    SmallInteger,
    /// Whole numbers of 64 bits.
    Integer,
    /// Decimal numbers.
    Decimal,
    /// Floating-point numbers.
    Float,
    /// True or false.
    Boolean,
    /// Text of at most 64 characters, as new columns for enumerations have it.
    Word,
    /// Text.
    Text,
    /// Instants.
    Time,
    /// JSON.
    Json,
    /// What EDS does not judge: a type that is not in its lists.
    Anything,
}

/// A kind of value that a column cannot take as it is, and what becomes of the column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Misfit {
    /// What can be in the column.
    pub holds: Holds,
    /// What the schema has.
    pub kinds: &'static [ColumnType],
    /// The type that holds both.
    pub becomes: &'static str,
    /// The same for a column of the primary key; `None` where that stays as it is.
    pub key_becomes: Option<&'static str>,
}

/// What a destination takes of names, columns and types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableLimits {
    /// What users call the destination.
    pub database: &'static str,
    /// Names of tables and columns.
    pub names: NameLimit,
    /// The most columns of a table; `None` without limit.
    pub columns_max: Option<usize>,
    /// Whether NOT NULL can be taken back.
    pub drops_not_null: bool,
    /// Which values do not fit which columns.
    pub misfits: &'static [Misfit],
}

impl TableLimits {
    /// Takes everything.
    pub const NONE: TableLimits = TableLimits {
        database: "the destination",
        names: NameLimit::NONE,
        columns_max: None,
        drops_not_null: true,
        misfits: &[],
    };

    /// The misfit of values of this kind in such a column, if they do not fit.
    pub fn misfit(&self, holds: Holds, kind: ColumnType) -> Option<&'static Misfit> {
        self.misfits.iter().find(|misfit| misfit.holds == holds && misfit.kinds.contains(&kind))
    }
}

impl Default for &'static TableLimits {
    fn default() -> &'static TableLimits {
        &TableLimits::NONE
    }
}

/// In what the length of a name is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameUnit {
    /// Bytes of UTF-8.
    Bytes,
    /// Characters.
    Characters,
}

/// What becomes of names that are too long, or differ only in case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameLimit {
    /// The longest name.
    pub max: usize,
    /// In what `max` counts.
    pub unit: NameUnit,
    /// Whether longer names are cut off; else they are an error.
    pub cuts: bool,
    /// Whether tables whose names differ only in case are one.
    pub folds_tables: bool,
    /// Whether columns whose names differ only in case are one.
    pub folds_columns: bool,
}

impl NameLimit {
    /// Takes every name.
    pub const NONE: NameLimit = NameLimit {
        max: usize::MAX,
        unit: NameUnit::Bytes,
        cuts: false,
        folds_tables: false,
        folds_columns: false,
    };

    /// The limit of what follows `prefix`.
    pub fn without(self, prefix: &str) -> NameLimit {
        NameLimit { max: self.max.saturating_sub(self.length(prefix)), ..self }
    }

    /// How long a name is.
    pub fn length(&self, name: &str) -> usize {
        match self.unit {
            NameUnit::Bytes => name.len(),
            NameUnit::Characters => name.chars().count(),
        }
    }

    /// The name as it is stored.
    pub fn stored<'n>(&self, name: &'n str) -> std::borrow::Cow<'n, str> {
        if !self.cuts || self.length(name) <= self.max {
            return name.into();
        }
        let mut length = 0;
        let end = name.char_indices().find_map(|(at, c)| {
            length += match self.unit {
                NameUnit::Bytes => c.len_utf8(),
                NameUnit::Characters => 1,
            };
            (length > self.max).then_some(at)
        });
        name[..end.unwrap_or(name.len())].into()
    }
}

impl std::fmt::Display for NameLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.unit {
            NameUnit::Bytes => write!(f, "{} bytes", self.max),
            NameUnit::Characters => write!(f, "{} characters", self.max),
        }
    }
}

/// One schema change. Repeating it changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Migration {
    /// Creates the table with all columns of the schema; a table that exists stays as it is.
    CreateTable(Arc<TableSchema>),
    /// Columns of the schema by index; added as nullable.
    AddColumns(Arc<TableSchema>, Vec<usize>),
    /// Lets columns be null that the source no longer requires.
    DropNotNull {
        /// The table, as the source calls it.
        table: String,
        /// Columns by name.
        columns: Vec<String>,
    },
    /// Gives a column a type that holds what is in it and what the schema has, both exactly.
    WidenColumn {
        /// The table, as the source calls it.
        table: String,
        /// The column's name.
        column: String,
        /// Its type now, as the destination writes it.
        from: String,
        /// What the schema has.
        kind: ColumnType,
        /// The type that it gets.
        to: &'static str,
    },
}

impl Migration {
    /// The table that it changes, as the source calls it.
    pub fn table(&self) -> &str {
        match self {
            Migration::CreateTable(schema) | Migration::AddColumns(schema, _) => &schema.table,
            Migration::DropNotNull { table, .. } | Migration::WidenColumn { table, .. } => table,
        }
    }
}

impl std::fmt::Display for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Migration::CreateTable(schema) => {
                write!(f, "create table {:?} with {} columns", schema.table, schema.columns.len())
            }
            Migration::AddColumns(schema, columns) => {
                let names: Vec<&str> = columns.iter().map(|i| &*schema.columns[*i].name).collect();
                write!(f, "add to table {:?}: {}", schema.table, names.join(", "))
            }
            Migration::DropNotNull { table, columns } => {
                write!(f, "let columns of table {table:?} be null: {}", columns.join(", "))
            }
            Migration::WidenColumn { table, column, from, kind, to } => write!(
                f,
                "widen column {column:?} of table {table:?} from {from} to {to}, because it is to \
                 take {kind}"
            ),
        }
    }
}
