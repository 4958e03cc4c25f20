//! How a run is going: counted by the engine, read by the health endpoints, the demo and the log.

mod metrics;
mod pending;
mod snapshot;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::change::dead_letter::RejectKind;
use crate::change::{Batch, Position};
use crate::clock::{now_ns, now_s};
use crate::destination::{Failure, FailureKind};
use metrics::{RunMetrics, gauge};
use pending::PendingTimes;
pub use snapshot::{
    HeldCounts, ImportStatus, OTHER_TABLES, Phase, Snapshot, StatusNotice, TABLES_MAX, TableCounts,
};
use tracing::info;

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

/// Events of one table for which nothing was to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PassedOfTable {
    /// The user left them out.
    pub filtered: u64,
    /// Their rows have newer versions.
    pub stale: u64,
    /// An import contains them.
    pub imported: u64,
}

/// Events for which nothing was to be done, counted by whoever reads them and told at once.
#[derive(Debug, Default)]
pub struct PassedEvents {
    /// The destination had them already.
    pub seen: u64,
    /// The others, by table.
    pub tables: HashMap<String, PassedOfTable>,
}

impl PassedEvents {
    /// Counts one of the table.
    pub fn count(&mut self, table: &str, add: impl FnOnce(&mut PassedOfTable)) {
        match self.tables.get_mut(table) {
            Some(counts) => add(counts),
            None => add(self.tables.entry(table.to_owned()).or_default()),
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.seen == 0 && self.tables.is_empty()
    }
}

/// Shared between the engine and whoever wants to know.
pub struct Progress {
    inner: Mutex<RunState>,
    /// When the flush under way began.
    flush_began: Mutex<Option<Instant>>,
    metrics: RunMetrics,
}

#[derive(Default)]
struct RunState {
    snapshot: Snapshot,
    pending: PendingTimes,
    /// The highest sequence that ever came.
    highest: u64,
}

impl RunState {
    /// So many events wait, as far as is known.
    fn lags(&mut self, events: u64, metrics: &RunMetrics) {
        self.snapshot.lag_events = events;
        self.snapshot.oldest_pending_ns = match events {
            0 => 0,
            _ => self.pending.since_ns(now_ns()),
        };
        metrics.pending.set(gauge(events));
    }

    /// Everything works.
    fn works(&mut self, state: Phase) {
        self.snapshot.state = state;
        if let Some(error) = self.snapshot.last_error.take() {
            let lasted = now_s().saturating_sub(error.at_unix);
            let what = error.text.lines().next().unwrap_or_default();
            info!("it works again, after {lasted} s: {what}");
        }
    }
}

/// A flush that was given to the destination and not answered yet.
pub struct FlushUnderWay<'p>(&'p Progress);

impl Drop for FlushUnderWay<'_> {
    fn drop(&mut self) {
        *locked(&self.0.flush_began) = None;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a failure is, as metrics name it.
fn cause(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Unavailable => "unavailable",
        FailureKind::Rejected => "rejected",
        FailureKind::SchemaMismatch => "schema_mismatch",
        FailureKind::TableUnavailable => "table_unavailable",
        FailureKind::Misconfigured => "misconfigured",
        FailureKind::Fenced => "fenced",
    }
}

impl Progress {
    /// Nothing has happened yet. Fails only where a metric cannot be registered.
    pub fn new() -> Result<Progress, prometheus::Error> {
        let metrics = RunMetrics::new()?;
        Ok(Progress { inner: Mutex::default(), flush_began: Mutex::default(), metrics })
    }

