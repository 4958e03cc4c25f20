//! Gives columns wider types, where that is cheap enough to be done while changes wait; else says
//! what a person has to do (docs/decisions/0016-column-types-that-change.md).

use tracing::warn;

use super::dialect::Widen;
use super::render::Renderer;
use super::{Connection, Parameter, SqlDestination, types};
use crate::change::value::{self, Value};
use crate::change::{Batch, ColumnType, TableSchema};
use crate::destination::{Failure, FailureKind, Holds, Migration};

/// The largest table that is written anew without being asked: some ten seconds of a disk.
const REWRITTEN_BYTES_MAX: i64 = 1 << 30;
/// The name of a column that is about to take the place of another.
const WIDER: &str = "_eds_wider";
/// The largest whole number of which a double holds every smaller one.
const DOUBLE_EXACT_MAX: u64 = 1 << 53;

/// A column that gets a wider type.
#[derive(Clone, Copy, Debug)]
pub struct Widened<'w> {
    /// The table, as the source calls it.
    pub table: &'w str,
    /// The column's name.
    pub column: &'w str,
    /// Its type now.
    pub from: &'w str,
    /// The type that it gets.
    pub to: &'w str,
    /// What follows the type, where it is restated.
    pub rest: &'w str,
}

impl Renderer {
    /// The statements that give a column another type.
    pub fn widen(&self, widened: &Widened<'_>) -> Vec<String> {
        let Widened { table, column, from, to, rest } = *widened;
        let (table, column, wider) = (self.table(table), self.quoted(column), self.quoted(WIDER));
        match self.dialect.widen {
            Widen::Using => {
                let text = format!("CAST({column} AS TEXT)");
                let using = if to == "TEXT" { text } else { format!("CAST({text} AS {to})") };
                vec![format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {to} USING {using}")]
            }
            Widen::Restate(words) if !self.loses_digits(widened) => {
                vec![format!("ALTER TABLE {table} {words} {column} {to}{rest}")]
            }
            Widen::Restate(_) => vec![
                format!("ALTER TABLE {table} ADD {wider} {to} NULL"),
                format!("UPDATE {table} SET {wider} = CONVERT({to}, {column}, 3)"),
                format!("ALTER TABLE {table} DROP COLUMN {column}"),
                format!(
                    "EXEC sp_rename N'{}', N'{}', 'COLUMN'",
                    format!("{table}.{wider}").replace('\'', "''"),
                    widened.column.replace('\'', "''")
                ),
            ],
            Widen::Replace | Widen::ByHand => {
                let value = match self.dialect.widen {
                    Widen::Replace => exact_in_sqlite(&column, from, to),
                    _ => format!("CAST({column} AS {to})"),
                };
                vec![
                    format!("ALTER TABLE {table} ADD COLUMN {wider} {to}"),
                    format!("UPDATE {table} SET {wider} = {value}"),
                    format!("ALTER TABLE {table} DROP COLUMN {column}"),
                    format!("ALTER TABLE {table} RENAME COLUMN {wider} TO {column}"),
                ]
            }
        }
    }

    /// Whether the database would cut off digits where it converts the column: SQL Server writes
    /// six digits of a FLOAT.
    fn loses_digits(&self, widened: &Widened<'_>) -> bool {
        self.dialect.widen == Widen::Restate("ALTER COLUMN")
            && (self.dialect.holds)(widened.from) == Holds::Float
    }

    /// Why a person has to do it; `None` where EDS does.
    fn by_hand(&self, widened: &Widened<'_>) -> Option<String> {
        match self.dialect.widen {
            Widen::ByHand => Some("the database cannot change the type of a column".to_owned()),
            _ if self.loses_digits(widened) => Some("the database would cut off digits".to_owned()),
            _ => None,
        }
    }
}

/// SQLite writes fifteen digits of a number where it becomes text, which is not always enough.
fn exact_in_sqlite(column: &str, from: &str, to: &str) -> String {
    if to != "TEXT" || types::sqlite_holds(from) == Holds::Text {
        return column.to_owned();
    }
    format!(
        "CASE WHEN typeof({column}) = 'real' AND CAST(CAST({column} AS TEXT) AS REAL) <> {column} \
         THEN printf('%!.17g', {column}) ELSE {column} END"
    )
}

/// What a column is restated with: whether it takes NULL, and its comment.
fn rest_of(definition: &str, is_key: bool) -> String {
    let comment = definition.find(" COMMENT '").map_or("", |at| &definition[at..]);
    format!(" {}{comment}", if is_key { "NOT NULL" } else { "NULL" })
}

impl<C: Connection> SqlDestination<C> {
    /// Widens the column of `step`, or fails with what a person has to do.
    pub(super) async fn widen(&mut self, step: &Migration) -> Result<(), Failure> {
        let Migration::WidenColumn { table, column, from, kind, to } = step else { return Ok(()) };
        let is_key = self
            .renderer
            .known
            .get(table)
            .is_some_and(|shape| shape.keys.iter().any(|key| key == column));
        let rest = match self.renderer.dialect.widen {
            Widen::Restate(_) => {
                let definition =
                    self.connection.nullable_definition(&self.renderer, table, column).await?;
                rest_of(&definition, is_key)
            }
            _ => String::new(),
        };
        let widened = Widened { table, column, from, to, rest: &rest };
        let statements = self.renderer.widen(&widened);
        let refused = |why: &str| {
            let text = format!(
                "column {column:?} is {from}, which cannot take the {kind} of the schema, and it \
                 was not made {to}: {why}. This cures it: {}",
                statements.join("; ")
            );
            Failure::new(FailureKind::TableUnavailable, text)
        };
        if let Some(why) = self.renderer.by_hand(&widened) {
            return Err(refused(&why));
        }
        if let Some(bytes) = self.rewritten_bytes(table, from).await?
            && bytes > REWRITTEN_BYTES_MAX
        {
            return Err(refused(&format!(
                "the table has {} MiB, which would be written anew while changes wait",
                bytes >> 20
            )));
        }
        match self.run_widening(&statements, &widened).await {
            Err(failure) if failure.code.is_some() && !self.is_lock_wait(&failure) => {
                let refusal = refused(&failure.text);
                self.leave_word(table, column, from, Failure { code: failure.code, ..refusal })
            }
            done => done,
        }
    }

