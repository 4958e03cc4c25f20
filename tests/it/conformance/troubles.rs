//! Troubles of one table, made on real servers: the failure names the table and says what it is,
//! and another table is written by the same connection meanwhile, which meets the cure, too.

use eds::change::Position;
use eds::destination::{Claim, Destination, Failure, FailureKind, Migration};
use mysql_async::prelude::Queryable;
use serde_json::{Map, Value, json};

use super::Database;
use super::databases::{MySqlCase, PostgresCase, SqliteCase};
use super::promises::{Process, at, batch, ok, parse};
use crate::services::eds::{schema, upsert};
use crate::services::mysql::{self, Flavour};
use crate::services::{fresh, postgres};

/// A trouble of the table `t` that has the columns `id`, `n` and `ref`; `p` is for its parent.
struct Trouble {
    /// How it is made.
    made: &'static str,
    cured: &'static str,
    kind: FailureKind,
    codes: &'static [&'static str],
}

const POSTGRES: &[Trouble] = &[
    Trouble {
        made: "CREATE TABLE p (id text PRIMARY KEY); \
               ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (ref) REFERENCES p (id)",
        cured: "INSERT INTO p VALUES ('x')",
        kind: FailureKind::TableUnavailable,
        codes: &["23503"],
    },
    Trouble {
        made: "ALTER TABLE t DROP CONSTRAINT f; ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (ref) \
               REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED; DELETE FROM t; DELETE FROM p",
        cured: "INSERT INTO p VALUES ('x')",
        kind: FailureKind::TableUnavailable,
        codes: &["23503"],
    },
    Trouble {
        made: "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'secret'; \
               END $$; CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()",
        cured: "DROP TRIGGER no ON t; DROP FUNCTION no",
        kind: FailureKind::Rejected,
        codes: &["P0001"],
    },
    Trouble {
        made: "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'secret' \
               USING ERRCODE = 'ZZ001'; END $$; \
               CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()",
        cured: "DROP TRIGGER no ON t; DROP FUNCTION no",
        kind: FailureKind::Rejected,
        codes: &["ZZ001"],
    },
    Trouble {
        made: "ALTER TABLE t ALTER COLUMN n SET NOT NULL",
        cured: "ALTER TABLE t ALTER COLUMN n DROP NOT NULL",
        kind: FailureKind::SchemaMismatch,
        codes: &["23502"],
    },
    Trouble {
        made: "ALTER TABLE t ADD CONSTRAINT c CHECK (n IS NOT NULL)",
        cured: "ALTER TABLE t DROP CONSTRAINT c",
        kind: FailureKind::Rejected,
        codes: &["23514"],
    },
    Trouble {
        made: "ALTER TABLE t DROP CONSTRAINT t_pkey",
        cured: "ALTER TABLE t ADD PRIMARY KEY (id)",
        kind: FailureKind::TableUnavailable,
        codes: &["42P10"],
    },
    Trouble {
        made: "ALTER TABLE t DROP CONSTRAINT f; \
               ALTER TABLE t ALTER COLUMN ref TYPE uuid USING NULL",
        cured: "ALTER TABLE t ALTER COLUMN ref TYPE text",
        kind: FailureKind::TableUnavailable,
        codes: &["42804"],
    },
    Trouble {
        made: "ALTER TABLE t RENAME TO away",
        cured: "ALTER TABLE away RENAME TO t",
        kind: FailureKind::SchemaMismatch,
        codes: &["42P01"],
    },
    Trouble {
        made: "ALTER TABLE t RENAME TO away; CREATE VIEW t AS SELECT DISTINCT * FROM away",
        cured: "DROP VIEW t; ALTER TABLE away RENAME TO t",
        kind: FailureKind::TableUnavailable,
        codes: &["42P10", "55000"],
    },
];

