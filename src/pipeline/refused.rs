//! Which tables are not written to, and why: told by shapes, names and schemas alone.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::change::stamps::Stamp;
use crate::change::{Column, TableSchema};
use crate::destination::shape::{NameLimit, TableLimits};
use crate::destination::{Failure, FailureKind, TableShape, Tables};
use crate::help::HelpCode;

/// A table that rows are not written to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableRefused {
    /// Made neither by EDS nor by its predecessor.
    #[error(
        "the destination already has a table {table:?} that EDS did not make ({why}); it is left \
         alone. Choose another schema with ?schema=, leave this table out with --tables, \
         or let EDS write to it with --adopt {table}"
    )]
    NotOurs {
        /// Its name.
        table: String,
        /// What is different.
        why: String,
    },
    /// Rows would be lost or changed in it.
    #[error("rows would not be safe in the destination's table {table:?}: {why}")]
    Unsafe {
        /// Its name.
        table: String,
        /// The reason, with the cure.
        why: String,
    },
    /// The schema tells its rows apart by other columns than the version that made it.
    #[error(
        "the primary key of the destination's table {table:?} is ({there}), and that of its schema \
         is ({wanted}) now; rows cannot be told apart by it. Give it the key ({wanted}), or rename \
         it and load the table anew by an import"
    )]
    KeyChanged {
        /// Its name.
        table: String,
        /// The columns of the key that it has.
        there: String,
        /// The columns of the key that it has to have.
        wanted: String,
    },
    /// Two tables of the source would be one.
    #[error(
        "tables {table:?} and {other:?} would be one table in the destination, because {reason}; \
         leave one out with --tables, or let one have a destination of its own"
    )]
    SameTable {
        /// Its name.
        table: String,
        /// The name of the other one.
        other: String,
        /// Why the destination does not tell them apart.
        reason: String,
    },
    /// Two columns would be one.
    #[error(
        "columns {first:?} and {second:?} of table {table:?} would be one column in the \
         destination, because {reason}; leave the table out with --tables"
    )]
    SameColumn {
        /// The name of the table.
        table: String,
        /// The name of one column.
        first: String,
        /// The name of the other one.
        second: String,
        /// Why the destination does not tell them apart.
        reason: String,
    },
    /// A name is longer than the destination takes.
    #[error(
        "the name of {what} {name:?} is too long: {database} takes at most {limit}; leave table \
         {table:?} out with --tables"
    )]
    LongName {
        /// The name of the table.
        table: String,
        /// Whose name it is.
        what: &'static str,
        /// The name.
        name: String,
        /// How long it may be.
        limit: NameLimit,
        /// The destination.
        database: &'static str,
    },
    /// A table can have so many columns at most.
    #[error(
        "table {table:?} would have {count} columns, and {database} takes at most {max}; leave it \
         out with --tables"
    )]
    TooWide {
        /// Its name.
        table: String,
        /// Columns that it would have.
        count: usize,
        /// The most that it can have.
        max: usize,
        /// The destination.
        database: &'static str,
    },
}

impl TableRefused {
    /// The table that is refused, as the source calls it.
    pub fn table(&self) -> &str {
        match self {
            TableRefused::NotOurs { table, .. }
            | TableRefused::Unsafe { table, .. }
            | TableRefused::KeyChanged { table, .. }
            | TableRefused::SameTable { table, .. }
            | TableRefused::SameColumn { table, .. }
            | TableRefused::LongName { table, .. }
            | TableRefused::TooWide { table, .. } => table,
        }
    }
}

impl From<TableRefused> for Failure {
    fn from(refused: TableRefused) -> Failure {
        let kind = match refused {
            TableRefused::NotOurs { .. } | TableRefused::Unsafe { .. } => {
                FailureKind::Misconfigured
            }
            _ => FailureKind::TableUnavailable,
        };
        let help = match refused {
            TableRefused::NotOurs { .. } => HelpCode::TableNotOurs,
            TableRefused::Unsafe { .. } => HelpCode::TableUnsafe,
            TableRefused::KeyChanged { .. } => HelpCode::TableKey,
            TableRefused::SameTable { .. }
            | TableRefused::SameColumn { .. }
            | TableRefused::LongName { .. }
            | TableRefused::TooWide { .. } => HelpCode::TableDoesNotFit,
        };
        let table = Some(refused.table().into());
        Failure { table, ..Failure::new(kind, refused.to_string()).with_help(help) }
    }
}

