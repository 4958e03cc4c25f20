//! A comparison of many rows while changes stream, beside the database's own client that reads the
//! same tables into nothing. What was changed by hand has to be found exactly, and repaired. Run by
//! `cargo x bench verify [ROWS]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eds::sandbox::export::{self, Choice};
use eds::sandbox::shop::{Shop, ShopOptions};
use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::cost::peak_mib;
use crate::figure;
use crate::services::eds::{Eds, binary, data_of};
use crate::services::mysql::{Flavour, MySql};
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::scene::{COMPANIES, Keeper, publish};

/// Changes that are published while rows are compared, in a second.
const CHANGES_PER_SECOND: u64 = 2_000;
/// So many are published at once.
const PUBLISHED_AT_ONCE: u64 = 200;
/// How much older the export is than what is published: the stream is beyond it at once.
const AGO_NS: u64 = 60_000_000_000;
const ROWS_PER_FILE: usize = 20_000;
/// What people change in `customer`: columns of 100 rows, and 50 rows fewer and 50 more.
const BY_HAND: [(&str, u64); 3] = [("different", 100), ("missing", 50), ("extra", 50)];

pub async fn bench(args: &[String]) {
    let rows = args.iter().find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    println!("{rows} rows; {CHANGES_PER_SECOND} changes a second stream meanwhile\n");
    println!(
        "| server | EDS rows/s | of reading into nothing | peak memory | changes meanwhile |\n| \
         --- | --- | --- | --- | --- |"
    );
    postgres(rows).await;
    mysql(rows).await;
}

