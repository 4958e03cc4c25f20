//! Values in PostgreSQL's binary form, for COPY and for parameters of prepared statements.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use memchr::memchr;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::dialect::POSTGRES;
use crate::change::value::Value;
use crate::change::{ColumnType, json};
use crate::destination::Holds;

/// Microseconds from 1970 to 2000, where PostgreSQL's times begin.
const EPOCH_2000_MICROS: i64 = 946_684_800_000_000;
/// Signature, flags and extension length of a binary COPY.
pub const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What ends a binary COPY.
pub const COPY_TRAILER: i16 = -1;

/// The type in which values of this kind travel to a column that holds `contents`. Numbers for a
/// column of decimal numbers travel as such: PostgreSQL rounds a double to fifteen digits on that
/// way.
pub fn wire_type(kind: ColumnType, contents: Holds) -> Type {
    match (kind, contents) {
        (ColumnType::Number, Holds::Decimal) => Type::NUMERIC,
        (ColumnType::Text | ColumnType::Enum, _) => Type::TEXT,
        (ColumnType::Time, _) => Type::TIMESTAMPTZ,
        (ColumnType::Integer, _) => Type::INT8,
        (ColumnType::Number, _) => Type::FLOAT8,
        (ColumnType::Boolean, _) => Type::BOOL,
        (ColumnType::Object | ColumnType::Array, _) => Type::JSONB,
    }
}

/// The type of an array of such values.
pub fn wire_array_type(kind: ColumnType, contents: Holds) -> Type {
    match (kind, contents) {
        (ColumnType::Number, Holds::Decimal) => Type::NUMERIC_ARRAY,
        (ColumnType::Text | ColumnType::Enum, _) => Type::TEXT_ARRAY,
        (ColumnType::Time, _) => Type::TIMESTAMPTZ_ARRAY,
        (ColumnType::Integer, _) => Type::INT8_ARRAY,
        (ColumnType::Number, _) => Type::FLOAT8_ARRAY,
        (ColumnType::Boolean, _) => Type::BOOL_ARRAY,
        (ColumnType::Object | ColumnType::Array, _) => Type::JSONB_ARRAY,
    }
}

/// The name of the type in which such values wait in a temporary table.
pub fn stage_type(kind: ColumnType, contents: Holds) -> &'static str {
    match (kind, contents) {
        (ColumnType::Number, Holds::Decimal) => "NUMERIC",
        _ => POSTGRES.type_of(kind),
    }
}

/// Writes a number in the form of NUMERIC: digits to the base of 10,000, none of the double's lost.
fn put_numeric(n: f64, out: &mut BytesMut) {
    const POSITIVE: u16 = 0;
    const NEGATIVE: u16 = 0x4000;
    let text = format!("{:e}", n.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect();
    // The power of ten of the first digit, and of the first group of four.
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let weight = exponent.div_euclid(4);
    let lead = usize::try_from(3 - exponent.rem_euclid(4)).unwrap_or(0);
    let padded: Vec<u8> = std::iter::repeat_n(0, lead).chain(digits.iter().copied()).collect();
    let groups = padded.chunks(4).map(|group| {
        (0..4).fold(0u16, |all, i| all * 10 + u16::from(group.get(i).copied().unwrap_or(0)))
    });
    let scale = (digits.len() as i32 - 1 - exponent).max(0);
    let groups: Vec<u16> = if n == 0.0 { Vec::new() } else { groups.collect() };
    out.put_u16(groups.len() as u16);
    out.put_i16(if n == 0.0 { 0 } else { weight as i16 });
    out.put_u16(if n < 0.0 { NEGATIVE } else { POSITIVE });
    out.put_u16(scale as u16);
    groups.into_iter().for_each(|group| out.put_u16(group));
}

/// Writes the bytes of a value, without length; `false` for NULL, which has none.
fn put(value: &Value<'_>, contents: Holds, out: &mut BytesMut) -> bool {
    match value {
        Value::Number(n) if contents == Holds::Decimal => put_numeric(*n, out),
        Value::Null => return false,
        Value::Boolean(b) => out.put_u8(u8::from(*b)),
        Value::Integer(n) => out.put_i64(*n),
        Value::Number(n) => out.put_f64(*n),
        Value::Time(micros) => out.put_i64(micros.saturating_sub(EPOCH_2000_MICROS)),
        Value::Text(text) => {
            // PostgreSQL's text cannot hold NUL.
            let mut rest = text.as_bytes();
            while let Some(at) = memchr(0, rest) {
                out.put_slice(&rest[..at]);
                rest = &rest[at + 1..];
            }
            out.put_slice(rest);
        }
        Value::Json(token) => {
            out.put_u8(1);
            out.put_slice(json::storable(token).as_bytes());
        }
    }
    true
}

/// Writes one field of a binary COPY or array: length, then bytes.
pub fn put_field(value: &Value<'_>, contents: Holds, out: &mut BytesMut) {
    let at = out.len();
    out.put_i32(-1);
    if put(value, contents, out) {
        let length = (out.len() - at - 4) as i32;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// A parameter of a prepared statement, and what its column holds.
#[derive(Debug)]
pub struct BoundValue<'a>(pub Value<'a>, pub Holds);

impl ToSql for BoundValue<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Ok(if put(&self.0, self.1, out) { IsNull::No } else { IsNull::Yes })
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}

/// One column of many rows, and what it holds: an array parameter.
#[derive(Debug)]
pub struct BoundArray<'a>(pub Vec<Value<'a>>, pub Holds);

impl ToSql for BoundArray<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let tokio_postgres::types::Kind::Array(element) = ty.kind() else {
            return Err("not an array".into());
        };
        out.put_i32(1);
        out.put_i32(1);
        out.put_u32(element.oid());
        out.put_i32(self.0.len() as i32);
        out.put_i32(1);
        self.0.iter().for_each(|value| put_field(value, self.1, out));
        Ok(IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::types::FromSql;

    /// Sign, digits to the base of 10,000, weight and scale.
    fn numeric(n: f64) -> (u16, Vec<u16>, i16, u16) {
        let mut out = BytesMut::new();
        put_numeric(n, &mut out);
        let word = |i: usize| {
            <i16 as FromSql>::from_sql(&Type::INT2, &out[2 * i..2 * i + 2]).unwrap_or(-1)
        };
        let groups = (4..out.len() / 2).map(|i| word(i) as u16).collect();
        (word(2) as u16, groups, word(1), word(3) as u16)
    }

    #[test]
    fn a_number_keeps_every_digit_as_numeric() {
        assert_eq!(numeric(0.0), (0, vec![], 0, 0));
        assert_eq!(numeric(1.5), (0, vec![1, 5000], 0, 1));
        assert_eq!(numeric(-12_345.0), (0x4000, vec![1, 2345], 1, 0));
        assert_eq!(numeric(0.000_1), (0, vec![1], -1, 4));
        assert_eq!(numeric(0.000_01), (0, vec![1000], -2, 5));
        assert_eq!(numeric(1e21), (0, vec![10], 5, 0));
        assert_eq!(numeric(0.1 + 0.2), (0, vec![3000, 0, 0, 0, 4000], -1, 17));
        assert_eq!(numeric(9_007_199_254_740_993.0), (0, vec![9007, 1992, 5474, 992], 3, 0));
    }
}
