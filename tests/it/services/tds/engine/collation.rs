//! Collations of columns: kept in the names of their types, because SQLite has no room for them
//! elsewhere, and the conflicts between them.

use super::dialect::{split, unknown};
use super::{Refused, TdsEngine};

/// What SQL Server's setup offers first: it tells neither `a` from `A` nor `ß` from `ss`.
pub const DEFAULT: &str = "SQL_Latin1_General_CP1_CI_AS";

/// What a column of the product's types is in SQLite: `NVARCHAR(64) COLLATE x` becomes
/// `NVARCHAR x(64) COLLATE NOCASE`. Without COLLATE it has the database's collation, and says
/// nothing of it.
pub(super) fn typed(kind: &str, length: &str, collate: Option<&str>, database: &str) -> String {
    let own = collate.map(|name| named(name, database));
    let word = own.map(|name| format!(" {name}")).unwrap_or_default();
    format!("{kind}{word}({length}){}", compared(own.unwrap_or(database)))
}

/// The collation that a COLLATE clause names.
pub(super) fn named<'n>(name: &'n str, database: &'n str) -> &'n str {
    if name.eq_ignore_ascii_case("DATABASE_DEFAULT") { database } else { name }
}

/// How SQLite compares so: it knows ASCII's letters only.
pub(super) fn compared(collation: &str) -> &'static str {
    let is_loose = collation.to_lowercase().split('_').any(|part| part == "ci");
    if is_loose { " COLLATE NOCASE" } else { " COLLATE BINARY" }
}

/// The collation of a column of this type; `None` where it has no texts.
pub(super) fn of_type<'t>(declared: &'t str, database: &'t str) -> Option<&'t str> {
    let (base, _) = split(declared);
    let words = declared.split('(').next().unwrap_or_default();
    base.contains("char").then(|| words.split_once(' ').map_or(database, |(_, name)| name))
}

impl TdsEngine {
    /// Refuses a comparison of two columns of different collations, as SQL Server does where
    /// neither side has a COLLATE. `sql` ends with the condition.
    pub(super) fn resolve_collations(&self, sql: &str) -> Result<(), Refused> {
        let at = [" ON ", " WHERE "].iter().filter_map(|word| Some(sql.rfind(word)? + word.len()));
        let Some(at) = at.max() else { return Ok(()) };
        for comparison in sql[at..].trim_end_matches(')').split(" AND ") {
            let Some((left, right)) = comparison.split_once(" = ") else { continue };
            if comparison.contains(" COLLATE ") {
                continue;
            }
            let sides = [left, right].map(|side| self.collation_of(sql, side));
            let [Some(left), Some(right)] = sides else { continue };
            if left != right {
                return Err(Refused::new(
                    468,
                    format!(
                        "Cannot resolve the collation conflict between \"{left}\" and \"{right}\" \
                         in the equal to operation."
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The collation of `t."column"` or `"dbo"."table"."column"`.
    fn collation_of(&self, sql: &str, side: &str) -> Option<String> {
        let (of, column) = side.rsplit_once('.')?;
        let column = column.trim_matches('"').replace("\"\"", "\"");
        let (schema, table) = match of.strip_prefix("\"dbo\".") {
            Some(table) => ("dbo", table.to_owned()),
            None => table_called(sql, of).ok()?,
        };
        let table = table[1..table.len() - 1].replace("\"\"", "\"");
        let columns = self.described(schema, &table).ok()?;
        let (_, declared, ..) = columns.iter().find(|(name, ..)| *name == column)?;
        of_type(declared, &self.collation).map(str::to_owned)
    }
}

/// Schema and quoted name of the table that is called `alias`.
fn table_called(sql: &str, alias: &str) -> Result<(&'static str, String), Refused> {
    let end = sql.find(&format!("\" AS {alias} ")).ok_or_else(|| unknown(sql))? + 1;
    let before = &sql[..end];
    let place = |text: &str| before.rfind(text).map(|at| at + text.len() - 1);
    match (place("\"dbo\".\""), place(" \"#").map(|at| at - 1)) {
        (Some(own), stage) if stage.is_none_or(|stage| own > stage) => {
            Ok(("dbo", before[own..].to_owned()))
        }
        (_, Some(stage)) => Ok(("temp", before[stage..].to_owned())),
        _ => Err(unknown(sql)),
    }
}