async fn postgres(rows: usize) {
    let server = Postgres::start().await;
    let (database, url) = server.fresh().await;
    let mut compared = Compared::new(&url, rows).await;
    let cost = compared.nothing_is_found_while_changes_stream().await;
    let client = server.connect(&database).await;
    let own = compared.read("psql", |table| {
        vec![url.clone(), "-qc".into(), format!("SELECT * FROM \"{table}\"")]
    });
    compared.report("PostgreSQL", &cost, own);
    for sql in [
        "UPDATE customer SET \"companyId\" = 'another' WHERE id IN \
         (SELECT id FROM customer ORDER BY id OFFSET 1000 LIMIT 100)",
        "DELETE FROM customer WHERE id IN (SELECT id FROM customer ORDER BY id OFFSET 5000 LIMIT 50)",
        "CREATE TABLE more AS SELECT * FROM customer ORDER BY id OFFSET 9000 LIMIT 50",
        "UPDATE more SET id = concat('~', id)",
        "INSERT INTO customer SELECT * FROM more",
        "DROP TABLE more",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    compared.what_was_changed_by_hand_is_found_and_repaired();
}

async fn mysql(rows: usize) {
    let server = MySql::start(Flavour::MySql).await;
    let (database, url) = server.fresh().await;
    server.allow_imports(&database).await;
    let mut compared = Compared::new(&url, rows).await;
    let cost = compared.nothing_is_found_while_changes_stream().await;
    let port = server.port.to_string();
    let own = compared.read("mariadb", |table| {
        ["--skip-ssl", "-h", "127.0.0.1", "-P", &port, "-u", "root", "--quick", &database, "-e"]
            .into_iter()
            .map(str::to_owned)
            .chain([format!("SELECT * FROM `{table}`")])
            .collect()
    });
    compared.report("MySQL", &cost, own);
    let mut conn = server.connect(&database).await;
    for sql in [
        "UPDATE customer SET companyId = 'another' WHERE id IN \
         (SELECT id FROM (SELECT id FROM customer ORDER BY id LIMIT 1000, 100) x)",
        "DELETE FROM customer WHERE id IN \
         (SELECT id FROM (SELECT id FROM customer ORDER BY id LIMIT 5000, 50) x)",
        "CREATE TABLE more AS SELECT * FROM customer ORDER BY id LIMIT 9000, 50",
        "UPDATE more SET id = concat('~', id)",
        "INSERT INTO customer SELECT * FROM more",
        "DROP TABLE more",
    ] {
        conn.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    compared.what_was_changed_by_hand_is_found_and_repaired();
}

/// A shop, a destination that has its rows, and an `eds` between them.
struct Compared {
    nats: Nats,
    shop: Shop,
    eds: Eds,
    url: String,
    rows: usize,
}

/// What a comparison took, and how many changes were published meanwhile.
struct VerifyCost {
    seconds: f64,
    peak_mib: f64,
    changes: u64,
}

/// What `eds verify` found: rows of each kind.
#[derive(PartialEq, Debug)]
struct VerifyFound {
    code: Option<i32>,
    by_kind: BTreeMap<String, u64>,
    repaired: u64,
}

impl Compared {
    async fn new(url: &str, rows: usize) -> Compared {
        let nats = Nats::start().await;
        let mut shop = Shop::new(91, ShopOptions { rows: 2 * rows, repeats: 0 });
        let names: Vec<&str> = shop.tables.iter().map(|t| t.name).collect();
        let each = rows / names.len();
        names.into_iter().for_each(|name| shop.fill(name, each));
        shop.begin_now();
        let ago = shop.version().nanos - AGO_NS;
        shop.begin_at(ago);
        let creds = nats.server_creds("verify", COMPANIES, None);
        let eds = Eds::stream(&nats, &creds, url, &shop.schema_map());
        let mut compared = Compared { nats, shop, eds, url: url.to_owned(), rows };
        let export = compared.export("export-0");
        let imported = compared.command("import", &export, &["--no-confirm", "--silent"]).output();
        let imported = imported.unwrap_or_else(|e| panic!("{e}"));
        assert!(imported.status.success(), "{imported:?}");
        compared.eds.begin();
        publish(&compared.nats, &mut compared.shop, 3_000).await;
        compared.eds.catch_up();
        compared
    }

    /// The shop as it is now, as files.
    fn export(&self, name: &str) -> PathBuf {
        let dir = self.eds.data_dir().join(name);
        export::write(&self.shop, &dir, &Choice::default(), ROWS_PER_FILE)
            .unwrap_or_else(|e| panic!("{e}"));
        dir
    }

    fn command(&self, name: &str, export: &PathBuf, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.env("EDS_URL", &self.url).arg(name).arg("--dir").arg(export).arg("--schema");
        command.arg(self.eds.data_dir().with_file_name("schema.json"));
        command.arg("--data-dir").arg(self.eds.data_dir()).args(args);
        command
    }

    fn verify(&self, export: &PathBuf, args: &[&str]) -> Command {
        self.command("verify", export, &[&["--json", "--wait", "120s"], args].concat())
    }

    async fn nothing_is_found_while_changes_stream(&mut self) -> VerifyCost {
        let running = self.eds.start(&["--restart=false"]);
        running.until_log("streaming eds-", Duration::from_secs(60)).await;
        let export = self.export("export-1");
        let child = self
            .verify(&export, &[])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        let pid = child.id();
        let over = AtomicBool::new(false);
        let begun = Instant::now();
        let watched = std::thread::spawn(move || highest_peak_mib(pid));
        let waited = tokio::task::spawn_blocking(move || {
            let output = child.wait_with_output().unwrap_or_else(|e| panic!("{e}"));
            (output, begun.elapsed())
        });
        let shop = &mut self.shop;
        let nats = &self.nats;
        let changes = async {
            let mut changes = 0;
            while !over.load(Ordering::Relaxed) {
                publish(nats, shop, PUBLISHED_AT_ONCE).await;
                changes += PUBLISHED_AT_ONCE;
                let due = Duration::from_millis(changes * 1_000 / CHANGES_PER_SECOND);
                tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
            }
            changes
        };
        let ended = async {
            let ended = waited.await.unwrap_or_else(|e| panic!("{e}"));
            over.store(true, Ordering::Relaxed);
            ended
        };
        let ((output, took), changes) = tokio::join!(ended, changes);
        let peak_mib = watched.join().unwrap_or_default();
        let found = VerifyFound::of(output.status.code(), &output.stdout);
        assert_eq!((found.code, found.by_kind.len()), (Some(0), 0), "{found:?}");
        running.stop();
        self.eds.catch_up();
        VerifyCost { seconds: took.as_secs_f64(), peak_mib, changes }
    }

    fn what_was_changed_by_hand_is_found_and_repaired(&self) {
        let export = self.export("export-2");
        let found = |args: &[&str]| {
            let output = self.verify(&export, args).output().unwrap_or_else(|e| panic!("{e}"));
            VerifyFound::of(output.status.code(), &output.stdout)
        };
        let kinds: BTreeMap<String, u64> =
            BY_HAND.into_iter().map(|(kind, n)| (kind.to_owned(), n)).collect();
        let by_hand: u64 = kinds.values().sum();
        let nothing = VerifyFound { code: Some(0), by_kind: BTreeMap::new(), repaired: 0 };
        assert_eq!(found(&[]), VerifyFound { code: Some(1), by_kind: kinds, repaired: 0 });
        let repaired = found(&["--repair", "--delete-extra"]);
        assert_eq!((repaired.code, repaired.repaired), (Some(0), by_hand));
        assert_eq!(found(&[]), nothing);
    }

    /// Seconds that a client takes to read all tables into nothing.
    fn read(&self, program: &str, args: impl Fn(&str) -> Vec<String>) -> f64 {
        let begun = Instant::now();
        for table in &self.shop.tables {
            let read = Command::new(program).args(args(table.name)).stdout(Stdio::null()).status();
            assert!(read.is_ok_and(|status| status.success()), "{program}: {}", table.name);
        }
        begun.elapsed().as_secs_f64()
    }

    fn report(&self, server: &str, cost: &VerifyCost, own: f64) {
        let rate = |seconds: f64| self.rows as f64 / seconds;
        let what = format!("{server}, verify while {CHANGES_PER_SECOND} changes/s stream");
        let compared = (&*what, "SELECT * into nothing");
        figure::rates(compared, rate(cost.seconds), rate(own), Some(cost.peak_mib));
        println!(
            "| {server} | {:.0} | {:.2} of {:.0} | {:.0} MiB | {} |",
            rate(cost.seconds),
            own / cost.seconds,
            rate(own),
            cost.peak_mib,
            cost.changes
        );
    }
}

impl VerifyFound {
    fn of(code: Option<i32>, stdout: &[u8]) -> VerifyFound {
        let (differences, tables): (Vec<Value>, Vec<Value>) =
            data_of(stdout).into_iter().partition(|line| line["type"] == "difference");
        let mut by_kind = BTreeMap::new();
        for difference in differences {
            let kind = difference["what"].as_str().unwrap_or_default().to_owned();
            *by_kind.entry(kind).or_default() += 1;
        }
        let repaired = tables.iter().filter_map(|table| table["repaired"].as_u64()).sum();
        VerifyFound { code, by_kind, repaired }
    }
}

/// Waits for the end of a process; the most memory that it had.
fn highest_peak_mib(pid: u32) -> f64 {
    let mut highest = 0.0;
    loop {
        // It has none once it has ended.
        match peak_mib(pid) {
            0.0 => return highest,
            peak => highest = peak,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
