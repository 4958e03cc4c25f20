//! The engine against a scripted feed and a destination that is restored to an earlier state: what
//! is pending then must be neither applied nor acknowledged.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{End, Engine, EngineDeps, Halt};
use crate::change::filter::TableFilter;
use crate::change::{Batch, Cutover, Position};
use crate::destination::memory::{self, MemoryDestination, SharedStore, Store};
use crate::destination::{
    Abilities, CheckpointIn, Claim, Destination, Epoch, Failure, FailureKind, LetterBox, Migration,
    OpenFuture, Tables,
};
use crate::feed::{Acknowledged, Delivery, Encoding, Feed, FeedError, OpenAt, Opened, Signal};
use crate::pipeline::progress::Phase;
use crate::pipeline::{
    Adoption, EngineOptions, HELD_BYTES_MAX, LetterOptions, Progress, SchemaChange,
};
use crate::registry::{Registry, SchemaSource};
use crate::state::State;
use crate::state::predecessor::Predecessor;

const SCHEMA: &str = r#"{"table":"a","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}"#;
/// Messages of the scripted feed; each is a row of its own.
const MESSAGES: u64 = 6;
/// How long the destination takes for the batch during which it is restored.
const SLOW_WRITE: Duration = Duration::from_secs(1);

/// How the scripted feed behaves after its last message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterLast {
    /// It waits for more.
    Idles,
    /// It never delivers more, and says nothing.
    IsSilent,
    /// It has ended, and can be opened again.
    Ends,
    /// It has ended, and can be read only once.
    EndsForGood,
}

