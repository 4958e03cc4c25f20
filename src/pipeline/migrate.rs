//! Decides how tables have to change before rows are written, by shapes and schemas alone, and has
//! it done.

use std::sync::Arc;

use tracing::info;

use super::refused::check_key;
pub use super::refused::{TableRefused, check_limits, check_names, check_ours};
use crate::change::TableSchema;
use crate::destination::{
    ColumnShape, Destination, Failure, FailureKind, Migration, TableShape, Tables,
};
use crate::help::HelpCode;

/// What has to be done before rows of `schema` can be written; nothing where the table fits.
pub fn plan(tables: &Tables, schema: &Arc<TableSchema>) -> Result<Vec<Migration>, TableRefused> {
    check_limits(tables, schema)?;
    let Some(shape) = tables.get(&schema.table) else {
        return Ok(vec![Migration::CreateTable(schema.clone())]);
    };
    check_key(shape, schema)?;
    let names = tables.limits.names;
    let there = |i: usize| shape.columns.get(&*names.stored(&schema.columns[i].name));
    let missing: Vec<usize> = (0..schema.columns.len()).filter(|i| there(*i).is_none()).collect();
    let mut steps = Vec::new();
    if !missing.is_empty() {
        steps.push(Migration::AddColumns(schema.clone(), missing));
    }
    let found = (0..schema.columns.len()).filter_map(|i| there(i).map(|column| (i, column)));
    steps.extend(found.filter_map(|(i, column)| widened(tables, schema, i, column)));
    let strict = strict_columns(tables, shape, schema);
    if !strict.is_empty() {
        steps.push(Migration::DropNotNull { table: schema.table.to_string(), columns: strict });
    }
    Ok(steps)
}

/// The step that makes a column wide enough for what the schema has in it, if it is not.
fn widened(
    tables: &Tables,
    schema: &TableSchema,
    index: usize,
    there: &ColumnShape,
) -> Option<Migration> {
    let column = &schema.columns[index];
    let misfit = tables.limits.misfit(there.holds, column.kind)?;
    let is_key = index < schema.keys;
    let to = if is_key { misfit.key_becomes? } else { misfit.becomes };
    Some(Migration::WidenColumn {
        table: schema.table.to_string(),
        column: column.name.to_string(),
        from: there.declared.clone(),
        kind: column.kind,
        to,
    })
}