/// Refuses a table of a foreign shape: one with another primary key, or with fewer than half of the
/// schema's columns.
pub fn check_ours(tables: &Tables, schema: &TableSchema) -> Result<(), TableRefused> {
    let Some(shape) = tables.get(&schema.table) else { return Ok(()) };
    let foreign = |why: String| Err(TableRefused::NotOurs { table: schema.table.to_string(), why });
    if let Some(write_blocker) = &shape.write_blocker {
        return Err(TableRefused::Unsafe {
            table: schema.table.to_string(),
            why: write_blocker.clone(),
        });
    }
    check_key(shape, schema)?;
    let keys: Vec<&str> = schema.key_columns().iter().map(|c| &*c.name).collect();
    if !same_set(shape, &keys) {
        return foreign(format!(
            "its primary key is ({}), not ({})",
            shape.keys.join(", "),
            keys.join(", ")
        ));
    }
    let stored = |c: &&Column| shape.columns.contains_key(&*tables.limits.names.stored(&c.name));
    let columns = || schema.columns.iter().filter(|c| Stamp::named(&c.name).is_none());
    let (there, all) = (columns().filter(stored).count(), columns().count());
    if there * 2 < all {
        return foreign(format!("it has {there} of the {all} columns"));
    }
    Ok(())
}

/// Refuses a table whose primary key another version of the schema had: its columns are all there,
/// but rows are told apart by others now.
pub fn check_key(shape: &TableShape, schema: &TableSchema) -> Result<(), TableRefused> {
    let keys: Vec<&str> = schema.key_columns().iter().map(|c| &*c.name).collect();
    let known = !shape.keys.is_empty() && shape.keys.iter().all(|k| schema.column(k).is_some());
    if !known || same_set(shape, &keys) {
        return Ok(());
    }
    Err(TableRefused::KeyChanged {
        table: schema.table.to_string(),
        there: shape.keys.join(", "),
        wanted: keys.join(", "),
    })
}

/// Refuses what the destination cannot store: names that are too long or fall together, and more
/// columns than a table can have.
pub fn check_limits(tables: &Tables, schema: &TableSchema) -> Result<(), TableRefused> {
    let (limits, table) = (tables.limits, schema.table.to_string());
    check_length(tables, "table", &table, &format!("{}{table}", tables.prefix))?;
    let mut stored: BTreeMap<String, &str> = BTreeMap::new();
    for column in &schema.columns {
        check_length(tables, "column", &table, &column.name)?;
        let mut name = limits.names.stored(&column.name).into_owned();
        if limits.names.folds_columns {
            name = name.to_lowercase();
        }
        if let Some(other) = stored.insert(name, &column.name) {
            return Err(TableRefused::SameColumn {
                table,
                first: other.to_owned(),
                second: column.name.to_string(),
                reason: same_because(limits, other, &column.name),
            });
        }
    }
    let there = tables.get(&schema.table).map(|shape| shape.columns.keys());
    let mut all: BTreeSet<&str> = there.into_iter().flatten().map(String::as_str).collect();
    let names: Vec<Cow<'_, str>> =
        schema.columns.iter().map(|c| limits.names.stored(&c.name)).collect();
    all.extend(names.iter().map(|name| &**name));
    match limits.columns_max.filter(|max| all.len() > *max) {
        Some(max) => {
            Err(TableRefused::TooWide { table, count: all.len(), max, database: limits.database })
        }
        None => Ok(()),
    }
}

fn check_length(
    tables: &Tables,
    what: &'static str,
    table: &str,
    name: &str,
) -> Result<(), TableRefused> {
    let names = tables.limits.names;
    if names.cuts || names.length(name) <= names.max {
        return Ok(());
    }
    Err(TableRefused::LongName {
        table: table.to_owned(),
        what,
        name: name.to_owned(),
        limit: names,
        database: tables.limits.database,
    })
}

/// Refuses a table whose rows would be kept in the same table as those of one of `others`.
pub fn check_names<'o>(
    tables: &Tables,
    table: &str,
    others: impl IntoIterator<Item = &'o str>,
) -> Result<(), TableRefused> {
    let names = tables.limits.names.without(&tables.prefix);
    let stored = |name: &str| {
        let stored = names.stored(name).into_owned();
        let folds = names.folds_tables || tables.lower_case;
        if folds { stored.to_lowercase() } else { stored }
    };
    let own = stored(table);
    match others.into_iter().find(|other| *other != table && stored(other) == own) {
        Some(other) => Err(TableRefused::SameTable {
            table: table.to_owned(),
            other: other.to_owned(),
            reason: same_because(tables.limits, table, other),
        }),
        None => Ok(()),
    }
}

/// Why two names are one for the destination.
fn same_because(limits: &TableLimits, first: &str, second: &str) -> String {
    match first.to_lowercase() == second.to_lowercase() {
        true => format!("{} does not tell upper case from lower case", limits.database),
        false => format!("{} cuts names off after {}", limits.database, limits.names),
    }
}

fn same_set(shape: &TableShape, keys: &[&str]) -> bool {
    shape.keys.len() == keys.len() && keys.iter().all(|key| shape.keys.iter().any(|k| k == key))
}
