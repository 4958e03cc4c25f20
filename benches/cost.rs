//! What a run of the real binary costs, and the events that it is given.

use std::time::{Duration, Instant};

use eds::change::TableSchema;
use eds::sandbox::shop::Shop;

use super::services::eds::Eds;

/// What a run of `eds` took.
pub struct Cost {
    pub seconds: f64,
    pub peak_mib: f64,
    pub cpu_seconds: f64,
}

/// New rows of one table of the shop: its schema, subjects and payloads.
pub fn events_of(
    shop: &mut Shop,
    table: &str,
    events: usize,
) -> (TableSchema, Vec<(String, String)>) {
    let made = (0..events)
        .filter_map(|_| shop.insert_into(table))
        .map(|e| (e.subject, e.payload))
        .collect();
    let schema = shop
        .schemas()
        .iter()
        .filter_map(|json| TableSchema::parse(json).ok())
        .find(|s| *s.table == *table);
    (schema.unwrap_or_else(|| panic!("no table {table}")), made)
}

/// Runs the real binary with these arguments from its start to its end.
pub async fn run(eds: &Eds, args: &[&str]) -> Cost {
    let started = Instant::now();
    let mut running = eds.start(args);
    let (mut peak, mut ticks) = (0f64, 0u64);
    while running.is_running() {
        peak = peak.max(peak_mib(running.pid()));
        if let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())) {
            let fields: Vec<u64> = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|f| f.parse().ok())
                .collect();
            ticks = ticks.max(fields.iter().sum());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let ended = running.wait(Duration::from_secs(1));
    assert!(ended.status.success(), "{}", ended.log);
    // The kernel counts in hundredths of a second.
    Cost { seconds, peak_mib: peak, cpu_seconds: ticks as f64 / 100.0 }
}

/// The most memory that a process had so far; 0 where it has ended.
pub fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