const MYSQL: &[Trouble] = &[
    Trouble {
        made: "CREATE TABLE p LIKE t; ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES p \
               (id)",
        cured: "INSERT INTO p (id) VALUES ('a')",
        kind: FailureKind::TableUnavailable,
        codes: &["1452"],
    },
    Trouble {
        made: "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW SIGNAL SQLSTATE '45000' SET \
               MESSAGE_TEXT = 'secret'",
        cured: "DROP TRIGGER no",
        kind: FailureKind::Rejected,
        codes: &["1644"],
    },
    Trouble {
        made: "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW SIGNAL SQLSTATE '45000' SET \
               MESSAGE_TEXT = 'secret', MYSQL_ERRNO = 5001",
        cured: "DROP TRIGGER no",
        kind: FailureKind::Rejected,
        codes: &["5001"],
    },
    Trouble {
        made: "ALTER TABLE t MODIFY n BIGINT NOT NULL",
        cured: "ALTER TABLE t MODIFY n BIGINT NULL",
        kind: FailureKind::SchemaMismatch,
        codes: &["1048"],
    },
    Trouble {
        made: "ALTER TABLE t ADD CONSTRAINT c CHECK (n IS NOT NULL)",
        cured: "ALTER TABLE t DROP CONSTRAINT c",
        kind: FailureKind::Rejected,
        codes: &["3819", "4025"],
    },
    Trouble {
        made: "ALTER TABLE t DROP COLUMN ref; ALTER TABLE t ADD COLUMN ref VARCHAR(9) AS ('y')",
        cured: "ALTER TABLE t DROP COLUMN ref; ALTER TABLE t ADD COLUMN ref LONGTEXT",
        kind: FailureKind::TableUnavailable,
        codes: &["3105", "1906"],
    },
    Trouble {
        made: "RENAME TABLE t TO away",
        cured: "RENAME TABLE away TO t",
        kind: FailureKind::SchemaMismatch,
        codes: &["1146"],
    },
];

const SQLITE: &[Trouble] = &[
    Trouble {
        made: "CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'no'); END",
        cured: "DROP TRIGGER no",
        kind: FailureKind::Rejected,
        codes: &["1811"],
    },
    Trouble {
        made: "ALTER TABLE t RENAME TO away; CREATE VIEW t AS SELECT * FROM away",
        cured: "DROP VIEW t; ALTER TABLE away RENAME TO t",
        kind: FailureKind::SchemaMismatch,
        codes: &["missing"],
    },
];

/// The next batch of one row, which ends at the position behind `after`.
struct Writer {
    destination: Box<dyn Destination>,
    after: Option<Position>,
}

impl Writer {
    /// Makes the tables.
    async fn new(database: &dyn Database) -> Writer {
        let mut destination = Process::new(database).connect().await;
        ok(destination.checkpoint(Claim::Acquire).await);
        for table in ["t", "other"] {
            let schema = parse(&three_columns(table));
            ok(destination.migrate(&Migration::CreateTable(schema)).await);
        }
        Writer { destination, after: None }
    }

    /// Meets trouble with the table `t` that has this code, and writes the other table.
    async fn waits(&mut self, code: &str) {
        let failure = self.write("t").await;
        assert!(
            failure.as_ref().is_err_and(|failure| {
                failure.kind == FailureKind::TableUnavailable
                    && failure.has_code(code)
                    && failure.table.as_deref() == Some("t")
            }),
            "{failure:?}"
        );
        ok(self.write("other").await);
    }

    async fn write(&mut self, table: &str) -> Result<(), Failure> {
        let schema = parse(&three_columns(table));
        let through = at(self.after.map_or(0, |p| p.sequence) + 1);
        let row = upsert(table, "1", json!({"id": "a", "ref": "x"}));
        self.destination.apply(&batch(&schema, &[row], self.after, through)).await?;
        self.after = Some(through);
        Ok(())
    }
}

fn three_columns(table: &str) -> Value {
    schema(table, "1", json!({"n": {"type": "integer"}, "ref": {"type": "string"}}))
}

