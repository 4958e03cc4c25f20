//! What an import shows while it runs, and at its end: bars on a terminal, lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::info;

use super::ProgressOutput;
use crate::pipeline::import::{Counts, Report, TableCheck, TableCount, TableFate};

/// Between two drawings of the bars.
const BARS_INTERVAL: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const LINES_INTERVAL: Duration = Duration::from_secs(5);
/// Parts of a bar.
const PARTS: u64 = 1000;

/// Shows `counts` until it is dropped.
pub async fn show(counts: Arc<Counts>, output: ProgressOutput) {
    match output {
        ProgressOutput::Silent => std::future::pending().await,
        ProgressOutput::Terminal if std::io::stderr().is_terminal() => bars(&counts).await,
        ProgressOutput::Terminal | ProgressOutput::Log => lines(&counts).await,
    }
}

async fn bars(counts: &Counts) {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix:>18} {bar:30} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut shown: BTreeMap<String, ProgressBar> = BTreeMap::new();
    let started = Instant::now();
    loop {
        for (table, count) in counts.snapshot() {
            let bar = shown.entry(table.clone()).or_insert_with(|| {
                all.add(
                    ProgressBar::new(PARTS).with_style(style.clone()).with_prefix(table.clone()),
                )
            });
            bar.set_position((count.fraction() * PARTS as f64) as u64);
            bar.set_message(message(&count, started));
        }
        tokio::time::sleep(BARS_INTERVAL).await;
    }
}

fn message(count: &TableCount, started: Instant) -> String {
    let (rate, bytes) = rates(count);
    if count.is_done() {
        return format!("{} rows, {rate:.0}/s, done", count.rows);
    }
    if count.finishing {
        return format!("{} rows, making the key", count.rows);
    }
    let left = match count.fraction() {
        fraction if fraction > 0.01 => format!(
            ", {} left",
            rough(count.elapsed().max(started.elapsed() / 100).mul_f64(1.0 / fraction - 1.0))
        ),
        _ => String::new(),
    };
    format!("{} rows, {rate:.0}/s, {:.1} MB/s{left}", count.rows, bytes / 1e6)
}

/// Rows and stored bytes per second of this run.
fn rates(count: &TableCount) -> (f64, f64) {
    let seconds = count.elapsed().as_secs_f64().max(0.001);
    ((count.rows - count.rows_before) as f64 / seconds, count.bytes_done as f64 / seconds)
}

fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        s if s >= 3600 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s if s >= 60 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}

async fn lines(counts: &Counts) {
    let started = Instant::now();
    loop {
        tokio::time::sleep(LINES_INTERVAL).await;
        let all = counts.snapshot();
        let done = all.values().filter(|c| c.is_done()).count();
        let rows: u64 = all.values().map(|c| c.rows).sum();
        let here: u64 = all.values().map(|c| c.rows - c.rows_before).sum();
        let busy: Vec<&str> = all
            .iter()
            .filter(|(_, c)| !c.is_done() && c.elapsed() > Duration::ZERO)
            .map(|(name, _)| name.as_str())
            .collect();
        let downloaded = match counts.bytes_downloaded() {
            0 => String::new(),
            bytes => format!(", {:.1} MB downloaded", bytes as f64 / 1e6),
        };
        let rate = here as f64 / started.elapsed().as_secs_f64();
        info!(
            "{rows} rows, {rate:.0} per second{downloaded}; {done} of {} tables are loaded; now {}",
            all.len(),
            if busy.is_empty() { "none".into() } else { busy.join(", ") }
        );
    }
}

/// The table at the end, as lines of text: rows, rows left out and rates of each table, and the
/// rows that were left out.
pub fn closing(counts: &Counts, report: &Report, took: Duration) -> String {
    let all = counts.snapshot();
    let width = all.keys().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
    let mut out = format!(
        "{:<width$} {:>12} {:>9} {:>9} {:>10}\n",
        "table", "rows", "skipped", "seconds", "rows/s"
    );
    for (name, count) in &all {
        let (rate, _) = rates(count);
        out += &format!(
            "{name:<width$} {:>12} {:>9} {:>9.1} {:>10.0}\n",
            count.rows,
            count.skipped,
            count.elapsed().as_secs_f64(),
            rate
        );
    }
    let (rows, skipped): (u64, u64) =
        all.values().fold((0, 0), |(r, s), c| (r + c.rows, s + c.skipped));
    let here: u64 = all.values().map(|c| c.rows - c.rows_before).sum();
    let seconds = took.as_secs_f64();
    out += &format!(
        "{:<width$} {rows:>12} {skipped:>9} {seconds:>9.1} {:>10.0}\n",
        "total",
        here as f64 / seconds.max(0.001)
    );
    if !report.bad_rows.is_empty() {
        out += "\nLeft out:\n";
        report.bad_rows.iter().for_each(|bad| out += &format!("  {bad}\n"));
        if skipped > report.bad_rows.len() as u64 {
            out += &format!(
                "  and {} more, in this run or an earlier one\n",
                skipped - report.bad_rows.len() as u64
            );
        }
    }
    out
}

/// What would become of each table: a line for it, and one for whatever there is to say of it.
pub fn checked(checks: &[TableCheck]) -> String {
    let width = checks.iter().map(|check| check.table.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in checks {
        let fate = match check.fate {
            TableFate::Created => "is created",
            TableFate::Exchanged => "is exchanged",
            TableFate::Merged => "stays, and its rows are replaced",
            TableFate::Upserted => "stays, and so do rows that the export lacks",
            TableFate::Appended => "has no table: each row becomes an event",
        };
        let why = check.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        lines.push(format!("{:<width$}  {fate}{why}", check.table));
        let notes =
            [("first", &check.steps), ("warning", &check.warnings), ("problem", &check.problems)];
        for (word, texts) in notes {
            lines.extend(texts.iter().map(|text| format!("{:<width$}  {word}: {text}", "")));
        }
    }
    lines.join("\n")
}
