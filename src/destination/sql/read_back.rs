//! Reads rows back as texts, page by page in the order of their keys.

use async_trait::async_trait;

use super::connection::{Connection, Parameter};
use super::destination::SqlDestination;
use super::render::Renderer;
use crate::change::held::HeldLabel;
use crate::change::stamps::Stamp;
use crate::change::{ColumnType, TableSchema};
use crate::destination::{
    Failure, FailureKind, Holds, Recorded, RowReader, StoredRow, TableConcern,
};

/// How one database shows values as texts, from which the same value can be read again.
#[derive(Debug)]
pub struct ReadBack {
    /// The statements that begin a transaction in which all reads see the same rows; none where
    /// each statement is read by itself.
    pub begin: &'static [&'static str],
    /// The text of a column, given its quoted name and what it holds.
    pub text: fn(&str, Holds) -> String,
    /// The text with `=` in front, and an empty text for NULL.
    pub join: fn(&str) -> String,
    /// The end of a query that answers so many rows at most.
    pub limit: fn(usize) -> String,
    /// The digits of which the text of a floating-point number is sure; `None` where it has them
    /// all.
    pub float_digits: Option<u32>,
    /// Lists what a person should know of tables before rows are written: the table, or nothing
    /// where it is about all of them; `problem` where no row can be written; what; the cure.
    /// Parameter: schema. `None` where there is nothing of the kind.
    pub concerns: Option<&'static str>,
}

/// What stands in front of every text that is not NULL.
const PRESENT: char = '=';

impl Renderer {
    /// Reads the first rows in the order of the key. `is_behind`: those behind the key that the
    /// parameters say, whose columns are answered, one for each parameter.
    pub fn read_page(
        &self,
        schema: &TableSchema,
        is_behind: bool,
        rows_max: usize,
    ) -> (String, Vec<usize>) {
        let mut named = Vec::new();
        let behind = if is_behind { self.behind_key(schema, &mut named) } else { String::new() };
        let limit = (self.dialect.read_back.limit)(rows_max);
        let which = format!("{behind} ORDER BY {} {limit}", self.list(schema.key_columns()));
        (self.read_rows(schema, &which), named)
    }

    /// Reads the rows of `count` keys, which the parameters say.
    pub fn read_keys(&self, schema: &TableSchema, count: usize) -> String {
        self.read_rows(schema, &self.of_keys(schema, count))
    }

    /// Selects rows behind a key, or those of `keys` keys.
    fn read_rows(&self, schema: &TableSchema, which: &str) -> String {
        let read_back = &self.dialect.read_back;
        let contents = self.contents(schema, &schema.columns);
        let columns = schema.columns.iter().zip(contents);
        let texts: Vec<String> = columns
            .map(|(column, holds)| {
                (read_back.join)(&(read_back.text)(&self.quoted(&column.name), holds))
            })
            .collect();
        format!("SELECT {} FROM {}{which}", texts.join(", "), self.rows_there(&schema.table))
    }

    /// The rows of a table that are there at the source: those that are marked as deleted are not.
    fn rows_there(&self, table: &str) -> String {
        let (name, mark) = (self.table(table), Stamp::DeletedAt.name());
        let marks = self.known.get(table).is_some_and(|shape| shape.columns.contains_key(mark));
        match marks {
            true => format!("(SELECT * FROM {name} WHERE {} IS NULL) AS t", self.quoted(mark)),
            false => name,
        }
    }

    /// `WHERE` the key is behind the one that the parameters say, each column's value for each time
    /// that it is named.
    fn behind_key(&self, schema: &TableSchema, parameters: &mut Vec<usize>) -> String {
        let keys = schema.key_columns();
        let mut compared = |column: usize, sign: &str| {
            parameters.push(column);
            let parameter = (self.dialect.parameter)(parameters.len());
            format!("{} {sign} {parameter}", self.quoted(&keys[column].name))
        };
        let one = |last: usize, compared: &mut dyn FnMut(usize, &str) -> String| {
            let mut parts: Vec<String> = (0..last).map(|column| compared(column, "=")).collect();
            parts.push(compared(last, ">"));
            format!("({})", parts.join(" AND "))
        };
        let all: Vec<String> = (0..keys.len()).map(|last| one(last, &mut compared)).collect();
        format!(" WHERE {}", all.join(" OR "))
    }

