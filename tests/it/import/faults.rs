//! What may go wrong with an import: kills, HQ's troubles, bad files; the old tables stay until all
//! is well.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use eds::sandbox::hq::Faults;
use eds::sandbox::shop::{Shop, ShopOptions};
use tokio::time::sleep;

use super::{equal_in_sqlite, sqlite};
use crate::services::hq::{Importing, KEY, said};
use crate::services::mysql::{Flavour, MySql};
use crate::services::postgres::Postgres;
use crate::services::scene::{Keeper, assert_equal};

/// A shop of this many orders, and some rows of all other tables.
fn filled(orders: usize) -> Shop {
    let mut shop = Shop::new(11, ShopOptions::default());
    let names: Vec<&str> = shop.tables.iter().map(|t| t.name).collect();
    names.iter().for_each(|name| shop.fill(name, if *name == "order" { orders } else { 500 }));
    shop
}

/// Whether the state file knows of an import that has not ended.
fn has_begun(importing: &Importing) -> bool {
    let state = rusqlite::Connection::open(importing.data_dir().join("eds-state.db"));
    let count = |db: &rusqlite::Connection| {
        db.query_row("SELECT count(*) FROM import", [], |row| row.get::<_, i64>(0))
    };
    state.is_ok_and(|db| count(&db).is_ok_and(|count| count > 0))
}

/// Kills an import nine times at random moments, and then until a kill has met one that had begun:
/// on a busy machine a start takes longer than the kill waits.
async fn kill_ten_times(
    importing: &Importing,
    url: &str,
    mut rng: fastrand::Rng,
    mut meanwhile: impl AsyncFnMut(u64),
) {
    for turn in 0..40 {
        let mut child = importing.start(url, &[]);
        if turn >= 9 {
            until_begun(importing, &mut child).await;
        }
        sleep(Duration::from_millis(rng.u64(100..1_300))).await;
        meanwhile(turn).await;
        let _ = child.kill();
        let _ = child.wait();
        if turn >= 9 && has_begun(importing) {
            return;
        }
    }
    panic!("none of 40 imports had begun when it was killed");
}

/// Waits until the import has begun, or has come to its end.
async fn until_begun(importing: &Importing, child: &mut Child) {
    let wait = Duration::from_secs(60);
    crate::services::eventually("an import begins", wait, async || {
        has_begun(importing) || !matches!(child.try_wait(), Ok(None))
    })
    .await;
}