/// Columns that have to take NULL from now on: those of the schema that may be null by now, as EDS
/// writes every column of the schema; and those that this version does not have any more, which
/// stay empty.
fn strict_columns(tables: &Tables, shape: &TableShape, schema: &TableSchema) -> Vec<String> {
    let names = tables.limits.names;
    let nullable = |name: &str| {
        let written = schema.columns.iter().find(|c| *names.stored(&c.name) == *name);
        written.map(|column| column.nullable)
    };
    shape
        .columns
        .iter()
        .filter(|(name, there)| {
            tables.limits.drops_not_null
                && !there.takes_null
                && !shape.keys.contains(name)
                && nullable(name).unwrap_or(!there.has_default)
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// What EDS does to a table that exists when its schema changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SchemaChange {
    /// Adds columns, and gives others wider types.
    #[default]
    Widen,
    /// Adds columns. A column whose type does not fit makes the table wait for a person.
    Add,
    /// Adds nothing: values of columns that the table lacks are left out.
    Ignore,
    /// Changes nothing: the table waits for a person.
    Hold,
}

impl SchemaChange {
    /// Whether EDS may make the change. Tables that do not exist are made in any case.
    pub fn permits(self, step: &Migration) -> bool {
        match (self, step) {
            (SchemaChange::Widen, _) | (_, Migration::CreateTable(_)) => true,
            (SchemaChange::Add, Migration::WidenColumn { .. }) => false,
            (SchemaChange::Add, _) => true,
            // Without it a row that lacks a value could not be written.
            (SchemaChange::Ignore, step) => matches!(step, Migration::DropNotNull { .. }),
            (SchemaChange::Hold, _) => false,
        }
    }

    /// The word of the command line.
    fn as_str(self) -> &'static str {
        match self {
            SchemaChange::Widen => "widen",
            SchemaChange::Add => "add",
            SchemaChange::Ignore => "ignore",
            SchemaChange::Hold => "hold",
        }
    }
}

/// The schema without the columns that its table lacks; `None` where it lacks none, or there is no
/// table.
pub fn reduced(tables: &Tables, schema: &TableSchema) -> Option<TableSchema> {
    let shape = tables.get(&schema.table)?;
    let names = tables.limits.names;
    let is_missing =
        |i: &usize| !shape.columns.contains_key(&*names.stored(&schema.columns[*i].name));
    let missing: Vec<usize> = (schema.keys..schema.columns.len()).filter(is_missing).collect();
    (!missing.is_empty()).then(|| schema.without(&missing))
}

/// Makes the steps that [`plan`] finds, one after the other. Returns whether there were any. Fails
/// at the first that `policy` leaves to a person.
pub async fn bring_up(
    destination: &mut dyn Destination,
    tables: &Tables,
    schema: &Arc<TableSchema>,
    policy: SchemaChange,
) -> Result<bool, Failure> {
    let steps = plan(tables, schema)?;
    for step in &steps {
        if !policy.permits(step) {
            let cure = destination.statements(step).join("; ");
            let text = format!(
                "its schema has changed ({step}), and --schema-change {} leaves that to you; this \
                 does it: {cure}",
                policy.as_str()
            );
            let failure = Failure::new(FailureKind::TableUnavailable, text);
            return Err(failure.with_help(HelpCode::SchemaChangeHeld).of_table(&schema.table));
        }
        info!("schema: {step}");
        destination.migrate(step).await?;
    }
    Ok(!steps.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::ColumnType;
    use crate::destination::Holds;
    use crate::destination::shape::{Misfit, NameLimit, NameUnit, TableLimits};

    const LIMITS: TableLimits = TableLimits {
        database: "Base",
        names: NameLimit {
            max: 8,
            unit: NameUnit::Bytes,
            cuts: true,
            folds_tables: false,
            folds_columns: false,
        },
        columns_max: Some(4),
        misfits: &[Misfit {
            holds: Holds::Integer,
            kinds: &[ColumnType::Number],
            becomes: "NUMERIC",
            key_becomes: None,
        }],
        ..TableLimits::NONE
    };
    const FOLDS: TableLimits = TableLimits {
        names: NameLimit { folds_tables: true, folds_columns: true, ..NameLimit::NONE },
        ..LIMITS
    };
    const REFUSES: TableLimits =
        TableLimits { names: NameLimit { cuts: false, ..LIMITS.names }, ..LIMITS };

    fn keyed(keys: &str, columns: &str) -> Arc<TableSchema> {
        let json = format!(
            r#"{{"table":"t","modelVersion":"1","primaryKeys":[{keys}],"required":["id","n"],"properties":{{"id":{{"type":"string"}},{columns}}}}}"#
        );
        Arc::new(TableSchema::parse(&json).unwrap_or_else(|e| panic!("{e}")))
    }

    fn schema(columns: &str) -> Arc<TableSchema> {
        keyed(r#""id""#, columns)
    }

    /// Columns with whether they take NULL.
    fn tables(columns: &[(&str, bool)], keys: &[&str]) -> Tables {
        let column = |takes_null| ColumnShape { takes_null, ..ColumnShape::default() };
        let shape = TableShape {
            columns: columns.iter().map(|(n, nulls)| ((*n).into(), column(*nulls))).collect(),
            keys: keys.iter().map(|k| (*k).into()).collect(),
            write_blocker: None,
        };
        Tables { shapes: [("t".to_owned(), shape)].into(), ..Tables::default() }
    }

    fn limited(limits: &'static TableLimits, tables: Tables) -> Tables {
        Tables { limits, ..tables }
    }

    fn why(refused: Result<impl std::fmt::Debug, TableRefused>) -> String {
        refused.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn creates_adds_and_loosens_but_never_drops() {
        let wanted = schema(r#""n":{"type":"integer"},"a":{"type":"string"}"#);
        let created = Ok(vec![Migration::CreateTable(wanted.clone())]);
        assert_eq!(plan(&Tables::default(), &wanted), created);
        let there =
            tables(&[("id", false), ("n", false), ("gone", false), ("extra", true)], &["id"]);
        let a = wanted.column("a").into_iter().collect();
        let steps = vec![
            Migration::AddColumns(wanted.clone(), a),
            Migration::DropNotNull { table: "t".into(), columns: vec!["gone".into()] },
        ];
        assert_eq!(plan(&there, &wanted), Ok(steps));
        let fits = tables(&[("id", false), ("n", false), ("a", true)], &["id"]);
        assert_eq!(plan(&fits, &wanted), Ok(vec![]));
    }

    #[test]
    fn a_policy_says_which_changes_eds_makes() {
        let wanted = schema(r#""n":{"type":"integer"}"#);
        let steps = [
            Migration::CreateTable(wanted.clone()),
            Migration::AddColumns(wanted, vec![1]),
            Migration::DropNotNull { table: "t".into(), columns: Vec::new() },
            Migration::WidenColumn {
                table: "t".into(),
                column: "n".into(),
                from: "bigint".into(),
                kind: ColumnType::Number,
                to: "NUMERIC",
            },
        ];
        let permitted = |policy: SchemaChange| steps.each_ref().map(|step| policy.permits(step));
        assert_eq!(permitted(SchemaChange::Widen), [true, true, true, true]);
        assert_eq!(permitted(SchemaChange::Add), [true, true, true, false]);
        assert_eq!(permitted(SchemaChange::Ignore), [true, false, true, false]);
        assert_eq!(permitted(SchemaChange::Hold), [true, false, false, false]);
    }

    #[test]
    fn what_a_table_lacks_can_be_left_out() {
        let wanted = schema(r#""n":{"type":"integer"},"a":{"type":"string"}"#);
        let names = |schema: &TableSchema| -> Vec<String> {
            schema.columns.iter().map(|column| column.name.to_string()).collect()
        };
        let there = tables(&[("id", false), ("n", false)], &["id"]);
        let left = reduced(&there, &wanted);
        assert_eq!(left.as_ref().map(names), Some(vec!["id".to_owned(), "n".to_owned()]));
        assert_eq!(left.and_then(|schema| schema.column("n")), Some(1));
        assert_eq!(reduced(&Tables::default(), &wanted), None);
        let whole = tables(&[("id", false), ("n", false), ("a", true)], &["id"]);
        assert_eq!(reduced(&whole, &wanted), None);
    }

    #[test]
    fn a_default_excuses_only_a_column_that_is_left_out() {
        let wanted = schema(r#""n":{"type":"integer"},"a":{"type":"string"}"#);
        let mut there =
            tables(&[("id", false), ("n", false), ("a", false), ("own", false)], &["id"]);
        for column in there.shapes.values_mut().flat_map(|shape| shape.columns.values_mut()) {
            column.has_default = true;
        }
        let loosened = Migration::DropNotNull { table: "t".into(), columns: vec!["a".into()] };
        assert_eq!(plan(&there, &wanted), Ok(vec![loosened]));
        let never = TableLimits { drops_not_null: false, ..TableLimits::NONE };
        let never: &'static TableLimits = Box::leak(Box::new(never));
        assert_eq!(plan(&limited(never, there), &wanted), Ok(vec![]));
    }

    #[test]
    fn a_column_becomes_wide_enough_and_stays_so() {
        let number = schema(r#""n":{"type":"number"}"#);
        let mut there = limited(&LIMITS, tables(&[("id", false), ("n", false)], &["id"]));
        let mut hold = |holds| {
            for shape in there.shapes.values_mut() {
                let n = shape.columns.entry("n".into()).or_default();
                (n.holds, n.declared) = (holds, "bigint".to_owned());
            }
            there.clone()
        };
        let step = Migration::WidenColumn {
            table: "t".into(),
            column: "n".into(),
            from: "bigint".into(),
            kind: ColumnType::Number,
            to: "NUMERIC",
        };
        assert_eq!(plan(&hold(Holds::Integer), &number), Ok(vec![step]));
        for holds in [Holds::Decimal, Holds::Anything] {
            assert_eq!(plan(&hold(holds), &number), Ok(vec![]));
            assert_eq!(plan(&hold(holds), &schema(r#""n":{"type":"integer"}"#)), Ok(vec![]));
        }
        // The key has no wider type here, and stays.
        let key = keyed(r#""n""#, r#""n":{"type":"number"}"#);
        let mut keyed_by_n = hold(Holds::Integer);
        keyed_by_n.shapes.values_mut().for_each(|shape| shape.keys = vec!["n".into()]);
        assert_eq!(plan(&keyed_by_n, &key), Ok(vec![]));
    }

    #[test]
    fn another_key_refuses_the_table() {
        let wanted = keyed(r#""id","c""#, r#""c":{"type":"string"}"#);
        let there = tables(&[("id", false), ("c", true)], &["id"]);
        for said in [why(plan(&there, &wanted)), why(check_ours(&there, &wanted))] {
            assert!(said.contains("(id)") && said.contains("(id, c) now"), "{said}");
        }
        // A key of the customer's own beside a unique index: the schema does not know it.
        let own = tables(&[("pk", false), ("id", false), ("c", true)], &["pk"]);
        assert!(why(plan(&own, &wanted)).is_empty());
        assert!(why(check_ours(&own, &wanted)).contains("did not make"));
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
                columns: [("id".to_owned(), ColumnShape::default())].into(),
                keys: vec!["id".into()],
                write_blocker: None,
            },
        );
        assert_eq!(plan(&there, &wanted), Ok(vec![]));
        assert_eq!(plan(&Tables { lower_case: false, ..there }, &wanted).map(|s| s.len()), Ok(1));
    }

    #[test]
    fn what_the_destination_would_not_tell_apart_is_refused() {
        let cut = limited(&LIMITS, Tables { prefix: "p_".into(), ..Tables::default() });
        let said = why(check_names(&cut, "abcdef1", ["abcdef1", "abcdef2"]));
        assert!(said.contains("\"abcdef1\" and \"abcdef2\"") && said.contains("8 bytes"), "{said}");
        assert!(why(check_names(&cut, "abcdef1", ["abcdeg1", "abcdef1"])).is_empty());
        let folds = limited(&FOLDS, Tables::default());
        assert!(why(check_names(&folds, "Users", ["users"])).contains("upper case"));
        let two = schema(r#""amount_in_x":{"type":"string"},"amount_in_y":{"type":"string"}"#);
        assert!(why(plan(&cut, &two)).contains("\"amount_in_x\" and \"amount_in_y\""));
        assert!(why(plan(&limited(&REFUSES, Tables::default()), &two)).contains("too long"));
        let cases = schema(r#""name":{"type":"string"},"Name":{"type":"string"}"#);
        assert!(why(plan(&folds, &cases)).contains("\"Name\" and \"name\""));
        assert!(why(plan(&limited(&LIMITS, Tables::default()), &cases)).is_empty());
    }

    #[test]
    fn a_long_name_that_is_cut_off_is_found_again() {
        let wanted = schema(r#""amount_in_x":{"type":"string"}"#);
        let there = tables(&[("id", false), ("amount_i", true)], &["id"]);
        assert_eq!(plan(&limited(&LIMITS, there), &wanted), Ok(vec![]));
    }

    #[test]
    fn a_table_has_no_more_columns_than_the_destination_takes() {
        let wanted = schema(r#""a":{"type":"string"},"b":{"type":"string"}"#);
        let there = tables(&[("id", false), ("c", true), ("d", true)], &["id"]);
        let said = why(plan(&limited(&LIMITS, there), &wanted));
        assert!(said.contains("5 columns") && said.contains("at most 4"), "{said}");
    }
}
