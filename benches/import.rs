//! A full export into each database, beside the database's own loader with the same rows as text;
//! every row is read back by a client of its own and compared by a checksum. Run by `cargo x bench
//! import [ORDERS] [SERVER …]`; all figures are of one run on one machine, so only the ratios mean
//! anything.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use eds::change::decode::ColumnOrder;
use eds::change::value::{self, Value};
use eds::change::{Decoder, TableSchema, json};
use eds::destination::sql::dialect::Dialect;
use eds::destination::sql::mysql::dialect::{MARIADB, MYSQL};
use eds::destination::sql::postgres::dialect::POSTGRES;
use eds::destination::sql::render::{Namespace, Renderer};
use eds::destination::sql::sqlite::SQLITE;
use eds::sandbox::check;
use eds::sandbox::export::{self, Choice};
use eds::sandbox::shop::{Shop, ShopOptions};
use futures::{StreamExt, pin_mut};
use tempfile::TempDir;

use crate::cost::peak_mib;
use crate::figure;
use crate::services::eds::binary;
use crate::services::mysql::{Flavour, MySql};
use crate::services::postgres::Postgres;

/// Rows of one file of the export.
const ROWS_PER_FILE: usize = 50_000;

struct Bench {
    dir: TempDir,
    shop: Shop,
    schemas: Vec<TableSchema>,
    rows: usize,
    /// Count and checksum of each table.
    expected: Vec<(usize, u64)>,
}

/// What a run of `eds` took.
struct ImportCost {
    seconds: f64,
    peak_mib: f64,
}

pub async fn bench(args: &[String]) {
    let orders: usize = args.iter().find_map(|a| a.parse().ok()).unwrap_or(200_000);
    let chosen = |name: &str| {
        args.iter().all(|a| a.parse::<usize>().is_ok()) || args.iter().any(|a| a == name)
    };
    let bench = Bench::new(orders);
    println!(
        "{orders} orders, {} rows of 12 tables in all; server and clients share this machine\n",
        bench.rows
    );
    println!(
        "| server | EDS rows/s | of its own loader | peak memory |\n| --- | --- | --- | --- |"
    );
    if chosen("postgres") {
        bench.postgres().await;
    }
    for (name, flavour) in [("mysql", Flavour::MySql), ("mariadb", Flavour::MariaDb)] {
        if chosen(name) {
            bench.mysql(flavour).await;
        }
    }
    if chosen("sqlite") {
        bench.sqlite().await;
    }
}

impl Bench {
    fn new(orders: usize) -> Bench {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let mut shop = Shop::new(1, ShopOptions::default());
        let names: Vec<&str> = shop.tables.iter().map(|t| t.name).collect();
        for name in names {
            shop.fill(name, if name == "order" { orders } else { orders / 50 });
        }
        export::write(&shop, &dir.path().join("export"), &Choice::default(), ROWS_PER_FILE)
            .unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(dir.path().join("schema.json"), shop.schema_map())
            .unwrap_or_else(|e| panic!("{e}"));
        let schemas = shop
            .schemas()
            .iter()
            .map(|json| TableSchema::parse(json).unwrap_or_else(|e| panic!("{e}")))
            .collect();
        let mut expected = Vec::new();
        for (index, table) in shop.tables.iter().enumerate() {
            let row = |(n, revision)| {
                check::fingerprint(
                    table,
                    &serde_json::from_str(&shop.row(index, n, revision))
                        .unwrap_or_else(|e| panic!("{e}")),
                )
            };
            expected.push(
                shop.alive(index)
                    .map(row)
                    .fold((0, 0u64), |(count, sum), print| (count + 1, sum.wrapping_add(print))),
            );
        }
        let rows = expected.iter().map(|(count, _)| count).sum();
        Bench { dir, shop, schemas, rows, expected }
    }

    fn report(&self, server: &str, cost: &ImportCost, own: f64) {
        let rate = |seconds: f64| self.rows as f64 / seconds;
        let what = format!("{server}, import");
        let compared = (&*what, "its own loader");
        figure::rates(compared, rate(cost.seconds), rate(own), Some(cost.peak_mib));
        println!(
            "| {server} | {:.0} | {:.2} of {:.0} | {:.0} MiB |",
            rate(cost.seconds),
            own / cost.seconds,
            rate(own),
            cost.peak_mib
        );
    }

