//! How a run is going: counted by the engine, read by the health endpoints, the demo and the log.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use serde::Serialize;

use crate::change::dead_letter::RejectKind;
use crate::clock::{now_ns, now_s};

/// What the engine is doing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(tag = "name", content = "reason", rename_all = "snake_case")]
pub enum Phase {
    /// It connects.
    #[default]
    Starting,
    /// It applies changes.
    Streaming,
    /// Nothing is pending.
    CaughtUp,
    /// Something that it needs is away; why.
    Waiting(String),
    /// It was told to stop, and writes what is pending.
    Stopping,
    /// Nothing is fetched until somebody says so.
    Paused,
    /// It has ended; why, where that was not asked for.
    Stopped(Option<String>),
}

/// What became of one table's events since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TableCounts {
    /// Rows written.
    pub upserts: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Events that could not be applied.
    pub dead_letters: u64,
}

/// A table that cannot be written now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HeldCounts {
    /// Why, for people.
    pub reason: String,
    /// Since when, Unix seconds.
    pub since_unix: u64,
    /// How many of its changes wait at the destination.
    pub changes: u64,
    /// The bytes that they take there.
    pub bytes: u64,
}

/// A moment's reading.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// What the engine is doing.
    pub state: Phase,
    /// Events received from the feed.
    pub received: u64,
    /// Events that are done with: applied, skipped, or dead letters.
    pub done: u64,
    /// Events that the destination had already.
    pub seen_before: u64,
    /// Events whose row has a newer version already.
    pub stale: u64,
    /// Events that the user left out.
    pub filtered: u64,
    /// Events that an import contains.
    pub imported: u64,
    /// Events that could not be applied.
    pub dead_letters: u64,
    /// Dead letters that are kept and that no later change of their row has superseded.
    pub dead_letters_waiting: u64,
    /// Sets of pending changes that were applied.
    pub batches: u64,
    /// Events that are known to wait at the source or in EDS.
    pub lag_events: u64,
    /// Age of the last event that was applied, while others wait; else 0.
    pub lag_seconds: f64,
    /// How far the destination is.
    pub stream_sequence: u64,
    /// What failed last, also where it works again.
    pub last_error: Option<LastError>,
    /// By table.
    pub tables: BTreeMap<String, TableCounts>,
    /// The tables that cannot be written now, whose changes wait.
    pub held: BTreeMap<String, HeldCounts>,
    #[serde(skip)]
    applied_time_ns: i64,
}

/// Something that failed.
#[derive(Clone, Debug, Serialize)]
pub struct LastError {
    /// When, Unix seconds.
    pub at_unix: u64,
    /// What, for people.
    pub text: String,
}

/// The metrics as the heartbeat to HQ has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetricTotals {
    /// Batches that were applied.
    pub flushes: u64,
    /// Their durations that were observed.
    pub flushes_timed: u64,
    /// Batches whose time since publication was observed.
    pub events_timed: u64,
    /// Events that wait.
    pub pending: u64,
    /// Events that were received.
    pub received: u64,
}

/// Shared between the engine and whoever wants to know.
pub struct Progress {
    inner: Mutex<Snapshot>,
    registry: Registry,
    pending: IntGauge,
    events: IntCounter,
    dead_letters: IntCounterVec,
    letters_waiting: IntGauge,
    letters_bytes: IntGauge,
    held_changes: IntGaugeVec,
    held_bytes: IntGaugeVec,
    flush_seconds: Histogram,
    flush_count: Histogram,
    processing_seconds: Histogram,
}

