//! What an import would do with each table, and what is in its way: told before anything is loaded.

use serde::Serialize;

use super::order::{described, references};
use super::swap::how;
use super::{ImportPlan, TablePlan, clearing_marks, loader, row_refusal};
use crate::destination::import::SwapMethod;
use crate::destination::{Destination, Failure, Tables};
use crate::pipeline::migrate;

/// What becomes of a table of the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFate {
    /// It is not there yet.
    Created,
    /// Another table takes its place.
    Exchanged,
    /// It stays, and its rows are replaced.
    Merged,
    /// It stays, and so do rows that the export lacks.
    Upserted,
    /// There are no tables: each row becomes an event.
    Appended,
}

/// What an import would do with one table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TableCheck {
    /// The table, as the source calls it.
    pub table: String,
    /// What becomes of it.
    pub fate: TableFate,
    /// Why it is not exchanged.
    pub reason: Option<String>,
    /// Changes of its columns that come first.
    pub steps: Vec<String>,
    /// What should be known, though the import can go on.
    pub warnings: Vec<String>,
    /// What the import would fail by.
    pub problems: Vec<String>,
}

impl TableCheck {
    /// That of a destination without tables.
    pub fn appended(table: &str) -> TableCheck {
        TableCheck {
            table: table.to_owned(),
            fate: TableFate::Appended,
            reason: None,
            steps: Vec::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// Finds out what an import would do. Changes nothing.
pub async fn check(
    destination: &mut dyn Destination,
    plan: &ImportPlan,
) -> Result<Vec<TableCheck>, Failure> {
    let plan = &clearing_marks(destination, plan.clone()).await?;
    let tables = destination.tables().await?;
    let references = references(destination, plan).await?;
    let mut checks = Vec::new();
    for table in &plan.tables {
        let name = &*table.schema.table;
        let loader = loader(destination)?;
        let blocker = loader.swap_blocker(&table.schema).await?;
        let stays = loader.keeps_tables().then(|| "tables always stay there".to_owned());
        let blocker = blocker.or(stays);
        let (method, _) = how(plan.mode, &tables, name, blocker.clone());
        let fate = match (method, tables.get(name)) {
            (_, None) => TableFate::Created,
            (SwapMethod::Exchange, _) => TableFate::Exchanged,
            (SwapMethod::ReplaceRows, _) => TableFate::Merged,
            (SwapMethod::UpsertRows, _) => TableFate::Upserted,
        };
        let (steps, mut problems) = planned(&tables, plan, table);
        problems.extend(row_refusal(destination, &tables, &table.schema).await?);
        if references.circle.iter().any(|key| key.table == name) {
            problems.extend(references.refuse_circle().err().map(|failure| failure.text));
        }
        let outside = references.outside.iter().filter(|key| key.table == name);
        checks.push(TableCheck {
            table: name.to_owned(),
            reason: blocker.filter(|_| fate == TableFate::Merged),
            fate,
            steps,
            warnings: outside.map(|key| outside_warning(&described(key))).collect(),
            problems,
        });
    }
    Ok(checks)
}

/// What a foreign key to a table that is not imported means; `key` describes it.
pub fn outside_warning(key: &str) -> String {
    format!(
        "foreign key {key}: that table is not imported, and has to have the rows already that the \
         export refers to"
    )
}

/// The steps that bring a table up to its schema, and what refuses it.
fn planned(tables: &Tables, plan: &ImportPlan, table: &TablePlan) -> (Vec<String>, Vec<String>) {
    let schema = &table.schema;
    let others = plan.tables.iter().map(|t| &*t.schema.table);
    let is_adopted = plan.adopt.iter().any(|name| *name == *schema.table);
    let ours = match is_adopted {
        true => Ok(()),
        false => migrate::check_ours(tables, schema),
    };
    let steps = migrate::check_names(tables, &schema.table, others)
        .and(ours)
        .and_then(|()| migrate::plan(tables, schema));
    match steps {
        Ok(steps) => (steps.iter().map(ToString::to_string).collect(), Vec::new()),
        Err(refused) => (Vec::new(), vec![refused.to_string()]),
    }
}