    /// Runs the real binary from its start to its end.
    fn eds(&self, url: &str) -> ImportCost {
        let started = Instant::now();
        let data = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let mut child = Command::new(binary())
            .env("EDS_URL", url)
            .args(["import", "--no-confirm", "--silent", "--dir"])
            .arg(self.dir.path().join("export"))
            .arg("--schema")
            .arg(self.dir.path().join("schema.json"))
            .arg("--data-dir")
            .arg(data.path())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        let mut peak = 0f64;
        let status = loop {
            if let Ok(Some(status)) = child.try_wait() {
                break status;
            }
            peak = peak.max(peak_mib(child.id()));
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success());
        ImportCost { seconds: started.elapsed().as_secs_f64(), peak_mib: peak }
    }

    fn assert_equal(&self, found: &[(usize, u64)]) {
        for ((table, expected), found) in self.shop.tables.iter().zip(&self.expected).zip(found) {
            assert_eq!(found, expected, "{}: count and checksum", table.name);
        }
    }

    /// The rows of a table as tab separated text, in the form that COPY and LOAD DATA share.
    fn text(&self, index: usize, dialect: &Dialect) -> PathBuf {
        let path = self.dir.path().join("rows.txt");
        let mut out = BufWriter::with_capacity(
            1 << 20,
            File::create(&path).unwrap_or_else(|e| panic!("{e}")),
        );
        let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
        let schema = &self.schemas[index];
        let mut rows: Vec<(String, u64)> =
            self.shop.alive(index).map(|(n, _)| (self.shop.id(index, n), n)).collect();
        rows.sort_unstable();
        for (_, n) in rows {
            let event = decoder
                .decode_row(self.shop.row(index, n, 0).into())
                .unwrap_or_else(|e| panic!("{e}"));
            let (row, _) =
                decoder.row(&event, schema, &mut order).unwrap_or_else(|e| panic!("{e}"));
            let cells = row.iter().zip(&schema.columns).map(|(slot, column)| {
                cell(
                    &value::read(slot.present(event.payload()), column)
                        .unwrap_or_else(|e| panic!("{e}")),
                    dialect,
                )
            });
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("\t"))
                .unwrap_or_else(|e| panic!("{e}"));
        }
        out.flush().unwrap_or_else(|e| panic!("{e}"));
        path
    }

    async fn postgres(&self) {
        let server = Postgres::start().await;
        let (database, url) = server.database().await;
        let cost = self.eds(&url);
        let client = server.connect(&database).await;
        let mut found = Vec::new();
        for table in &self.shop.tables {
            let rows = client
                .query_raw(
                    &format!("SELECT to_jsonb(t)::text FROM \"{}\" t", table.name),
                    Vec::<String>::new(),
                )
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            pin_mut!(rows);
            let mut sum = (0, 0u64);
            while let Some(row) = rows.next().await {
                let text: String = row.map(|row| row.get(0)).unwrap_or_else(|e| panic!("{e}"));
                sum = (
                    sum.0 + 1,
                    sum.1.wrapping_add(check::fingerprint(
                        table,
                        &serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}")),
                    )),
                );
            }
            found.push(sum);
        }
        self.assert_equal(&found);
        client
            .batch_execute(
                &self
                    .shop
                    .tables
                    .iter()
                    .map(|t| format!("DROP TABLE \"{}\";", t.name))
                    .collect::<String>(),
            )
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        let renderer = Renderer::new(&POSTGRES, Namespace::default());
        let mut own = 0.0;
        for (index, schema) in self.schemas.iter().enumerate() {
            let text = self.text(index, &POSTGRES);
            client
                .batch_execute(&renderer.create_staged(schema, schema))
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            let columns = renderer.list(&schema.columns);
            let script = format!(
                "\\copy {} ({columns}) from '{}'\n{};\n",
                renderer.table(&schema.table),
                text.display(),
                renderer.add_key(schema)
            );
            own += timed("psql", &["-q", "-v", "ON_ERROR_STOP=1", &url], &script);
        }
        self.report("PostgreSQL", &cost, own);
    }

    async fn mysql(&self, flavour: Flavour) {
        use mysql_async::prelude::Queryable;
        let server = MySql::start(flavour).await;
        let (database, url) = server.database().await;
        crate::services::scene::Keeper::allow_imports(&server, &database).await;
        let cost = self.eds(&url);
        let mut conn = server.connect(&database).await;
        let mut found = Vec::new();
        for table in &self.shop.tables {
            let mut sum = (0, 0u64);
            let mut rows = conn
                .query_iter(format!("SELECT * FROM `{}`", table.name))
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            while let Some(row) = rows.next().await.unwrap_or_else(|e| panic!("{e}")) {
                sum = (
                    sum.0 + 1,
                    sum.1.wrapping_add(check::fingerprint(table, &check::mysql_row(table, &row))),
                );
            }
            found.push(sum);
        }
        self.assert_equal(&found);
        let dialect = if flavour == Flavour::MySql { &MYSQL } else { &MARIADB };
        let renderer = Renderer::new(dialect, Namespace::default());
        let mut own = 0.0;
        for (index, schema) in self.schemas.iter().enumerate() {
            let text = self.text(index, dialect);
            conn.query_drop(format!("DROP TABLE {}", renderer.table(&schema.table)))
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            conn.query_drop(renderer.create_table(schema)).await.unwrap_or_else(|e| panic!("{e}"));
            let (table, columns) = (renderer.table(&schema.table), renderer.list(&schema.columns));
            let script = format!(
                "LOAD DATA LOCAL INFILE '{}' INTO TABLE {table} CHARACTER SET utf8mb4 \
                 ({columns});\n",
                text.display()
            );
            let port = server.port.to_string();
            own += timed(
                "mariadb",
                &[
                    "--local-infile=1",
                    "--skip-ssl",
                    "-h",
                    "127.0.0.1",
                    "-P",
                    &port,
                    "-u",
                    "root",
                    &database,
                ],
                &script,
            );
        }
        self.report(dialect.name, &cost, own);
    }

    async fn sqlite(&self) {
        let file = self.dir.path().join("shop.db");
        let cost = self.eds(&format!("sqlite://{}", file.display()));
        let mut found = Vec::new();
        for (index, table) in self.shop.tables.iter().enumerate() {
            let mut sum = (0, 0u64);
            check::sqlite_rows(&self.shop, index, &file.display().to_string(), |row| {
                sum = (sum.0 + 1, sum.1.wrapping_add(check::fingerprint(table, &row)));
            })
            .unwrap_or_else(|e| panic!("{e}"));
            found.push(sum);
        }
        self.assert_equal(&found);
        let own = self.dir.path().join("own.db");
        let renderer = Renderer::new(&SQLITE, Namespace::default());
        let mut seconds = 0.0;
        for (index, schema) in self.schemas.iter().enumerate() {
            let text = self.text(index, &SQLITE);
            let create = renderer.create_table(schema).replace(" NOT NULL", "");
            let script = format!(
                "PRAGMA journal_mode = WAL;\nPRAGMA cache_size = -32768;\n{create};\n.mode \
                 tabs\n.import {} {}\n",
                text.display(),
                schema.table
            );
            seconds += timed("sqlite3", &[&own.display().to_string()], &script);
        }
        self.report("SQLite", &cost, seconds);
        let _ = std::fs::remove_file(own);
    }
}

/// Seconds that a program takes for a script.
fn timed(program: &str, args: &[&str], script: &str) -> f64 {
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    }
    let status = child.wait().unwrap_or_else(|e| panic!("{e}"));
    assert!(status.success(), "{program}");
    started.elapsed().as_secs_f64()
}

fn cell(value: &Value<'_>, dialect: &Dialect) -> String {
    let escaped = |text: &str| {
        text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
    };
    match value {
        Value::Null => "\\N".into(),
        Value::Boolean(b) => u8::from(*b).to_string(),
        Value::Integer(n) => n.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Text(text) => escaped(&text.replace('\0', "")),
        Value::Json(token) => escaped(&json::storable(token)),
        Value::Time(micros) if dialect.name == POSTGRES.name => value::rfc3339(*micros),
        Value::Time(micros) => value::rfc3339(*micros).trim_end_matches('Z').replace('T', " "),
    }
}
