//! What can be wrong with the destination. It is opened as a start opens it, and only read.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::nats::unknown_as;
use super::{Doctor, DoctorCheck, DoctorRequest, Finding, OwnPosition, Resource};
use crate::change::TableSchema;
use crate::destination::{
    Access, CheckpointIn, Destination, Failure, KeptLetter, LetterBox, SchemaMode, Settings,
    TableConcern, Tables, Target,
};
use crate::help::HelpCode;
use crate::pipeline::migrate;
use crate::pipeline::state_letters::StateLetters;
use crate::registry::Registry;
use crate::state::State;
use crate::worker::run::{ApplyRequest, lacks_schemas};

/// Destinations that are opened by writing an empty object and removing it.
const OPENED_BY_WRITING: [&str; 2] = ["s3", "file"];

/// The schemas, which a start reads, too.
pub async fn schemas(request: &DoctorRequest) -> (Finding, Vec<Arc<TableSchema>>) {
    const CHECK: DoctorCheck = DoctorCheck::Schemas;
    let none = |found: Finding| (found, Vec::new());
    let Ok(apply) = &request.apply else {
        return none(Finding::skipped(CHECK, unknown_as(DoctorCheck::Destination)));
    };
    if let Some(why) = lacks_schemas(apply) {
        return none(Finding::problem(CHECK, HelpCode::SchemasMissing, why));
    }
    if apply.schemas.is_nothing() {
        return none(Finding::skipped(CHECK, "the destination needs none, and none are named"));
    }
    let state = match State::in_memory() {
        Ok(state) => state,
        Err(e) => return none(Finding::problem(CHECK, HelpCode::Machine, e.to_string())),
    };
    let registry = Registry::new(apply.schemas.clone(), state);
    match registry.with_columns(apply.columns.clone()).current().await {
        Ok(all) => (Finding::good(CHECK, format!("{} tables have schemas", all.len())), all),
        Err(why) => none(Finding::problem(CHECK, HelpCode::SchemasMissing, why)),
    }
}

/// Why the destination is not opened, though nothing may be wrong with it.
fn stays_closed(settings: &Settings, deep: bool) -> Option<String> {
    let path = Path::new(&settings.path);
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match &*settings.scheme {
        "sqlite" if !path.exists() && parent.is_dir() => {
            Some(format!("{settings} is not there yet: a start makes it"))
        }
        "file" if !path.exists() => Some(format!("{settings} is not there yet: a start makes it")),
        scheme if OPENED_BY_WRITING.contains(&scheme) && !deep => Some(format!(
            "{settings} is opened by writing an empty object and removing it: --deep does that"
        )),
        _ => None,
    }
}

impl Doctor {
    /// The destination, opened; an error says for `check` why it is not.
    async fn destination(&mut self, check: DoctorCheck) -> Result<&mut dyn Destination, Finding> {
        if let Resource::Failed(by) = &self.destination {
            return Err(Finding::skipped(check, unknown_as(*by)));
        }
        if let Resource::NotTried = &self.destination {
            self.destination = Resource::Failed(DoctorCheck::Destination);
            let deep = self.request.deep;
            let apply = match (&self.request.apply, &self.request.config) {
                (Ok(apply), _) => apply,
                // It is said there already.
                (Err(_), Err(_)) => {
                    return Err(Finding::skipped(check, unknown_as(DoctorCheck::Config)));
                }
                (Err(why), Ok(_)) => {
                    return Err(Finding::problem(check, HelpCode::DestinationUrl, why));
                }
            };
            if let Some(why) = stays_closed(&apply.destination, deep) {
                return Err(Finding::skipped(check, why));
            }
            let unclaimed = Target::unclaimed(&apply.destination);
            let target = Target { access: Access::Rehearse, ..unclaimed };
            let opened = (apply.driver.open)(&target).await.map_err(|e| refused(check, &e))?;
            self.destination = Resource::Ready(opened);
        }
        match &mut self.destination {
            Resource::Ready(destination) => Ok(&mut **destination),
            _ => Err(Finding::skipped(check, unknown_as(DoctorCheck::Destination))),
        }
    }

    /// Whether it can be opened.
    pub(super) async fn opens(&mut self) -> Finding {
        const CHECK: DoctorCheck = DoctorCheck::Destination;
        let begun = Instant::now();
        if let Err(found) = self.destination(CHECK).await {
            return found;
        }
        let shown = self.request.apply.as_ref().map(|apply| apply.destination.to_string());
        let shown = shown.unwrap_or_default();
        Finding::good(CHECK, format!("{shown} opens ({} ms)", begun.elapsed().as_millis()))
    }

