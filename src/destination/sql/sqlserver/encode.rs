//! Values as SQL Server is to keep them, and in the form in which a bulk load takes them.

use std::borrow::Cow;

use tiberius::{ColumnData, TokenRow};

use crate::change::value::{self, TypeMismatch, Value};
use crate::change::{Batch, Change, Column, ColumnType, json};
use crate::destination::sql::json_rows::{ColumnsOfTable, value_of};
use crate::destination::{Failure, Holds};

/// The value of a column as SQL Server is to keep it.
pub fn read<'a>(
    change: &'a Change,
    i: usize,
    column: &Column,
    contents: Holds,
) -> Result<Value<'a>, TypeMismatch> {
    match value::read(change.token(i), column)? {
        number @ (Value::Integer(_) | Value::Number(_) | Value::Boolean(_))
            if contents == Holds::Text =>
        {
            Ok(number.as_text())
        }
        Value::Time(micros) => Ok(Value::Text(Cow::Owned(instant_text(micros)))),
        Value::Json(token) => Ok(Value::Text(json::well_formed(token))),
        other => Ok(other),
    }
}

/// `2024-07-09 18:28:03.69708`: an instant in UTC as the predecessor of EDS wrote it, so that a
/// column has one form whoever wrote it; equal instants are equal texts.
fn instant_text(micros: i64) -> String {
    let Some(at) = value::utc(micros) else { return micros.to_string() };
    let text = format!("{} {:.6}", at.date(), at.time());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The rows in the client's form. Values that do not fit are rejected here, before a load is
/// announced to the server.
pub fn token_rows(
    batch: &Batch,
    indices: &[u32],
    columns: ColumnsOfTable<'_>,
) -> Result<Vec<TokenRow<'static>>, Failure> {
    let mut rows = Vec::with_capacity(indices.len());
    for index in indices {
        let mut row = TokenRow::with_capacity(columns.columns.len());
        for column in columns.each() {
            row.push(token(&value_of(batch, *index, column, read)?, travelling(column)));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The kind in which the values of a column travel: as text to a column of texts.
pub fn travelling((_, column, contents): (usize, &Column, Holds)) -> ColumnType {
    if contents == Holds::Text { ColumnType::Text } else { column.kind }
}

fn token(value: &Value<'_>, kind: ColumnType) -> ColumnData<'static> {
    match value {
        Value::Boolean(b) => ColumnData::Bit(Some(*b)),
        Value::Integer(n) => ColumnData::I64(Some(*n)),
        Value::Number(n) => ColumnData::F64(Some(*n)),
        Value::Text(text) => ColumnData::String(Some(Cow::Owned(text.clone().into_owned()))),
        Value::Json(text) => ColumnData::String(Some(Cow::Owned((*text).to_owned()))),
        Value::Time(micros) => ColumnData::String(Some(Cow::Owned(instant_text(*micros)))),
        Value::Null => match kind {
            ColumnType::Integer => ColumnData::I64(None),
            ColumnType::Number => ColumnData::F64(None),
            ColumnType::Boolean => ColumnData::Bit(None),
            _ => ColumnData::String(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_has_one_text_however_it_came() {
        for (came, written) in [
            ("2024-07-09T18:28:03.69708Z", "2024-07-09 18:28:03.69708"),
            ("2024-07-09T18:28:03.697080Z", "2024-07-09 18:28:03.69708"),
            ("2024-07-09T20:28:03.69708+02:00", "2024-07-09 18:28:03.69708"),
            ("2024-07-09T18:28:03.697080999Z", "2024-07-09 18:28:03.69708"),
            ("2024-07-09T18:28:03Z", "2024-07-09 18:28:03"),
            ("2024-07-09T18:28:03.000Z", "2024-07-09 18:28:03"),
            ("2024-07-09 18:28:03", "2024-07-09 18:28:03"),
            ("2024-07-09", "2024-07-09 00:00:00"),
            ("2024-07-10T00:00:00Z", "2024-07-10 00:00:00"),
            ("2024-07-09T23:30:00-01:00", "2024-07-10 00:30:00"),
            ("0001-01-01T00:00:00Z", "0001-01-01 00:00:00"),
            ("1969-12-31T23:59:59.9Z", "1969-12-31 23:59:59.9"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31 23:59:59.999999"),
        ] {
            let column = Column {
                name: "at".into(),
                kind: ColumnType::Time,
                nullable: true,
                declared: None,
            };
            let token = format!("{came:?}");
            let read = value::read(Some(&token), &column);
            let Ok(Value::Time(micros)) = read else { panic!("{came}: {read:?}") };
            assert_eq!(instant_text(micros), written, "{came}");
        }
    }
}
