//! The troubles of a table, as SQL that makes them and takes them away.

use crate::conformance::Database;

/// Something that keeps table `t` from being written, or from taking a change.
pub struct TableTrouble {
    pub name: &'static str,
    /// What EDS must not see half done is one text: it would make what is missing meanwhile.
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
        "another server that a trigger asks is away",
        &[
            "CREATE EXTENSION dblink",
            "CREATE FUNCTION far() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
           'BEGIN PERFORM dblink_connect(''host=127.0.0.1 port=1''); RETURN NEW; END'",
            "CREATE TRIGGER far BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION far()",
        ],
        &["DROP TRIGGER far ON t", "DROP FUNCTION far", "DROP EXTENSION dblink"],
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
        &["ALTER TABLE t RENAME COLUMN n TO old; ALTER TABLE t ADD COLUMN n uuid"],
        &["ALTER TABLE t DROP COLUMN n; ALTER TABLE t RENAME COLUMN old TO n"],
    ),
    TableTrouble::mended(
        "not null added",
        &[
            "ALTER TABLE t ADD COLUMN o text NOT NULL DEFAULT ''",
            "ALTER TABLE t ALTER COLUMN o DROP DEFAULT",
        ],
    ),
];

pub const MYSQL: &[TableTrouble] = &[
    TableTrouble::new(
        "renamed away",
        &["RENAME TABLE t TO elsewhere"],
        &["RENAME TABLE elsewhere TO t"],
    ),
    TableTrouble::new(
        "every row refused by a trigger that says it is busy",
        &["CREATE TRIGGER busy BEFORE INSERT ON t FOR EACH ROW SIGNAL SQLSTATE 'HY000' SET \
           MESSAGE_TEXT = 'busy', MYSQL_ERRNO = 1205"],
        &["DROP TRIGGER busy"],
    ),
    TableTrouble::new(
        "a column that is computed",
        &["ALTER TABLE t CHANGE n old BIGINT, ADD COLUMN n BIGINT AS (1)"],
        &["ALTER TABLE t DROP COLUMN n, CHANGE old n BIGINT"],
    ),
    TableTrouble::new(
        "a unique index, in which new rows are one",
        &[
            "ALTER TABLE t ADD COLUMN o INT",
            "ALTER TABLE t ADD UNIQUE one (o)",
            "ALTER TABLE t ALTER COLUMN o SET DEFAULT 1",
        ],
        &["ALTER TABLE t DROP INDEX one"],
    ),
    TableTrouble::mended("not null added", &["ALTER TABLE t ADD COLUMN o int NOT NULL"]),
];

pub const SQLITE: &[TableTrouble] = &[
    TableTrouble::new(
        "renamed away",
        &["ALTER TABLE t RENAME TO elsewhere"],
        &["ALTER TABLE elsewhere RENAME TO t"],
    ),
    TableTrouble::new(
        "a view in its place",
        &["BEGIN; ALTER TABLE t RENAME TO elsewhere; CREATE VIEW t AS SELECT * FROM elsewhere; \
           COMMIT"],
        &["BEGIN; DROP VIEW t; ALTER TABLE elsewhere RENAME TO t; COMMIT"],
    ),
];

/// The stand-in's file is SQLite's, whose triggers raise SQL Server's errors.
pub const SQLSERVER: &[TableTrouble] = &[
    TableTrouble::new(
        "renamed away",
        &["ALTER TABLE t RENAME TO elsewhere"],
        &["ALTER TABLE elsewhere RENAME TO t"],
    ),
    TableTrouble::new(
        "a view in its place",
        &["BEGIN; ALTER TABLE t RENAME TO elsewhere; CREATE VIEW t AS SELECT * FROM elsewhere; \
           COMMIT"],
        &["BEGIN; DROP VIEW t; ALTER TABLE elsewhere RENAME TO t; COMMIT"],
    ),
    TableTrouble::new(
        "a lock",
        &["CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, '1222: a lock'); \
           END"],
        &["DROP TRIGGER no"],
    ),
    TableTrouble::new(
        "a right revoked",
        &["CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, '229: denied'); \
           END"],
        &["DROP TRIGGER no"],
    ),
    TableTrouble::new(
        "a disk that is full",
        &["CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, '1105: no room'); \
           END"],
        &["DROP TRIGGER no"],
    ),
];

pub const SNOWFLAKE: &[TableTrouble] = &[TableTrouble::new(
    "renamed away",
    &["ALTER TABLE \"t\" RENAME TO \"elsewhere\""],
    &["ALTER TABLE \"elsewhere\" RENAME TO \"t\""],
)];

/// Something by which a table refuses the rows of which the keys have three digits, or of which
/// another row has the value.
pub struct RowRefusal {
    pub name: &'static str,
    pub begin: &'static str,
    pub end: &'static str,
}

/// MySQL's upsert would take the other row for the one that it writes, so there the table waits.
const UNIQUE: RowRefusal = RowRefusal {
    name: "a unique index",
    begin: "CREATE UNIQUE INDEX one ON t (n)",
    end: "DROP INDEX one",
};

pub const POSTGRES_REFUSALS: &[RowRefusal] = &[
    RowRefusal {
        name: "a trigger",
        begin: "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN IF NEW.id LIKE ''9__'' THEN RAISE ''no''; END IF; RETURN NEW; END'; \
                CREATE TRIGGER no BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION no()",
        end: "DROP TRIGGER no ON t",
    },
    RowRefusal {
        name: "a check",
        begin: "ALTER TABLE t ADD CONSTRAINT no CHECK (id NOT LIKE '9__')",
        end: "ALTER TABLE t DROP CONSTRAINT no",
    },
    UNIQUE,
];

pub const MYSQL_REFUSALS: &[RowRefusal] = &[
    RowRefusal {
        name: "a trigger",
        begin: "CREATE TRIGGER no_x BEFORE INSERT ON t FOR EACH ROW BEGIN IF NEW.id LIKE '9__' THEN \
                SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF; END",
        end: "DROP TRIGGER no_x",
    },
    RowRefusal {
        name: "a check",
        begin: "ALTER TABLE t ADD CONSTRAINT no_x CHECK (id NOT LIKE '9__')",
        end: "ALTER TABLE t DROP CONSTRAINT no_x",
    },
];

pub const SQLITE_REFUSALS: &[RowRefusal] = &[
    RowRefusal {
        name: "a trigger",
        begin: "CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.id LIKE '9__' BEGIN SELECT \
                RAISE(ABORT, 'no'); END",
        end: "DROP TRIGGER no",
    },
    UNIQUE,
];

pub const SQLSERVER_REFUSALS: &[RowRefusal] = &[
    RowRefusal {
        name: "a trigger",
        begin: "CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.id LIKE '9__' BEGIN SELECT \
                RAISE(ABORT, '50001: no'); END",
        end: "DROP TRIGGER no",
    },
    RowRefusal {
        name: "a check",
        begin: "CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.id LIKE '9__' BEGIN SELECT \
                RAISE(ABORT, '547: conflicted with the CHECK constraint'); END",
        end: "DROP TRIGGER no",
    },
    UNIQUE,
];
