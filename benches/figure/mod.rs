//! What a benchmark adds to the one table that `cargo x bench` makes of all.

use std::fs::OpenOptions;
use std::io::Write;

/// What one thing reached beside another in the same run.
pub struct Figure<'f> {
    /// What was measured.
    pub what: &'f str,
    /// What it reached, with its unit.
    pub reached: String,
    /// What did the same beside it.
    pub beside: &'f str,
    /// What that reached, with its unit.
    pub other: String,
    /// 1 is as good as the other, more is better.
    pub ratio: f64,
    /// The most memory that EDS had; `None` where that was not looked at.
    pub peak_mib: Option<f64>,
}

impl Figure<'_> {
    /// Adds it to the file that `EDS_BENCH_FIGURES` names, where one is named: one line, with tabs
    /// between its parts.
    pub fn add(&self) {
        let Ok(path) = std::env::var("EDS_BENCH_FIGURES") else { return };
        let Figure { what, reached, beside, other, ratio, peak_mib } = self;
        let peak = peak_mib.map_or_else(String::new, |mib| format!("{mib:.0} MiB"));
        let line = format!("{what}\t{reached}\t{beside}\t{other}\t{ratio:.2}\t{peak}\n");
        let added = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        added.unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

/// `count` things in so many seconds.
pub fn per_second(count: usize, seconds: f64) -> String {
    format!("{:.0}/s", count as f64 / seconds)
}
