//! What can be in the columns of each database, and which column becomes what where the values of
//! a schema do not fit: lists, so that everything that is not in them stays as it is
//! (docs/decisions/0016-column-types-that-change.md).

use crate::change::ColumnType::{self, Array, Boolean, Enum, Integer, Number, Object, Text, Time};
use crate::destination::Holds;
use crate::destination::shape::Misfit;

/// What can be in a column of the type of this name. The name ends before a bracket; a longer name
/// stands before a shorter one that it begins with.
pub type TypeNames = &'static [(&'static str, Holds)];

/// What `names` say of the type `declared`, in whichever case it is written.
pub fn holds(names: TypeNames, declared: &str) -> Holds {
    let declared = declared.to_lowercase();
    let base = declared.split('(').next().unwrap_or_default().trim();
    let found = names.iter().find(|(name, _)| *name == declared || *name == base);
    found.map_or(Holds::Anything, |(_, holds)| *holds)
}

const fn misfit(
    holds: Holds,
    kinds: &'static [ColumnType],
    becomes: &'static str,
    key_becomes: &'static str,
) -> Misfit {
    Misfit { holds, kinds, becomes, key_becomes: Some(key_becomes) }
}

/// What a number cannot be.
const WORDS: &[ColumnType] = &[Text, Enum, Time, Object, Array];
const NO_INTEGERS: &[ColumnType] = &[Text, Enum, Time, Boolean, Object, Array];
const NO_BOOLEANS: &[ColumnType] = &[Text, Enum, Time, Integer, Number, Object, Array];
const NO_TIMES: &[ColumnType] = &[Text, Enum, Boolean, Integer, Number, Object, Array];
const NO_JSON: &[ColumnType] = &[Text, Enum, Time, Boolean, Integer, Number];
const TEXTS: &[ColumnType] = &[Text, Enum];
const LONG: &[ColumnType] = &[Text, Object, Array];
const NUMBERS: &[ColumnType] = &[Number];
const INTEGERS: &[ColumnType] = &[Integer];

/// As `format_type` writes them, and as EDS does.
pub const POSTGRES_TYPES: TypeNames = &[
    ("bigint", Holds::Integer),
    ("integer", Holds::Integer),
    ("smallint", Holds::Integer),
    ("numeric", Holds::Decimal),
    ("double precision", Holds::Float),
    ("real", Holds::Float),
    ("boolean", Holds::Boolean),
    ("character varying(64)", Holds::Word),
    ("varchar(64)", Holds::Word),
    ("character varying", Holds::Text),
    ("text", Holds::Text),
    ("timestamp with time zone", Holds::Time),
    ("timestamp without time zone", Holds::Time),
    ("json", Holds::Json),
    ("jsonb", Holds::Json),
];

/// PostgreSQL converts nothing but numbers by itself, so these fail for any row, or are rounded.
/// NUMERIC holds every integer of 64 bits and every double.
pub const POSTGRES_MISFITS: &[Misfit] = &[
    misfit(Holds::Integer, NUMBERS, "NUMERIC", "NUMERIC"),
    misfit(Holds::Integer, NO_INTEGERS, "TEXT", "TEXT"),
    misfit(Holds::Float, INTEGERS, "NUMERIC", "NUMERIC"),
    misfit(Holds::Float, NO_INTEGERS, "TEXT", "TEXT"),
    misfit(Holds::Decimal, NO_INTEGERS, "TEXT", "TEXT"),
    misfit(Holds::Boolean, NO_BOOLEANS, "TEXT", "TEXT"),
    misfit(Holds::Time, NO_TIMES, "TEXT", "TEXT"),
    misfit(Holds::Json, NO_JSON, "TEXT", "TEXT"),
    // Only the catalog changes by that, no row.
    Misfit { holds: Holds::Word, kinds: LONG, becomes: "TEXT", key_becomes: None },
];

/// As `column_type` of information_schema has them, and as EDS writes them. TIMESTAMP and DATETIME
/// without fractions are not EDS's, and take texts that are dates.
pub const MYSQL_TYPES: TypeNames = &[
    ("tinyint(1)", Holds::Boolean),
    ("boolean", Holds::Boolean),
    ("tinyint", Holds::SmallInteger),
    ("smallint", Holds::SmallInteger),
    ("mediumint", Holds::SmallInteger),
    ("int", Holds::SmallInteger),
    ("bigint", Holds::Integer),
    ("decimal", Holds::Decimal),
    ("float", Holds::Float),
    ("double", Holds::Float),
    ("char", Holds::Text),
    ("varchar", Holds::Text),
    ("tinytext", Holds::Text),
    ("text", Holds::Text),
    ("mediumtext", Holds::Text),
    ("longtext", Holds::Text),
    ("datetime(6)", Holds::Time),
    ("json", Holds::Json),
];