    /// Whether rows of each table could be written.
    pub(super) async fn tables(&mut self) -> Vec<Finding> {
        const CHECK: DoctorCheck = DoctorCheck::Tables;
        let Ok(apply) = self.request.apply.clone() else {
            return vec![Finding::skipped(CHECK, unknown_as(DoctorCheck::Destination))];
        };
        if (apply.driver.abilities)(&apply.destination).schema_mode != SchemaMode::Managed {
            let text = format!("{} has no tables that EDS makes", apply.driver.title);
            return vec![Finding::skipped(CHECK, text)];
        }
        let (_, mut all) = schemas(&self.request).await;
        if all.is_empty() {
            return vec![Finding::skipped(CHECK, unknown_as(DoctorCheck::Schemas))];
        }
        let unknown: Vec<&String> = apply
            .tables
            .names()
            .filter(|name| !all.iter().any(|schema| *schema.table == **name))
            .collect();
        let mut found: Vec<Finding> = unknown
            .iter()
            .map(|name| {
                let text = format!("--tables names {name:?}, of which there is no schema");
                Finding::warning(CHECK, text, "is the name as the source spells it?")
            })
            .collect();
        all.retain(|schema| apply.tables.takes(&schema.table));
        let destination = match self.destination(CHECK).await {
            Ok(destination) => destination,
            Err(why) => return vec![why],
        };
        let tables = match destination.tables().await {
            Ok(tables) => tables,
            Err(e) => return vec![refused(CHECK, &e)],
        };
        found.extend(compared(&apply, destination, &tables, &all));
        if let Some(reader) = destination.row_reader() {
            match reader.concerns().await {
                Ok(concerns) => found.extend(concerns.iter().filter_map(|one| concern(one, &all))),
                Err(e) => found.push(refused(CHECK, &e)),
            }
        }
        found
    }

    /// How far the stream is, by the destination's record or the state file's.
    pub(super) async fn own_position(&mut self) -> Result<OwnPosition, Finding> {
        const CHECK: DoctorCheck = DoctorCheck::Retention;
        let durable = self.durable().unwrap_or_default();
        let state = self.state();
        let idle = state.as_ref().and_then(|state| state.idle(&durable).ok().flatten());
        let idle_ns = idle.map(|idle| idle.time_ns);
        let Ok(apply) = &self.request.apply else {
            return Err(Finding::skipped(CHECK, unknown_as(DoctorCheck::Destination)));
        };
        let title = apply.driver.title;
        if (apply.driver.abilities)(&apply.destination).checkpoint_in == CheckpointIn::StateFile {
            let durable = state.and_then(|state| state.position(&durable).ok().flatten());
            return Ok(OwnPosition { durable, idle_ns });
        }
        let Some(reader) = self.destination(CHECK).await?.row_reader() else {
            let text = format!("the position in {title} cannot be read without taking it over");
            return Err(Finding::skipped(CHECK, text));
        };
        let records = reader.positions().await.map_err(|e| refused(CHECK, &e))?;
        let own = records.into_iter().find(|record| record.consumer == durable);
        Ok(OwnPosition { durable: own.and_then(|record| record.position), idle_ns })
    }

    /// What waits for a person.
    pub(super) async fn letters(&mut self) -> Vec<Finding> {
        const CHECK: DoctorCheck = DoctorCheck::Letters;
        let Ok(apply) = self.request.apply.clone() else {
            return vec![Finding::skipped(CHECK, unknown_as(DoctorCheck::Destination))];
        };
        let is_here =
            (apply.driver.abilities)(&apply.destination).checkpoint_in == CheckpointIn::StateFile;
        if is_here {
            let Some(state) = self.state() else {
                return vec![Finding::good(CHECK, "none: there is no state file yet")];
            };
            return match StateLetters::new(state).letters().await {
                Ok(letters) => vec![counted(&letters)],
                Err(e) => vec![refused(CHECK, &e)],
            };
        }
        let durable = self.durable();
        let destination = match self.destination(CHECK).await {
            Ok(destination) => destination,
            Err(why) => return vec![why],
        };
        let mut found = Vec::new();
        if let Some(kept) = destination.letter_box() {
            found.push(match kept.letters().await {
                Ok(letters) => counted(&letters),
                Err(e) => refused(CHECK, &e),
            });
        }
        if let (Some(durable), Some(reader)) = (durable, destination.row_reader()) {
            match reader.held(&durable).await {
                Ok(labels) => {
                    let mut seen = BTreeSet::new();
                    let once = labels.into_iter().filter(|label| seen.insert(label.table.clone()));
                    found.extend(once.map(|label| {
                        let text = format!("table {:?} is held: {}", label.table, label.reason);
                        Finding::warning(CHECK, text, "EDS goes on with it once that is cured")
                    }));
                }
                Err(e) => found.push(refused(CHECK, &e)),
            }
        }
        found
    }
}

