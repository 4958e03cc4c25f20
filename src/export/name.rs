//! Names of an export's files, as CockroachDB writes them:
//! `<33-digit time>-<id>-<n>-<n>-<hex>-<table>-<schema id>.ndjson.gz`.

use crate::change::Version;

const ENDINGS: [&str; 2] = [".ndjson.gz", ".ndjson"];
/// Date and time, nanoseconds, logical counter.
const TIME_DIGITS: usize = 33;
/// Parts of a name before the table's.
const PARTS_BEFORE: usize = 5;

/// The name of an export's file, and what it tells.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileName {
    /// The whole name.
    pub text: String,
    /// The table whose rows the file has.
    pub table: String,
    /// When the rows were read.
    pub time: Version,
}

/// Whether it is an export's file by its ending.
pub fn is_export(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

impl FileName {
    /// Reads a name; `None` where it is not of the form.
    pub fn parse(text: &str) -> Option<FileName> {
        let stem = ENDINGS.iter().find_map(|ending| text.strip_suffix(ending))?;
        let mut parts = stem.splitn(PARTS_BEFORE + 1, '-');
        let time = parts.next().and_then(time)?;
        let (table, _schema_id) = parts.nth(PARTS_BEFORE - 1)?.rsplit_once('-')?;
        (!table.is_empty()).then(|| FileName {
            text: text.to_owned(),
            table: table.to_owned(),
            time,
        })
    }
}

/// `YYYYMMDDhhmmss`, nine digits of nanoseconds, ten of the logical counter; in UTC.
fn time(digits: &str) -> Option<Version> {
    if digits.len() != TIME_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| digits[from..to].parse::<u64>().ok();
    let small = |from: usize, to: usize| digits[from..to].parse::<i8>().ok();
    let at = jiff::civil::DateTime::new(
        digits[0..4].parse().ok()?,
        small(4, 6)?,
        small(6, 8)?,
        small(8, 10)?,
        small(10, 12)?,
        small(12, 14)?,
        0,
    )
    .ok()?;
    let seconds = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    let nanos =
        u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(number(14, 23)?)?;
    Some(Version { nanos, logical: number(23, 33)? })
}

/// The time as the name of a file has it.
pub fn digits(time: Version) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(time.nanos)).unwrap_or_default();
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    let date = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}",
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    format!("{date}{:09}{:010}", time.nanos % 1_000_000_000, time.logical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_table_and_time() {
        let name = "202407131650522808024640000000000-56bb4ee1a3d0b3c4-1-3-00000000-order_item2-15.ndjson.gz";
        let parsed = FileName::parse(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(parsed.table, "order_item2");
        assert_eq!(parsed.time, Version { nanos: 1_720_889_452_280_802_464, logical: 0 });
        assert_eq!(digits(parsed.time), name[..33]);
        let odd = "202407131650522808024640000000007-5-1-3-0-a-b_c-15.ndjson";
        assert_eq!(
            FileName::parse(odd).map(|n| (n.table, n.time.logical)),
            Some(("a-b_c".to_owned(), 7))
        );
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "",
            "order.ndjson.gz",
            "202407131650522808024640000000000-1-1-1-1-order-2.csv",
            "202413131650522808024640000000000-1-1-1-1-order-2.ndjson.gz",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
        assert_eq!(
            FileName::parse("202407131650522808024640000000000-1-1-1-1-order.ndjson.gz"),
            None
        );
        assert_eq!(FileName::parse("20240713-1-1-1-1-order-2.ndjson.gz"), None);
    }
}
