//! What all parts of a simulation share: the weather, the history, what was written, the trace.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use eds::change::{NumberedLetter, TableSchema};
use eds::destination::WriteMode;
use eds::destination::memory::{SharedStore, Store};
use eds::registry::FixedSchemas;
use eds::state::State;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::history::{History, PUBLISHED_AFTER_NS, history, time};
use super::log::Objects;
use super::processes::SCHEMAS;

/// The consumer whose positions are kept.
pub const CONSUMER: &str = "sim";

/// A mistake that is built in on purpose, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    None,
    /// The destination says that a batch is safe, and writes it with the next one.
    AcknowledgesBeforeApply,
    /// The checkpoint is committed by itself, before the rows.
    CheckpointApart,
    /// Nobody records how far a batch goes before it is written.
    IntentNotRecorded,
    /// The position is saved before the batch is written.
    PositionBeforeWrite,
    /// A feed that does not know what is pending says that nothing is.
    UnknownPendingIsNone,
    /// A stream that was recreated is read from our position on.
    StreamNotCompared,
    /// It is read from its beginning, and judged by the times of the former one.
    FormerTimesDecide,
    /// Whoever writes, the destination takes it.
    NoFence,
    /// The checkpoint is not read again after a restore.
    RestoreUnnoticed,
    /// Events come without their versions.
    VersionsLost,
    /// Updates come without what was before.
    BeforeLost,
    /// Deletions are acknowledged and not written.
    DeletesLost,
    /// Dead letters are not kept.
    DeadLettersLost,
    /// What was removed before it was read is not reported.
    GapsUnreported,
    /// Changes of a table that cannot be written are not kept.
    HeldLost,
    /// They are kept on when they are applied.
    ReleasedKept,
    /// Dead letters are kept on when they are applied.
    RetriedKept,
    /// A letter is applied whatever has become of its row.
    SupersededRetried,
    /// Events whose schema is not known are not kept.
    EventsLost,
    /// A batch that was sent behind one that fails is committed all the same.
    BehindUnfenced,
    /// Nobody says that the clock of the stream's server is behind.
    ClockIgnored,
}

/// The stream, which may be recreated with what was not acknowledged, and more.
#[derive(Clone, Copy, Debug)]
pub struct SimStream {
    /// Which message of the history is its first.
    pub first: u64,
    /// By how much its server's clock differs from the former's.
    pub shift_ns: i64,
    /// Messages up to this sequence were removed.
    pub removed: u64,
    /// How often it was recreated.
    pub recreations: u64,
}

/// By how much the clock of the stream's server is behind at times: a message is published before
/// its change was made.
const CLOCK_BEHIND_NS: i64 = 3_600_000_000_000;

/// What happens to the world, beside the crashes, in one simulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    Plain,
    Restores,
    Imports,
    FullDisks,
    Recreations,
    Removals,
}

impl Weather {
    fn drawn(rng: &mut fastrand::Rng, mode: WriteMode, bug: Bug) -> Weather {
        let drawn = rng.u64(..9);
        match (mode, bug) {
            (_, Bug::StreamNotCompared | Bug::FormerTimesDecide) => Weather::Recreations,
            (_, Bug::RestoreUnnoticed) => Weather::Restores,
            (_, Bug::GapsUnreported) => Weather::Removals,
            (WriteMode::Upsert, Bug::None) => match drawn {
                0 | 1 => Weather::Restores,
                2 | 3 => Weather::Imports,
                4 => Weather::FullDisks,
                5 => Weather::Recreations,
                6 => Weather::Removals,
                _ => Weather::Plain,
            },
            (WriteMode::Append, Bug::None) if drawn < 4 => Weather::FullDisks,
            _ => Weather::Plain,
        }
    }
}

