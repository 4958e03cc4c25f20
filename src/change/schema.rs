//! The shape of a table at one model version, as HQ describes it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

/// What a column holds; every destination maps it to a type of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ColumnType {
    /// A string.
    Text,
    /// An instant: RFC 3339 on the wire.
    Time,
    /// A whole number of 64 bits.
    Integer,
    /// A floating-point number of 64 bits.
    Number,
    /// True or false.
    Boolean,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// One of a few words: an array with `items.enum` in the schema, a plain string on the wire.
    Enum,
}

impl ColumnType {
    /// Every type, for tables that map each of them.
    pub const ALL: [ColumnType; 8] = [
        ColumnType::Text,
        ColumnType::Time,
        ColumnType::Integer,
        ColumnType::Number,
        ColumnType::Boolean,
        ColumnType::Object,
        ColumnType::Array,
        ColumnType::Enum,
    ];

    /// A property of a schema in HQ's form that holds this type.
    fn to_property(self) -> serde_json::Value {
        let json = |name: &str| serde_json::json!({ "type": name });
        match self {
            ColumnType::Text => json("string"),
            ColumnType::Time => serde_json::json!({ "type": "string", "format": "date-time" }),
            ColumnType::Integer => json("integer"),
            ColumnType::Number => json("number"),
            ColumnType::Boolean => json("boolean"),
            ColumnType::Object => json("object"),
            ColumnType::Array => json("array"),
            ColumnType::Enum => serde_json::json!({ "type": "array", "items": { "enum": [] } }),
        }
    }
}

impl std::fmt::Display for ColumnType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ColumnType::Text => "text",
            ColumnType::Time => "times",
            ColumnType::Integer => "integers",
            ColumnType::Number => "numbers",
            ColumnType::Boolean => "booleans",
            ColumnType::Object => "objects",
            ColumnType::Array => "arrays",
            ColumnType::Enum => "enumerations",
        })
    }
}

/// A column of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name, as events have it.
    pub name: Box<str>,
    /// What it holds.
    pub kind: ColumnType,
    /// False only where the schema requires the column and does not call it nullable.
    pub nullable: bool,
    /// The type that the user wants where EDS makes the column, as the database writes it.
    pub declared: Option<Box<str>>,
}

impl Column {
    /// The same column with texts in it.
    pub fn as_text(&self) -> Column {
        Column { kind: ColumnType::Text, ..self.clone() }
    }
}

/// One table at one model version. Columns: the primary key in its order, then the rest by name.
#[derive(PartialEq, Eq, Debug)]
pub struct TableSchema {
    /// The name of the table, as events have it.
    pub table: Arc<str>,
    /// The model version, an opaque text of HQ's.
    pub version: Arc<str>,
    /// All columns, the primary key first; at most 65,535.
    pub columns: Box<[Column]>,
    /// The first `keys` columns are the primary key; at least one.
    pub keys: usize,
    /// Tells it from schemas of the same table and version that have others of its columns.
    pub columns_hash: u64,
    index: HashMap<Box<str>, u16>,
}

#[derive(Deserialize)]
struct WireSchema {
    table: String,
    #[serde(rename = "modelVersion")]
    model_version: String,
    #[serde(rename = "primaryKeys", default)]
    primary_keys: Vec<String>,
    #[serde(default)]
    required: Option<Vec<String>>,
    #[serde(default)]
    properties: BTreeMap<String, WireProperty>,
}

#[derive(Deserialize)]
struct WireProperty {
    #[serde(rename = "type", default)]
    kind: WireType,
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    nullable: Option<bool>,
    #[serde(default)]
    items: Option<WireItems>,
}

/// JSON Schema's `type`: one name, or several of which a value may have any.
#[derive(Deserialize)]
#[serde(untagged)]
enum WireType {
    One(String),
    Any(Vec<String>),
}

impl Default for WireType {
    fn default() -> Self {
        WireType::Any(Vec::new())
    }
}

impl WireType {
    /// The name, where there is one beside `null`.
    fn name(&self) -> &str {
        match self {
            WireType::One(name) => name,
            WireType::Any(names) => {
                let mut others = names.iter().filter(|name| *name != "null");
                match (others.next(), others.next()) {
                    (Some(only), None) => only,
                    _ => "",
                }
            }
        }
    }

