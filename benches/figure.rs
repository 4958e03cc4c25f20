//! What a benchmark adds to the one table that `cargo x bench` makes of all.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

/// What was measured, and what did the same beside it.
pub type ComparedPair<'c> = (&'c str, &'c str);

/// What both reached in a second; `peak_mib`: the most memory that EDS had, where that was looked
/// at.
pub fn rates(compared: ComparedPair<'_>, own: f64, other: f64, peak_mib: Option<f64>) {
    let shown = |rate: f64| format!("{rate:.0}/s");
    add(compared, (shown(own), shown(other)), own / other, peak_mib);
}

/// How long both took.
pub fn waits(compared: ComparedPair<'_>, own: Duration, other: Duration) {
    let shown = |wait: Duration| format!("{:.1} ms", wait.as_secs_f64() * 1e3);
    let ratio = other.as_secs_f64() / own.as_secs_f64();
    add(compared, (shown(own), shown(other)), ratio, None);
}

/// Adds a figure to the file that `EDS_BENCH_FIGURES` names, where one is named: one line, with
/// tabs between its parts. `ratio`: 1 is as good as the other, more is better.
fn add(
    (what, beside): ComparedPair<'_>,
    shown: (String, String),
    ratio: f64,
    peak_mib: Option<f64>,
) {
    let Ok(path) = std::env::var("EDS_BENCH_FIGURES") else { return };
    let (own, other) = shown;
    let peak = peak_mib.map_or_else(String::new, |mib| format!("{mib:.0} MiB"));
    let line = format!("{what}\t{own}\t{beside}\t{other}\t{ratio:.2}\t{peak}\n");
    let added = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    added.unwrap_or_else(|e| panic!("{path}: {e}"));
}
