//! Values as SQL Server is to keep them, and in the form in which a bulk load takes them.

use std::borrow::Cow;

use tiberius::{ColumnData, TokenRow};

use crate::change::value::{self, TypeMismatch, Value, Wanted};
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
        // An instant in UTC stays as it was written, as the predecessor of EDS stored it.
        Value::Time(micros) => {
            let written = change
                .token(i)
                .map(json::text)
                .filter(|text| text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T'));
            let text =
                written.or_else(|| value::utc(micros).map(|_| Cow::Owned(value::rfc3339(micros))));
            text.map(Value::Text).ok_or_else(|| TypeMismatch::of(column, Wanted::Time))
        }
        Value::Json(token) => Ok(Value::Text(json::well_formed(token))),
        other => Ok(other),
    }
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
        Value::Time(micros) => ColumnData::String(Some(Cow::Owned(value::rfc3339(*micros)))),
        Value::Null => match kind {
            ColumnType::Integer => ColumnData::I64(None),
            ColumnType::Number => ColumnData::F64(None),
            ColumnType::Boolean => ColumnData::Bit(None),
            _ => ColumnData::String(None),
        },
    }
}