/// It outlives the processes.
pub struct World {
    rng: Mutex<fastrand::Rng>,
    pub bug: Bug,
    pub mode: WriteMode,
    pub weather: Weather,
    /// Whether tables cannot be written at times.
    pub has_troubles: bool,
    /// The table that cannot be written now.
    pub troubled: Mutex<Option<&'static str>>,
    pub history: History,
    /// What was written of rows.
    pub store: SharedStore,
    /// What was written of changes.
    pub objects: Mutex<Objects>,
    pub state: State,
    /// The schemas that are published.
    pub schemas: Arc<RwLock<FixedSchemas>>,
    /// Whether they are late, and cannot be had at times.
    pub has_late_schemas: bool,
    /// Whether rows of table b are refused at times.
    pub has_refusals: bool,
    /// Which of them is refused now.
    pub refused: Mutex<Option<u64>>,
    /// The most dead letters that are kept; a person drops some now and then.
    pub letters_max: usize,
    /// What that person has dropped.
    pub dropped: Mutex<Vec<NumberedLetter>>,
    pub acknowledged: AtomicU64,
    stream: Mutex<SimStream>,
    /// Whether the feed knows how much is pending.
    pub knows_pending: bool,
    /// A message was removed before it was read.
    pub has_gap: AtomicBool,
    /// And that was reported.
    pub gap_is_reported: AtomicBool,
    /// Which opening of the feed is the current one.
    pub opening: AtomicU64,
    /// Connections made before this many restores are dead.
    pub restores: AtomicU64,
    pub imports: AtomicU64,
    pub backup: Mutex<Option<Store>>,
    calm: AtomicBool,
    pub crash: Notify,
    complaint: Mutex<Option<String>>,
    began: Instant,
    /// Every step with its time, where somebody wants to know.
    trace: Option<Mutex<Vec<String>>>,
}