/// Ten kills at random moments; then it ends well, and nothing came twice over the wire.
async fn survives_ten_kills(server: &mut dyn Keeper) {
    let (database, url) = server.fresh().await;
    server.allow_imports(&database).await;
    let importing = Importing::of(filled(12_000), 1_000).await;
    importing.hq.set_faults(Faults {
        job_takes: Duration::from_millis(300),
        slow: Duration::from_millis(100),
        ..Faults::default()
    });
    kill_ten_times(&importing, &url, fastrand::Rng::with_seed(5), async |turn| {
        if turn == 6 {
            server.stop();
            sleep(Duration::from_millis(300)).await;
            server.start_again().await;
            sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
    importing.hq.set_faults(Faults::default());
    let text = importing.import(&url, &[]).await;
    assert!(text.contains("resuming the interrupted import"), "{text}");
    assert_equal(&importing.shop(), server, &database).await;
    assert!(!text.contains("came twice"), "{text}");
    // A file that broke off is asked for from where it was; no file is asked for twice from its
    // beginning once it came.
    for (file, ranges) in importing.hq.downloads() {
        assert!(ranges.windows(2).all(|pair| pair[0] <= pair[1]), "{file}: {ranges:?}");
    }
    assert!(
        !importing.data_dir().read_dir().is_ok_and(|mut all| all
            .any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("import-")))),
        "nothing is left over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_survives_ten_kills_in_postgres() {
    survives_ten_kills(&mut Postgres::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_survives_ten_kills_in_mysql() {
    survives_ten_kills(&mut MySql::start(Flavour::MySql).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_survives_ten_kills_in_sqlite() {
    let importing = Importing::of(filled(12_000), 1_000).await;
    importing.hq.set_faults(Faults { slow: Duration::from_millis(100), ..Faults::default() });
    let (file, url) = sqlite(&importing);
    kill_ten_times(&importing, &url, fastrand::Rng::with_seed(6), async |_| {}).await;
    importing.hq.set_faults(Faults::default());
    let text = importing.import(&url, &[]).await;
    assert!(text.contains("resuming the interrupted import"), "{text}");
    equal_in_sqlite(&importing.shop(), &file);
}

/// Files that were loaded before the kill are not loaded again: the destination's own record says
/// how far it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_file_is_not_loaded_again() {
    let importing = Importing::of(filled(9_000), 500).await;
    let (file, url) = sqlite(&importing);
    let done = |path: &Path| -> Vec<(String, i64)> {
        let Ok(db) = rusqlite::Connection::open(path) else { return Vec::new() };
        let Ok(mut statement) = db.prepare(
            "SELECT file_name, lines_done FROM _eds_import_progress \
            WHERE is_done = 1 ORDER BY file_name",
        ) else {
            return Vec::new();
        };
        statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect)
            .unwrap_or_default()
    };
    importing.hq.set_faults(Faults { slow: Duration::from_millis(60), ..Faults::default() });
    let mut child = importing.start(&url, &[]);
    let mut before = Vec::new();
    for _ in 0..600 {
        before = done(&file);
        if before.len() >= 3 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(before.len() >= 3, "some files were loaded");
    before = done(&file);
    let rows: i64 = rusqlite::Connection::open(&file)
        .and_then(|db| {
            db.query_row("SELECT sum(rows_loaded) FROM _eds_import_progress", [], |row| row.get(0))
        })
        .unwrap_or_default();
    let text = importing.import(&url, &[]).await;
    let total: usize = (0..12).map(|table| importing.shop().alive(table).count()).sum();
    // The closing table counts all rows, and the rate only those of this run: none was loaded
    // again.
    assert!(text.contains(&format!("{total:>12}")), "{text}");
    assert!(rows > 0 && (rows as usize) < total);
    assert!(
        before.iter().all(|(name, _)| importing
            .hq
            .downloads()
            .get(name)
            .is_some_and(|ranges| ranges.len() == 1)),
        "a finished file is not downloaded again"
    );
    equal_in_sqlite(&importing.shop(), &file);
}

/// A second import into the same tables takes over; the first loads nothing more, and says why it
/// ends.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_imports_the_later_one_wins() {
    for server in [
        crate::services::postgres::shared() as &dyn Keeper,
        crate::services::mysql::shared(Flavour::MySql),
    ] {
        let (database, url) = server.fresh().await;
        server.allow_imports(&database).await;
        let importing = Importing::of(filled(6_000), 500).await;
        importing.hq.set_faults(Faults { slow: Duration::from_millis(150), ..Faults::default() });
        let mut first = importing.start(&url, &["-v"]);
        crate::services::eventually(
            "the first import loads",
            Duration::from_secs(60),
            async || {
                std::fs::read_to_string(importing.dir.path().join("log"))
                    .is_ok_and(|log| log.matches("loading 2").count() >= 2)
            },
        )
        .await;
        let other = importing.dir.path().join("other").display().to_string();
        importing.import(&url, &["--data-dir", &other]).await;
        let status = tokio::task::spawn_blocking(move || first.wait())
            .await
            .unwrap_or_else(|e| panic!("{e}"))
            .unwrap_or_else(|e| panic!("{e}"));
        let log = std::fs::read_to_string(importing.dir.path().join("log")).unwrap_or_default();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("another import into this destination has begun"), "{log}");
        assert_equal(&importing.shop(), server, &database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_and_expired_downloads_are_taken_up_again() {
    for ignores_ranges in [false, true] {
        let importing = Importing::new(8, 3_000, 400).await;
        let (file, url) = sqlite(&importing);
        importing.hq.set_faults(Faults {
            cut_downloads: 2,
            expired: true,
            unavailable: 3,
            ignores_ranges,
            ..Faults::default()
        });
        let text = importing.import(&url, &[]).await;
        equal_in_sqlite(&importing.shop(), &file);
        assert!(!text.contains("s3cret"), "{text}");
        let downloads = importing.hq.downloads();
        assert!(downloads.values().all(|ranges| ranges.len() == 3), "{downloads:?}");
        assert_eq!(downloads.values().any(|ranges| ranges[1] > 0), !ignores_ranges);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hq_refuses_is_said_and_nothing_is_touched() {
    let importing = Importing::new(8, 500, 400).await;
    let (file, url) = sqlite(&importing);
    importing.hq.set_faults(Faults { failing_tables: vec!["order".into()], ..Faults::default() });
    let output = importing.run(&url, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("the export of table \"order\" failed at HQ: the disk is full"),
        "{}",
        said(&output)
    );
    importing.hq.set_faults(Faults::default());
    // The failed job is over: the next run orders a new one.
    let output = importing.run(&url, &["--api-key", "wrong"]).await;
    assert!(said(&output).contains("invalid api key (401, request req-"), "{}", said(&output));
    assert!(!said(&output).contains(KEY));
    importing.import(&url, &[]).await;
    equal_in_sqlite(&importing.shop(), &file);
    let output = importing.run(&url, &["--job-id", "nobody"]).await;
    assert!(said(&output).contains("HQ does not know export job \"nobody\""), "{}", said(&output));
}

/// A directory with the files of a small export.
fn export_of(importing: &Importing) -> PathBuf {
    let dir = importing.dir.path().join("files");
    eds::sandbox::export::write(
        &importing.shop(),
        &dir,
        &eds::sandbox::export::Choice::default(),
        300,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    dir
}

fn named(dir: &Path, table: &str) -> PathBuf {
    let all =
        dir.read_dir().unwrap_or_else(|e| panic!("{e}")).filter_map(Result::ok).map(|e| e.path());
    all.filter(|p| p.to_string_lossy().contains(&format!("-{table}-")))
        .min()
        .unwrap_or_else(|| panic!("a file of {table}"))
}

fn gzip(lines: &[&str]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    lines.iter().for_each(|line| writeln!(out, "{line}").unwrap_or_else(|e| panic!("{e}")));
    out.finish().unwrap_or_else(|e| panic!("{e}"))
}

/// The files of an export that was imported well, one of which a test damages.
struct Damaged {
    importing: Importing,
    database: PathBuf,
    url: String,
    dir: PathBuf,
    /// The file of the payments, its name, what was in it, and its lines.
    payments: PathBuf,
    name: String,
    good: Vec<u8>,
    lines: Vec<String>,
}

impl Damaged {
    async fn new() -> Damaged {
        let importing = Importing::new(9, 2_000, 300).await;
        let (database, url) = sqlite(&importing);
        let dir = export_of(&importing);
        let payments = named(&dir, "payment");
        let name = payments.file_name().map(|n| n.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let good = std::fs::read(&payments).unwrap_or_else(|e| panic!("{e}"));
        let lines = lines_of(&good);
        let damaged = Damaged { importing, database, url, dir, payments, name, good, lines };
        damaged.succeeds(&[]).await;
        damaged
    }

    /// A line of a value that does not fit, and of columns that the schema lacks.
    fn unfit(&self) -> String {
        let much = "\"amountCents\":\"much\",\"x\":null,\"y\":";
        self.lines[0].replacen("\"amountCents\":", much, 1)
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["--dir", self.dir.to_str().unwrap_or_default()], more].concat()
    }

    /// An import that ends with this exit code; what it says.
    async fn fails(&self, code: i32, more: &[&str]) -> String {
        let output = self.importing.run(&self.url, &self.args(more)).await;
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        text
    }

    async fn succeeds(&self, more: &[&str]) -> String {
        self.importing.import(&self.url, &self.args(more)).await
    }

    fn assert_equal(&self) {
        equal_in_sqlite(&self.importing.shop(), &self.database);
    }
}

fn lines_of(gzip: &[u8]) -> Vec<String> {
    let reader = std::io::BufReader::new(flate2::read::GzDecoder::new(gzip));
    std::io::BufRead::lines(reader).collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}"))
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{e}"));
}

/// Each kind of bad line is named with file and number, the old rows stay; with the allowance, all
/// others arrive.
#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_named_and_left_out_only_where_allowed() {
    let export = Damaged::new().await;
    let unfit = export.unfit();
    let cases = [
        ("not json", "the line is not JSON at byte"),
        ("[]", "the line is not a JSON object"),
        ("{\"companyId\":\"c1\"}", "the row has no primary key"),
        (unfit.as_str(), "column \"amountCents\" is not an integer"),
    ];
    let place = format!("{}, line 3: ", export.name);
    for (line, why) in cases {
        let mut all: Vec<&str> = export.lines.iter().map(String::as_str).collect();
        all.insert(2, line);
        write(&export.payments, &gzip(&all));
        let text = export.fails(1, &[]).await;
        assert!(text.contains(&place) && text.contains(why), "{text}");
        export.assert_equal();
        let text = export.succeeds(&["--skip-bad-rows", "1"]).await;
        assert!(text.contains("Left out:") && text.contains(&place), "{text}");
        export.assert_equal();
    }
}

/// Where the user allows columns that the schema lacks, a value that does not fit is still named.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_is_named_among_ignored_columns() {
    let export = Damaged::new().await;
    write(&export.payments, &gzip(&[&export.lines[0], &export.unfit()]));
    let text = export.fails(1, &["--ignore-columns", "y"]).await;
    let expected =
        "line 2: table \"payment\": the value of column \"amountCents\" is not an integer";
    assert!(text.contains(expected), "{text}");
    export.assert_equal();
}

/// A file that breaks off is no bad row: no allowance covers it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_breaks_off_is_named() {
    let export = Damaged::new().await;
    write(&export.payments, &export.good[..export.good.len() - 20]);
    let text = export.fails(1, &["--skip-bad-rows", "1000"]).await;
    assert!(text.contains(&export.name) && text.contains("is damaged after line"), "{text}");
    export.assert_equal();
}

/// A file of a table that the schemas lack, and one whose name is not that of an export's file.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_strange_names_are_named() {
    let export = Damaged::new().await;
    let strange = export.dir.join(export.name.replace("-payment-", "-pamyent-"));
    write(&strange, &export.good);
    let text = export.fails(1, &[]).await;
    assert!(text.contains("is of table \"pamyent\", which the schemas lack"), "{text}");
    std::fs::rename(&strange, export.dir.join("payment.ndjson.gz"))
        .unwrap_or_else(|e| panic!("{e}"));
    let text = export.fails(3, &[]).await;
    assert!(text.contains("payment.ndjson.gz is not that of an export's file"), "{text}");
    export.assert_equal();
}

/// What only the database refuses is narrowed down to its line, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_is_found_among_many() {
    let server = crate::services::postgres::shared();
    let (database, url) = server.fresh().await;
    let importing = Importing::new(9, 3_000, 2_000).await;
    let dir = export_of(&importing);
    let customers = named(&dir, "vehicle");
    let good = std::fs::read(&customers).unwrap_or_else(|e| panic!("{e}"));
    let mut lines = lines_of(&good);
    let long = "x".repeat(100);
    let extra = lines[0].replacen("{\"id\":\"", "{\"id\":\"zz", 1);
    let at = extra.find("\"fuel\":\"").map_or(0, |at| at + 8);
    lines.insert(5, format!("{}{long}{}", &extra[..at], &extra[at..]));
    std::fs::write(&customers, gzip(&lines.iter().map(String::as_str).collect::<Vec<_>>()))
        .unwrap_or_else(|e| panic!("{e}"));
    let dir = dir.display().to_string();
    let output = importing.run(&url, &["--dir", &dir]).await;
    let text = said(&output);
    assert!(
        text.contains("line 6: ")
            && text.contains("too long for its column")
            && !text.contains(&long),
        "{text}"
    );
    let text = importing.import(&url, &["--dir", &dir, "--skip-bad-rows", "3"]).await;
    assert!(text.contains("line 6: "), "{text}");
    assert_equal(&importing.shop(), server, &database).await;
}