const MYSQL_KEY: &str = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin";
const MARIADB_KEY: &str = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin";

const fn mysql_misfits(key: &'static str) -> [Misfit; 12] {
    [
        misfit(Holds::SmallInteger, NUMBERS, "DOUBLE", "DOUBLE"),
        misfit(Holds::SmallInteger, WORDS, "LONGTEXT", key),
        // No type of MySQL holds every integer of 64 bits and every double but text.
        misfit(Holds::Integer, NUMBERS, "LONGTEXT", key),
        misfit(Holds::Integer, WORDS, "LONGTEXT", key),
        misfit(Holds::Decimal, WORDS, "LONGTEXT", key),
        misfit(Holds::Float, WORDS, "LONGTEXT", key),
        misfit(Holds::Boolean, INTEGERS, "BIGINT", "BIGINT"),
        misfit(Holds::Boolean, NUMBERS, "DOUBLE", "DOUBLE"),
        misfit(Holds::Boolean, WORDS, "LONGTEXT", key),
        misfit(Holds::Time, NO_TIMES, "LONGTEXT", key),
        misfit(Holds::Json, TEXTS, "LONGTEXT", key),
        misfit(Holds::Json, &[Time], "LONGTEXT", key),
    ]
}

/// MySQL's.
pub const MYSQL_MISFITS: &[Misfit] = &mysql_misfits(MYSQL_KEY);
/// MariaDB's.
pub const MARIADB_MISFITS: &[Misfit] = &mysql_misfits(MARIADB_KEY);

/// As DATA_TYPE of INFORMATION_SCHEMA has them. Times are text, as EDS makes them; columns of
/// times take texts that are dates.
pub const SQLSERVER_TYPES: TypeNames = &[
    ("tinyint", Holds::SmallInteger),
    ("smallint", Holds::SmallInteger),
    ("int", Holds::SmallInteger),
    ("bigint", Holds::Integer),
    ("decimal", Holds::Decimal),
    ("numeric", Holds::Decimal),
    ("float", Holds::Float),
    ("real", Holds::Float),
    ("bit", Holds::Boolean),
    ("char", Holds::Text),
    ("nchar", Holds::Text),
    ("varchar", Holds::Text),
    ("nvarchar", Holds::Text),
    ("text", Holds::Text),
    ("ntext", Holds::Text),
];

const NVARCHAR: &str = "NVARCHAR(MAX)";
/// SQL Server's: no type holds every integer of 64 bits and every double but text.
pub const fn sqlserver_misfits(key: &'static str) -> [Misfit; 9] {
    [
        misfit(Holds::SmallInteger, NUMBERS, "FLOAT", "FLOAT"),
        misfit(Holds::SmallInteger, WORDS, NVARCHAR, key),
        misfit(Holds::Integer, NUMBERS, NVARCHAR, key),
        misfit(Holds::Integer, WORDS, NVARCHAR, key),
        misfit(Holds::Decimal, WORDS, NVARCHAR, key),
        misfit(Holds::Float, WORDS, NVARCHAR, key),
        misfit(Holds::Boolean, INTEGERS, "BIGINT", "BIGINT"),
        misfit(Holds::Boolean, NUMBERS, "FLOAT", "FLOAT"),
        misfit(Holds::Boolean, WORDS, NVARCHAR, key),
    ]
}

/// As `data_type` of information_schema has them, a NUMBER with its scale, and as EDS writes them.
pub const SNOWFLAKE_TYPES: TypeNames = &[
    ("number(0)", Holds::Integer),
    ("number", Holds::Decimal),
    ("float", Holds::Float),
    ("boolean", Holds::Boolean),
    ("text", Holds::Text),
    ("string", Holds::Text),
    ("integer", Holds::Integer),
    ("timestamp_ntz", Holds::Time),
];

/// Snowflake's: it converts what it can, and rounds numbers.
pub const SNOWFLAKE_MISFITS: &[Misfit] = &[
    misfit(Holds::Integer, NUMBERS, "STRING", "STRING"),
    misfit(Holds::Integer, NO_INTEGERS, "STRING", "STRING"),
    misfit(Holds::Decimal, NO_INTEGERS, "STRING", "STRING"),
    misfit(Holds::Float, NO_INTEGERS, "STRING", "STRING"),
    misfit(Holds::Boolean, NO_BOOLEANS, "STRING", "STRING"),
    misfit(Holds::Time, NO_TIMES, "STRING", "STRING"),
];

