//! `eds demo`: a shop that changes, streamed through the real pipeline, compared row by row at the
//! end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::args::DestinationArgs;
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
use crate::change::TableSchema;
use crate::change::filter::TableFilter;
use crate::destination::{Settings, StoredRow, Target};
use crate::help::HelpCode;
use crate::pipeline::progress::Snapshot;
use crate::pipeline::{Adoption, LetterOptions, Progress, SchemaChange};
use crate::registry::SchemaSource;
use crate::sandbox::check;
use crate::sandbox::feed::pace;
use crate::sandbox::screen::Screen;
use crate::sandbox::shop::{Shop, ShopOptions};
use crate::sandbox::source::{DemoSource, Transport};
use crate::sandbox::tables::ShopKind;
use crate::signals::stop_on_signal;
use crate::state::DataDir;
use crate::worker::run::{self, ApplyRequest, RunError, RunSpec};

/// How long the destination may take nothing, once the shop is closed, before the demo gives up.
const APPLY_WAIT_MAX: Duration = Duration::from_secs(30);

/// The table of which rows are shown at the end, how many of them, and how many columns.
const TABLE_SHOWN: &str = "payment";
const ROWS_SHOWN: usize = 3;
const COLUMNS_SHOWN: usize = 4;

#[derive(Args)]
pub struct Demo {
    /// Generate this many changes per second
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Generate changes for this long; Ctrl-C stops earlier
    #[arg(long = "for", value_name = "DURATION", value_parser = crate::duration::parse, default_value = "20s")]
    open_for: Duration,
    /// Seed of the generator: the same seed generates the same changes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stream into this destination, which should be empty [default: an SQLite file in ./eds-demo]
    #[arg(long)]
    url: Option<String>,
    /// Send changes through this NATS server with JetStream [default: a nats-server on the PATH, if
    /// there is one]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Do not use NATS, even if there is a nats-server
    #[arg(long)]
    no_nats: bool,
    /// Import a full export of the shop first, while the shop keeps changing
    #[cfg(feature = "http")]
    #[arg(long)]
    import: bool,
    #[command(flatten)]
    output: JsonFlag,
}

/// Changes that an old shop has seen.
const HISTORY: u64 = 50_000;

/// What the demo streams into.
struct DemoTarget {
    /// Where everything is kept that the demo makes.
    folder: PathBuf,
    data_dir: PathBuf,
    url: String,
    apply: ApplyRequest,
}