impl Progress {
    /// Nothing has happened yet. Fails only where a metric cannot be registered.
    pub fn new() -> Result<Progress, prometheus::Error> {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
        };
        let gauge = |name: &str, help: &str| IntGauge::with_opts(Opts::new(name, help));
        let by_table = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["table"]);
        let flush = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let counts = [1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0];
        let processing = [1.0, 2.0, 3.0, 5.0, 10.0, 60.0, 300.0, 600.0, 1800.0, 3600.0];
        let progress = Progress {
            inner: Mutex::default(),
            pending: gauge("eds_pending_events", "Events that wait to be applied")?,
            events: IntCounter::with_opts(Opts::new(
                "eds_total_events",
                "Events that were received",
            ))?,
            dead_letters: IntCounterVec::new(
                Opts::new(
                    "eds_dead_letters_total",
                    "Events that could not be applied and became dead letters",
                ),
                &["table", "kind"],
            )?,
            letters_waiting: gauge(
                "eds_dead_letters",
                "Dead letters that are kept and that no later change of their row has superseded",
            )?,
            letters_bytes: gauge(
                "eds_dead_letters_bytes",
                "The bytes of all dead letters that are kept",
            )?,
            held_changes: by_table(
                "eds_held_changes",
                "Changes that wait because their table cannot be written",
            )?,
            held_bytes: by_table("eds_held_bytes", "The bytes that these changes take")?,
            flush_seconds: histogram(
                "eds_flush_duration_seconds",
                "Time that a flush took",
                &flush,
            )?,
            flush_count: histogram("eds_flush_count", "Events in a flush", &counts)?,
            processing_seconds: histogram(
                "eds_processing_duration_seconds",
                "Time from the publication of an event to its being applied",
                &processing,
            )?,
            registry,
        };
        progress.register()?;
        Ok(progress)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let metrics: [Box<dyn Collector>; 10] = [
            Box::new(self.pending.clone()),
            Box::new(self.events.clone()),
            Box::new(self.dead_letters.clone()),
            Box::new(self.letters_waiting.clone()),
            Box::new(self.letters_bytes.clone()),
            Box::new(self.held_changes.clone()),
            Box::new(self.held_bytes.clone()),
            Box::new(self.flush_seconds.clone()),
            Box::new(self.flush_count.clone()),
            Box::new(self.processing_seconds.clone()),
        ];
        metrics.into_iter().try_for_each(|metric| self.registry.register(metric))
    }

    fn inner(&self) -> MutexGuard<'_, Snapshot> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts.
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.inner());
    }

    /// Sets what the engine is doing.
    pub fn phase(&self, phase: Phase) {
        self.inner().state = phase;
    }

    /// Something failed and will be tried again.
    pub fn waiting(&self, why: &str) {
        let mut inner = self.inner();
        inner.state = Phase::Waiting(why.to_owned());
        inner.last_error = Some(LastError { at_unix: now_s(), text: why.to_owned() });
    }

    /// The feed was opened: what had been received and not applied comes again.
    pub fn opened(&self, pending: u64) {
        let mut inner = self.inner();
        inner.received = inner.done;
        inner.lag_events = pending;
        self.pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
    }

    /// So many events came, and `pending` more wait at the source.
    pub fn received(&self, events: usize, pending: u64) {
        self.events.inc_by(events as u64);
        let mut inner = self.inner();
        inner.received += events as u64;
        inner.lag_events = inner.received.saturating_sub(inner.done) + pending;
        self.pending.set(i64::try_from(inner.lag_events).unwrap_or(i64::MAX));
    }

    /// A batch is durable: how many events, until which position, published when, and how long it
    /// took.
    pub fn applied(&self, events: usize, through: crate::change::Position, took: Duration) {
        self.flush_seconds.observe(took.as_secs_f64());
        self.flush_count.observe(events as f64);
        let mut inner = self.inner();
        inner.batches += 1;
        inner.done += events as u64;
        inner.lag_events = inner.lag_events.saturating_sub(events as u64);
        inner.stream_sequence = through.sequence;
        inner.applied_time_ns = through.time_ns;
        inner.state = if inner.lag_events == 0 { Phase::CaughtUp } else { Phase::Streaming };
        self.pending.set(i64::try_from(inner.lag_events).unwrap_or(i64::MAX));
        if through.time_ns > 0 {
            self.processing_seconds.observe((now_ns() - through.time_ns).max(0) as f64 / 1e9);
        }
    }

    /// An event of `table` (empty where it is not known) became a dead letter.
    pub fn dead_letter(&self, table: &str, kind: RejectKind, reason: &str) {
        self.dead_letters.with_label_values(&[table, kind.as_str()]).inc();
        let mut inner = self.inner();
        inner.dead_letters += 1;
        inner.last_error =
            Some(LastError { at_unix: now_s(), text: format!("dead letter: {reason}") });
        if !table.is_empty() {
            inner.tables.entry(table.to_owned()).or_default().dead_letters += 1;
        }
    }

    /// So many dead letters are kept that no later change has superseded; all take so many bytes.
    pub fn letters(&self, waiting: u64, bytes: u64) {
        let gauge = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
        self.letters_waiting.set(gauge(waiting));
        self.letters_bytes.set(gauge(bytes));
        self.inner().dead_letters_waiting = waiting;
    }

    /// These tables cannot be written now.
    pub fn held(&self, held: BTreeMap<String, HeldCounts>) {
        let gauge = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
        self.held_changes.reset();
        self.held_bytes.reset();
        for (table, counts) in &held {
            self.held_changes.with_label_values(&[table]).set(gauge(counts.changes));
            self.held_bytes.with_label_values(&[table]).set(gauge(counts.bytes));
        }
        self.inner().held = held;
    }

    /// The counts at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.inner().clone();
        if snapshot.lag_events > 0 && snapshot.applied_time_ns > 0 {
            snapshot.lag_seconds = (now_ns() - snapshot.applied_time_ns).max(0) as f64 / 1e9;
        }
        snapshot
    }

    /// The totals of the metrics.
    pub fn totals(&self) -> MetricTotals {
        MetricTotals {
            flushes: self.flush_count.get_sample_count(),
            flushes_timed: self.flush_seconds.get_sample_count(),
            events_timed: self.processing_seconds.get_sample_count(),
            pending: u64::try_from(self.pending.get()).unwrap_or(0),
            received: self.events.get(),
        }
    }

    /// In Prometheus' text form.
    pub fn metrics(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}