    fn has_null(&self) -> bool {
        matches!(self, WireType::Any(names) if names.iter().any(|name| name == "null"))
    }
}

#[derive(Deserialize)]
struct WireItems {
    #[serde(rename = "enum", default)]
    words: Option<serde_json::Value>,
}

impl WireProperty {
    fn kind(&self) -> ColumnType {
        let is_enum = self.items.as_ref().is_some_and(|items| items.words.is_some());
        match (self.kind.name(), self.format.as_deref()) {
            ("array", _) if is_enum => ColumnType::Enum,
            ("array", _) => ColumnType::Array,
            ("object", _) => ColumnType::Object,
            ("integer", _) => ColumnType::Integer,
            ("number", _) => ColumnType::Number,
            ("boolean", _) => ColumnType::Boolean,
            ("string", Some("date-time")) => ColumnType::Time,
            _ => ColumnType::Text,
        }
    }
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadSchema {
    /// It is not JSON, or a field is missing or of another type.
    #[error("the schema is not of the expected form: {0}")]
    Form(#[from] serde_json::Error),
    /// It names no primary key, without which rows cannot be told apart.
    #[error("the schema of table {0:?} names no primary key")]
    NoKey(String),
    #[error(
        "the schema of table {table:?} has the primary key {key:?} that is not among its properties"
    )]
    /// It has no column for a part of its primary key.
    KeyUnknown {
        /// The table's name.
        table: String,
        /// The column that is missing.
        key: String,
    },
    /// It has more than 65,535 columns.
    #[error("the schema of table {0:?} has more columns than any destination takes")]
    TooWide(String),
}

fn columns_hash(columns: &[Column]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    for column in columns {
        hasher.update(column.name.as_bytes());
        hasher.update(&[0, column.kind as u8]);
    }
    hasher.digest()
}

impl TableSchema {
    /// The same schema without some of its columns, by index; the primary key stays whole.
    pub fn without(&self, left_out: &[usize]) -> TableSchema {
        let stays = |(i, _): &(usize, &Column)| *i < self.keys || !left_out.contains(i);
        self.with_columns(
            self.columns.iter().enumerate().filter(stays).map(|(_, c)| c.clone()).collect(),
        )
    }

    /// The same schema with other columns, of which the first are its primary key as it was.
    pub(super) fn with_columns(&self, columns: Box<[Column]>) -> TableSchema {
        let index = columns.iter().zip(0..).map(|(column, i)| (column.name.clone(), i)).collect();
        let (table, version) = (self.table.clone(), self.version.clone());
        let columns_hash = columns_hash(&columns);
        TableSchema { table, version, columns, keys: self.keys, columns_hash, index }
    }

    /// Reads one schema of HQ's form.
    pub fn parse(json: &str) -> Result<TableSchema, BadSchema> {
        Self::from_wire(serde_json::from_str(json)?)
    }

    fn from_wire(wire: WireSchema) -> Result<TableSchema, BadSchema> {
        if wire.primary_keys.is_empty() {
            return Err(BadSchema::NoKey(wire.table));
        }
        if wire.properties.len() > usize::from(u16::MAX) {
            return Err(BadSchema::TooWide(wire.table));
        }
        let required = wire.required.unwrap_or_default();
        let column = |name: &String, property: &WireProperty| Column {
            name: name.as_str().into(),
            kind: property.kind(),
            nullable: property.nullable.unwrap_or(false)
                || property.kind.has_null()
                || !required.contains(name),
            declared: None,
        };
        let mut columns = Vec::with_capacity(wire.properties.len());
        for key in &wire.primary_keys {
            let Some(property) = wire.properties.get(key) else {
                return Err(BadSchema::KeyUnknown { table: wire.table, key: key.clone() });
            };
            columns.push(Column { nullable: false, ..column(key, property) });
        }
        columns.extend(
            wire.properties
                .iter()
                .filter(|(name, _)| !wire.primary_keys.contains(name))
                .map(|(name, p)| column(name, p)),
        );
        let index = columns.iter().enumerate().map(|(i, c)| (c.name.clone(), i as u16)).collect();
        Ok(TableSchema {
            table: wire.table.into(),
            version: wire.model_version.into(),
            columns_hash: columns_hash(&columns),
            columns: columns.into(),
            keys: wire.primary_keys.len(),
            index,
        })
    }

