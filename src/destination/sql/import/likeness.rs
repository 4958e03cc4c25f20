//! Whether a loaded table can have the columns of the old one exactly as they are.

use crate::change::TableSchema;
use crate::destination::TableShape;
use crate::destination::sql::dialect::Rename;
use crate::destination::sql::render::Renderer;

/// Types that the catalog of a database calls otherwise than EDS, in lower case.
const OTHER_SPELLINGS: [(&str, &str); 3] =
    [("varchar(64)", "character varying(64)"), ("boolean", "tinyint(1)"), ("bigint", "bigint(20)")];

/// Whether the catalog's `declared` is the type that EDS writes as `made`.
fn is_declared(declared: &str, made: &str) -> bool {
    let (declared, made) = (declared.to_lowercase(), made.to_lowercase());
    let made = made.split(" character set").next().unwrap_or_default();
    declared == made || OTHER_SPELLINGS.contains(&(made, declared.as_str()))
}

impl Renderer {
    /// What sets the old table apart from the one that EDS would make, apart from what the source
    /// has added since and what the database keeps: whether NULL is taken, order, collations.
    pub(super) fn difference(&self, schema: &TableSchema, old: &TableShape) -> Option<String> {
        let names = self.dialect.limits.names;
        let index =
            |name: &str| schema.columns.iter().position(|c| *names.stored(&c.name) == *name);
        let own: Vec<&str> =
            old.columns.keys().map(String::as_str).filter(|name| index(name).is_none()).collect();
        if !own.is_empty() {
            return Some(format!("it has columns that the source lacks ({})", own.join(", ")));
        }
        if matches!(self.dialect.rename, Rename::Never | Rename::Procedure) {
            // Old tables always stay there.
            return None;
        }
        let contents = self.contents(schema, &schema.columns);
        old.columns.iter().find_map(|(name, column)| {
            let i = index(name)?;
            let made = self.type_holding(schema, i, contents[i]);
            let wanted = made.split(" CHARACTER SET").next().unwrap_or_default();
            (!is_declared(&column.declared, &made))
                .then(|| format!("its column {name:?} is {}, not {wanted}", column.declared))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::is_declared;

    #[test]
    fn types_are_compared_as_catalogs_write_them() {
        for (declared, made) in [
            ("timestamp with time zone", "TIMESTAMP WITH TIME ZONE"),
            ("character varying(64)", "VARCHAR(64)"),
            ("varchar(255)", "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"),
            ("bigint(20)", "BIGINT"),
            ("tinyint(1)", "BOOLEAN"),
        ] {
            assert!(is_declared(declared, made), "{declared} {made}");
        }
        for (declared, made) in
            [("numeric(10,2)", "NUMERIC"), ("character varying", "TEXT"), ("int", "BIGINT")]
        {
            assert!(!is_declared(declared, made), "{declared} {made}");
        }
    }
}
