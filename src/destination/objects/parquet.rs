//! A Parquet file of changes: what happened to each row, and the row's columns, typed by its
//! table's schema.

use std::borrow::Cow;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;

use super::format::PackError;
use crate::change::value::{self, TypeMismatch, Value};
use crate::change::{Change, ColumnType, TableSchema};

/// Begins the names of the columns about the change. A table's column whose name begins so gets a
/// `_` at its end.
const OURS: &str = "_eds_";
const ZSTD_LEVEL: i32 = 3;

/// A column about the change: its name, its type, and its value.
type About = (&'static str, ColumnType, fn(&Change) -> Value<'_>);

/// The columns about the change, which stand before those of its row.
const ABOUT: [About; 9] = [
    ("operation", ColumnType::Text, |change| Value::Text(change.event.operation.as_str().into())),
    ("id", ColumnType::Text, |change| named(change.event.id())),
    ("timestamp", ColumnType::Time, |change| {
        change.event.timestamp_ms().checked_mul(1000).map_or(Value::Null, Value::Time)
    }),
    ("mvcc_timestamp", ColumnType::Text, |change| named(change.event.mvcc())),
    ("model_version", ColumnType::Text, |change| named(change.event.model_version())),
    ("company_id", ColumnType::Text, |change| named(change.event.company())),
    ("location_id", ColumnType::Text, |change| named(change.event.location())),
    ("user_id", ColumnType::Text, |change| named(change.event.user())),
    // An imported row has no place in the stream.
    ("sequence", ColumnType::Integer, |change| match change.event.is_imported() {
        true => Value::Null,
        false => i64::try_from(change.position.sequence).map_or(Value::Null, Value::Integer),
    }),
];

fn named(text: Cow<'_, str>) -> Value<'_> {
    if text.is_empty() { Value::Null } else { Value::Text(text) }
}

impl From<TypeMismatch> for PackError {
    fn from(_: TypeMismatch) -> PackError {
        PackError::TypeMismatch
    }
}

impl From<ParquetError> for PackError {
    fn from(e: ParquetError) -> PackError {
        PackError::Failed(e.to_string())
    }
}

/// The file of `changes`, which have this schema: one row group, packed by zstd. Every column may
/// be null; of a delete, all are but the key.
pub fn file(schema: &TableSchema, changes: &[&Change]) -> Result<Vec<u8>, PackError> {
    let about = ABOUT.iter().map(|(name, kind, _)| field(&format!("{OURS}{name}"), *kind));
    let columns = schema.columns.iter().map(|column| match column.name.starts_with(OURS) {
        true => field(&format!("{}_", column.name), column.kind),
        false => field(&column.name, column.kind),
    });
    let fields = about.chain(columns).map(|field| field.map(Arc::new)).collect::<Result<_, _>>()?;
    let root = Type::group_type_builder("change").with_fields(fields).build()?;
    let mut file =
        SerializedFileWriter::new(Vec::new(), Arc::new(root), Arc::new(properties(schema)?))?;
    let mut rows = file.next_row_group()?;
    for (_, kind, of) in &ABOUT {
        if let Some(mut writer) = rows.next_column()? {
            write(&mut writer, *kind, changes.iter().map(|change| Ok(of(change))))?;
            writer.close()?;
        }
    }
    for (index, column) in schema.columns.iter().enumerate() {
        let cells = changes.iter().map(|change| {
            change.token(index).map_or(Ok(Value::Null), |token| value::read(Some(token), column))
        });
        if let Some(mut writer) = rows.next_column()? {
            write(&mut writer, column.kind, cells)?;
            writer.close()?;
        }
    }
    rows.close()?;
    Ok(file.into_inner()?)
}

fn properties(schema: &TableSchema) -> Result<WriterProperties, ParquetError> {
    let fact = |key: &str, value: &str| KeyValue::new(key.to_owned(), value.to_owned());
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_created_by(concat!("EDS version ", env!("CARGO_PKG_VERSION")).to_owned())
        // A file is one page a column, or a few: finer statistics would only make it larger.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_key_value_metadata(Some(vec![
            fact("eds.table", &schema.table),
            fact("eds.model_version", &schema.version),
        ]))
        .build())
}

/// A column of the file. JSON is stored as text, because every reader of Parquet knows text and not
/// every one knows its JSON type.
fn field(name: &str, kind: ColumnType) -> Result<Type, ParquetError> {
    let (physical, logical) = match kind {
        ColumnType::Text | ColumnType::Enum | ColumnType::Object | ColumnType::Array => {
            (Physical::BYTE_ARRAY, Some(LogicalType::String))
        }
        ColumnType::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
        ColumnType::Integer => (Physical::INT64, None),
        ColumnType::Number => (Physical::DOUBLE, None),
        ColumnType::Boolean => (Physical::BOOLEAN, None),
    };
    Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()
}

type CellValue<'a> = Result<Value<'a>, TypeMismatch>;

fn write<'a>(
    writer: &mut SerializedColumnWriter<'_>,
    kind: ColumnType,
    cells: impl Iterator<Item = CellValue<'a>>,
) -> Result<(), PackError> {
    match kind {
        ColumnType::Text | ColumnType::Enum | ColumnType::Object | ColumnType::Array => {
            write_as::<ByteArrayType>(writer, cells, |value| match value {
                Value::Text(text) => Some(text.into_owned().into_bytes().into()),
                Value::Json(json) => Some(ByteArray::from(json)),
                _ => None,
            })
        }
        ColumnType::Time | ColumnType::Integer => {
            write_as::<Int64Type>(writer, cells, |value| match value {
                Value::Time(number) | Value::Integer(number) => Some(number),
                _ => None,
            })
        }
        ColumnType::Number => write_as::<DoubleType>(writer, cells, |value| match value {
            Value::Number(number) => Some(number),
            _ => None,
        }),
        ColumnType::Boolean => write_as::<BoolType>(writer, cells, |value| match value {
            Value::Boolean(truth) => Some(truth),
            _ => None,
        }),
    }
}

/// Writes a column: its values, and for each change whether it has one.
fn write_as<'a, D: DataType>(
    writer: &mut SerializedColumnWriter<'_>,
    cells: impl Iterator<Item = CellValue<'a>>,
    of: fn(Value<'a>) -> Option<D::T>,
) -> Result<(), PackError> {
    let (mut values, mut present) = (Vec::new(), Vec::new());
    for cell in cells {
        let value = of(cell?);
        present.push(i16::from(value.is_some()));
        values.extend(value);
    }
    writer.typed::<D>().write_batch(&values, Some(&present), None)?;
    Ok(())
}