    /// A schema in HQ's form that [`TableSchema::parse`] reads as this one.
    pub fn to_json(&self) -> serde_json::Value {
        let keys: Vec<&str> = self.key_columns().iter().map(|c| &*c.name).collect();
        let required: Vec<&str> =
            self.columns.iter().filter(|c| !c.nullable).map(|c| &*c.name).collect();
        let properties: serde_json::Map<String, serde_json::Value> =
            self.columns.iter().map(|c| (c.name.to_string(), c.kind.to_property())).collect();
        serde_json::json!({
            "table": &*self.table,
            "modelVersion": &*self.version,
            "primaryKeys": keys,
            "required": required,
            "properties": properties,
        })
    }

    /// The same columns under another name of the table.
    pub fn renamed(&self, table: &str) -> TableSchema {
        TableSchema {
            table: table.into(),
            version: self.version.clone(),
            columns: self.columns.clone(),
            keys: self.keys,
            columns_hash: self.columns_hash,
            index: self.index.clone(),
        }
    }

    /// Where the column of this name stands.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.index.get(name).map(|i| usize::from(*i))
    }

    /// The columns of the primary key, in its order.
    pub fn key_columns(&self) -> &[Column] {
        &self.columns[..self.keys]
    }

    /// A row, as an export has it, that has nothing but its key; `values`: the texts of the key's
    /// columns.
    pub fn row_of_key(&self, values: &[String]) -> String {
        let member = |(column, text): (&Column, &String)| {
            let value = match (column.kind, serde_json::from_str(text)) {
                (ColumnType::Integer | ColumnType::Number | ColumnType::Boolean, Ok(value)) => {
                    value
                }
                _ => serde_json::Value::String(text.clone()),
            };
            (column.name.to_string(), value)
        };
        let members: serde_json::Map<_, _> =
            self.key_columns().iter().zip(values).map(member).collect();
        serde_json::Value::Object(members).to_string()
    }

    /// Whether every column of `other` is also one of this version.
    pub fn covers(&self, other: &TableSchema) -> bool {
        other.columns.iter().all(|c| self.index.contains_key(&c.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_form_of_hq() -> Result<(), BadSchema> {
        let schema = TableSchema::parse(
            r#"{"table":"order","modelVersion":"b041","primaryKeys":["id"],"required":["id","number","metadata","n"],
            "properties":{"number":{"type":"integer"},"id":{"type":"string"},"paid":{"type":"boolean","$comment":"x"},
            "createdDate":{"type":"string","format":"date-time"},"metadata":{"type":"object","nullable":true},
            "tags":{"type":"array","items":{"type":"string"}},"status":{"type":"array","items":{"type":"enum","enum":["A","B"]}},
            "odd":{"type":"geometry"},"n":{"type":["null","integer"]},"mixed":{"type":["string","object"]}}}"#,
        )?;
        let shape: Vec<_> = schema.columns.iter().map(|c| (&*c.name, c.kind, c.nullable)).collect();
        assert_eq!(
            shape,
            [
                ("id", ColumnType::Text, false),
                ("createdDate", ColumnType::Time, true),
                ("metadata", ColumnType::Object, true),
                ("mixed", ColumnType::Text, true),
                ("n", ColumnType::Integer, true),
                ("number", ColumnType::Integer, false),
                ("odd", ColumnType::Text, true),
                ("paid", ColumnType::Boolean, true),
                ("status", ColumnType::Enum, true),
                ("tags", ColumnType::Array, true)
            ]
        );
        assert_eq!(TableSchema::parse(&schema.to_json().to_string())?, schema);
        Ok(())
    }

    #[test]
    fn refuses_a_schema_without_a_usable_key() {
        assert!(matches!(
            TableSchema::parse(r#"{"table":"t","modelVersion":"1"}"#),
            Err(BadSchema::NoKey(_))
        ));
        assert!(matches!(
            TableSchema::parse(
                r#"{"table":"t","modelVersion":"1","primaryKeys":["id"],"properties":{}}"#
            ),
            Err(BadSchema::KeyUnknown { .. })
        ));
        assert!(matches!(TableSchema::parse("[]"), Err(BadSchema::Form(_))));
    }
}
