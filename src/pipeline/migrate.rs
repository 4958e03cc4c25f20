//! Decides how tables have to change before rows are written, by shapes and schemas alone, and has
//! it done.

use std::sync::Arc;

use tracing::info;

use crate::change::TableSchema;
use crate::destination::{Destination, Failure, Migration, TableShape, Tables};

/// A table of that name is there, and rows are not written to it.
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
}

/// What has to be done before rows of `schema` can be written; nothing where the table fits.
pub fn plan(tables: &Tables, schema: &Arc<TableSchema>) -> Vec<Migration> {
    let Some(shape) = tables.get(&schema.table) else {
        return vec![Migration::CreateTable(schema.clone())];
    };
    let missing: Vec<usize> = (0..schema.columns.len())
        .filter(|i| !shape.columns.contains_key(&*schema.columns[*i].name))
        .collect();
    let mut steps = Vec::new();
    if !missing.is_empty() {
        steps.push(Migration::AddColumns(schema.clone(), missing));
    }
    // Columns that may be null by now, and those that this version does not have any more, which
    // would stay empty.
    let takes_null = |name: &str| schema.column(name).is_none_or(|i| schema.columns[i].nullable);
    let strict: Vec<String> = shape
        .columns
        .iter()
        .filter(|(name, nullable)| !**nullable && !shape.keys.contains(name) && takes_null(name))
        .map(|(name, _)| name.clone())
        .collect();
    if !strict.is_empty() {
        steps.push(Migration::DropNotNull { table: schema.table.to_string(), columns: strict });
    }
    steps
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
    let keys: Vec<&str> = schema.key_columns().iter().map(|c| &*c.name).collect();
    if !same_set(shape, &keys) {
        return foreign(format!(
            "its primary key is ({}), not ({})",
            shape.keys.join(", "),
            keys.join(", ")
        ));
    }
    let there = schema.columns.iter().filter(|c| shape.columns.contains_key(&*c.name)).count();
    if there * 2 < schema.columns.len() {
        return foreign(format!("it has {there} of the {} columns", schema.columns.len()));
    }
    Ok(())
}

fn same_set(shape: &TableShape, keys: &[&str]) -> bool {
    shape.keys.len() == keys.len() && keys.iter().all(|key| shape.keys.iter().any(|k| k == key))
}

/// Makes the steps that [`plan`] finds, one after the other. Returns whether there were any.
pub async fn bring_up(
    destination: &mut dyn Destination,
    tables: &Tables,
    schema: &Arc<TableSchema>,
) -> Result<bool, Failure> {
    let steps = plan(tables, schema);
    for step in &steps {
        info!("schema: {step}");
        destination.migrate(step).await?;
    }
    Ok(!steps.is_empty())
}

impl From<TableRefused> for Failure {
    fn from(refused: TableRefused) -> Failure {
        Failure::misconfigured(refused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &str) -> Arc<TableSchema> {
        let json = format!(
            r#"{{"table":"t","modelVersion":"1","primaryKeys":["id"],"required":["id","n"],"properties":{{"id":{{"type":"string"}},{columns}}}}}"#
        );
        Arc::new(TableSchema::parse(&json).unwrap_or_else(|e| panic!("{e}")))
    }

    fn tables(columns: &[(&str, bool)], keys: &[&str]) -> Tables {
        let shape = TableShape {
            columns: columns.iter().map(|(n, nullable)| ((*n).into(), *nullable)).collect(),
            keys: keys.iter().map(|k| (*k).into()).collect(),
            write_blocker: None,
        };
        Tables { shapes: [("t".to_owned(), shape)].into(), lower_case: false }
    }

    #[test]
    fn creates_adds_and_loosens_but_never_drops() {
        let wanted = schema(r#""n":{"type":"integer"},"a":{"type":"string"}"#);
        assert_eq!(plan(&Tables::default(), &wanted), [Migration::CreateTable(wanted.clone())]);
        let there =
            tables(&[("id", false), ("n", false), ("gone", false), ("extra", true)], &["id"]);
        let a = wanted.column("a").into_iter().collect();
        assert_eq!(
            plan(&there, &wanted),
            [
                Migration::AddColumns(wanted.clone(), a),
                Migration::DropNotNull { table: "t".into(), columns: vec!["gone".into()] }
            ]
        );
        let fits = tables(&[("id", false), ("n", false), ("a", true)], &["id"]);
        assert_eq!(plan(&fits, &wanted), []);
    }

    #[test]
    fn knows_a_table_that_is_not_ours() {
        let wanted =
            schema(r#""n":{"type":"integer"},"a":{"type":"string"},"b":{"type":"string"}"#);
        assert_eq!(check_ours(&Tables::default(), &wanted), Ok(()));
        assert_eq!(check_ours(&tables(&[("id", false), ("n", false)], &["id"]), &wanted), Ok(()));
        assert!(check_ours(&tables(&[("id", false)], &["id"]), &wanted).is_err());
        assert!(
            check_ours(&tables(&[("id", false), ("n", false), ("a", true)], &[]), &wanted).is_err()
        );
        let mut unsafe_one =
            tables(&[("id", false), ("n", false), ("a", true), ("b", true)], &["id"]);
        unsafe_one
            .shapes
            .values_mut()
            .for_each(|shape| shape.write_blocker = Some("it is a view".into()));
        assert!(matches!(check_ours(&unsafe_one, &wanted), Err(TableRefused::Unsafe { .. })));
    }

    #[test]
    fn a_destination_that_knows_lower_case_only_is_not_asked_for_more() {
        let json = r#"{"table":"orderItem","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}"#;
        let wanted = Arc::new(TableSchema::parse(json).unwrap_or_else(|e| panic!("{e}")));
        let mut there = Tables { lower_case: true, ..Tables::default() };
        there.shapes.insert(
            "orderitem".into(),
            TableShape {
                columns: [("id".to_owned(), false)].into(),
                keys: vec!["id".into()],
                write_blocker: None,
            },
        );
        assert_eq!(plan(&there, &wanted), []);
        assert_eq!(plan(&Tables { lower_case: false, ..there }, &wanted).len(), 1);
    }
}