    /// `WHERE` the key is one of `count`.
    fn of_keys(&self, schema: &TableSchema, count: usize) -> String {
        let keys = schema.key_columns();
        let mut parameter = 0;
        let mut equal = |name: &str| {
            parameter += 1;
            format!("{} = {}", self.quoted(name), (self.dialect.parameter)(parameter))
        };
        let mut one = || {
            let parts: Vec<String> = keys.iter().map(|column| equal(&column.name)).collect();
            format!("({})", parts.join(" AND "))
        };
        let all: Vec<String> = (0..count).map(|_| one()).collect();
        format!(" WHERE {}", all.join(" OR "))
    }

    /// A value of a key column as a parameter.
    fn key_parameter(&self, schema: &TableSchema, column: usize, text: &str) -> Parameter {
        let keys = schema.key_columns();
        let is_text = self.contents(schema, keys)[column] == Holds::Text;
        match text.parse::<i64>() {
            Ok(n) if keys[column].kind == ColumnType::Integer && !is_text => Parameter::Integer(n),
            _ => Parameter::Text(text.to_owned()),
        }
    }
}

impl<C: Connection> SqlDestination<C> {
    async fn stored(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<StoredRow>, Failure> {
        let rows = self.connection.texts(sql, parameters).await?;
        let value = |text: String| text.strip_prefix(PRESENT).map(str::to_owned);
        Ok(rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect())
    }
}

/// Nothing where the table is not there.
fn unless_missing<T: Default>(found: Result<T, Failure>) -> Result<T, Failure> {
    match found {
        Err(failure) if failure.kind == FailureKind::SchemaMismatch => Ok(T::default()),
        found => found,
    }
}

#[async_trait]
impl<C: Connection> RowReader for SqlDestination<C> {
    async fn positions(&mut self) -> Result<Vec<Recorded>, Failure> {
        unless_missing(self.read_records().await)
    }

    async fn held(&mut self, consumer: &str) -> Result<Vec<HeldLabel>, Failure> {
        let sql = self.renderer.read_held_labels();
        let labels = unless_missing(self.connection.texts(&sql, &[consumer.into()]).await)?;
        let read = |row: &Vec<String>| serde_json::from_str(row.first()?).ok();
        Ok(labels.iter().filter_map(read).collect())
    }

    async fn concerns(&mut self) -> Result<Vec<TableConcern>, Failure> {
        let Some(sql) = self.renderer.dialect.read_back.concerns else { return Ok(Vec::new()) };
        let place = self.renderer.namespace.clone();
        let schema = place.schema.clone().unwrap_or_default();
        let listed = self.connection.texts(sql, &[schema.as_str().into()]).await?;
        let read = |row: Vec<String>| {
            let [table, severity, what, cure]: [String; 4] = row.try_into().ok()?;
            let table = match &*table {
                "" => None,
                name => Some(place.source_of(name)?),
            };
            Some(TableConcern { table, keeps_rows_out: severity == "problem", what, cure })
        };
        Ok(listed.into_iter().filter_map(read).collect())
    }

    async fn begin_snapshot(&mut self) -> Result<(), Failure> {
        self.roll_back_pending().await?;
        for statement in self.renderer.dialect.read_back.begin {
            self.connection.execute(statement).await?;
        }
        Ok(())
    }

    async fn end_snapshot(&mut self) -> Result<(), Failure> {
        if !self.renderer.dialect.read_back.begin.is_empty() {
            self.connection.execute("ROLLBACK").await?;
        }
        self.dirty = false;
        Ok(())
    }

    fn float_digits(&self) -> Option<u32> {
        self.renderer.dialect.read_back.float_digits
    }

    async fn page(
        &mut self,
        schema: &TableSchema,
        after: Option<&[String]>,
        rows_max: usize,
    ) -> Result<Vec<StoredRow>, Failure> {
        let renderer = &self.renderer;
        let (sql, named) = renderer.read_page(schema, after.is_some(), rows_max);
        let after = after.unwrap_or_default();
        let parameters: Vec<Parameter> = named
            .iter()
            .filter_map(|column| Some(renderer.key_parameter(schema, *column, after.get(*column)?)))
            .collect();
        self.stored(&sql, &parameters).await
    }

    async fn rows(
        &mut self,
        schema: &TableSchema,
        keys: &[Vec<String>],
    ) -> Result<Vec<StoredRow>, Failure> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let renderer = &self.renderer;
        let sql = renderer.read_keys(schema, keys.len());
        let one = |key: &Vec<String>| {
            let values = key.iter().enumerate();
            values.map(|(column, text)| renderer.key_parameter(schema, column, text)).collect()
        };
        let parameters: Vec<Parameter> =
            keys.iter().flat_map(|key: &Vec<String>| -> Vec<Parameter> { one(key) }).collect();
        self.stored(&sql, &parameters).await
    }
}
