//! One form for equal values, however the source spells them and the destination shows them. Pure.

use serde_json::{Map, Value as Json};

use crate::change::json;
use crate::change::value::{self, TypeMismatch, Value};
use crate::change::{Change, Column, ColumnType, TableSchema};
use crate::destination::{Holds, TableShape};

/// A column that is compared: what the schema says, and what the destination has.
#[derive(Clone, Debug)]
pub struct ComparedColumn {
    column: Column,
    exactness: Exactness,
}

/// How exact the destination's text of a number is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Exactness {
    /// It has all digits.
    Whole,
    /// The type keeps so many digits behind the point.
    Scale(u32),
    /// So many digits are sure.
    Digits(u32),
}

impl ComparedColumn {
    /// The columns of `schema` in a table of this shape; `float_digits` as the reader has it.
    pub fn all(
        schema: &TableSchema,
        shape: &TableShape,
        float_digits: Option<u32>,
    ) -> Vec<ComparedColumn> {
        let of = |column: &Column| {
            let there = shape.columns.get(&*column.name);
            let found = there.map(|found| (found.holds, scale_of(&found.declared)));
            let exactness = match (found, float_digits) {
                (Some((Holds::Decimal, Some(scale))), _) => Exactness::Scale(scale),
                (Some((Holds::Float, _)), Some(digits)) => Exactness::Digits(digits),
                _ => Exactness::Whole,
            };
            ComparedColumn { column: column.clone(), exactness }
        };
        schema.columns.iter().map(of).collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.column.name
    }

    /// Whether it can be a part of a key by which rows are looked for.
    pub fn finds_rows(&self) -> bool {
        matches!(self.column.kind, ColumnType::Text | ColumnType::Enum | ColumnType::Integer)
    }

    /// The value of the export's row.
    pub fn expected(&self, token: Option<&str>) -> Result<Option<String>, TypeMismatch> {
        Ok(match value::read(token, &self.column)? {
            Value::Null => None,
            Value::Boolean(b) => Some(flag(b)),
            Value::Integer(n) | Value::Time(n) => Some(n.to_string()),
            Value::Number(n) => Some(number(n)),
            Value::Text(text) => Some(text.replace('\0', "")),
            Value::Json(token) => Some(normal_json(&json::storable(token))),
        })
    }

    /// The value that the destination shows.
    pub fn found(&self, shown: &str) -> String {
        let read = match self.column.kind {
            ColumnType::Text | ColumnType::Enum => Some(shown.replace('\0', "")),
            ColumnType::Integer => value::integer(shown.trim()).map(|n| n.to_string()),
            ColumnType::Number => shown.trim().parse().ok().map(number),
            ColumnType::Boolean => match shown {
                "true" | "t" | "1" => Some(flag(true)),
                "false" | "f" | "0" => Some(flag(false)),
                _ => None,
            },
            ColumnType::Time => time(&self.column, shown),
            ColumnType::Object | ColumnType::Array => Some(normal_json(&json::storable(shown))),
        };
        // What cannot be read is shown as it is, and differs.
        read.unwrap_or_else(|| shown.to_owned())
    }

    /// A value in the one form, as people read it.
    pub fn shown(&self, value: String) -> String {
        match (self.column.kind, value.parse()) {
            (ColumnType::Time, Ok(micros)) => value::rfc3339(micros),
            _ => value,
        }
    }

    /// Whether the destination has what the export says.
    pub fn is_same(&self, expected: Option<&str>, found: Option<&str>) -> bool {
        let (Some(expected), Some(found)) = (expected, found) else { return expected == found };
        if expected == found || self.exactness == Exactness::Whole {
            return expected == found;
        }
        let (Ok(a), Ok(b)) = (expected.parse::<f64>(), found.parse::<f64>()) else { return false };
        // A type, or a text, with fewer digits rounds, each database in its own way.
        let unit = match self.exactness {
            Exactness::Whole => 0.0,
            Exactness::Scale(scale) => 10f64.powi(-(scale as i32)),
            Exactness::Digits(digits) => a.abs().max(b.abs()) * 10f64.powi(1 - digits as i32),
        };
        (a - b).abs() <= 0.5 * unit * (1.0 + 1e-9)
    }
}

/// The values of the columns of the export's row.
pub fn expected_row(
    columns: &[ComparedColumn],
    change: &Change,
) -> Result<Vec<Option<String>>, TypeMismatch> {
    columns.iter().enumerate().map(|(i, column)| column.expected(change.token(i))).collect()
}

/// `2` of `numeric(10,2)`, and of Snowflake's `NUMBER(2)`, as its catalog is read.
fn scale_of(declared: &str) -> Option<u32> {
    let (name, digits) = declared.split_once('(')?;
    let digits = digits.trim_end_matches(')');
    let scale = match digits.split_once(',') {
        Some((_, scale)) => scale,
        None if name.eq_ignore_ascii_case("number") => digits,
        None => return None,
    };
    scale.trim().parse().ok()
}