/// The published schemas, and a state file: if they are late, it knows some from before, and the
/// others cannot be had yet.
fn schemas(rng: &mut fastrand::Rng, are_late: bool) -> (FixedSchemas, State) {
    let mut schemas = FixedSchemas::from(SCHEMAS.map(str::to_owned).to_vec());
    let state = State::in_memory().unwrap_or_else(|e| panic!("{e}"));
    if are_late {
        schemas.is_away = rng.bool();
        for text in SCHEMAS.iter().filter(|_| rng.bool()) {
            let schema = TableSchema::parse(text).unwrap_or_else(|e| panic!("{e}"));
            let saved = state.save_schema(&schema.table, &schema.version, text);
            saved.unwrap_or_else(|e| panic!("{e}"));
        }
    }
    (schemas, state)
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(seed: u64, mode: WriteMode, bug: Bug, is_traced: bool) -> Arc<World> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weather = Weather::drawn(&mut rng, mode, bug);
        // The memory of rows is saved once a minute. If the stream is gone and a process crashes
        // within that minute, nobody tells the versions that it held: an older one would win.
        let is_kept = !matches!(weather, Weather::Removals | Weather::Recreations);
        let history = history(&mut rng, is_kept);
        let knows_pending = rng.bool();
        let is_behind = is_kept && (bug == Bug::ClockIgnored || rng.u32(..4) == 0);
        let shift_ns = if is_behind { -CLOCK_BEHIND_NS } else { 0 };
        let mut drawn = |bugs: &[Bug]| {
            let of_bug = |bug| bugs.contains(&bug);
            mode == WriteMode::Upsert && if bug == Bug::None { rng.bool() } else { of_bug(bug) }
        };
        let has_troubles = drawn(&[Bug::HeldLost, Bug::ReleasedKept]);
        let has_refusals = drawn(&[Bug::RetriedKept, Bug::SupersededRetried]);
        let has_late_schemas = drawn(&[Bug::EventsLost]);
        let (schemas, state) = schemas(&mut rng, has_late_schemas);
        // What an import contains stays a letter, and only a person could know that.
        let has_room = mode == WriteMode::Append
            || bug != Bug::None
            || weather == Weather::Imports
            || rng.bool();
        let letters_max = if has_room { 1_000 } else { 5 };
        Arc::new(World {
            rng: Mutex::new(rng),
            bug,
            mode,
            weather,
            has_troubles,
            troubled: Mutex::new(None),
            history,
            store: SharedStore::default(),
            objects: Mutex::new(BTreeMap::new()),
            state,
            schemas: Arc::new(RwLock::new(schemas)),
            has_late_schemas,
            has_refusals,
            refused: Mutex::new(None),
            letters_max,
            dropped: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            stream: Mutex::new(SimStream { first: 1, shift_ns, removed: 0, recreations: 0 }),
            knows_pending,
            has_gap: AtomicBool::new(false),
            gap_is_reported: AtomicBool::new(false),
            opening: AtomicU64::new(0),
            restores: AtomicU64::new(0),
            imports: AtomicU64::new(0),
            backup: Mutex::new(None),
            calm: AtomicBool::new(false),
            crash: Notify::new(),
            complaint: Mutex::new(None),
            began: Instant::now(),
            trace: is_traced.then(Mutex::default),
        })
    }

    /// The last sequence of the stream.
    pub fn total(&self) -> u64 {
        self.history.messages.len() as u64 + 1 - self.stream().first
    }

    pub fn stream(&self) -> SimStream {
        *locked(&self.stream)
    }

    pub fn set_stream(&self, stream: SimStream) {
        self.note(|| format!("{stream:?}"));
        *locked(&self.stream) = stream;
        // Consumers go with their stream.
        self.opening.fetch_add(1, Ordering::Relaxed);
    }

    /// The message of that sequence, and when it was published.
    pub fn message(&self, sequence: u64) -> (&str, i64) {
        let stream = self.stream();
        let of_history = stream.first + sequence - 1;
        let published = time(of_history) + PUBLISHED_AFTER_NS + stream.shift_ns;
        (&self.history.messages[of_history as usize - 1], published)
    }

    /// From now on nothing goes wrong.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
        *locked(&self.troubled) = None;
        *locked(&self.refused) = None;
        self.schemas.write().unwrap_or_else(PoisonError::into_inner).is_away = false;
        self.state.refuse_writes(false).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Once in `of` times, unless the weather is calm.
    pub fn chance(&self, of: u64) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.draw(of) == 0
    }

    pub fn draw(&self, below: u64) -> u64 {
        locked(&self.rng).u64(..below)
    }

    pub fn complain(&self, text: String) {
        locked(&self.complaint).get_or_insert(text);
    }

    pub fn take_complaint(&self) -> Option<String> {
        locked(&self.complaint).take()
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            locked(trace).push(format!("{:?} {}", self.began.elapsed(), what()));
        }
    }

    pub fn take_trace(&self) -> Vec<String> {
        self.trace.as_ref().map_or_else(Vec::new, |trace| std::mem::take(&mut *locked(trace)))
    }

    /// A place between two steps at which the process may end.
    pub async fn step(&self, place: &'static str) {
        self.note(|| place.to_owned());
        if self.chance(60) {
            self.crash.notify_one();
            std::future::pending::<()>().await;
        }
        if self.chance(4) {
            sleep(Duration::from_millis(self.draw(200))).await;
        }
    }

    /// Whether everything up to `sequence` was written. A destination that was put back after it
    /// answered is no fault of the engine.
    pub fn is_safe(&self, sequence: u64) -> bool {
        let was_put_back =
            self.restores.load(Ordering::Relaxed) + self.imports.load(Ordering::Relaxed) > 0;
        match self.mode {
            WriteMode::Upsert => {
                let durable = self.store.lock().position.map_or(0, |p| p.sequence);
                durable >= sequence || was_put_back
            }
            WriteMode::Append => {
                let objects = locked(&self.objects);
                let written: std::collections::BTreeSet<u64> =
                    objects.values().flatten().map(|change| change.sequence).collect();
                (1..=sequence).all(|one| self.history.bad.contains(&one) || written.contains(&one))
            }
        }
    }
}