/// What SQLite makes of a declared type: any text, of which a part decides.
pub fn sqlite_holds(declared: &str) -> Holds {
    let parts: [(&str, Holds); 8] = [
        ("int", Holds::Integer),
        ("char", Holds::Text),
        ("clob", Holds::Text),
        ("text", Holds::Text),
        ("blob", Holds::Anything),
        ("real", Holds::Float),
        ("floa", Holds::Float),
        ("doub", Holds::Float),
    ];
    let declared = declared.to_lowercase();
    let found = parts.iter().find(|(part, _)| declared.contains(part));
    match found {
        Some((_, holds)) => *holds,
        None if declared.is_empty() => Holds::Anything,
        None => Holds::Decimal,
    }
}

/// SQLite keeps any value in any column, but makes numbers of texts that look like one, and
/// doubles of integers. NUMERIC keeps each as it is.
pub const SQLITE_MISFITS: &[Misfit] = &[
    misfit(Holds::Integer, TEXTS, "TEXT", "TEXT"),
    misfit(Holds::Decimal, TEXTS, "TEXT", "TEXT"),
    misfit(Holds::Float, TEXTS, "TEXT", "TEXT"),
    misfit(Holds::Float, INTEGERS, "NUMERIC", "NUMERIC"),
];

#[cfg(test)]
mod tests {
    use super::*;

    type Database = (fn(&str) -> Holds, &'static [Misfit]);

    fn databases() -> [Database; 6] {
        [
            (|t| holds(POSTGRES_TYPES, t), POSTGRES_MISFITS),
            (|t| holds(MYSQL_TYPES, t), MYSQL_MISFITS),
            (|t| holds(MYSQL_TYPES, t), MARIADB_MISFITS),
            (|t| holds(SQLSERVER_TYPES, t), &const { sqlserver_misfits("NVARCHAR(64)") }),
            (|t| holds(SNOWFLAKE_TYPES, t), SNOWFLAKE_MISFITS),
            (sqlite_holds, SQLITE_MISFITS),
        ]
    }

    #[test]
    fn types_are_known_by_their_names() {
        for (names, declared, expected) in [
            (POSTGRES_TYPES, "numeric(10,2)", Holds::Decimal),
            (POSTGRES_TYPES, "character varying(64)", Holds::Word),
            (POSTGRES_TYPES, "character varying(255)", Holds::Text),
            (POSTGRES_TYPES, "uuid", Holds::Anything),
            (MYSQL_TYPES, "tinyint(1)", Holds::Boolean),
            (MYSQL_TYPES, "tinyint(4)", Holds::SmallInteger),
            (MYSQL_TYPES, "bigint(20)", Holds::Integer),
            (MYSQL_TYPES, "datetime", Holds::Anything),
            (MYSQL_TYPES, "enum('a','b')", Holds::Anything),
            (SNOWFLAKE_TYPES, "NUMBER(2)", Holds::Decimal),
        ] {
            assert_eq!(holds(names, declared), expected, "{declared}");
        }
        assert_eq!(sqlite_holds("VARCHAR(64)"), Holds::Text);
        assert_eq!(sqlite_holds("DECIMAL(10,2)"), Holds::Decimal);
    }

    /// Whatever the order of versions, a column is widened a few times and then holds them all.
    #[test]
    fn a_widened_column_takes_both_and_is_not_made_narrow_again() {
        for (holds, misfits) in databases() {
            let fits = |contents: Holds, kind: ColumnType| {
                !misfits.iter().any(|m| m.holds == contents && m.kinds.contains(&kind))
            };
            for misfit in misfits {
                for to in [Some(misfit.becomes), misfit.key_becomes].into_iter().flatten() {
                    let wider = holds(to);
                    assert_ne!(wider, misfit.holds, "{misfit:?}");
                    assert!(misfit.kinds.iter().all(|kind| fits(wider, *kind)), "{misfit:?}");
                    let taken = ColumnType::ALL.into_iter().filter(|k| fits(misfit.holds, *k));
                    for kind in taken.filter(|k| *k != Boolean) {
                        assert!(fits(wider, kind), "{misfit:?} and {kind:?}");
                    }
                }
            }
        }
    }
}