impl Demo {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(
            &Global { silent: global.silent || !global.verbose, ..global.clone() },
            None,
        )?;
        let mut printer = self.output.printer("demo");
        let done = Box::pin(self.show(&global, &mut printer)).await;
        printer.end(done)
    }

    async fn show(self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        let is_dark = global.silent || self.output.json;
        let target = self.target()?;
        printer.line(format!(
            "A shop with {} tables changes {} times a second for {:?}; EDS keeps {} \
             equal to it.",
            self.shop_after(0).tables.len(),
            self.rate,
            self.open_for,
            target.apply.destination
        ));
        let begin = if self.imports() { HISTORY } else { 0 };
        let total = begin + (self.rate * self.open_for.as_secs_f64()) as u64;
        let (due_sender, due) = watch::channel(0);
        let DemoSource { feed, consumer, transport, server: _server, .. } =
            self.source(&target.folder, due.clone(), printer).await?;
        // An old shop goes on changing while it is exported and loaded.
        let mut pacing =
            self.imports().then(|| tokio::spawn(pace(self.rate, begin, total, due_sender.clone())));
        #[cfg(feature = "http")]
        if self.import {
            self.import(&target, is_dark, due.clone(), printer).await?;
        }
        let progress = Arc::new(Progress::new().map_err(RunError::setup)?);
        let (stop_sender, stop) = watch::channel(false);
        let spec = RunSpec {
            feed,
            consumer,
            companies: "*".into(),
            until_caught_up: false,
            events_max: usize::MAX,
            progress: progress.clone(),
            has_predecessor: false,
            stop,
        };
        let data = DataDir::take(&target.data_dir, false)?;
        let engine = run::start(&data, target.apply.clone(), spec).await?;
        let running = tokio::spawn(engine.run());
        let pacing = pacing
            .take()
            .unwrap_or_else(|| tokio::spawn(pace(self.rate, begin, total, due_sender)));
        let screen = if is_dark { Screen::dark() } else { Screen::on_stdout() };
        let made = self.watch(transport, due, pacing, &running, &progress, &screen).await?;
        let applied = wait_until_applied(&progress, made, &running, &screen).await;
        stop_sender.send_replace(true);
        running.await.map_err(|e| Exit::Failed(e.to_string()))??;
        if !applied {
            return Err(too_slow(made, &progress.snapshot()));
        }
        screen.show(&progress.snapshot());
        verdict(&self.shop_after(made), &target, printer).await
    }

    /// Clears the demo's folder, unless it streams elsewhere, and opens nothing yet. A destination
    /// whose rows could not be compared in the end is refused.
    fn target(&self) -> Result<DemoTarget, Exit> {
        let folder =
            std::env::current_dir().map_err(|e| Exit::Failed(e.to_string()))?.join("eds-demo");
        let url = self
            .url
            .clone()
            .unwrap_or_else(|| format!("sqlite://{}", folder.join("shop.db").display()));
        let place = DestinationArgs { url: Some(url.clone()), ..DestinationArgs::default() };
        let (destination, driver) = place.destination(None)?;
        if !check::can_read(&destination.scheme) {
            return Err(Exit::Usage(format!(
                "rows in {} cannot be read back: use sqlite, file, postgres or mysql",
                destination.scheme
            )));
        }
        if self.url.is_none() && folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|e| {
                Exit::failed(
                    HelpCode::FileUnwritable,
                    format!("{} cannot be cleared: {e}", folder.display()),
                )
            })?;
        }
        std::fs::create_dir_all(&folder).map_err(|e| {
            let text = format!("{} cannot be made: {e}", folder.display());
            Exit::failed(HelpCode::FileUnwritable, text)
        })?;
        let apply = ApplyRequest {
            destination,
            driver,
            schemas: SchemaSource::Fixed(Arc::new(RwLock::new(
                self.shop_after(0).schemas().into(),
            ))),
            tables: TableFilter::default(),
            adopt: Vec::new(),
            adoption: Adoption::Without,
            pending_latency_min: None,
            pending_latency_max: None,
            restart: !self.imports(),
            rules: None,
            columns: Arc::default(),
            schema_change: SchemaChange::default(),
            letters: LetterOptions::default(),
        };
        Ok(DemoTarget { data_dir: folder.join("data"), folder, url, apply })
    }

    /// Shows the shop at work until it closes; how many changes it has made.
    async fn watch<T>(
        &self,
        transport: Transport,
        due: watch::Receiver<u64>,
        pacing: JoinHandle<()>,
        running: &JoinHandle<T>,
        progress: &Progress,
        screen: &Screen,
    ) -> Result<u64, Exit> {
        let closing = stop_on_signal();
        let publishing = tokio::spawn(transport.publish(self.seed, due.clone()));
        loop {
            tokio::time::sleep(screen.interval()).await;
            screen.show(&progress.snapshot());
            if running.is_finished() || *closing.borrow() || pacing.is_finished() {
                break;
            }
        }
        pacing.abort();
        let _ = pacing.await;
        let published = publishing.await.map_err(|e| Exit::Failed(e.to_string()))?;
        let published = published.map_err(Exit::Failed)?;
        Ok(published.unwrap_or(*due.borrow()))
    }

    fn imports(&self) -> bool {
        #[cfg(feature = "http")]
        let imports = self.import;
        #[cfg(not(feature = "http"))]
        let imports = false;
        imports
    }

    /// Loads an export of the shop as it is now, from a stand-in for HQ.
    #[cfg(feature = "http")]
    async fn import(
        &self,
        target: &DemoTarget,
        is_dark: bool,
        mut due: watch::Receiver<u64>,
        printer: &mut Printer,
    ) -> Result<(), Exit> {
        use crate::hq::Hq;
        use crate::http::Http;
        use crate::import::{ImportRequest, ProgressOutput};
        let now = due.wait_for(|due| *due >= HISTORY).await.map_or(HISTORY, |due| *due);
        let shop = Arc::new(std::sync::Mutex::new(self.shop_after(now)));
        let exports = target.folder.join("exports");
        let hq = crate::sandbox::hq::SandboxHq::start(0, shop, exports, 5_000, None)
            .await
            .map_err(|e| Exit::Failed(e.to_string()))?;
        printer.line(format!("After {now} changes the shop is exported, and it keeps changing:\n"));
        let ApplyRequest { destination, driver, .. } = &target.apply;
        let request = ImportRequest {
            hq: Some(Hq::new(Http::new().map_err(Exit::Failed)?, hq.url(), None)),
            output: match is_dark {
                true => ProgressOutput::Silent,
                false => ProgressOutput::Terminal,
            },
            ..ImportRequest::new(destination.clone(), driver)
        };
        request.test().await?;
        let data = DataDir::take(&target.data_dir, false)?;
        request.prepare(&data).await?.run(stop_on_signal()).await?;
        printer.line("");
        Ok(())
    }

    fn shop_after(&self, events: u64) -> Shop {
        let mut shop = Shop::new(self.seed, ShopOptions::default());
        (0..events).for_each(|_| drop(shop.next_event()));
        shop
    }

    async fn source(
        &self,
        folder: &Path,
        due: watch::Receiver<u64>,
        printer: &mut Printer,
    ) -> Result<DemoSource, Exit> {
        if cfg!(not(feature = "jetstream")) && self.server.is_some() {
            return Err(Exit::usage(
                HelpCode::NotInBuild,
                "this build cannot speak to NATS (feature jetstream)",
            ));
        }
        let server = self.server.as_deref();
        let source = DemoSource::choose(self.seed, server, self.no_nats, folder, due).await?;
        printer.line(&source.sentence);
        Ok(source)
    }
}

