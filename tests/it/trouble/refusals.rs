//! A table refuses some of its rows: exactly those are dead letters, and everything around them
//! arrives, in that table and in the eleven others.

use serde_json::Value;

use super::TwelveTables;
use super::kinds::{
    MYSQL_REFUSALS, POSTGRES_REFUSALS, RowRefusal, SQLITE_REFUSALS, SQLSERVER_REFUSALS,
};
use super::source::row;
use crate::conformance::{Database, databases};
use crate::services::eds::Eds;
use crate::services::mysql::Flavour;

/// The keys of the rows of `t` that are dead letters, in the order of the stream.
fn dead_letters(eds: &Eds) -> Vec<String> {
    let key = |letter: &Value| {
        assert_eq!(letter["table"], "t", "{letter}");
        letter["key"][0].as_str().unwrap_or_default().to_owned()
    };
    eds.dead_letters().iter().map(key).collect()
}

/// Between other changes come three rows that the table refuses: two with the values of rows that
/// are there, one with that of a row of the same batch. All have keys of three digits.
async fn rows_are_refused(database: &dyn Database, refusal: &RowRefusal) {
    println!("{}", refusal.name);
    let mut life = TwelveTables::begin(database).await;
    database.run(refusal.begin).await;
    let [(_, first), (_, second)] = life.source.two_rows();
    let mut events = life.source.changes(life.round + 1);
    let winner = life.source.write("t", 77);
    let third = winner["after"]["n"].as_u64().unwrap_or_default();
    events.insert(20, row("t", 900, first));
    events.insert(40, row("t", 901, second));
    events.extend([winner, row("t", 902, third)]);
    life.source.send(&events).await;
    life.are_equal(database).await;
    life.goes_on(database).await;
    assert_eq!(dead_letters(&life.eds), ["900", "901", "902"]);

    // Over a crash nothing is refused again; and what comes once the refusal is gone arrives.
    let mut life = life.crash();
    database.run(refusal.end).await;
    let later = life.source.write("t", 900);
    life.source.send(&[later]).await;
    life.goes_on(database).await;
    life.are_equal(database).await;
    assert_eq!(dead_letters(&life.eds), ["900", "901", "902"]);
    let ended = life.running.stop();
    assert!(ended.status.success() && !ended.log.contains("is held"), "{}", ended.log);
}

macro_rules! refusals {
    ($($name:ident: $refusals:expr => $fresh:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            for refusal in $refusals {
                rows_are_refused(&$fresh.await, refusal).await;
            }
        })*
    };
}

refusals! {
    refused_rows_are_the_dead_letters_in_postgres:
        POSTGRES_REFUSALS => databases::PostgresCase::fresh();
    refused_rows_are_the_dead_letters_in_mysql:
        MYSQL_REFUSALS => databases::MySqlCase::fresh(Flavour::MySql);
    refused_rows_are_the_dead_letters_in_mariadb:
        MYSQL_REFUSALS => databases::MySqlCase::fresh(Flavour::MariaDb);
    refused_rows_are_the_dead_letters_in_sqlite: SQLITE_REFUSALS => databases::SqliteCase::fresh();
    refused_rows_are_the_dead_letters_in_sqlserver:
        SQLSERVER_REFUSALS => databases::SqlServerCase::fresh();
}