fn flag(b: bool) -> String {
    u8::from(b).to_string()
}

/// The shortest text of a number; zero has no sign.
fn number(n: f64) -> String {
    (if n == 0.0 { 0.0 } else { n }).to_string()
}

/// Microseconds of the instant; a text without offset is UTC.
fn time(column: &Column, shown: &str) -> Option<String> {
    let token = Json::String(shown.replacen(' ', "T", 1)).to_string();
    match value::read(Some(&token), column) {
        Ok(Value::Time(micros)) => Some(micros.to_string()),
        _ => None,
    }
}

/// JSON with sorted members and numbers in one form. What is no JSON stays as it is.
fn normal_json(text: &str) -> String {
    match serde_json::from_str::<Json>(text) {
        Ok(json) => normal(json).to_string(),
        Err(_) => text.to_owned(),
    }
}

fn normal(json: Json) -> Json {
    match json {
        Json::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e15 => {
                (float as i64).into()
            }
            (None, Some(float)) => float.into(),
            (None, None) => Json::Number(n),
        },
        Json::Array(items) => items.into_iter().map(normal).collect(),
        Json::Object(members) => {
            let mut sorted: Vec<(String, Json)> = members.into_iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(sorted.into_iter().map(|(k, v)| (k, normal(v))).collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(kind: ColumnType) -> ComparedColumn {
        ComparedColumn {
            column: Column { name: "c".into(), kind, nullable: true, declared: None },
            exactness: Exactness::Whole,
        }
    }

    #[test]
    fn equal_values_have_one_form() -> Result<(), TypeMismatch> {
        use ColumnType::{Boolean, Integer, Number, Object, Text, Time};
        for (kind, token, shown) in [
            (Integer, "7.0", "7"),
            (Integer, "-9007199254740993", "-9007199254740993"),
            (Number, "1.50", "1.5"),
            (Number, "1e300", "1e+300"),
            (Number, "0.1", "0.10000000000000001"),
            (Number, "-0.0", "0"),
            (Number, "12", "12.000"),
            (Boolean, "true", "t"),
            (Boolean, "false", "0"),
            (Text, r#""a\u0000b""#, "ab"),
            (Time, r#""2024-01-02T03:04:05.000006Z""#, "2024-01-02 03:04:05.000006"),
            (Time, r#""2024-01-02T05:04:05+02:00""#, "2024-01-02T03:04:05.000000Z"),
            (Object, r#"{"b":1.0,"a":[true,"\u00e4"]}"#, r#"{"a": [true, "ä"], "b": 1}"#),
        ] {
            let column = column(kind);
            let (expected, found) = (column.expected(Some(token))?, column.found(shown));
            assert_eq!(expected.as_deref(), Some(&*found), "{kind:?} {token} {shown}");
        }
        assert_eq!(column(Text).expected(None)?, None);
        Ok(())
    }

    #[test]
    fn other_values_differ() -> Result<(), TypeMismatch> {
        use ColumnType::{Integer, Number, Object, Text, Time};
        for (kind, token, shown) in [
            (Integer, "7", "8"),
            (Number, "1.5", "1.500001"),
            (Text, r#""a""#, "a "),
            (Time, r#""2024-01-02T03:04:05Z""#, "2024-01-02 03:04:05.000001"),
            (Time, r#""2024-01-02T03:04:05Z""#, "infinity"),
            (Object, r#"{"a":1}"#, r#"{"a": 2}"#),
        ] {
            let column = column(kind);
            let (expected, found) = (column.expected(Some(token))?, column.found(shown));
            assert!(!column.is_same(expected.as_deref(), Some(&found)), "{kind:?} {token} {shown}");
        }
        Ok(())
    }

    #[test]
    fn a_type_with_fewer_digits_may_round() {
        let number = |exactness| ComparedColumn { exactness, ..column(ColumnType::Number) };
        let cents = number(scale_of("numeric(10,2)").map_or(Exactness::Whole, Exactness::Scale));
        assert!(cents.is_same(Some("1.005"), Some("1.01")));
        assert!(cents.is_same(Some("1.005"), Some("1")));
        assert!(!cents.is_same(Some("1.005"), Some("1.02")));
        assert!(!column(ColumnType::Number).is_same(Some("1.5"), Some("1")));
        let short = number(Exactness::Digits(15));
        assert!(short.is_same(Some("0.30000000000000004"), Some("0.3")));
        assert!(short.is_same(Some("-1e300"), Some("-1.000000000000004e300")));
        assert!(!short.is_same(Some("0.3"), Some("0.30000000000001")));
        assert!(!short.is_same(Some("0"), Some("1e-300")));
    }
}
