//! What a JSON token means for a column of a kind: the coercions that every table destination
//! shares.

use std::borrow::Cow;

use super::json;
use super::schema::{Column, ColumnType};

/// A value in the form in which databases take it.
#[derive(Clone, PartialEq, Debug)]
pub enum Value<'a> {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number; every digit counts.
    Integer(i64),
    /// A finite number.
    Number(f64),
    /// Text, escapes resolved.
    Text(Cow<'a, str>),
    /// Microseconds since 1970 UTC; what is finer is cut off.
    Time(i64),
    /// JSON as it came.
    Json(&'a str),
}

impl<'a> Value<'a> {
    /// The value for a column that has become text since: numbers with all their digits, booleans
    /// as 1 and 0, as databases without booleans convert them.
    pub fn as_text(self) -> Value<'a> {
        let text = match self {
            Value::Integer(n) => n.to_string(),
            Value::Boolean(b) => u8::from(b).to_string(),
            Value::Number(n) => number_text(n),
            other => return other,
        };
        Value::Text(Cow::Owned(text))
    }
}

/// The shortest text that is read as the same number: `1`, `1.5`, `1e300`.
fn number_text(n: f64) -> String {
    let plain = n.to_string();
    let scientific = format!("{n:e}");
    if scientific.len() < plain.len() { scientific } else { plain }
}

/// What a column would have taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// A whole number of 64 bits, however it is spelt.
    Integer,
    /// A number that is finite as a double.
    Number,
    /// `true` or `false`, as a token or a text.
    Boolean,
    /// A text with a date and time, or a date.
    Time,
}

/// A value that its column cannot hold. Names the column, never shows the value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the value of column {column:?} is not {}", match wanted {
    Wanted::Integer => "an integer of 64 bits",
    Wanted::Number => "a number that a double holds",
    Wanted::Boolean => "true or false",
    Wanted::Time => "a date and time",
})]
pub struct TypeMismatch {
    /// The name of the column.
    pub column: Box<str>,
    /// What it would have taken.
    pub wanted: Wanted,
}

impl TypeMismatch {
    /// The mismatch of a value of `column`.
    pub fn of(column: &Column, wanted: Wanted) -> TypeMismatch {
        TypeMismatch { column: column.name.clone(), wanted }
    }
}

/// Reads the token of a column; `None` is a missing or null value. A NOT NULL column gets the zero
/// value of its kind.
pub fn read<'a>(token: Option<&'a str>, column: &Column) -> Result<Value<'a>, TypeMismatch> {
    let Some(token) = token else {
        return Ok(if column.nullable { Value::Null } else { zero(column.kind) });
    };
    let scalar = || json::text(token);
    let mismatch = |wanted| TypeMismatch::of(column, wanted);
    match column.kind {
        ColumnType::Text | ColumnType::Enum => Ok(Value::Text(json::text(token))),
        ColumnType::Object | ColumnType::Array => Ok(Value::Json(token)),
        ColumnType::Integer => {
            integer(scalar().trim()).map(Value::Integer).ok_or_else(|| mismatch(Wanted::Integer))
        }
        ColumnType::Number => {
            number(scalar().trim()).map(Value::Number).ok_or_else(|| mismatch(Wanted::Number))
        }
        ColumnType::Boolean => match &*scalar() {
            "true" => Ok(Value::Boolean(true)),
            "false" => Ok(Value::Boolean(false)),
            _ => Err(mismatch(Wanted::Boolean)),
        },
        ColumnType::Time if token.starts_with('"') => {
            time(scalar().trim()).map(Value::Time).ok_or_else(|| mismatch(Wanted::Time))
        }
        ColumnType::Time => Err(mismatch(Wanted::Time)),
    }
}

fn zero(kind: ColumnType) -> Value<'static> {
    match kind {
        ColumnType::Text | ColumnType::Enum => Value::Text(Cow::Borrowed("")),
        ColumnType::Time => Value::Time(0),
        ColumnType::Integer => Value::Integer(0),
        ColumnType::Number => Value::Number(0.0),
        ColumnType::Boolean => Value::Boolean(false),
        ColumnType::Object => Value::Json("{}"),
        ColumnType::Array => Value::Json("[]"),
    }
}

