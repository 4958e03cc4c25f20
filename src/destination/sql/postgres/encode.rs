//! Values in PostgreSQL's binary form, for COPY and for parameters of prepared statements.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use memchr::memchr;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::change::value::Value;
use crate::change::{ColumnType, json};

/// Microseconds from 1970 to 2000, where PostgreSQL's times begin.
const EPOCH_2000_MICROS: i64 = 946_684_800_000_000;
/// Signature, flags and extension length of a binary COPY.
pub const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What ends a binary COPY.
pub const COPY_TRAILER: i16 = -1;

/// The type of a parameter for a column of this kind.
pub fn wire_type(kind: ColumnType) -> Type {
    match kind {
        ColumnType::Text | ColumnType::Enum => Type::TEXT,
        ColumnType::Time => Type::TIMESTAMPTZ,
        ColumnType::Integer => Type::INT8,
        ColumnType::Number => Type::FLOAT8,
        ColumnType::Boolean => Type::BOOL,
        ColumnType::Object | ColumnType::Array => Type::JSONB,
    }
}

/// The type of an array parameter for a column of this kind.
pub fn wire_array_type(kind: ColumnType) -> Type {
    match kind {
        ColumnType::Text | ColumnType::Enum => Type::TEXT_ARRAY,
        ColumnType::Time => Type::TIMESTAMPTZ_ARRAY,
        ColumnType::Integer => Type::INT8_ARRAY,
        ColumnType::Number => Type::FLOAT8_ARRAY,
        ColumnType::Boolean => Type::BOOL_ARRAY,
        ColumnType::Object | ColumnType::Array => Type::JSONB_ARRAY,
    }
}

/// Writes the bytes of a value, without length; `false` for NULL, which has none.
fn put(value: &Value<'_>, out: &mut BytesMut) -> bool {
    match value {
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
pub fn put_field(value: &Value<'_>, out: &mut BytesMut) {
    let at = out.len();
    out.put_i32(-1);
    if put(value, out) {
        let length = (out.len() - at - 4) as i32;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// A parameter of a prepared statement.
#[derive(Debug)]
pub struct BoundValue<'a>(pub Value<'a>);

impl ToSql for BoundValue<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Ok(if put(&self.0, out) { IsNull::No } else { IsNull::Yes })
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}

/// One column of many rows: an array parameter.
#[derive(Debug)]
pub struct BoundArray<'a>(pub Vec<Value<'a>>);

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
        self.0.iter().for_each(|value| put_field(value, out));
        Ok(IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}
