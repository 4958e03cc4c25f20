//! What a run counts, under the names that Prometheus reads. Names and buckets of the Go program
//! stay as they were; beside them are ours, which follow Prometheus' conventions.

use std::collections::BTreeSet;
use std::sync::Mutex;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::snapshot::HeldCounts;

/// Errors that are told apart by cause and code; further codes are counted together.
const CODES_MAX: usize = 256;
/// The code under which further ones are counted.
const OTHER_CODES: &str = "(others)";

const FLUSH: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const COUNTS: [f64; 11] =
    [1.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0];
const PROCESSING: [f64; 10] = [1.0, 2.0, 3.0, 5.0, 10.0, 60.0, 300.0, 600.0, 1800.0, 3600.0];
const BATCH: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0];
const LATENCY: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
    3600.0,
];

/// The counts of one process that applies changes.
pub struct RunMetrics {
    registry: Registry,
    /// Pairs of cause and code that are counted by themselves.
    codes: Mutex<BTreeSet<(&'static str, String)>>,
    pub pending: IntGauge,
    pub events: IntCounter,
    pub flush_seconds: Histogram,
    pub flush_count: Histogram,
    pub processing_seconds: Histogram,
    pub received: IntCounter,
    pub redelivered: IntCounter,
    pub seen_before: IntCounter,
    pub dead_letters: IntCounterVec,
    pub letters_waiting: IntGauge,
    pub letters_bytes: IntGauge,
    pub upserted: IntCounterVec,
    pub deleted: IntCounterVec,
    pub filtered: IntCounterVec,
    pub stale: IntCounterVec,
    pub imported: IntCounterVec,
    pub batch_seconds: Histogram,
    pub latency_seconds: Histogram,
    pub retries: IntCounterVec,
    pub reconnects: IntCounter,
    pub reopenings: IntCounter,
    pub schema_lookups: IntCounterVec,
    held_changes: IntGaugeVec,
    held_bytes: IntGaugeVec,
    errors: IntCounterVec,
}

/// Makes metrics and registers them.
struct MetricMaker(Registry);

impl MetricMaker {
    fn kept<M: Collector + Clone + 'static>(
        &self,
        metric: Result<M, prometheus::Error>,
    ) -> Result<M, prometheus::Error> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.kept(IntCounter::with_opts(Opts::new(name, help)))
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.kept(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.kept(IntGauge::with_opts(Opts::new(name, help)))
    }

    fn gauges(&self, name: &str, help: &str) -> Result<IntGaugeVec, prometheus::Error> {
        self.kept(IntGaugeVec::new(Opts::new(name, help), &["table"]))
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.kept(Histogram::with_opts(options))
    }
}

impl RunMetrics {
    /// Nothing is counted yet. Fails only where a metric cannot be registered.
    #[rustfmt::skip]
    pub fn new() -> Result<RunMetrics, prometheus::Error> {
        let m = MetricMaker(Registry::new());
        let table: &[&str] = &["table"];
        Ok(RunMetrics {
            pending: m.gauge("eds_pending_events", "Events that wait to be applied")?,
            events: m.counter("eds_total_events", "Events that were received")?,
            flush_seconds: m.histogram("eds_flush_duration_seconds", "Time that a flush took", &FLUSH)?,
            flush_count: m.histogram("eds_flush_count", "Events in a flush", &COUNTS)?,
            processing_seconds: m.histogram("eds_processing_duration_seconds", "Time from the publication of an event to its being applied", &PROCESSING)?,
            received: m.counter("eds_events_received_total", "Events that came from NATS")?,
            redelivered: m.counter("eds_events_redelivered_total", "Events that came to this process once more")?,
            seen_before: m.counter("eds_events_seen_before_total", "Events that the destination had already")?,
            dead_letters: m.counters("eds_dead_letters_total", "Events that could not be applied and became dead letters", &["table", "kind"])?,
            letters_waiting: m.gauge("eds_dead_letters", "Dead letters that are kept and that no later change of their row has superseded")?,
            letters_bytes: m.gauge("eds_dead_letters_bytes", "The bytes of all dead letters that are kept")?,
            upserted: m.counters("eds_rows_upserted_total", "Rows that were inserted or replaced", table)?,
            deleted: m.counters("eds_rows_deleted_total", "Rows that were deleted", table)?,
            filtered: m.counters("eds_events_filtered_total", "Events that the user left out", table)?,
            stale: m.counters("eds_events_stale_total", "Events whose row had a newer version already", table)?,
            imported: m.counters("eds_events_imported_total", "Events that an import contains", table)?,
            batch_seconds: m.histogram("eds_batch_seconds", "Time that a batch took to become durable, tries that failed included", &BATCH)?,
            latency_seconds: m.histogram("eds_event_latency_seconds", "Time from the publication of an event to its being durable at the destination, for each event", &LATENCY)?,
            retries: m.counters("eds_retries_total", "Tries that followed a failed one, by what had failed", &["cause"])?,
            reconnects: m.counter("eds_destination_reconnects_total", "Connections to the destination that replaced another")?,
            reopenings: m.counter("eds_feed_reopenings_total", "Openings of the feed after the first")?,
            schema_lookups: m.counters("eds_schema_lookups_total", "Answers to questions for a version of a table's schema", &["result"])?,
            held_changes: m.gauges("eds_held_changes", "Changes that wait because their table cannot be written")?,
            held_bytes: m.gauges("eds_held_bytes", "The bytes that these changes take")?,
            errors: m.counters("eds_errors_total", "Calls that failed, by cause and the database's own code", &["cause", "code"])?,
            codes: Mutex::default(),
            registry: m.0,
        })
    }

    /// A call failed; `code` is the database's own.
    pub fn failed(&self, cause: &'static str, code: &str) {
        let mut codes = super::locked(&self.codes);
        let pair = (cause, code.to_owned());
        let is_counted = codes.contains(&pair) || codes.len() < CODES_MAX;
        let code = if is_counted { code } else { OTHER_CODES };
        self.errors.with_label_values(&[cause, code]).inc();
        if is_counted {
            codes.insert(pair);
        }
    }

    /// These tables cannot be written now.
    pub fn held<'h>(&self, held: impl Iterator<Item = (&'h str, &'h HeldCounts)>) {
        self.held_changes.reset();
        self.held_bytes.reset();
        for (table, counts) in held {
            self.held_changes.with_label_values(&[table]).set(gauge(counts.changes));
            self.held_bytes.with_label_values(&[table]).set(gauge(counts.bytes));
        }
    }

    /// In Prometheus' text form.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// The number as a gauge has it.
pub fn gauge(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_bounded() -> Result<(), prometheus::Error> {
        let metrics = RunMetrics::new()?;
        for code in 0..CODES_MAX + 9 {
            metrics.failed("unavailable", &code.to_string());
        }
        metrics.failed("unavailable", "7");
        let count = |code: &str| metrics.errors.with_label_values(&["unavailable", code]).get();
        assert_eq!([count(OTHER_CODES), count("7"), count("8")], [9, 2, 1]);
        Ok(())
    }
}