    fn inner(&self) -> MutexGuard<'_, RunState> {
        locked(&self.inner)
    }

    /// Where changes come from and go to, without secrets.
    pub fn about(&self, consumer: &str, destination: &str) {
        let mut inner = self.inner();
        inner.snapshot.consumer = consumer.to_owned();
        inner.snapshot.destination = destination.to_owned();
    }

    /// A flush begins; it ends when what is returned is dropped.
    pub fn flush(&self) -> FlushUnderWay<'_> {
        self.flush_since(Instant::now())
    }

    /// The same of one that began at `since`.
    pub fn flush_since(&self, since: Instant) -> FlushUnderWay<'_> {
        *locked(&self.flush_began) = Some(since);
        FlushUnderWay(self)
    }

    /// For how long the flush under way has gone on.
    pub fn flushing_for(&self) -> Option<Duration> {
        locked(&self.flush_began).map(|began| began.elapsed())
    }

    /// Sets what the engine is doing.
    pub fn phase(&self, phase: Phase) {
        self.inner().snapshot.state = phase;
    }

    /// Whether changes are applied, or would be if there were any.
    pub fn is_flowing(&self) -> bool {
        self.inner().snapshot.state.is_flowing()
    }

    /// Changes flow, from here on.
    pub fn streaming(&self) {
        self.inner().works(Phase::Streaming);
    }

    /// Nothing waits, neither at the source nor here.
    pub fn caught_up(&self) {
        let mut inner = self.inner();
        inner.works(Phase::CaughtUp);
        inner.lags(0, &self.metrics);
        inner.pending.settled_at(now_ns());
        inner.snapshot.last_success_unix = now_s();
    }

    /// The stream stands still until something is known or made; why.
    pub fn asks(&self, why: &str) {
        self.inner().snapshot.state = Phase::Waiting(why.to_owned());
    }

    /// Something other than the destination failed, and will be tried again; `cause`: what.
    pub fn waiting(&self, cause: &'static str, why: &str) {
        self.metrics.failed(cause, "");
        self.retried(cause);
        self.blocked(why);
    }

    /// The stream waits for a person, or for what is away.
    pub fn blocked(&self, why: &str) {
        let mut inner = self.inner();
        inner.snapshot.state = Phase::Waiting(why.to_owned());
        inner.snapshot.fails(why);
    }

    /// A call of the destination failed.
    pub fn failed(&self, failure: &Failure) {
        self.metrics.failed(cause(failure.kind), failure.code.as_deref().unwrap_or_default());
    }

    /// What failed is tried again, and nothing else happens meanwhile.
    pub fn retries(&self, failure: &Failure) {
        self.retried(cause(failure.kind));
        self.blocked(&failure.to_string());
    }

    fn retried(&self, cause: &str) {
        self.metrics.retries.with_label_values(&[cause]).inc();
    }

    /// Another connection to the destination has replaced the last one.
    pub fn reconnected(&self) {
        self.metrics.reconnects.inc();
    }

    /// The feed has to be opened once more.
    pub fn reopens(&self, why: &str) {
        self.metrics.reopenings.inc();
        self.blocked(why);
    }

    /// Somebody should know this.
    pub fn warn(&self, text: &str) {
        self.inner().snapshot.warn(text);
    }

    /// A question for a schema was answered; `is_known`: with one.
    pub fn schema_answered(&self, is_known: bool) {
        let result = if is_known { "found" } else { "unknown" };
        self.metrics.schema_lookups.with_label_values(&[result]).inc();
    }

    /// The destination is at `at`; nothing that was published before `settled_ns` waits.
    pub fn stands_at(&self, at: Position, settled_ns: i64) {
        let mut inner = self.inner();
        inner.snapshot.stream_sequence = at.sequence;
        inner.pending.settled_at(at.time_ns.max(settled_ns));
    }

    /// By table, when what was imported last was exported, Unix seconds.
    pub fn imports<'t>(&self, tables: impl Iterator<Item = (&'t str, u64)>) {
        let mut inner = self.inner();
        for (table, at_unix) in tables {
            inner.snapshot.counts_of(table).1.imported_unix = at_unix;
        }
    }

    /// The feed was opened: what had been received and not applied comes again.
    pub fn opened(&self, pending: u64) {
        let mut inner = self.inner();
        inner.pending.dropped();
        inner.snapshot.received = inner.snapshot.done;
        inner.lags(pending, &self.metrics);
    }

    /// So many events are not acknowledged, says the source; it counts while no events come that
    /// say it themselves. `asked_ns`: when it was asked, Unix nanoseconds.
    pub fn unacknowledged(&self, events: u64, asked_ns: i64) {
        let mut inner = self.inner();
        if inner.snapshot.state.is_flowing() || inner.snapshot.state == Phase::Stopping {
            return;
        }
        if events == 0 {
            inner.pending.settled_at(asked_ns);
        }
        inner.lags(events, &self.metrics);
    }

    /// Events came, from `first` to `last`, and `pending` more wait at the source.
    pub fn received(&self, (first, last): (Position, Position), events: usize, pending: u64) {
        self.metrics.events.inc_by(events as u64);
        self.metrics.received.inc_by(events as u64);
        let mut inner = self.inner();
        // A journal does not know when its events were published: they wait since they came.
        let time_ns = if first.time_ns == 0 { now_ns() } else { first.time_ns };
        inner.pending.arrived(Position { time_ns, ..first }, last);
        inner.snapshot.received += events as u64;
        let here = inner.snapshot.received.saturating_sub(inner.snapshot.done);
        inner.lags(here + pending, &self.metrics);
    }

    /// The highest sequence that came before what comes now, which ends at `last`.
    pub fn highest_before(&self, last: u64) -> u64 {
        let mut inner = self.inner();
        let highest = inner.highest;
        inner.highest = highest.max(last);
        highest
    }

    /// So many events came once more.
    pub fn redelivered(&self, events: u64) {
        self.metrics.redelivered.inc_by(events);
    }

    /// A batch is durable: how many events, until which position, how long it took, and when its
    /// changes were published, Unix nanoseconds.
    pub fn applied(
        &self,
        events: usize,
        through: Position,
        took: Duration,
        published: impl Iterator<Item = i64>,
    ) {
        let metrics = &self.metrics;
        metrics.flush_seconds.observe(took.as_secs_f64());
        metrics.batch_seconds.observe(took.as_secs_f64());
        metrics.flush_count.observe(events as f64);
        let now = now_ns();
        // Counted here, and told once.
        let latency = metrics.latency_seconds.local();
        published.for_each(|time_ns| latency.observe((now - time_ns).max(0) as f64 / 1e9));
        latency.flush();
        if through.time_ns > 0 {
            metrics.processing_seconds.observe((now - through.time_ns).max(0) as f64 / 1e9);
        }
        let mut inner = self.inner();
        inner.pending.durable(through);
        let left = inner.snapshot.lag_events.saturating_sub(events as u64);
        inner.lags(left, metrics);
        inner.works(if left == 0 { Phase::CaughtUp } else { Phase::Streaming });
        let snapshot = &mut inner.snapshot;
        snapshot.batches += 1;
        snapshot.batch_seconds += took.as_secs_f64();
        snapshot.done += events as u64;
        snapshot.stream_sequence = through.sequence;
        snapshot.last_success_unix = now_s();
    }

    /// The rows of the batch are durable.
    pub fn wrote(&self, batch: &Batch) {
        let mut written: HashMap<&str, WrittenOfTable<'_>> = HashMap::new();
        for group in &batch.groups {
            let of = written.entry(&group.schema.table).or_default();
            let deleted = |indices: &[u32]| {
                indices.iter().filter(|i| batch.change(**i).is_delete()).count() as u64
            };
            // A row that is inserted again within the batch is no deletion; one that is marked is.
            let marked = deleted(&group.upserts);
            of.upserts += group.upserts.len() as u64 - marked;
            of.deletes += deleted(&group.deletes) + marked;
            of.version = &group.schema.version;
            let last = group.upserts.iter().chain(&group.deletes).max();
            let time_ns = last.map_or(0, |i| batch.change(*i).position.time_ns);
            of.time_ns = of.time_ns.max(time_ns);
        }
        let mut appended: HashMap<String, WrittenOfTable<'_>> = HashMap::new();
        for (_, change) in batch.ordered() {
            let table = change.event.table();
            let of = match appended.get_mut(&*table) {
                Some(of) => of,
                None => appended.entry(table.into_owned()).or_default(),
            };
            *(if change.is_delete() { &mut of.deletes } else { &mut of.upserts }) += 1;
            of.time_ns = change.position.time_ns;
        }
        let appended = appended.iter().map(|(table, of)| (&**table, of));
        let mut inner = self.inner();
        for (table, of) in written.iter().map(|(table, of)| (*table, of)).chain(appended) {
            let (name, counts) = inner.snapshot.counts_of(table);
            counts.upserts += of.upserts;
            counts.deletes += of.deletes;
            if !of.version.is_empty() && counts.schema_version != of.version {
                of.version.clone_into(&mut counts.schema_version);
            }
            let published = u64::try_from(of.time_ns / 1_000_000_000).unwrap_or(0);
            counts.last_change_unix = counts.last_change_unix.max(published);
            self.metrics.upserted.with_label_values(&[name]).inc_by(of.upserts);
            self.metrics.deleted.with_label_values(&[name]).inc_by(of.deletes);
        }
    }

    /// Nothing was to be done about these; empties them.
    pub fn passed(&self, passed: &mut PassedEvents) {
        let seen = std::mem::take(&mut passed.seen);
        self.metrics.seen_before.inc_by(seen);
        let mut inner = self.inner();
        inner.snapshot.seen_before += seen;
        inner.snapshot.done += seen;
        for (table, of) in passed.tables.drain() {
            inner.snapshot.filtered += of.filtered;
            inner.snapshot.stale += of.stale;
            inner.snapshot.imported += of.imported;
            let (name, counts) = inner.snapshot.counts_of(&table);
            counts.filtered += of.filtered;
            counts.stale += of.stale;
            counts.imported += of.imported;
            let metrics = &self.metrics;
            for (counter, count) in [
                (&metrics.filtered, of.filtered),
                (&metrics.stale, of.stale),
                (&metrics.imported, of.imported),
            ] {
                if count > 0 {
                    counter.with_label_values(&[name]).inc_by(count);
                }
            }
        }
    }

    /// An event of `table` (empty where it is not known) became a dead letter.
    pub fn dead_letter(&self, table: &str, kind: RejectKind, reason: &str) {
        let mut inner = self.inner();
        inner.snapshot.dead_letters += 1;
        inner.snapshot.warn(&format!("dead letter: {reason}"));
        let mut name = table;
        if !table.is_empty() {
            let counts;
            (name, counts) = inner.snapshot.counts_of(table);
            counts.dead_letters += 1;
        }
        self.metrics.dead_letters.with_label_values(&[name, kind.as_str()]).inc();
    }

    /// So many dead letters are kept that no later change has superseded; all take so many bytes.
    pub fn letters(&self, waiting: u64, bytes: u64) {
        self.metrics.letters_waiting.set(gauge(waiting));
        self.metrics.letters_bytes.set(gauge(bytes));
        self.inner().snapshot.dead_letters_waiting = waiting;
    }

    /// These tables cannot be written now.
    pub fn held(&self, held: BTreeMap<String, HeldCounts>) {
        let named = held.iter().map(|(table, counts)| (&**table, counts));
        self.metrics.held(named.take(TABLES_MAX));
        self.inner().snapshot.held = held;
    }

    /// An import is under way, or not any more.
    pub fn importing(&self, import: Option<ImportStatus>) {
        self.inner().snapshot.import = import;
    }

    /// The counts at this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.inner().snapshot.clone().aged()
    }

    /// The totals of the metrics.
    pub fn totals(&self) -> MetricTotals {
        let metrics = &self.metrics;
        MetricTotals {
            flushes: metrics.flush_count.get_sample_count(),
            flushes_timed: metrics.flush_seconds.get_sample_count(),
            events_timed: metrics.processing_seconds.get_sample_count(),
            pending: u64::try_from(metrics.pending.get()).unwrap_or(0),
            received: metrics.events.get(),
        }
    }

    /// What is counted, in Prometheus' text form.
    pub fn metrics(&self) -> String {
        self.metrics.text()
    }
}

/// What of a batch is of one table.
#[derive(Default)]
struct WrittenOfTable<'b> {
    upserts: u64,
    deletes: u64,
    version: &'b str,
    time_ns: i64,
}

#[cfg(test)]
mod tests;