/// A number token of any spelling (`7`, `7.0`, `1E+3`) that is a whole number of 64 bits; every
/// digit counts.
pub fn integer(token: &str) -> Option<i64> {
    if let Ok(plain) = token.parse::<i64>() {
        // Rust's parser takes a leading plus, which JSON does not.
        return (!token.starts_with('+')).then_some(plain);
    }
    let (mantissa, exponent) = match token.find(['e', 'E']) {
        Some(at) => (&token[..at], token[at + 1..].parse::<i64>().ok()?),
        None => (token, 0),
    };
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |m| (true, m));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    // Where the decimal point falls after the exponent is applied, counted from the first digit.
    let point = (whole.len() as i64).checked_add(exponent)?;
    let (digits, rest) = digits.split_at(point.clamp(0, digits.len() as i64) as usize);
    if rest.bytes().any(|b| b != b'0') {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let zeros = usize::try_from(point - (whole.len() + fraction.len()) as i64).unwrap_or(0);
    if digits.len() + zeros > 19 {
        return None;
    }
    format!("{}{digits}{}", if negative { "-" } else { "" }, "0".repeat(zeros)).parse().ok()
}

fn number(token: &str) -> Option<f64> {
    let numeric =
        token.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    token.parse::<f64>().ok().filter(|n| numeric && n.is_finite())
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// RFC 3339, or a date and time without offset, which is UTC, or a date alone. Years to the very
/// end of 9999, which stands for "never" in many systems.
fn time(text: &str) -> Option<i64> {
    let pieces = jiff::fmt::temporal::DateTimeParser::new().parse_pieces(text).ok()?;
    let offset = match pieces.offset() {
        Some(jiff::fmt::temporal::PiecesOffset::Numeric(offset)) => {
            i64::from(offset.offset().seconds())
        }
        _ if pieces.time_zone_annotation().is_some() => return None,
        _ => 0,
    };
    let day = i64::from(jiff::civil::date(1970, 1, 1).until(pieces.date()).ok()?.get_days());
    let at = pieces.time().unwrap_or(jiff::civil::Time::midnight());
    let seconds =
        i64::from(at.hour()) * 3600 + i64::from(at.minute()) * 60 + i64::from(at.second()) - offset;
    let micros =
        day * MICROS_PER_DAY + seconds * 1_000_000 + i64::from(at.subsec_nanosecond() / 1000);
    utc(micros).map(|_| micros)
}

/// Date and time in UTC of an instant; years from -9999 to 9999.
pub fn utc(micros: i64) -> Option<jiff::civil::DateTime> {
    let day = i32::try_from(micros.div_euclid(MICROS_PER_DAY)).ok()?;
    let date =
        jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().try_days(day).ok()?).ok()?;
    let nanos = micros.rem_euclid(MICROS_PER_DAY) * 1000;
    Some(date.to_datetime(
        jiff::civil::Time::midnight().checked_add(jiff::SignedDuration::from_nanos(nanos)).ok()?,
    ))
}

/// `2024-01-02T03:04:05.000006Z`: how an instant is written where a database has no type for it.
pub fn rfc3339(micros: i64) -> String {
    utc(micros).map_or_else(|| micros.to_string(), |at| format!("{at:.6}Z"))
}

