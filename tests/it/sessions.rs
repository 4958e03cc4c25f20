//! Sessions are as EDS needs them, whatever the role's and the server's settings are: limits for
//! people, servers that only read for a while, logs of statements.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::json;

use crate::services::eds::{Eds, replay, schema, upsert};
use crate::services::eventually;
use crate::services::mysql::{self, Flavour, MySql};
use crate::services::nats::Nats;
use crate::services::postgres::{self, PASSWORD, Postgres};
use crate::services::scene::{COMPANIES, Keeper, assert_equal, publish};
use eds::sandbox::shop::{Shop, ShopOptions};

/// Sets a server so that it only reads, and back.
trait Demoted: Keeper {
    async fn only_reads(&self, only_reads: bool);
}

impl Demoted for Postgres {
    async fn only_reads(&self, only_reads: bool) {
        let client = self.connect("postgres").await;
        for sql in [
            format!("ALTER SYSTEM SET default_transaction_read_only = {only_reads}"),
            "SELECT pg_reload_conf()".to_owned(),
        ] {
            client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }
}

impl Demoted for MySql {
    async fn only_reads(&self, only_reads: bool) {
        let sql = format!("SET GLOBAL read_only = {only_reads}");
        self.connect("").await.query_drop(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

/// A server that only reads for a while, as one that was demoted: it is waited for, nothing becomes
/// a dead letter, and all is there in the end.
async fn is_waited_for(server: &impl Demoted, seed: u64, code: &str) {
    let (database, url) = server.fresh().await;
    let nats = Nats::start().await;
    let mut shop = Shop::new(seed, ShopOptions::default());
    let creds = nats.server_creds("demoted", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    publish(&nats, &mut shop, 500).await;
    eds.catch_up();
    let running = eds.start(&["--restart=false"]);
    running.until_streaming().await;
    server.only_reads(true).await;
    publish(&nats, &mut shop, 500).await;
    running.until_log(&format!("({code})"), Duration::from_secs(60)).await;
    server.only_reads(false).await;
    publish(&nats, &mut shop, 500).await;
    eventually("everything is applied", Duration::from_secs(120), async || {
        nats.consumer("eds-demoted").await.1 == 0 && nats.consumer("eds-demoted").await.0 == 0
    })
    .await;
    let ended = running.stop();
    assert!(eds.dead_letters().is_empty(), "{}", ended.log);
    assert_equal(&shop, server, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_only_reads_is_waited_for() {
    is_waited_for(&Postgres::start().await, 81, "25006").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_that_only_reads_is_waited_for() {
    is_waited_for(&MySql::start(Flavour::MariaDb).await, 82, "1290").await;
}

/// What an administrator sets for a role, so that people's sessions end, does not apply to EDS.
#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_role_do_not_apply() {
    let server = postgres::shared();
    let (name, url) = server.database().await;
    let admin = server.connect(&name).await;
    let limits = format!(
        "CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'; \
         ALTER ROLE {name} SET statement_timeout = '100ms'; \
         ALTER ROLE {name} SET standard_conforming_strings = off; \
         ALTER ROLE {name} SET idle_session_timeout = '100ms'; \
         CREATE SCHEMA mine AUTHORIZATION {name}"
    );
    admin.batch_execute(&limits).await.unwrap_or_else(|e| panic!("{e}"));
    let url = format!("{}?schema=mine", url.replace("//postgres:", &format!("//{name}:")));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let first = replay(&url, &schemas, &[upsert("t", "1", json!({"id": "a", "n": 1}))], &[]);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM \
                pg_sleep(0.3); RETURN NEW; END $$; \
                CREATE TRIGGER slow BEFORE INSERT ON mine.t FOR EACH ROW EXECUTE FUNCTION slow()";
    admin.batch_execute(slow).await.unwrap_or_else(|e| panic!("{e}"));
    let output = replay(&url, &schemas, &[upsert("t", "1", json!({"id": "b", "n": 1}))], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("trying again"), "{said}");
}

/// Servers whose defaults would have a text read as something else, or a log of statements that
/// does not go with READ COMMITTED.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_a_server_do_not_apply() {
    let settings = [
        "sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH",
        "default-time-zone=+09:00",
        "skip-character-set-client-handshake",
        "character-set-server=latin1",
        "explicit-defaults-for-timestamp=0",
        "max-statement-time=0.1",
        "log-bin",
        "binlog-format=STATEMENT",
    ];
    let server = MySql::start_with(Flavour::MariaDb, &settings).await;
    let (name, url) = server.database().await;
    let text = "back\\slash, 'quotes', \"more\", ü 部品 🚗";
    let schemas = json!({"t": schema("t", "1", json!({"text": {"type": "string"}, "at": {"type": "string", "format": "date-time"}}))});
    let row = json!({"id": text, "text": text, "at": "2024-07-11T21:16:51.7Z"});
    let output = replay(&url, &schemas, &[upsert("t", "1", row)], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut conn = server.connect(&name).await;
    conn.query_drop("SET NAMES utf8mb4").await.unwrap_or_else(|e| panic!("{e}"));
    let rows: Vec<(String, String, String)> = conn
        .query("SELECT id, text, CAST(at AS CHAR) FROM t")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let expected = (text.to_owned(), text.to_owned(), "2024-07-11 21:16:51.700000".to_owned());
    assert_eq!(rows, [expected]);
}

/// A user who must not create tables may write rows into those that exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_may_have_the_right_to_write_rows_only() {
    let server = postgres::shared();
    let (name, url) = server.database().await;
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let row = |id: &str| upsert("t", "1", json!({"id": id, "n": 1}));
    let role = format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'");
    let admin = server.connect(&name).await;
    admin.batch_execute(&role).await.unwrap_or_else(|e| panic!("{e}"));
    let poor = url.replace("//postgres:", &format!("//{name}:"));
    let output = replay(&poor, &schemas, &[row("a")], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && said.contains("permission denied"), "{said}");
    assert!(replay(&url, &schemas, &[row("a")], &[]).status.success());
    let rights =
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}");
    admin.batch_execute(&rights).await.unwrap_or_else(|e| panic!("{e}"));
    let output = replay(&poor, &schemas, &[row("b")], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = admin.query("SELECT id FROM t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.len(), 2);
}

/// 0 is a key like any other, also where the column counts by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_zero_stays_zero_in_mysql() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let server = mysql::shared(flavour);
        let (name, url) = server.database().await;
        let mut admin = server.connect(&name).await;
        let made = "CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, n BIGINT)";
        admin.query_drop(made).await.unwrap_or_else(|e| panic!("{e}"));
        let columns = json!({"id": {"type": "integer"}, "n": {"type": "integer"}});
        let schemas = json!({"t": schema("t", "1", columns)});
        let events = [1, 2].map(|n| upsert("t", "1", json!({"id": 0, "n": n})));
        for event in events {
            let output = replay(&url, &schemas, &[event], &["--adopt", "t"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let rows: Vec<(i64, i64)> =
            admin.query("SELECT id, n FROM t").await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rows, [(0, 2)], "{flavour:?}");
    }
}
