//! Transact-SQL's texts, types and values, and those of SQLite.

use rusqlite::types::Value;

use super::super::wire::{TdsCell, TdsKind};
use super::{Refused, collation};

/// How much is said by (MAX).
const MAX: &str = "(2147483647)";

pub(super) fn unknown(sql: &str) -> Refused {
    Refused::new(
        102,
        format!(
            "Incorrect syntax: the stand-in does not know {}",
            sql.chars().take(60).collect::<String>()
        ),
    )
}

pub(super) fn value(cell: &TdsCell) -> Value {
    match cell {
        TdsCell::Null => Value::Null,
        TdsCell::Integer(n) => Value::Integer(*n),
        TdsCell::Float(n) => Value::Real(*n),
        TdsCell::Text(text) => Value::Text(text.clone()),
    }
}

pub(super) fn from_json(value: &serde_json::Value, kind: TdsKind) -> Result<TdsCell, Refused> {
    let wrong = || Refused::new(8114, "Error converting data type nvarchar to another.");
    match (kind, value) {
        (_, serde_json::Value::Null) => Ok(TdsCell::Null),
        (TdsKind::Bit, serde_json::Value::Bool(b)) => Ok(TdsCell::Integer(i64::from(*b))),
        (TdsKind::Integer, serde_json::Value::Number(n)) => {
            n.as_i64().map(TdsCell::Integer).ok_or_else(wrong)
        }
        (TdsKind::Float, serde_json::Value::Number(n)) => {
            n.as_f64().map(TdsCell::Float).ok_or_else(wrong)
        }
        (TdsKind::Wide(_), serde_json::Value::String(text)) => Ok(TdsCell::Text(text.clone())),
        _ => Err(wrong()),
    }
}

/// `nvarchar`, 64; -1 for MAX. A collation may stand between them.
pub(super) fn split(declared: &str) -> (String, Option<i64>) {
    let (words, rest) = declared.split_once('(').unwrap_or((declared, ""));
    let base = words.split(' ').next().unwrap_or_default();
    let length = rest
        .trim_end_matches(')')
        .parse::<i64>()
        .ok()
        .map(|n| if n == 2_147_483_647 { -1 } else { n });
    (base.to_lowercase(), length)
}

pub(super) fn kind(declared: &str) -> TdsKind {
    match split(declared) {
        (base, _) if base == "bigint" => TdsKind::Integer,
        (base, _) if base == "float" => TdsKind::Float,
        (base, _) if base == "bit" => TdsKind::Bit,
        (base, Some(length)) if base == "varchar" => {
            TdsKind::Narrow(u16::try_from(length).unwrap_or(8000))
        }
        (_, length) => TdsKind::Wide(length.and_then(|n| u16::try_from(n).ok())),
    }
}

/// Names in double quotes, as SQLite has no way to write a bracket within brackets; strings without
/// N; types without MAX; collations as SQLite has them.
pub(super) fn translated(sql: &str, database: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let defines = ["IF OBJECT_ID", "ALTER TABLE"].iter().any(|words| sql.starts_with(words));
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        match c {
            '[' => {
                let mut name = String::new();
                rest = &rest[1..];
                while let Some(end) = rest.find(']') {
                    name += &rest[..end];
                    rest = &rest[end + 1..];
                    if !rest.starts_with(']') {
                        break;
                    }
                    name.push(']');
                    rest = &rest[1..];
                }
                out += &format!("\"{}\"", name.replace('"', "\"\""));
                continue;
            }
            '#' => {
                let end = rest[1..]
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .map_or(rest.len(), |n| n + 1);
                out += &format!("\"{}\"", &rest[..end]);
                rest = &rest[end..];
                continue;
            }
            '\'' => {
                let end = rest[1..].find('\'').map_or(rest.len(), |n| n + 2);
                out += &rest[..end];
                rest = &rest[end..];
                continue;
            }
            _ => {}
        }
        if defines && let Some((made, after)) = text_type(rest, database) {
            out += &made;
            rest = after;
        } else if let Some(after) = rest.strip_prefix("(MAX)") {
            out += MAX;
            rest = after;
        } else if let Some((name, after)) = collate(rest) {
            out += collation::compared(collation::named(name, database));
            rest = after;
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// The name in a COLLATE clause with which `sql` begins, and what follows.
fn collate(sql: &str) -> Option<(&str, &str)> {
    let after = sql.strip_prefix(" COLLATE ")?;
    Some(after.split_at(after.find([' ', ',', ')']).unwrap_or(after.len())))
}

/// The definition of a column of texts with which `sql` begins, and what follows.
fn text_type<'s>(sql: &'s str, database: &str) -> Option<(String, &'s str)> {
    let kind = ["NVARCHAR", "VARCHAR"].into_iter().find(|kind| sql.starts_with(kind))?;
    let (length, rest) = sql[kind.len()..].strip_prefix('(')?.split_once(')')?;
    let length = if length == "MAX" { MAX.trim_matches(['(', ')']) } else { length };
    let (collation, rest) = collate(rest).map_or((None, rest), |(name, after)| (Some(name), after));
    Some((collation::typed(kind, length, collation, database), rest))
}