/// What a person may try next, with the destination's own client.
fn next_steps(settings: &Settings) -> String {
    let look = match &*settings.scheme {
        "sqlite" => format!("sqlite3 {} 'SELECT * FROM \"order\" LIMIT 3'", settings.path),
        "file" => format!("ls {}", settings.path),
        "postgres" => "psql -c 'SELECT * FROM \"order\" LIMIT 3'".into(),
        _ => "mysql -e 'SELECT * FROM `order` LIMIT 3'".into(),
    };
    let width = look.chars().count();
    let lines = [
        (&*look, "the rows"),
        ("eds demo --import --for 10s", "while the shop is imported"),
        ("eds drivers", "what fits your destination"),
    ];
    let lines = lines.map(|(line, what)| format!("\n  {line:<width$}  {what}"));
    format!("\nTo try next:{}", lines.concat())
}

fn too_slow(made: u64, now: &Snapshot) -> Exit {
    let why = now.last_error.as_ref().map_or(String::new(), |e| format!(": {}", e.text));
    Exit::Failed(format!(
        "of {made} changes {} were applied, and no more within {APPLY_WAIT_MAX:?}{why}",
        now.done
    ))
}

/// Whether all that was made is applied; not where nothing moves for [`APPLY_WAIT_MAX`].
async fn wait_until_applied<T>(
    progress: &Progress,
    made: u64,
    running: &JoinHandle<T>,
    screen: &Screen,
) -> bool {
    let (mut done, mut moved_at) = (0, Instant::now());
    while done < made && !running.is_finished() && moved_at.elapsed() < APPLY_WAIT_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = progress.snapshot().done;
        if now > done {
            (done, moved_at) = (now, Instant::now());
        }
    }
    screen.show(&progress.snapshot());
    done >= made || running.is_finished()
}

/// Compares and says so; a difference is an error.
async fn verdict(shop: &Shop, target: &DemoTarget, printer: &mut Printer) -> Result<(), Exit> {
    let started = Instant::now();
    let reports = check::reports(shop, &target.apply.destination, &target.url)
        .await
        .map_err(|e| Exit::Failed(format!("the destination cannot be read back: {e}")))?;
    printer.line("\nThe destination compared with the shop, row by row:");
    for r in &reports {
        let (table, is_equal) = (&r.table, r.is_equal());
        printer.row(
            || json!({"table": table, "rows": r.found, "equal": is_equal, "wrong": r.wrong}),
            || format!("  {}", check::line(r)),
        );
    }
    let wrong = reports.iter().filter(|r| !r.is_equal()).count();
    let rows: usize = reports.iter().map(|r| r.expected).sum();
    if wrong > 0 {
        return Err(Exit::Failed(format!("{wrong} tables differ from the shop")));
    }
    printer.line(format!(
        "Every table is equal: {rows} rows in {} tables, compared in {:.1?}.",
        reports.len(),
        started.elapsed()
    ));
    if let Some(rows) = some_rows(shop, &target.apply).await {
        printer.line(rows);
    }
    printer.line(next_steps(&target.apply.destination));
    Ok(())
}

/// A few rows as the destination has them; `None` where it cannot be read like that.
async fn some_rows(shop: &Shop, apply: &ApplyRequest) -> Option<String> {
    let table = shop.tables.iter().find(|table| table.name == TABLE_SHOWN)?;
    let is_short = |kind: ShopKind| {
        use ShopKind::{Cents, Date, Email, Id, Person, Word};
        matches!(kind, Id | Person | Email | Word(_) | Cents | Date)
    };
    let columns = table.columns.iter().filter(|column| is_short(column.kind));
    let names: Vec<&str> = columns.take(COLUMNS_SHOWN).map(|column| &*column.name).collect();
    let schema = TableSchema::parse(&table.schema()).ok()?;
    let others: Vec<usize> =
        (0..schema.columns.len()).filter(|i| !names.contains(&&*schema.columns[*i].name)).collect();
    let schema = schema.without(&others);
    let mut destination = (apply.driver.open)(&Target::unclaimed(&apply.destination)).await.ok()?;
    destination.tables().await.ok()?;
    let rows = destination.row_reader()?.page(&schema, None, ROWS_SHOWN).await.ok()?;
    // Nothing is left to be lost.
    let _ = destination.close().await;
    let head = schema.columns.iter().map(|column| column.name.to_string()).collect();
    let text = |row: StoredRow| -> Vec<String> {
        row.into_iter().map(|value| value.unwrap_or_else(|| "NULL".into())).collect()
    };
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows.into_iter().map(text)).collect();
    Some(format!("\nThe first rows of {TABLE_SHOWN:?} there:{}", aligned(&lines)))
}

/// Lines of columns, each as wide as its widest value.
fn aligned(lines: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = lines.iter().filter_map(|line| line.get(i));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |line: &Vec<String>| {
        let cells = line.iter().enumerate().map(|(i, cell)| format!("{cell:<0$}", width(i)));
        format!("\n  {}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}