fn refused(check: DoctorCheck, failure: &Failure) -> Finding {
    Finding::problem(check, failure.help(), failure.to_string())
}

fn counted(letters: &[KeptLetter]) -> Finding {
    const CHECK: DoctorCheck = DoctorCheck::Letters;
    match letters.iter().filter(|letter| letter.superseded_by.is_none()).count() {
        0 => Finding::good(CHECK, "no dead letters wait"),
        n => Finding::warning(
            CHECK,
            format!("{n} changes could not be applied: dead letters"),
            "`eds dlq list` shows them, `eds dlq retry` applies them again",
        ),
    }
}

/// What the catalog says of a table that is EDS's to write; of its own tables only what keeps it
/// from writing.
fn concern(concern: &TableConcern, schemas: &[Arc<TableSchema>]) -> Option<Finding> {
    const CHECK: DoctorCheck = DoctorCheck::Tables;
    let is_streamed = |name: &str| schemas.iter().any(|schema| *schema.table == *name);
    let is_own = |name: &str| concern.keeps_rows_out && name.starts_with("_eds_");
    let what = match &concern.table {
        None => concern.what.clone(),
        Some(name) if is_streamed(name) || is_own(name) => {
            format!("table {name:?}: {}", concern.what)
        }
        Some(_) => return None,
    };
    Some(match concern.keeps_rows_out {
        true => Finding::problem(CHECK, HelpCode::DestinationRight, what).cured_by(&concern.cure),
        false => Finding::warning(CHECK, what, &concern.cure),
    })
}

/// What is wrong with tables, and how many are right.
fn compared(
    apply: &ApplyRequest,
    destination: &dyn Destination,
    tables: &Tables,
    schemas: &[Arc<TableSchema>],
) -> Vec<Finding> {
    let names: Vec<&str> = schemas.iter().map(|schema| &*schema.table).collect();
    let mut found = Vec::new();
    let (mut new, mut changed, mut fitting) = (0, 0, 0);
    for schema in schemas {
        match fit(apply, destination, tables, schema, &names) {
            Err(finding) => found.push(*finding),
            Ok(0) => fitting += 1,
            Ok(_) if tables.get(&schema.table).is_none() => new += 1,
            Ok(_) => changed += 1,
        }
    }
    let text =
        format!("tables that fit: {fitting}; still to be made: {new}; to be changed: {changed}");
    found.insert(0, Finding::good(DoctorCheck::Tables, text));
    found
}

/// How many steps bring the table to its schema, if rows may be written to it.
fn fit(
    apply: &ApplyRequest,
    destination: &dyn Destination,
    tables: &Tables,
    schema: &Arc<TableSchema>,
    names: &[&str],
) -> Result<usize, Box<Finding>> {
    const CHECK: DoctorCheck = DoctorCheck::Tables;
    let wrong = |e: migrate::TableRefused| Box::new(refused(CHECK, &Failure::from(e)));
    let table = &*schema.table;
    if !apply.adopt.iter().any(|adopted| adopted == table) {
        migrate::check_names(tables, table, names.iter().copied()).map_err(wrong)?;
        migrate::check_ours(tables, schema).map_err(wrong)?;
    }
    let reduced = match apply.schema_change {
        migrate::SchemaChange::Ignore => migrate::reduced(tables, schema).map(Arc::new),
        _ => None,
    };
    let steps = migrate::plan(tables, reduced.as_ref().unwrap_or(schema)).map_err(wrong)?;
    match steps.iter().find(|step| !apply.schema_change.permits(step)) {
        Some(step) => {
            let text = format!(
                "table {table:?} will be held: its schema has changed ({step}), and \
                 --schema-change leaves that to you"
            );
            let text = HelpCode::SchemaChangeHeld.tag(&text);
            let cure = destination.statements(step).join("; ");
            Err(Box::new(Finding::warning(CHECK, text, &cure)))
        }
        None => Ok(steps.len()),
    }
}

#[cfg(all(test, feature = "sqlite", feature = "file"))]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    #[test]
    fn what_a_start_would_make_is_not_made() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let closed = |url: String, deep| {
            let (settings, _) = Settings::parse(&url, DRIVERS).unwrap_or_else(|e| panic!("{e}"));
            stays_closed(&settings, deep).is_some()
        };
        let at = dir.path().display();
        assert!(closed(format!("sqlite://{at}/new.db"), true));
        assert!(!closed(format!("sqlite://{at}/no/new.db"), false), "that is an error");
        assert!(closed(format!("file://{at}/new"), true));
        assert!(closed(format!("file://{at}"), false) && !closed(format!("file://{at}"), true));
    }
}
