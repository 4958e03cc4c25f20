//! The Go program's place is taken: its state file, its form of consumer, its order of commands.

use std::path::Path;
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};

use crate::services::eds::Eds;
use crate::services::hq::Importing;
use crate::services::mysql::{Flavour, MySql};
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::scene::{COMPANIES, Keeper, Scene, publish};

/// Writes `eds-data.db` as BuntDB does, and a last command that was cut off.
fn write_predecessor(data_dir: &Path, entries: &[(&str, &str)]) {
    let part = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let set = |(key, value): &(&str, &str)| {
        format!("*3\r\n{}", [part("set"), part(key), part(value)].concat())
    };
    let log: String = entries.iter().map(set).collect();
    std::fs::create_dir_all(data_dir).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(data_dir.join("eds-data.db"), log + "*3\r\n$3\r\nset\r\n$12\r\ntable-")
        .unwrap_or_else(|e| panic!("{e}"));
}

/// With nothing but its import known, the stream is read since then, and what the predecessor has
/// left stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn its_import_says_since_when_to_read() {
    let mut scene = Scene::new("heir", 61).await;
    // Before the shop's first event.
    let export = r#"[{"Table":"order","Timestamp":"2020-01-01T00:00:00.5Z"}]"#;
    write_predecessor(&scene.eds.data_dir(), &[("table-export", "[]"), ("table-export", export)]);
    let before = std::fs::read(scene.eds.data_dir().join("eds-data.db")).ok();
    scene.publish(500).await;
    let log = scene.eds.catch_up();
    assert!(log.contains("taking over from the former program"), "{log}");
    scene.assert_equal().await;
    assert_eq!(std::fs::read(scene.eds.data_dir().join("eds-data.db")).ok(), before);
    scene.publish(100).await;
    let log = scene.eds.catch_up();
    assert!(!log.contains("taking over"), "{log}");
    scene.assert_equal().await;
}

/// A state file that cannot be read is not taken for none, which would lose everything until now.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_cannot_be_read_ends_the_start() {
    let scene = Scene::new("heirless", 62).await;
    std::fs::create_dir_all(scene.eds.data_dir()).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(scene.eds.data_dir().join("eds-data.db"), "no such form\r\n")
        .unwrap_or_else(|e| panic!("{e}"));
    let ended = scene.eds.start(&[]).wait(Duration::from_secs(30));
    assert!(
        ended.status.code() == Some(3) && ended.log.contains("--restart streams everything"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
}

/// As its own tests begin: a stream that allows one consumer, an import of the schema alone, then
/// the stream, stopped and started.
async fn schema_comes_before_the_stream(server: &dyn Keeper, name: &str) {
    let shop = Shop::new(63, ShopOptions { rows: 500, repeats: 0 });
    let importing = Importing::of(shop, 300).await;
    let nats = Nats::start().await;
    let creds = nats.server_creds(name, COMPANIES, None);
    let (database, url) = server.fresh().await;
    server.allow_imports(&database).await;
    importing.import(&url, &["--schema-only"]).await;
    let mut shop = importing.shop();
    // What happens, happens after the import.
    shop.begin_now();
    let data_dir = importing.data_dir().display().to_string();
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map()).with(&["--data-dir", &data_dir]);
    for round in 0..3 {
        publish(&nats, &mut shop, 400).await;
        eds.catch_up();
        let reports = server.reports(&shop, &database).await.unwrap_or_else(|e| panic!("{e}"));
        let wrong = reports.iter().find(|report| !report.is_equal());
        assert!(wrong.is_none(), "round {round}: {:?}", wrong.map(eds::sandbox::check::line));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_the_schema_comes_before_the_stream_into_postgres() {
    schema_comes_before_the_stream(&Postgres::start().await, "e2e-postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_the_schema_comes_before_the_stream_into_mysql() {
    schema_comes_before_the_stream(&MySql::start(Flavour::MySql).await, "e2e-mysql").await;
}