/// Makes each trouble, meets it, writes another table by the same connection, and cures it.
async fn are_told_apart(database: &dyn Database, troubles: &[Trouble], columns: usize) {
    let mut writer = Writer::new(database).await;
    for Trouble { made, cured, kind, codes } in troubles {
        let empty = format!("DELETE FROM {}", database.quoted("t"));
        for statement in [&*empty].into_iter().chain(statements(made)) {
            database.run(statement).await;
        }
        let Err(failure) = writer.write("t").await else { panic!("{made}: it was written") };
        let code = failure.code.clone().unwrap_or_default();
        assert!(failure.kind == *kind && codes.contains(&&*code), "{made}: {failure:?}");
        let is_known = failure.table.as_deref() == Some("t") || !failure.culprits.is_empty();
        assert!(is_known, "{made}: {failure:?}");
        assert!(!failure.text.contains("secret"), "{failure:?}");
        ok(writer.write("other").await);
        for statement in statements(cured) {
            database.run(statement).await;
        }
        ok(writer.destination.tables().await);
        ok(writer.write("t").await);
    }
    let names: Map<String, Value> =
        (0..columns).map(|n| (format!("c{n}"), json!({"type": "integer"}))).collect();
    let wide = parse(&schema("wide", "1", names.into()));
    let refused = writer.destination.migrate(&Migration::CreateTable(wide)).await;
    assert!(
        refused.as_ref().is_err_and(|failure| {
            failure.kind == FailureKind::TableUnavailable
                && failure.table.as_deref() == Some("wide")
                && failure.text.contains("columns")
        }),
        "{refused:?}"
    );
    ok(writer.write("other").await);
}

/// The statements of a text; those of a body between dollars or BEGIN and END stay together.
fn statements(text: &str) -> Vec<&str> {
    match text.contains("BEGIN") || text.contains("$$") {
        true => vec![text],
        false => text.split("; ").collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_postgres_are_told_apart() {
    are_told_apart(&PostgresCase::fresh().await, POSTGRES, 1_700).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_mysql_are_told_apart() {
    are_told_apart(&MySqlCase::fresh(Flavour::MySql).await, MYSQL, 1_100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_mariadb_are_told_apart() {
    are_told_apart(&MySqlCase::fresh(Flavour::MariaDb).await, MYSQL, 1_100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sqlite_are_told_apart() {
    are_told_apart(&SqliteCase::fresh().await, SQLITE, 2_001).await;
}

/// The last part of a URL.
fn name_of(database: &dyn Database) -> String {
    database.url().rsplit('/').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_postgres_is_of_one_table() {
    let database = PostgresCase::fresh().await;
    let mut writer = Writer::new(&database).await;
    let holder = postgres::shared().connect(&name_of(&database)).await;
    let locked = holder.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE").await;
    locked.unwrap_or_else(|e| panic!("{e}"));
    writer.waits("55P03").await;
    holder.batch_execute("COMMIT").await.unwrap_or_else(|e| panic!("{e}"));
    ok(writer.write("t").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_mysql_is_of_one_table() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let database = MySqlCase::fresh(flavour).await;
        let mut writer = Writer::new(&database).await;
        let mut holder = mysql::shared(flavour).connect(&name_of(&database)).await;
        ok(writer.write("t").await);
        for [lock, unlock] in [
            ["START TRANSACTION; SELECT * FROM t FOR UPDATE", "COMMIT"],
            ["LOCK TABLES t READ", "UNLOCK TABLES"],
        ] {
            for sql in statements(lock) {
                holder.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
            writer.waits("1205").await;
            holder.query_drop(unlock).await.unwrap_or_else(|e| panic!("{unlock}: {e}"));
            ok(writer.write("t").await);
        }
    }
}

/// Rows that a policy hides from EDS are no rows that it could delete: it says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_and_a_policy_are_of_one_table() {
    let database = PostgresCase::fresh().await;
    ok(Writer::new(&database).await.write("t").await);
    let role = fresh("role_");
    let granted = format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{}'; GRANT ALL ON SCHEMA public TO {role}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        postgres::PASSWORD
    );
    database.run(&granted).await;
    let mut process = Process::new(&database);
    process.url = process.url.replace("//postgres:", &format!("//{role}:"));
    let mut destination = process.connect().await;
    let after = ok(destination.checkpoint(Claim::Acquire).await);
    let mut writer = Writer { destination, after };
    for [made, cured] in [
        [format!("REVOKE INSERT ON t FROM {role}"), format!("GRANT INSERT ON t TO {role}")],
        [
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON t USING (n > 1)".into(),
            "ALTER TABLE t DISABLE ROW LEVEL SECURITY".into(),
        ],
    ] {
        database.run(&made).await;
        writer.waits("42501").await;
        database.run(&cured).await;
        ok(writer.write("t").await);
    }
}
