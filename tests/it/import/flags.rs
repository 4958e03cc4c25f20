//! The flags of `eds import`, each for what it promises.

use std::collections::BTreeSet;
use std::path::Path;

use eds::sandbox::export::{self, Choice};
use eds::sandbox::hq::Faults;
use serde_json::Value;

use super::{equal_in_sqlite, sqlite};
use crate::services::eds::Eds;
use crate::services::hq::{Importing, KEY, said};
use crate::services::nats::Nats;
use crate::services::scene::COMPANIES;

fn count(file: &Path, table: &str) -> i64 {
    let db = rusqlite::Connection::open(file).unwrap_or_else(|e| panic!("{e}"));
    db.query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}"))
}

fn execute(file: &Path, sql: &str) {
    rusqlite::Connection::open(file)
        .and_then(|db| db.execute_batch(sql))
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_by_looking() {
    let importing = Importing::new(31, 1_000, 300).await;
    let (file, url) = sqlite(&importing);
    let text = importing.import(&url, &["--validate-only"]).await;
    assert!(text.contains("can be used"), "{text}");
    let output = importing.run("sqlite:///nowhere/at/all.db", &["--validate-only"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let text = importing.import(&url, &["--dry-run"]).await;
    assert!(text.contains("dry run: nothing was written") && text.contains("total"), "{text}");
    let db = rusqlite::Connection::open(&file).unwrap_or_else(|e| panic!("{e}"));
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(tables, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_only_creates_and_extends_and_drops_nothing() {
    let importing = Importing::new(32, 1_000, 300).await;
    let (file, url) = sqlite(&importing);
    importing.import(&url, &["--schema-only"]).await;
    assert_eq!(count(&file, "order"), 0);
    importing.import(&url, &[]).await;
    execute(&file, "ALTER TABLE payment DROP COLUMN amountCents");
    let orders = count(&file, "order");
    let text = importing.import(&url, &["--schema-only"]).await;
    assert!(text.contains("add to table \"payment\": amountCents"), "{text}");
    assert_eq!(count(&file, "order"), orders);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_and_companies_limit_and_no_delete_keeps() {
    let importing = Importing::new(33, 2_000, 300).await;
    let (file, url) = sqlite(&importing);
    importing.import(&url, &[]).await;
    let all = count(&file, "customer");
    execute(&file, "UPDATE customer SET firstName = 'changed here'; DELETE FROM \"order\"");
    let extra = "CREATE TEMP TABLE one AS SELECT * FROM customer LIMIT 1; UPDATE one SET id = \
                 'mine'; INSERT INTO customer SELECT * FROM one";
    execute(&file, extra);
    importing.import(&url, &["--only", "customer,vehicle", "--no-delete"]).await;
    assert_eq!((count(&file, "customer"), count(&file, "order")), (all + 1, 0));
    let changed = rusqlite::Connection::open(&file).and_then(|db| {
        db.query_row("SELECT count(*) FROM customer WHERE firstName = 'changed here'", [], |row| {
            row.get::<_, i64>(0)
        })
    });
    assert_eq!(changed.ok(), Some(1));
    let output = importing.run(&url, &["--only", "customer,nobody"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("--only names table \"nobody\""), "{}", said(&output));
    importing.import(&url, &["--companyIds", "c1", "--only", "customer"]).await;
    let db = rusqlite::Connection::open(&file).unwrap_or_else(|e| panic!("{e}"));
    let mut statement =
        db.prepare("SELECT DISTINCT companyId FROM customer").unwrap_or_else(|e| panic!("{e}"));
    let companies: Vec<String> = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(companies, ["c1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_rows_and_jobs_by_name_and_files_that_stay() {
    let importing = Importing::new(34, 6, 300).await;
    let (file, url) = sqlite(&importing);
    importing.import(&url, &["--no-cleanup"]).await;
    equal_in_sqlite(&importing.shop(), &file);
    let empty = (0..12).filter(|table| importing.shop().alive(*table).count() == 0).count();
    assert!(empty > 3);
    let tables = rusqlite::Connection::open(&file).and_then(|db| {
        db.query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND \
            name NOT LIKE '\\_eds%' ESCAPE '\\'",
            [],
            |r| r.get::<_, i64>(0),
        )
    });
    assert_eq!(tables.ok(), Some(12));
    let kept = importing
        .data_dir()
        .read_dir()
        .unwrap_or_else(|e| panic!("{e}"))
        .filter_map(Result::ok)
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .find(|n| n.starts_with("import-"));
    let kept = kept.unwrap_or_else(|| panic!("the files stay"));
    let job = kept.trim_start_matches("import-").trim_end_matches("-files");
    execute(&file, "DELETE FROM customer; DELETE FROM \"order\"");
    importing.import(&url, &["--job-id", job]).await;
    equal_in_sqlite(&importing.shop(), &file);
}

/// A directory with files of some tables: the others keep their rows, and are made where they are
/// not there.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_some_tables_leave_the_others_alone() {
    let importing = Importing::new(39, 1_000, 300).await;
    let (file, url) = sqlite(&importing);
    let dir = importing.dir.path().join("files");
    let choice = Choice { tables: vec!["order".into()], ..Choice::default() };
    export::write(&importing.shop(), &dir, &choice, 300).unwrap_or_else(|e| panic!("{e}"));
    let text = importing.import(&url, &["--dir", &dir.display().to_string()]).await;
    assert!(
        text.contains("the export has no files of these tables, whose rows stay: appointment, "),
        "{text}"
    );
    assert_eq!(
        (count(&file, "order"), count(&file, "customer")),
        (importing.shop().alive(2).count() as i64, 0)
    );
    importing.import(&url, &[]).await;
    let customers = count(&file, "customer");
    importing.import(&url, &["--dir", &dir.display().to_string()]).await;
    assert!(customers > 0 && count(&file, "customer") == customers);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_there_is_not_asked_and_secrets_are_not_shown() {
    let importing = Importing::new(35, 200, 300).await;
    let (file, url) = sqlite(&importing);
    let mut command = std::process::Command::new(crate::services::eds::binary());
    command
        .env("EDS_URL", &url)
        .env("SM_APIKEY", KEY)
        .stdin(std::process::Stdio::null())
        .args(["import", "--api-url", importing.hq.url(), "-d"])
        .arg(importing.data_dir());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap_or_else(|e| panic!("{e}"))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("--no-confirm says yes"), "{}", said(&output));
    let tables = rusqlite::Connection::open(&file).and_then(|db| {
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
    });
    assert_eq!(tables.ok(), Some(0));
    assert!(!said(&output).contains(KEY));
    // The key and the destination of an enrolled server, from its configuration.
    let data = importing.data_dir();
    std::fs::create_dir_all(&data).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(data.join("config.toml"), format!("token = \"{KEY}\"\nurl = \"{url}\"\n"))
        .unwrap_or_else(|e| panic!("{e}"));
    let mut command = std::process::Command::new(crate::services::eds::binary());
    command
        .env_remove("EDS_URL")
        .env_remove("SM_APIKEY")
        .args(["import", "--no-confirm=true", "--api-url", importing.hq.url(), "-d"])
        .arg(&data);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap_or_else(|e| panic!("{e}"))
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", said(&output));
    equal_in_sqlite(&importing.shop(), &file);
}

/// Other choices do not go on with an import that was cut off; to begin again is a choice of its
/// own.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_cut_off_is_not_mixed_with_another() {
    let importing = Importing::new(36, 2_000, 100).await;
    let (file, url) = sqlite(&importing);
    importing.hq.set_faults(Faults {
        job_takes: std::time::Duration::from_secs(3600),
        ..Faults::default()
    });
    let mut child = importing.start(&url, &[]);
    crate::services::eventually(
        "the job is ordered",
        std::time::Duration::from_secs(30),
        async || {
            std::fs::read_to_string(importing.dir.path().join("log"))
                .is_ok_and(|log| log.contains("is ordered"))
        },
    )
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    crate::services::send(child.id(), "TERM");
    let status = child.wait().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(1));
    importing.hq.set_faults(Faults::default());
    let output = importing.run(&url, &["--only", "order"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("--restart-import to start over"), "{}", said(&output));
    importing.import(&url, &["--only", "order", "--restart-import"]).await;
    assert_eq!(count(&file, "order"), importing.shop().alive(2).count() as i64);
}

/// A server that runs owns its data directory.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_beside_a_running_server_is_refused() {
    let importing = Importing::new(37, 200, 300).await;
    let (_, url) = sqlite(&importing);
    let nats = Nats::start().await;
    let creds = nats.server_creds("i37", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &importing.shop().schema_map());
    let running = eds.start(&["--restart"]);
    running.until_streaming().await;
    let output = importing.run(&url, &["--data-dir", &eds.data_dir().display().to_string()]).await;
    assert!(
        said(&output).contains(&format!("in use by another EDS (process {})", running.pid())),
        "{}",
        said(&output)
    );
}

/// Each row is an event where every change is kept; a second run into the same place changes
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn rows_become_events_in_files() {
    let importing = Importing::new(38, 400, 50).await;
    let folder = importing.dir.path().join("out");
    let url = format!("file://{}", folder.display());
    let dir = importing.dir.path().join("files");
    let written = export::write(&importing.shop(), &dir, &Choice::default(), 50)
        .unwrap_or_else(|e| panic!("{e}"));
    let dir = dir.display().to_string();
    let events = || -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for table in folder.read_dir().into_iter().flatten().flatten() {
            for file in table.path().read_dir().into_iter().flatten().flatten() {
                all.insert(std::fs::read_to_string(file.path()).unwrap_or_else(|e| panic!("{e}")));
            }
        }
        all
    };
    importing.import(&url, &["--dir", &dir]).await;
    let first = events();
    assert_eq!(first.len(), written.iter().map(|w| w.rows).sum::<usize>());
    for text in &first {
        let event: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(
            (&event["operation"], &event["imported"]),
            (&Value::from("INSERT"), &Value::from(true))
        );
        assert_eq!(event["companyId"], event["after"]["companyId"]);
        assert_eq!(
            (&event["key"][0], event.get("locationId").is_some()),
            (&event["after"]["id"], event["after"]["locationId"].is_string())
        );
    }
    importing.import(&url, &["--dir", &dir]).await;
    assert_eq!(events(), first);
    let mut list = std::process::Command::new(crate::services::eds::binary());
    let listed = list
        .args(["state", "list", "-d"])
        .arg(importing.data_dir())
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("table-export/order"), "{listed:?}");
}

/// The user's rules: what they do not want is neither loaded nor an error, and counted.
#[tokio::test(flavor = "multi_thread")]
async fn rules_choose_rows() {
    let importing = Importing::new(38, 2_000, 300).await;
    let (file, url) = sqlite(&importing);
    let rules = importing.dir.path().join("rules");
    std::fs::create_dir(&rules).unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, text: &str| {
        std::fs::write(rules.join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write("config.json", r#"{"order": {"schema": "order.json"}}"#);
    write(
        "order.json",
        r#"{"properties": {"operation": {"const": "INSERT"}, "after": {"$ref": "file:///row.json"}}, "required": ["after"]}"#,
    );
    write("row.json", r#"{"properties": {"id": {"pattern": "^[0-7]"}}}"#);
    let text = importing.import(&url, &["--schema-validator", &rules.display().to_string()]).await;
    let shop = importing.shop();
    let table = shop.tables.iter().position(|table| table.name == "order").unwrap_or_default();
    let all = shop.alive(table).count() as i64;
    let wanted = shop
        .alive(table)
        .filter(|(n, _)| shop.id(table, *n).starts_with(|c: char| ('0'..='7').contains(&c)))
        .count() as i64;
    assert!(wanted > 0 && wanted < all);
    assert_eq!((count(&file, "order"), count(&file, "customer")), (wanted, 0));
    let line = text.lines().find(|line| line.starts_with("order")).unwrap_or_default();
    assert!(line.split_whitespace().nth(2) == Some(&(all - wanted).to_string()), "{text}");
}