    /// A column of short texts takes most texts, so it stays where it cannot be widened.
    fn leave_word(
        &mut self,
        table: &str,
        column: &str,
        from: &str,
        refusal: Failure,
    ) -> Result<(), Failure> {
        if (self.renderer.dialect.holds)(from) != Holds::Word {
            return Err(refusal);
        }
        warn!("table {table:?}: {refusal}; until then longer texts are dead letters");
        self.words.insert((table.to_owned(), column.to_owned()));
        Ok(())
    }

    fn is_lock_wait(&self, failure: &Failure) -> bool {
        self.renderer.dialect.lock_wait_code.is_some_and(|code| failure.has_code(code))
    }

    /// Several statements are one transaction. Where the wider type cannot be in an index and the
    /// column is in one, it becomes a text as keys are.
    async fn run_widening(
        &mut self,
        statements: &[String],
        widened: &Widened<'_>,
    ) -> Result<(), Failure> {
        if let [statement] = statements {
            let done = self.connection.execute(statement).await;
            let code = self.renderer.dialect.unindexable_code;
            if !done.as_ref().is_err_and(|failure| code.is_some_and(|code| failure.has_code(code)))
            {
                return done;
            }
            let short = Widened { to: self.renderer.dialect.text_key, ..*widened };
            return self.connection.execute(&self.renderer.widen(&short).concat()).await;
        }
        self.roll_back_pending().await?;
        self.connection.execute(self.renderer.dialect.begin).await?;
        let mut done = Ok(());
        for statement in statements {
            done = self.connection.execute(statement).await;
            if done.is_err() {
                break;
            }
        }
        self.end(done).await
    }

    /// The size of the table, where it is told and the change of type writes every row anew.
    async fn rewritten_bytes(&mut self, table: &str, from: &str) -> Result<Option<i64>, Failure> {
        let Some(sql) = self.renderer.dialect.table_bytes else { return Ok(None) };
        if (self.renderer.dialect.holds)(from) == Holds::Word {
            return Ok(None);
        }
        let place = &self.renderer.namespace;
        let parameters: [Parameter; 2] = [
            place.schema.as_deref().unwrap_or_default().into(),
            place.name_of(table).as_str().into(),
        ];
        let rows = self.connection.integers(sql, &parameters).await?;
        Ok(rows.first().and_then(|row| row.first()).copied())
    }
}

/// Rejects the changes with a whole number that its column of floating-point numbers would round.
pub fn reject_rounded(renderer: &Renderer, batch: &Batch) -> Result<(), Failure> {
    let mut culprits = Vec::new();
    for group in &batch.groups {
        for i in rounding_columns(renderer, &group.schema) {
            let column = &group.schema.columns[i];
            for index in &group.upserts {
                let read = value::read(batch.change(*index).token(i), column);
                if let Ok(Value::Integer(n)) = read
                    && n.unsigned_abs() > DOUBLE_EXACT_MAX
                    && n as f64 as i128 != i128::from(n)
                {
                    culprits.push((*index, rounded(renderer, &group.schema, &column.name)));
                }
            }
        }
    }
    culprits.sort_unstable();
    culprits.dedup_by_key(|(index, _)| *index);
    if culprits.is_empty() { Ok(()) } else { Err(Failure::rejected(culprits)) }
}

/// The columns of whole numbers that are columns of floating-point numbers in the destination.
fn rounding_columns(renderer: &Renderer, schema: &TableSchema) -> Vec<usize> {
    let limits = &renderer.dialect.limits;
    if limits.misfit(Holds::Float, ColumnType::Integer).is_some() {
        return Vec::new();
    }
    let contents = renderer.contents(schema, &schema.columns);
    (0..contents.len())
        .filter(|i| schema.columns[*i].kind == ColumnType::Integer && contents[*i] == Holds::Float)
        .collect()
}

fn rounded(renderer: &Renderer, schema: &TableSchema, column: &str) -> String {
    let text = renderer.dialect.types[0];
    let (table, quoted) = (renderer.table(&schema.table), renderer.quoted(column));
    format!(
        "table {:?}: the value of column {column:?} has more digits than its floating-point column \
         holds; a column of type {text} holds it: ALTER TABLE {table} … {quoted} {text}",
        schema.table
    )
}
