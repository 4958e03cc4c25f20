//! The troubles of a table, as SQL that makes them and takes them away.

use crate::conformance::Database;

/// Something that keeps table `t` from being written, or from taking a change.
pub struct TableTrouble {
    pub name: &'static str,
    begin: &'static [&'static str],
    end: &'static [&'static str],
    /// The table has to wait, and cannot be mended by EDS itself.
    pub holds: bool,
}

impl TableTrouble {
    const fn new(
        name: &'static str,
        begin: &'static [&'static str],
        end: &'static [&'static str],
    ) -> TableTrouble {
        TableTrouble { name, begin, end, holds: true }
    }

    /// EDS takes it away by itself.
    const fn mended(name: &'static str, begin: &'static [&'static str]) -> TableTrouble {
        TableTrouble { name, begin, end: &[], holds: false }
    }

    pub async fn begin(&self, database: &dyn Database) {
        for sql in self.begin {
            database.run(sql).await;
        }
    }

    pub async fn end(&self, database: &dyn Database) {
        for sql in self.end {
            database.run(sql).await;
        }
    }
}

pub const POSTGRES: &[TableTrouble] = &[
    TableTrouble::new(
        "renamed away",
        &["ALTER TABLE t RENAME TO elsewhere"],
        &["ALTER TABLE elsewhere RENAME TO t"],
    ),
    TableTrouble::new(
        "a right revoked",
        &["ALTER TABLE t OWNER TO postgres"],
        // The role has the name of the database.
        &["DO $$ BEGIN EXECUTE format('ALTER TABLE t OWNER TO %I', current_database()); END $$"],
    ),
    TableTrouble::new(
        "every row refused by a trigger that says it is busy",
        &[
            "CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS \
           'BEGIN RAISE EXCEPTION ''busy'' USING ERRCODE = ''55P03''; END'",
            "CREATE TRIGGER busy BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION busy()",
        ],
        &["DROP TRIGGER busy ON t"],
    ),
    TableTrouble::new(
        "a column of another type",
        &["ALTER TABLE t RENAME COLUMN n TO old", "ALTER TABLE t ADD COLUMN n uuid"],
        &["ALTER TABLE t DROP COLUMN n", "ALTER TABLE t RENAME COLUMN old TO n"],
    ),
    TableTrouble::mended(
        "not null added",
        &[
            "ALTER TABLE t ADD COLUMN o text NOT NULL DEFAULT ''",
            "ALTER TABLE t ALTER COLUMN o DROP DEFAULT",
        ],
    ),
];

pub const POSTGRES_TRIGGER: &str = "CREATE FUNCTION no_x() RETURNS trigger LANGUAGE plpgsql AS \
    'BEGIN IF NEW.id = ''x'' THEN RAISE EXCEPTION ''no''; END IF; RETURN NEW; END'; \
    CREATE TRIGGER no_x BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION no_x()";

pub const MYSQL: &[TableTrouble] = &[
    TableTrouble::new(
        "renamed away",
        &["RENAME TABLE t TO elsewhere"],
        &["RENAME TABLE elsewhere TO t"],
    ),
    TableTrouble::mended("not null added", &["ALTER TABLE t ADD COLUMN o int NOT NULL"]),
];

pub const MYSQL_TRIGGER: &str = "CREATE TRIGGER no_x BEFORE INSERT ON t FOR EACH ROW \
    BEGIN IF NEW.id = 'x' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF; END";

pub const SQLITE: &[TableTrouble] = &[TableTrouble::new(
    "renamed away",
    &["ALTER TABLE t RENAME TO elsewhere"],
    &["ALTER TABLE elsewhere RENAME TO t"],
)];

pub const SQLSERVER: &[TableTrouble] = &[TableTrouble::new(
    "renamed away",
    // The stand-in's file is SQLite's.
    &["ALTER TABLE t RENAME TO elsewhere"],
    &["ALTER TABLE elsewhere RENAME TO t"],
)];

pub const SNOWFLAKE: &[TableTrouble] = &[TableTrouble::new(
    "renamed away",
    &["ALTER TABLE \"t\" RENAME TO \"elsewhere\""],
    &["ALTER TABLE \"elsewhere\" RENAME TO \"t\""],
)];