/// What outlives the feed and the destination.
struct EngineScene {
    store: SharedStore,
    state: State,
    acknowledged: AtomicU64,
    /// After which sequences the feed was opened.
    openings: Mutex<Vec<u64>>,
    /// At this call of `apply`, the destination is restored to what it was after the first.
    restored_at: AtomicUsize,
    applied: AtomicUsize,
    backup: Mutex<Option<Store>>,
    /// The feed reads another stream than the one before.
    recreated: AtomicBool,
    /// When each message was published, Unix nanoseconds.
    time_ns: AtomicI64,
    /// How often the feed says that another process has it; before each, another claims the
    /// destination, if `is_claimed`.
    taken: AtomicUsize,
    is_claimed: AtomicBool,
    /// How often the feed is away when it is to be opened.
    away: AtomicUsize,
    /// How often the feed was asked whether anything is pending.
    idle_asked: AtomicUsize,
    /// The first message is no event, and no dead letter may be kept.
    is_first_bad: AtomicBool,
    /// The destination fails as long as that is in the future.
    fails_until: Mutex<Option<Instant>>,
    progress: Arc<Progress>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EngineScene {
    fn new(restored_at: usize) -> Arc<EngineScene> {
        Arc::new(EngineScene {
            store: SharedStore::default(),
            state: State::in_memory().unwrap_or_else(|e| panic!("{e}")),
            acknowledged: AtomicU64::new(0),
            openings: Mutex::default(),
            restored_at: AtomicUsize::new(restored_at),
            applied: AtomicUsize::new(0),
            backup: Mutex::default(),
            recreated: AtomicBool::new(false),
            time_ns: AtomicI64::new(0),
            taken: AtomicUsize::new(0),
            is_claimed: AtomicBool::new(false),
            away: AtomicUsize::default(),
            idle_asked: AtomicUsize::new(0),
            is_first_bad: AtomicBool::new(false),
            fails_until: Mutex::default(),
            progress: Arc::new(Progress::new().unwrap_or_else(|e| panic!("{e}"))),
        })
    }

    fn position(&self) -> Option<u64> {
        self.store.lock().position.map(|p| p.sequence)
    }

    fn rows(&self) -> usize {
        self.store.lock().rows.get("a").map_or(0, |rows| rows.len())
    }

    /// A process with `abilities` whose feed does `after_last`; it ends, or is told to after
    /// `stop_after`.
    async fn run(
        self: &Arc<EngineScene>,
        abilities: Abilities,
        after_last: AfterLast,
        stop_after: Option<Duration>,
    ) -> Result<End, Halt> {
        let (stopper, stop) = watch::channel(false);
        let (scene, epoch) = (self.clone(), Epoch::default());
        let open = move || -> OpenFuture<'static> {
            let inner = MemoryDestination::open(scene.store.clone(), epoch.clone());
            let opened = Restored { scene: scene.clone(), inner };
            Box::pin(async move { Ok(Box::new(opened) as Box<dyn Destination>) })
        };
        let schemas = SchemaSource::Fixed(Arc::new(RwLock::new(vec![SCHEMA.to_owned()].into())));
        let mut options = options(abilities, after_last == AfterLast::Idles);
        if self.is_first_bad.load(Ordering::Relaxed) {
            options.letters.limits.letters_max = 0;
        }
        let deps = EngineDeps {
            feed: Box::new(Script { scene: self.clone(), next: None, after_last }),
            open: Box::new(open),
            registry: Registry::new(schemas, self.state.clone()),
            state: self.state.clone(),
            predecessor: Predecessor::Nobody,
            progress: self.progress.clone(),
            options,
            stop,
        };
        let run = async { Engine::start(deps).await?.run().await };
        let stopping = async {
            if let Some(wait) = stop_after {
                sleep(wait).await;
                stopper.send_replace(true);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! { ended = run => ended, () = stopping => unreachable!("it only stops") }
    }
}

fn options(abilities: Abilities, until_caught_up: bool) -> EngineOptions {
    EngineOptions {
        consumer: "test".into(),
        filter: TableFilter::default(),
        restart: false,
        pending_latency_min: None,
        pending_latency_max: None,
        until_caught_up,
        adoption: Adoption::Without,
        companies: "*".into(),
        rules: None,
        columns: Arc::default(),
        adopt: Vec::new(),
        abilities,
        events_max: usize::MAX,
        held_bytes_max: HELD_BYTES_MAX,
        schema_change: SchemaChange::default(),
        letters: LetterOptions::default(),
    }
}

/// One change a batch, so that it is known what is pending when.
fn one_by_one() -> Abilities {
    Abilities { batch_changes_max: 1, ..memory::ABILITIES }
}

struct Script {
    scene: Arc<EngineScene>,
    /// `None`: not opened yet.
    next: Option<u64>,
    after_last: AfterLast,
}

#[async_trait]
impl Feed for Script {
    async fn acknowledged(&mut self) -> Result<Acknowledged, FeedError> {
        Ok(Acknowledged::Nothing)
    }

    async fn open(&mut self, at: OpenAt) -> Result<Opened, FeedError> {
        if self.next.is_some() && self.after_last == AfterLast::EndsForGood {
            return Err(FeedError::Misconfigured("it can be read only once".into()));
        }
        let counts_down = |n: usize| n.checked_sub(1);
        if self.scene.away.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counts_down).is_ok() {
            return Err(FeedError::Unavailable("it is being restarted".into()));
        }
        if self.scene.taken.load(Ordering::Relaxed) > 0 {
            self.scene.taken.fetch_sub(1, Ordering::Relaxed);
            self.scene.store.lock().epoch +=
                i64::from(self.scene.is_claimed.load(Ordering::Relaxed));
            return Err(FeedError::Taken("another has it".into()));
        }
        let recreated = self.scene.recreated.swap(false, Ordering::Relaxed);
        let after = at.after.filter(|_| !recreated).map_or(0, |p| p.sequence);
        locked(&self.scene.openings).push(after);
        self.next = Some(after + 1);
        Ok(Opened { recreated, ..Opened::default() })
    }

    async fn next(&mut self, into: &mut Vec<Delivery>, _max: usize) -> Result<Signal, FeedError> {
        let sequence = self.next.unwrap_or_default();
        if sequence > MESSAGES {
            return match self.after_last {
                AfterLast::IsSilent => std::future::pending().await,
                AfterLast::Ends | AfterLast::EndsForGood => Ok(Signal::Ended),
                AfterLast::Idles => {
                    sleep(Duration::from_secs(5)).await;
                    Ok(Signal::Idle)
                }
            };
        }
        self.next = Some(sequence + 1);
        let is_bad = sequence == 1 && self.scene.is_first_bad.load(Ordering::Relaxed);
        into.push(Delivery {
            position: Position {
                sequence,
                time_ns: self.scene.time_ns.load(Ordering::Relaxed),
            },
            subject: String::new(),
            payload: match is_bad {
                true => "no event".into(),
                false => format!(
                    r#"{{"operation":"INSERT","table":"a","modelVersion":"1","after":{{"id":"{sequence}"}}}}"#
                )
                .into(),
            },
            encoding: Encoding::Json,
            pending: Some(MESSAGES + 1 - sequence),
        });
        Ok(Signal::Delivered)
    }

    async fn nothing_pending_at(&mut self) -> Option<i64> {
        self.scene.idle_asked.fetch_add(1, Ordering::Relaxed);
        Some(77)
    }

    async fn acknowledge(&mut self, through: Position) -> Result<(), FeedError> {
        self.scene.acknowledged.store(through.sequence, Ordering::Relaxed);
        Ok(())
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        Ok(())
    }
}

/// A destination that is restored while it writes.
struct Restored {
    scene: Arc<EngineScene>,
    inner: MemoryDestination,
}

#[async_trait]
impl Destination for Restored {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        if locked(&self.scene.fails_until).is_some_and(|until| Instant::now() < until) {
            return Err(Failure::unavailable("it is away"));
        }
        let call = self.scene.applied.fetch_add(1, Ordering::Relaxed) + 1;
        if call == self.scene.restored_at.load(Ordering::Relaxed) {
            sleep(SLOW_WRITE).await;
            if let Some(backup) = locked(&self.scene.backup).take() {
                *self.scene.store.lock() = backup;
            }
            return Err(Failure::unavailable("the connection broke"));
        }
        self.inner.apply(batch).await?;
        locked(&self.scene.backup).get_or_insert_with(|| self.scene.store.lock().clone());
        Ok(())
    }

    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        self.inner.checkpoint(claim).await
    }

    async fn cutover(&mut self) -> Result<Cutover, Failure> {
        self.inner.cutover().await
    }

    async fn tables(&mut self) -> Result<Tables, Failure> {
        self.inner.tables().await
    }

    fn letter_box(&mut self) -> Option<&mut dyn LetterBox> {
        self.inner.letter_box()
    }

    async fn migrate(&mut self, step: &Migration) -> Result<(), Failure> {
        self.inner.migrate(step).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_rewind_while_stopping_ends_with_what_is_durable() {
    let scene = EngineScene::new(3);
    // The stop comes while the third change is written and the fourth is pending.
    let ended = scene.run(one_by_one(), AfterLast::Idles, Some(SLOW_WRITE / 2)).await;
    assert_eq!(ended, Ok(End::Stopped));
    assert_eq!((scene.position(), scene.rows()), (Some(1), 1), "nothing follows what was restored");
    assert_eq!(scene.acknowledged.load(Ordering::Relaxed), 2, "nothing is acknowledged after it");
    let next = scene.run(one_by_one(), AfterLast::Idles, None).await;
    assert_eq!(next, Ok(End::CaughtUp));
    assert_eq!((scene.position(), scene.rows()), (Some(MESSAGES), MESSAGES as usize));
}

#[tokio::test(start_paused = true)]
async fn times_of_a_stream_that_was_recreated_decide_nothing() {
    let scene = EngineScene::new(usize::MAX);
    scene.store.lock().position = Some(Position { sequence: 100, time_ns: 1_000 });
    scene.recreated.store(true, Ordering::Relaxed);
    // Its clock is behind that of the former.
    scene.time_ns.store(5, Ordering::Relaxed);
    let ended = scene.run(one_by_one(), AfterLast::Idles, None).await;
    assert_eq!(ended, Ok(End::CaughtUp));
    assert_eq!(scene.rows(), MESSAGES as usize);
    let position = scene.store.lock().position;
    assert_eq!(position, Some(Position { sequence: MESSAGES, time_ns: 5 }));
}

/// The checkpoint of a stream that is no more says nothing about how far this one is written, also
/// where the first change of this one has to wait for room.
#[tokio::test(start_paused = true)]
async fn what_waits_for_room_in_another_stream_is_not_acknowledged() {
    let scene = EngineScene::new(usize::MAX);
    scene.is_first_bad.store(true, Ordering::Relaxed);
    // One letter may be kept in any case.
    assert_eq!(scene.run(one_by_one(), AfterLast::Ends, None).await, Ok(End::CaughtUp));
    assert_eq!(scene.acknowledged.swap(0, Ordering::Relaxed), MESSAGES);
    scene.recreated.store(true, Ordering::Relaxed);
    scene.time_ns.store(5, Ordering::Relaxed);
    let stop_after = Some(Duration::from_secs(5));
    let ended = scene.run(one_by_one(), AfterLast::IsSilent, stop_after).await;
    assert_eq!(ended, Ok(End::Stopped));
    assert_eq!(scene.acknowledged.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_nothing_is_idle_though_the_feed_is() {
    let scene = EngineScene::new(usize::MAX);
    *locked(&scene.fails_until) = Some(Instant::now() + Duration::from_secs(200));
    let look = async {
        sleep(Duration::from_secs(150)).await;
        let state = scene.progress.snapshot().state;
        assert!(matches!(state, Phase::Waiting(_)), "{state:?}");
        assert_eq!(scene.idle_asked.load(Ordering::Relaxed), 0);
    };
    let (ended, ()) = futures::join!(scene.run(one_by_one(), AfterLast::Idles, None), look);
    assert_eq!(ended, Ok(End::CaughtUp));
    let idle = scene.state.idle("test").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(idle, Some(Position { sequence: MESSAGES, time_ns: 77 }));
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_has_ended_is_opened_again_where_the_destination_was_rewound_to() {
    for restored_at in [3, MESSAGES as usize] {
        let scene = EngineScene::new(restored_at);
        let ended = scene.run(one_by_one(), AfterLast::Ends, None).await;
        assert_eq!(ended, Ok(End::CaughtUp));
        assert_eq!((scene.position(), scene.rows()), (Some(MESSAGES), MESSAGES as usize));
        assert_eq!(*locked(&scene.openings), [0, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rewind_behind_a_feed_that_cannot_be_read_again_is_an_error() {
    let scene = EngineScene::new(MESSAGES as usize);
    let ended = scene.run(one_by_one(), AfterLast::EndsForGood, None).await;
    let why = FeedError::Misconfigured("it can be read only once".into());
    assert_eq!(ended, Err(Halt::Feed(why)));
    assert_eq!(scene.position(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_cut_a_batch_that_has_to_end_where_it_once_ended() {
    let scene = EngineScene::new(usize::MAX);
    let beyond = Position { sequence: MESSAGES + 4, time_ns: 0 };
    scene.state.save_intent("test", beyond).unwrap_or_else(|e| panic!("{e}"));
    let appends = Abilities { checkpoint_in: CheckpointIn::StateFile, ..memory::ABILITIES };
    let (began, stop_after) = (Instant::now(), Duration::from_secs(5));
    let ended = scene.run(appends, AfterLast::IsSilent, Some(stop_after)).await;
    assert_eq!(ended, Ok(End::Stopped));
    assert_eq!(began.elapsed(), stop_after, "nothing is waited for");
    assert_eq!((scene.position(), scene.rows()), (None, 0));
    assert_eq!(scene.state.intent("test").unwrap_or_else(|e| panic!("{e}")), Some(beyond));
}

/// What answered when the run began and is away a moment later is being restarted.
#[tokio::test(start_paused = true)]
async fn the_first_opening_is_tried_again_but_not_for_ever() {
    let away = Err(Halt::Feed(FeedError::Unavailable("it is being restarted".into())));
    for (times, expected) in [(5, Ok(End::CaughtUp)), (1_000, away)] {
        let scene = EngineScene::new(usize::MAX);
        scene.away.store(times, Ordering::Relaxed);
        assert_eq!(scene.run(one_by_one(), AfterLast::Idles, None).await, expected);
    }
    let scene = EngineScene::new(usize::MAX);
    scene.away.store(1_000, Ordering::Relaxed);
    let (began, stop_after) = (Instant::now(), Duration::from_secs(5));
    let stopped = scene.run(one_by_one(), AfterLast::Idles, Some(stop_after)).await;
    assert_eq!((stopped, began.elapsed()), (Ok(End::Stopped), stop_after));
}

/// Of two that start at once, one may have the feed and the other the destination.
#[tokio::test(start_paused = true)]
async fn whoever_claimed_the_destination_last_takes_the_feed_back() {
    let taken_by_another = Err(Halt::Feed(FeedError::Taken("another has it".into())));
    let logs = Abilities { checkpoint_in: CheckpointIn::StateFile, ..memory::ABILITIES };
    for (abilities, times, is_claimed, expected) in [
        (one_by_one(), 1, false, Some(Ok(End::CaughtUp))),
        (one_by_one(), 1, true, None),
        // Two with destinations of their own do not take turns for ever.
        (one_by_one(), 100, false, Some(taken_by_another.clone())),
        // Nobody knows who came last.
        (logs, 1, false, Some(taken_by_another)),
    ] {
        let scene = EngineScene::new(usize::MAX);
        scene.taken.store(times, Ordering::Relaxed);
        scene.is_claimed.store(is_claimed, Ordering::Relaxed);
        let ended = scene.run(abilities, AfterLast::Idles, None).await;
        match expected {
            Some(expected) => assert_eq!(ended, expected),
            None => assert!(
                matches!(&ended, Err(Halt::Destination(f)) if f.kind == FailureKind::Fenced),
                "{ended:?}"
            ),
        }
    }
}
