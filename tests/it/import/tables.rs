//! What an import does with the tables that are there: readers see the old rows or the new, and
//! what people have given to a table is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::services::hq::{Importing, said};
use crate::services::mysql::{self, Flavour};
use crate::services::postgres;
use crate::services::scene::{Keeper, assert_equal};
use tokio_postgres::Client;

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client
        .query(sql, &[])
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
        .iter()
        .map(|row| row.get(0))
        .collect()
}

fn changes(importing: &Importing, events: u32) {
    let mut shop = importing.shop.lock().unwrap_or_else(|e| panic!("{e}"));
    (0..events).for_each(|_| drop(shop.next_event()));
}

/// A reader that counts all the time never sees fewer rows than before, nor a table that is not
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_table_half_loaded() {
    let server = postgres::shared();
    let (database, url) = server.fresh().await;
    let importing = Importing::new(21, 3_000, 200).await;
    importing.import(&url, &[]).await;
    let orders = importing.shop().alive(2).count() as i64;
    {
        // Only more orders, none fewer.
        let mut shop = importing.shop.lock().unwrap_or_else(|e| panic!("{e}"));
        (0..500).for_each(|_| drop(shop.insert_into("order")));
    }
    let ended = Arc::new(AtomicBool::new(false));
    let reader = {
        let (client, ended) = (server.connect(&database).await, ended.clone());
        tokio::spawn(async move {
            let (mut reads, mut least) = (0, i64::MAX);
            while !ended.load(Ordering::Acquire) {
                let count: i64 = client
                    .query_one("SELECT count(*) FROM \"order\"", &[])
                    .await
                    .unwrap_or_else(|e| panic!("{e}"))
                    .get(0);
                (reads, least) = (reads + 1, least.min(count));
            }
            (reads, least)
        })
    };
    for _ in 0..3 {
        importing.import(&url, &[]).await;
    }
    ended.store(true, Ordering::Release);
    let (reads, least) = reader.await.unwrap_or_else(|e| panic!("{e}"));
    assert!(reads > 20 && least >= orders, "{reads} reads saw at least {least} of {orders} orders");
    assert_equal(&importing.shop(), server, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_rights_and_comments_survive_in_postgres() {
    let server = postgres::shared();
    let (database, url) = server.fresh().await;
    let importing = Importing::new(22, 1_500, 300).await;
    importing.import(&url, &[]).await;
    let client = server.connect(&database).await;
    run(&client, "DROP ROLE IF EXISTS import_reader; CREATE ROLE import_reader").await;
    run(
        &client,
        "CREATE INDEX \"by Company\" ON \"order\" (\"companyId\", number DESC) WHERE number > 5; \
         CREATE UNIQUE INDEX ids ON \"order\" USING btree (id, \"companyId\"); \
         GRANT SELECT ON \"order\" TO import_reader WITH GRANT OPTION; COMMENT ON TABLE \"order\" \
         IS 'it''s ours'; COMMENT ON COLUMN \"order\".number IS 'no $1'; \
         ALTER TABLE \"order\" SET (fillfactor = 70)",
    )
    .await;
    let about = "SELECT coalesce(array_to_string(relacl, ';'), '') || \
                 coalesce(obj_description(oid), '') || coalesce(array_to_string(reloptions, ';'), \
                 '') || coalesce(col_description(oid, \
                 (SELECT attnum FROM pg_attribute WHERE attrelid = c.oid AND attname = 'number')), \
                 '') FROM pg_class c WHERE relname = 'order'";
    let indexes = "SELECT indexdef FROM pg_indexes WHERE tablename = 'order' ORDER BY 1";
    let before = (texts(&client, about).await, texts(&client, indexes).await);
    let oid = "SELECT oid::text FROM pg_class WHERE relname = 'order'";
    let old = texts(&client, oid).await;
    changes(&importing, 500);
    importing.import(&url, &[]).await;
    assert_ne!(texts(&client, oid).await, old, "the table was exchanged");
    assert_eq!((texts(&client, about).await, texts(&client, indexes).await), before);
    assert_equal(&importing.shop(), server, &database).await;
    assert_eq!(
        texts(
            &client,
            "SELECT relname::text FROM pg_class WHERE relname LIKE \
                               '\\_eds\\_new%' OR relname LIKE '\\_eds\\_old%'"
        )
        .await,
        [""; 0]
    );
}

/// Views, foreign keys, columns and triggers of people keep a table in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_others_depend_on_stays_in_postgres() {
    let server = postgres::shared();
    let (database, url) = server.fresh().await;
    let importing = Importing::new(23, 1_500, 300).await;
    importing.import(&url, &[]).await;
    let client = server.connect(&database).await;
    run(
        &client,
        "CREATE VIEW paid AS SELECT id FROM \"order\" WHERE paid; ALTER TABLE customer ADD COLUMN \
         ours text DEFAULT 'mine'; \
         CREATE TABLE favourite (id text REFERENCES vehicle (id) ON DELETE CASCADE); \
         CREATE FUNCTION payments() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM \
         payment; END",
    )
    .await;
    run(&client, "UPDATE customer SET ours = 'kept'").await;
    let oids = "SELECT oid::text FROM pg_class WHERE relname IN ('order', 'customer', 'vehicle') \
                ORDER BY relname";
    let old = texts(&client, oids).await;
    changes(&importing, 600);
    let said = importing.import(&url, &[]).await;
    assert!(
        said.contains("\"order\" stays, and its rows are replaced: the view paid depends on it"),
        "{said}"
    );
    assert!(
        said.contains("\"customer\" stays")
            && said.contains("(ours)")
            && said.contains("the foreign key favourite_id_fkey of favourite refers to it"),
        "{said}"
    );
    assert!(
        said.contains(
            "\"payment\" stays, and its rows are replaced: function payments() depends on it"
        ),
        "{said}"
    );
    assert_eq!(texts(&client, oids).await, old);
    run(&client, "SELECT * FROM paid; ALTER TABLE customer ALTER COLUMN ours DROP DEFAULT").await;
    let kept = texts(&client, "SELECT count(*)::text FROM customer WHERE ours = 'kept'").await;
    assert_ne!(kept, ["0"]);
    // What people added is no column of the shop's.
    run(&client, "ALTER TABLE customer DROP COLUMN ours").await;
    assert_equal(&importing.shop(), server, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_survive_and_triggers_keep_the_table_in_mysql() {
    use mysql_async::prelude::Queryable;
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let server = mysql::shared(flavour);
        let (database, url) = server.fresh().await;
        server.allow_imports(&database).await;
        let importing = Importing::new(24, 1_500, 300).await;
        importing.import(&url, &[]).await;
        let mut root = server.connect(&database).await;
        for sql in [
            "CREATE INDEX by_number ON `order` (`number`, `name`(20))",
            "CREATE VIEW paid AS SELECT id FROM `order` WHERE paid",
            "CREATE TABLE log (id VARCHAR(64))",
            "CREATE TRIGGER noted AFTER UPDATE ON customer FOR EACH ROW INSERT INTO log \
             VALUES (NEW.id)",
        ] {
            root.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        changes(&importing, 600);
        let said = importing.import(&url, &[]).await;
        assert!(
            said.contains(
                "\"customer\" stays, and its rows are replaced: it has the trigger noted"
            ) && !said.contains("\"order\" stays"),
            "{said}"
        );
        let sql = "SELECT GROUP_CONCAT(column_name ORDER BY seq_in_index) FROM \
                   information_schema.statistics WHERE table_schema = DATABASE() AND table_name = \
                   'order' AND index_name = 'by_number'";
        assert_eq!(
            root.query_first::<Option<String>, _>(sql).await.ok().flatten().flatten().as_deref(),
            Some("number,name")
        );
        let seen: Option<i64> =
            root.query_first("SELECT COUNT(*) FROM paid").await.unwrap_or_else(|e| panic!("{e}"));
        assert!(seen.is_some_and(|n| n > 0));
        assert_equal(&importing.shop(), server, &database).await;
    }
}

/// A table of that name that EDS did not make is left alone, unless the user says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_somebody_else_is_not_replaced() {
    let server = postgres::shared();
    let (database, url) = server.fresh().await;
    let client = server.connect(&database).await;
    run(
        &client,
        "CREATE TABLE \"order\" (id text PRIMARY KEY, mine text); INSERT INTO \"order\" \
                  VALUES ('1', 'x')",
    )
    .await;
    let importing = Importing::new(25, 500, 300).await;
    let output = importing.run(&url, &[]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("table \"order\" that EDS did not make"), "{}", said(&output));
    assert_eq!(texts(&client, "SELECT mine FROM \"order\"").await, ["x"]);
}

/// Rows that came twice, in files of different times: one of each is kept, whichever way the
/// database finds them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_came_twice_are_there_once() {
    let importing = Importing::new(26, 1_500, 300).await;
    let dir = importing.dir.path().join("files");
    let choice = eds::sandbox::export::Choice::default();
    for _ in 0..2 {
        eds::sandbox::export::write(&importing.shop(), &dir, &choice, 200)
            .unwrap_or_else(|e| panic!("{e}"));
        // Time passes, and nothing changes: repeats of what was sent before.
        let mut shop = importing.shop.lock().unwrap_or_else(|e| panic!("{e}"));
        let alive = shop.alive(0).count();
        shop.pass_time();
        assert_eq!(shop.alive(0).count(), alive);
    }
    let dir = dir.display().to_string();
    let mysql = mysql::shared(Flavour::MySql);
    for server in [postgres::shared() as &dyn Keeper, mysql] {
        let (database, url) = server.fresh().await;
        server.allow_imports(&database).await;
        importing.import(&url, &["--dir", &dir]).await;
        assert_equal(&importing.shop(), server, &database).await;
    }
}
