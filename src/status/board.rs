//! What a supervisor knows of itself and of its worker, for whoever asks over HTTP.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::desk::Desk;
use super::exposition::Exposition;
use super::moment::{ServerFacts, WorkerCounts};
use super::{FLUSH_HANG_MAX, StatusSource, process};
use crate::pipeline::Progress;
use crate::pipeline::progress::{Phase, Snapshot, StatusNotice};

/// A worker tells its status every second; one that has told nothing for so long is not counted on.
const REPORT_AGE_MAX: Duration = Duration::from_secs(15);
/// A supervisor that has not come round for so long hangs: whatever it waits for takes less.
pub const TURN_TIME_MAX: Duration = Duration::from_secs(600);

/// What a worker tells of itself.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct WorkerReport {
    /// Its counts.
    pub snapshot: Snapshot,
    /// In Prometheus' text form.
    pub metrics: String,
    /// For how long the flush under way has gone on, in milliseconds.
    pub flushing_ms: Option<u64>,
}

impl WorkerReport {
    /// Of this moment.
    pub fn of(progress: &Progress) -> WorkerReport {
        let flushing = progress.flushing_for();
        let mut own = Exposition::default();
        process::families("eds_worker_").into_iter().for_each(|family| own.put(family));
        WorkerReport {
            snapshot: progress.snapshot(),
            metrics: progress.metrics() + &own.to_string(),
            flushing_ms: flushing.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Where supervisor and worker write what they know.
pub struct StatusBoard {
    /// A flush that takes longer hangs.
    flush_hang_max: Duration,
    inner: Mutex<Board>,
}

struct Board {
    /// The supervisor's own state, while there is no worker.
    own: Phase,
    /// Why the last worker ended or could not work, until the next one streams.
    failed: Option<StatusNotice>,
    /// The worker's last report, and when it came.
    report: Option<(WorkerReport, Instant)>,
    /// When the supervisor last came round.
    turned: Instant,
    /// What the workers before have counted: counts do not vanish with them.
    former: Snapshot,
    former_metrics: Exposition,
    facts: ServerFacts,
    desk: Option<Arc<dyn Desk>>,
}

impl Default for StatusBoard {
    fn default() -> StatusBoard {
        StatusBoard::new(FLUSH_HANG_MAX)
    }
}

impl StatusBoard {
    /// Nothing is known yet. A flush that takes longer than `flush_hang_max` counts as hanging.
    pub fn new(flush_hang_max: Duration) -> StatusBoard {
        let board = Board {
            own: Phase::Starting,
            failed: None,
            report: None,
            turned: Instant::now(),
            former: Snapshot::default(),
            former_metrics: Exposition::default(),
            facts: ServerFacts { workers: Some(WorkerCounts::default()), ..ServerFacts::default() },
            desk: None,
        };
        StatusBoard { flush_hang_max, inner: Mutex::new(board) }
    }

    fn inner(&self) -> MutexGuard<'_, Board> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The supervisor has come round once more.
    pub fn turn(&self) {
        self.inner().turned = Instant::now();
    }

    /// There is no worker, and why. The supervisor has come round.
    pub fn without_worker(&self, phase: Phase) {
        let mut inner = self.inner();
        if let Some((report, _)) = inner.report.take() {
            let former = std::mem::take(&mut inner.former);
            // What it kept is read again by the next one.
            inner.former = Snapshot { import: None, ..report.snapshot.after(&former) };
            let counted = Exposition::parse(&report.metrics);
            let former_metrics = std::mem::take(&mut inner.former_metrics);
            inner.former_metrics = counted.after(&former_metrics);
        }
        inner.own = phase;
        inner.turned = Instant::now();
    }

    /// The supervisor itself waits, for this reason, which is an error.
    pub fn fails(&self, why: &str) {
        self.without_worker(Phase::Waiting(why.to_owned()));
        self.inner().failed = Some(StatusNotice::now(why));
    }

    /// The worker ended by itself or could not work, and why: there is none now.
    pub fn worker_failed(&self, why: &str) {
        self.fails(why);
        self.inner().workers().failed += 1;
    }

    /// A worker was started.
    pub fn worker_started(&self) {
        self.inner().workers().started += 1;
    }

    /// A session of HQ has begun: when its credentials expire and when the next one is asked for,
    /// Unix seconds.
    pub fn session(&self, credentials_expire_unix: Option<u64>, renewal_unix: u64) {
        let mut inner = self.inner();
        inner.facts.credentials_expire_unix = credentials_expire_unix;
        inner.facts.session_renewal_unix = Some(renewal_unix);
    }

    /// What the page has to do with, from now on.
    pub fn open_desk(&self, desk: Arc<dyn Desk>) {
        self.inner().desk = Some(desk);
    }

    /// The worker's status.
    pub fn report(&self, report: WorkerReport) {
        let mut inner = self.inner();
        if report.snapshot.state.is_flowing() {
            inner.failed = None;
        }
        inner.report = Some((report, Instant::now()));
    }
}

impl Board {
    fn workers(&mut self) -> &mut WorkerCounts {
        self.facts.workers.get_or_insert_default()
    }

    fn snapshot(&self) -> Snapshot {
        match &self.report {
            None => self.former.clone().in_state(self.own.clone()).of_ended(),
            Some((report, at)) => {
                let snapshot = report.snapshot.clone().after(&self.former);
                match at.elapsed() <= REPORT_AGE_MAX {
                    true => snapshot.aged(),
                    false => {
                        let silent = rounded(at.elapsed());
                        let why = format!("the worker has said nothing for {silent:?}");
                        snapshot.in_state(Phase::Waiting(why)).of_ended()
                    }
                }
            }
        }
    }
}

impl StatusSource for StatusBoard {
    fn snapshot(&self) -> Snapshot {
        let inner = self.inner();
        let mut snapshot = inner.snapshot();
        if let Some(failed) = &inner.failed {
            snapshot.last_error_unix = snapshot.last_error_unix.max(failed.at_unix);
            snapshot.last_error.get_or_insert_with(|| failed.clone());
        }
        snapshot
    }

    fn metrics(&self) -> Exposition {
        let inner = self.inner();
        let now = inner.report.as_ref().map(|(report, _)| Exposition::parse(&report.metrics));
        match now {
            Some(now) => now.after(&inner.former_metrics),
            None => inner.former_metrics.clone(),
        }
    }

    fn facts(&self) -> ServerFacts {
        self.inner().facts
    }

    fn hang(&self) -> Option<String> {
        let inner = self.inner();
        let silent = inner.turned.elapsed();
        if silent > TURN_TIME_MAX {
            return Some(format!("the supervisor has not come round for {:?}", rounded(silent)));
        }
        let (report, at) = inner.report.as_ref()?;
        let flushing = Duration::from_millis(report.flushing_ms?) + at.elapsed();
        super::flush_hangs(flushing, self.flush_hang_max)
    }

    fn desk(&self) -> Option<Arc<dyn Desk>> {
        self.inner().desk.clone()
    }
}

/// In whole seconds, for people.
pub fn rounded(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: Phase, flushing_ms: Option<u64>) -> WorkerReport {
        let mut snapshot = Snapshot::default().in_state(state);
        snapshot.done = 7;
        snapshot.warn("a warning");
        let metrics = "# TYPE eds_total_events counter\neds_total_events 7\n".into();
        WorkerReport { snapshot, metrics, flushing_ms }
    }

    #[test]
    fn only_a_flush_that_hangs_is_a_hang() {
        let board = StatusBoard::new(Duration::from_secs(60));
        let waiting = |why: &str| Phase::Waiting(why.into());
        board.without_worker(waiting("this server has no destination yet"));
        assert_eq!((board.hang(), board.snapshot().done), (None, 0));
        for harmless in [waiting("an import is running"), Phase::Paused, waiting("PostgreSQL")] {
            board.report(report(harmless.clone(), None));
            assert_eq!((board.hang(), board.snapshot().state), (None, harmless));
        }
        board.report(report(Phase::Streaming, Some(59_000)));
        assert_eq!(board.hang(), None);
        board.report(report(Phase::Streaming, Some(60_001)));
        assert!(board.hang().is_some_and(|why| why.contains("hung for 60s")), "{:?}", board.hang());
    }

    /// Of a worker that has ended the counts stay, and the next one counts on.
    #[test]
    fn no_count_goes_backwards_from_one_worker_to_the_next() {
        let board = StatusBoard::default();
        let told = |board: &StatusBoard| {
            let text = board.metrics().to_string();
            let line = text.lines().find(|line| line.starts_with("eds_total_events "));
            (line.unwrap_or_default().to_owned(), board.snapshot().done)
        };
        let is = |events: u64| (format!("eds_total_events {events}"), events);
        for worker in 1..=3 {
            board.without_worker(Phase::Starting);
            board.worker_started();
            board.report(report(Phase::Streaming, None));
            board.report(report(Phase::Streaming, None));
            assert_eq!(told(&board), is(worker * 7));
            let warnings = board.snapshot().warnings;
            assert_eq!(warnings.iter().map(|warning| warning.times).sum::<u64>(), worker);
            board.worker_failed("the worker was killed");
            assert_eq!(told(&board), is(worker * 7));
        }
        let workers = WorkerCounts { started: 3, failed: 3 };
        assert_eq!(board.facts().workers, Some(workers));
    }

    #[test]
    fn a_failed_worker_is_an_error_until_the_next_one_streams() {
        let board = StatusBoard::default();
        let error = |board: &StatusBoard| board.snapshot().last_error.map(|error| error.text);
        board.worker_failed("wrong password");
        assert_eq!(board.snapshot().state, Phase::Waiting("wrong password".into()));
        assert_eq!(error(&board).as_deref(), Some("wrong password"));
        board.without_worker(Phase::Starting);
        board.report(report(Phase::Starting, None));
        assert_eq!(error(&board).as_deref(), Some("wrong password"));
        board.report(report(Phase::CaughtUp, None));
        assert_eq!(error(&board), None);
        assert!(board.snapshot().last_error_unix == 0, "the workers' own errors are theirs");
    }
}