/// The instant of an RFC 3339 text, Unix nanoseconds; `None` where it is no such text.
pub fn unix_ns(rfc3339: &str) -> Option<i64> {
    let at: jiff::Timestamp = rfc3339.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(kind: ColumnType, nullable: bool) -> Column {
        Column { name: "c".into(), kind, nullable, declared: None }
    }

    #[test]
    fn integers_keep_every_digit_and_refuse_fractions() {
        let cases = [
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("1E+3", Some(1000)),
            ("1.0", Some(1)),
            ("1.5", None),
            ("-0.0", Some(0)),
            ("12.50e1", Some(125)),
            ("1e-2", None),
            ("100e-2", Some(1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1e400000000000", None),
            ("0e999999999999999999999", None),
            ("1e99999999", None),
            ("twelve", None),
            ("", None),
            ("+1", None),
        ];
        for (token, expected) in cases {
            assert_eq!(integer(token), expected, "{token}");
        }
    }

    #[test]
    fn numbers_are_text_of_every_digit() {
        for (n, text) in [(1.0, "1"), (-1.5, "-1.5"), (0.1 + 0.2, "0.30000000000000004")] {
            assert_eq!(Value::Number(n).as_text(), Value::Text(text.into()));
        }
        assert_eq!(Value::Number(1e300).as_text(), Value::Text("1e300".into()));
        assert_eq!(Value::Integer(i64::MIN).as_text(), Value::Text(i64::MIN.to_string().into()));
        assert_eq!(Value::Boolean(true).as_text(), Value::Text("1".into()));
        assert_eq!(Value::Null.as_text(), Value::Null);
    }

    #[test]
    fn times_are_read_to_the_microsecond() {
        let read = |s: &str| time(s).map(rfc3339);
        assert_eq!(
            read("2024-07-11T21:16:51.708587506Z").as_deref(),
            Some("2024-07-11T21:16:51.708587Z")
        );
        assert_eq!(
            read("1969-12-31T23:59:59.9999999+02:00").as_deref(),
            Some("1969-12-31T21:59:59.999999Z")
        );
        assert_eq!(
            read("9999-12-31T23:59:59.999999999Z").as_deref(),
            Some("9999-12-31T23:59:59.999999Z")
        );
        assert_eq!(read("0001-01-01T00:00:00Z").as_deref(), Some("0001-01-01T00:00:00.000000Z"));
        assert_eq!(read("2039-01-01 00:00:00").as_deref(), Some("2039-01-01T00:00:00.000000Z"));
        assert_eq!(read("2039-01-01").as_deref(), Some("2039-01-01T00:00:00.000000Z"));
        for bad in [
            "",
            "now",
            "infinity",
            "12",
            "2024-13-01T00:00:00Z",
            "yesterday",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_null_in_a_not_null_column_is_the_zero_of_its_kind() {
        assert_eq!(read(None, &column(ColumnType::Object, false)), Ok(Value::Json("{}")));
        assert_eq!(read(None, &column(ColumnType::Array, false)), Ok(Value::Json("[]")));
        assert_eq!(read(None, &column(ColumnType::Array, true)), Ok(Value::Null));
        assert_eq!(read(None, &column(ColumnType::Time, false)), Ok(Value::Time(0)));
        assert!(
            read(Some("\"twelve\""), &column(ColumnType::Integer, true))
                .is_err_and(|e| e.to_string().contains("column \"c\""))
        );
        assert_eq!(
            read(Some("{\"a\":1}"), &column(ColumnType::Text, true)),
            Ok(Value::Text("{\"a\":1}".into()))
        );
    }

    proptest! {
        #[test]
        fn every_instant_is_written_as_it_is_read(
            micros in -377_705_116_800_000_000i64..253_402_300_800_000_000
        ) {
            prop_assert_eq!(time(&rfc3339(micros)), Some(micros));
            if let Ok(known) = jiff::Timestamp::from_microsecond(micros) {
                prop_assert_eq!(rfc3339(micros), format!("{known:.6}"));
            }
        }

        #[test]
        fn every_integer_is_read_exactly(n: i64, zeros in 0usize..4) {
            prop_assert_eq!(integer(&n.to_string()), Some(n));
            let decimal = format!("{n}.{}", "0".repeat(zeros + 1));
            prop_assert_eq!(integer(&decimal), Some(n));
        }

        #[test]
        fn no_token_panics(s: String) {
            integer(&s);
            number(&s);
            time(&s);
        }
    }
}
