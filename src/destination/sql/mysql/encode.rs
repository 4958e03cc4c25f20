//! Values in MySQL's binary form, as parameters of prepared statements.

use mysql_async::Value as Wire;

use crate::change::value::{self, TypeMismatch, Value, Wanted};
use crate::change::{Change, Column, json};
use crate::destination::Holds;

/// Appends the values of `columns` of a change, which hold `contents`, to `out`. The error is the
/// first value that does not fit its column.
pub fn bind(
    change: &Change,
    columns: &[Column],
    contents: &[Holds],
    out: &mut Vec<Wire>,
) -> Result<(), TypeMismatch> {
    for (i, column) in columns.iter().enumerate() {
        let value = value::read(change.token(i), column)?;
        // Against a text, the server compares numbers as doubles.
        let value = if contents[i] == Holds::Text { value.as_text() } else { value };
        out.push(match value {
            Value::Null => Wire::NULL,
            Value::Boolean(b) => Wire::Int(i64::from(b)),
            Value::Integer(n) => Wire::Int(n),
            Value::Number(n) => Wire::Double(n),
            Value::Text(text) => Wire::Bytes(text.into_owned().into_bytes()),
            // Where it becomes text, MySQL leaves out what is finer than a second.
            Value::Time(micros) if contents[i] == Holds::Text => {
                let at = value::utc(micros).map(|at| format!("{at:.6}").replace('T', " "));
                let at = at.ok_or_else(|| TypeMismatch::of(column, Wanted::Time))?;
                Wire::Bytes(at.into_bytes())
            }
            Value::Time(micros) => {
                time(micros).ok_or_else(|| TypeMismatch::of(column, Wanted::Time))?
            }
            Value::Json(token) => Wire::Bytes(json::well_formed(token).into_owned().into_bytes()),
        });
    }
    Ok(())
}

/// The most bytes that a parameter takes on the wire, with its type and length.
pub fn wire_bytes(value: &Wire) -> usize {
    match value {
        Wire::Bytes(bytes) => bytes.len() + 12,
        _ => 16,
    }
}

/// `None` where the instant is beyond the years that a date can hold.
fn time(micros: i64) -> Option<Wire> {
    let at = value::utc(micros)?;
    let small = |n: i8| u8::try_from(n).ok();
    let micros = u32::try_from(at.subsec_nanosecond() / 1000).ok()?;
    Some(Wire::Date(
        u16::try_from(at.year()).ok()?,
        small(at.month())?,
        small(at.day())?,
        small(at.hour())?,
        small(at.minute())?,
        small(at.second())?,
        micros,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_travel_as_their_parts() {
        assert_eq!(time(0), Some(Wire::Date(1970, 1, 1, 0, 0, 0, 0)));
        assert_eq!(time(-1), Some(Wire::Date(1969, 12, 31, 23, 59, 59, 999_999)));
        assert_eq!(time(4_102_444_800_000_001), Some(Wire::Date(2100, 1, 1, 0, 0, 0, 1)));
        assert_eq!(time(i64::MIN), None);
    }
}
