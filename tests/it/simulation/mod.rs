//! The real pipeline against a feed and a destination that do their worst, from one seed, on a
//! paused clock. After each run the destination equals the model, and nothing was acknowledged
//! before it was safe.

mod history;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use eds::change::filter::TableFilter;
use eds::change::{Batch, Cutover, Position, TableSchema};
use eds::destination::memory::{ABILITIES, MemoryDestination, MemoryRow, SharedStore, Store};
use eds::destination::{Claim, Destination, Epoch, Failure, FailureKind, Migration, Tables};
use eds::feed::{Delivery, Encoding, Feed, FeedError, OpenAt, Opened, Signal};
use eds::pipeline::{
    Adoption, DeadLetters, End, Engine, EngineDeps, EngineOptions, Halt, Progress,
};
use eds::registry::{Registry, SchemaSource};
use eds::state::State;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use history::{History, key, time};

const SEEDS: u64 = 1_500;
const SCHEMAS: [&str; 3] = [
    r#"{"table":"a","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"},"n":{"type":"integer"}}}"#,
    r#"{"table":"a","modelVersion":"2","primaryKeys":["id"],"properties":{"id":{"type":"string"},"n":{"type":"integer"},"m":{"type":"integer","nullable":true}}}"#,
    r#"{"table":"b","modelVersion":"1","primaryKeys":["k","id"],"properties":{"id":{"type":"string"},"k":{"type":"integer"},"n":{"type":"string"}}}"#,
];

/// A mistake that is built in on purpose, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// The destination says that a batch is safe, and writes it with the next one.
    AcknowledgesBeforeApply,
    /// The checkpoint is committed by itself, before the rows.
    CheckpointApart,
}

/// What all parts of a simulation share; it outlives the processes.
struct World {
    rng: Mutex<fastrand::Rng>,
    bug: Bug,
    history: History,
    store: SharedStore,
    state: State,
    dead_letter: Arc<Mutex<Vec<eds::pipeline::dead_letter::DeadLetter>>>,
    acknowledged: AtomicU64,
    /// Which opening of the feed is the current one.
    opening: AtomicU64,
    /// Connections made before this many restores are dead.
    restores: AtomicU64,
    imports: AtomicU64,
    backup: Mutex<Option<Store>>,
    calm: AtomicBool,
    crash: Notify,
    complaint: Mutex<Option<String>>,
}

impl World {
    fn new(seed: u64, bug: Bug) -> Arc<World> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let history = history::history(&mut rng);
        Arc::new(World {
            rng: Mutex::new(rng),
            bug,
            history,
            store: SharedStore::default(),
            state: State::in_memory().unwrap_or_else(|e| panic!("{e}")),
            dead_letter: Arc::default(),
            acknowledged: AtomicU64::new(0),
            opening: AtomicU64::new(0),
            restores: AtomicU64::new(0),
            imports: AtomicU64::new(0),
            backup: Mutex::new(None),
            calm: AtomicBool::new(false),
            crash: Notify::new(),
            complaint: Mutex::new(None),
        })
    }

    fn total(&self) -> u64 {
        self.history.messages.len() as u64
    }

    /// Once in `of` times, unless the weather is calm.
    fn chance(&self, of: u64) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.draw(of) == 0
    }

    fn draw(&self, below: u64) -> u64 {
        self.rng.lock().unwrap_or_else(|e| e.into_inner()).u64(..below)
    }

    fn complain(&self, text: String) {
        self.complaint.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(text);
    }

    /// A place between two steps at which the process may end.
    async fn step(&self) {
        if self.chance(60) {
            self.crash.notify_one();
            std::future::pending::<()>().await;
        }
        if self.chance(4) {
            sleep(Duration::from_millis(self.draw(200))).await;
        }
    }
}

struct SimFeed {
    world: Arc<World>,
    opening: u64,
    next: u64,
}

#[async_trait]
impl Feed for SimFeed {
    async fn acknowledged_position(&mut self) -> Result<Option<Position>, FeedError> {
        self.world.step().await;
        Ok(Some(Position { sequence: self.world.acknowledged.load(Ordering::Relaxed), time_ns: 0 }))
    }

    async fn open(&mut self, OpenAt { after, since_ns, .. }: OpenAt) -> Result<Opened, FeedError> {
        self.world.step().await;
        if self.world.chance(10) && self.opening > 0 {
            return Err(FeedError::Unavailable("no NATS".into()));
        }
        self.opening = self.world.opening.fetch_add(1, Ordering::Relaxed) + 1;
        let after = match (after, since_ns) {
            (None, Some(since)) => {
                (1..=self.world.total())
                    .find(|sequence| time(*sequence) >= since)
                    .unwrap_or(self.world.total() + 1)
                    - 1
            }
            (after, _) => after.map_or(0, |p| p.sequence),
        };
        // The consumer is made anew there.
        self.world.acknowledged.store(after, Ordering::Relaxed);
        // A redelivery: some that came before come again.
        let again = if self.world.chance(3) { self.world.draw(20) } else { 0 };
        self.next = after.saturating_sub(again) + 1;
        self.world.step().await;
        Ok(Opened { pending: Some(self.world.total() + 1 - self.next), ..Opened::default() })
    }

    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError> {
        self.world.step().await;
        if self.opening != self.world.opening.load(Ordering::Relaxed) {
            return Ok(Signal::Lost("the consumer was deleted".into()));
        }
        if self.world.chance(25) {
            return Ok(Signal::Lost("reconnected".into()));
        }
        let total = self.world.total();
        if self.next > total {
            sleep(Duration::from_secs(5)).await;
            return Ok(Signal::Idle);
        }
        for _ in 0..=self.world.draw(12).min(max as u64 - 1).min(total - self.next) {
            let sequence = self.next;
            self.next += 1;
            into.push(Delivery {
                position: Position { sequence, time_ns: time(sequence) },
                subject: format!("message {sequence}"),
                payload: self.world.history.messages[sequence as usize - 1].clone().into(),
                encoding: Encoding::Json,
                pending: total - sequence,
            });
        }
        if self.world.chance(40) {
            return Ok(Signal::Lost("a delivery was lost on the way".into()));
        }
        Ok(Signal::Delivered)
    }

    async fn acknowledge(&mut self, through: Position) -> Result<(), FeedError> {
        self.world.step().await;
        let durable = self.world.store.lock().position.map_or(0, |p| p.sequence);
        // A destination that was put back after it answered is no fault of ours.
        let put_back = self.world.restores.load(Ordering::Relaxed)
            + self.world.imports.load(Ordering::Relaxed)
            > 0;
        if durable < through.sequence && !put_back {
            self.world.complain(format!(
                "sequence {} was acknowledged while {durable} was safe",
                through.sequence
            ));
        }
        self.world.acknowledged.fetch_max(through.sequence, Ordering::Relaxed);
        self.world.step().await;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        self.world.step().await;
        Ok(())
    }
}

/// The memory destination behind everything that can go wrong.
struct Faulty {
    world: Arc<World>,
    inner: MemoryDestination,
    epoch: Epoch,
    restores: u64,
    /// What the planted bug holds back.
    held: Option<Arc<Batch>>,
}

fn broken() -> Failure {
    Failure::unavailable("the connection broke")
}

impl Faulty {
    fn alive(&self) -> Result<(), Failure> {
        if self.restores == self.world.restores.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(broken())
        }
    }

    /// The batch as one transaction, or as the planted bug would have it.
    async fn commit(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        match self.world.bug {
            Bug::None => self.inner.apply(batch).await,
            Bug::AcknowledgesBeforeApply => {
                if let Some(held) = self.held.replace(batch.clone()) {
                    self.inner.apply(&held).await?;
                }
                Ok(())
            }
            Bug::CheckpointApart => {
                self.world.store.lock().advance(self.epoch.get(), batch)?;
                self.world.step().await;
                let mut next = self.world.store.lock().clone();
                batch.groups.iter().try_for_each(|group| next.write(batch, group))?;
                *self.world.store.lock() = next;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Destination for Faulty {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        self.world.step().await;
        self.alive()?;
        // Refused before the work.
        if self.world.chance(12) {
            return Err(broken());
        }
        // Reported as failed, and done later, while the next try may be under way.
        if self.world.chance(30) && self.world.bug == Bug::None {
            let (world, epoch, restores, batch) =
                (self.world.clone(), self.epoch.clone(), self.restores, batch.clone());
            let late = Duration::from_millis(world.draw(400));
            tokio::spawn(async move {
                sleep(late).await;
                if restores == world.restores.load(Ordering::Relaxed) {
                    let _ = MemoryDestination::open(world.store.clone(), epoch).apply(&batch).await;
                }
            });
            return Err(broken());
        }
        let done = self.commit(batch).await;
        self.world.step().await;
        // Done, and then reported as failed.
        if done.is_ok() && self.world.chance(12) {
            return Err(broken());
        }
        // The answer comes late.
        if self.world.chance(20) {
            sleep(Duration::from_secs(self.world.draw(90))).await;
        }
        done
    }

    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        self.world.step().await;
        self.alive()?;
        if claim == Claim::Verify && self.world.chance(8) {
            return Err(broken());
        }
        let found = self.inner.checkpoint(claim).await;
        self.world.step().await;
        found
    }

    async fn cutover(&mut self) -> Result<Cutover, Failure> {
        self.world.step().await;
        self.alive()?;
        self.inner.cutover().await
    }

    async fn tables(&mut self) -> Result<Tables, Failure> {
        self.world.step().await;
        self.alive()?;
        self.inner.tables().await
    }

    async fn migrate(&mut self, step: &Migration) -> Result<(), Failure> {
        self.world.step().await;
        self.alive()?;
        self.inner.migrate(step).await
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.world.step().await;
        Ok(())
    }
}

/// One process: it ends in order, with an error, or by a crash (`None`).
async fn process(world: &Arc<World>, until_caught_up: bool) -> Option<Result<End, Halt>> {
    let epoch = Epoch::default();
    let connect = world.clone();
    let open = move || -> futures::future::BoxFuture<'static, _> {
        let (world, epoch) = (connect.clone(), epoch.clone());
        Box::pin(async move {
            world.step().await;
            if world.chance(12) && epoch.get() > 0 {
                return Err(broken());
            }
            let inner = MemoryDestination::open(world.store.clone(), epoch.clone());
            let restores = world.restores.load(Ordering::Relaxed);
            Ok(Box::new(Faulty { world, inner, epoch, restores, held: None })
                as Box<dyn Destination>)
        })
    };
    let (_stop, stop) = watch::channel(false);
    let options = EngineOptions {
        adoption: Adoption::Without,
        companies: "*".into(),
        rules: None,
        consumer: "sim".into(),
        filter: TableFilter::default(),
        restart: false,
        pending_latency_min: None,
        pending_latency_max: None,
        until_caught_up,
        adopt: Vec::new(),
        events_max: usize::MAX,
        abilities: eds::destination::Abilities { batch_changes_max: 30, ..ABILITIES },
    };
    let schemas = SchemaSource::Fixed(Arc::new(RwLock::new(
        SCHEMAS.iter().map(|s| (*s).to_owned()).collect(),
    )));
    let parts = EngineDeps {
        feed: Box::new(SimFeed { world: world.clone(), opening: 0, next: 1 }),
        open: Box::new(open),
        registry: Registry::new(schemas, world.state.clone()),
        state: world.state.clone(),
        dead_letters: DeadLetters::Memory(world.dead_letter.clone()),
        progress: Arc::new(Progress::new().unwrap_or_else(|e| panic!("{e}"))),
        options,
        stop,
    };
    let run = async { Engine::start(parts).await?.run().await };
    tokio::select! {
        biased;
        () = world.crash.notified() => None,
        ended = run => Some(ended),
    }
}

/// Puts the destination back to an earlier state, now and then.
async fn restores(world: &Arc<World>) {
    loop {
        sleep(Duration::from_millis(200 + world.draw(3000))).await;
        let mut backup = world.backup.lock().unwrap_or_else(|e| e.into_inner());
        match backup.take() {
            Some(old) if world.chance(2) => {
                world.restores.fetch_add(1, Ordering::Relaxed);
                *world.store.lock() = old;
            }
            _ => *backup = Some(world.store.lock().clone()),
        }
    }
}

/// Exports of any moment are imported now and then, of both tables or one, in the place of the rows
/// or added to them.
async fn imports(world: &Arc<World>) {
    loop {
        sleep(Duration::from_millis(100 + world.draw(5000))).await;
        let tables: &[&str] = [&["a", "b"][..], &["a"], &["b"]][world.draw(3) as usize];
        let (through, whole) = (world.draw(world.total() + 1), world.draw(4) > 0);
        world.imports.fetch_add(1, Ordering::Relaxed);
        let mut store = world.store.lock();
        for schema in &SCHEMAS[1..] {
            let schema = Arc::new(TableSchema::parse(schema).unwrap_or_else(|e| panic!("{e}")));
            store.tables.take(&Migration::CreateTable(schema));
        }
        let mut rows: BTreeMap<String, BTreeMap<Vec<u8>, MemoryRow>> = BTreeMap::new();
        for ((table, number), row) in world.history.source[through as usize]
            .iter()
            .filter(|((table, _), _)| tables.contains(table))
        {
            rows.entry((*table).to_owned()).or_default().insert(key(table, *number), row.clone());
        }
        store.import(rows, &world.history.snapshots(tables, through, whole));
    }
}

/// Crashes and restarts, at times two processes at once, until the weather is calm; then one that
/// catches up.
async fn simulate(world: &Arc<World>) -> Result<(), String> {
    let with_restores = world.bug == Bug::None && world.draw(3) == 0;
    let storm = async {
        for _ in 0..world.draw(8) {
            let patience = Duration::from_millis(200 + world.draw(20_000));
            if world.draw(4) == 0 && world.bug == Bug::None {
                let first = tokio::spawn({
                    let world = world.clone();
                    async move { timeout(patience, process(&world, false)).await }
                });
                sleep(Duration::from_millis(world.draw(500))).await;
                let second = timeout(patience, process(world, false)).await;
                drop(second);
                if let Ok(Ok(Some(Err(halt)))) = first.await {
                    expected(&halt)?;
                }
            } else if let Ok(Some(Err(halt))) = timeout(patience, process(world, false)).await {
                expected(&halt)?;
            }
        }
        Ok::<(), String>(())
    };
    let with_imports = world.bug == Bug::None && world.draw(3) == 0;
    let never = std::future::pending::<()>;
    tokio::select! {
        biased;
        done = storm => done?,
        () = async { if with_restores { restores(world).await } else { never().await } } => {}
        () = async { if with_imports { imports(world).await } else { never().await } } => {}
    }
    // What was reported as failed and is still under way lands.
    sleep(Duration::from_secs(1)).await;
    world.calm.store(true, Ordering::Relaxed);
    // A crash that nobody was there to suffer.
    let _ = timeout(Duration::ZERO, world.crash.notified()).await;
    match timeout(Duration::from_secs(3600), process(world, true)).await {
        Ok(Some(Ok(End::CaughtUp))) => verdict(world),
        other => Err(format!("the last process did not catch up: {other:?}")),
    }
}

/// A process may end because another took over, or because it could not start.
fn expected(halt: &Halt) -> Result<(), String> {
    match halt {
        Halt::Destination(f)
            if matches!(f.kind, FailureKind::Fenced | FailureKind::Unavailable) =>
        {
            Ok(())
        }
        Halt::Feed(FeedError::Unavailable(_)) => Ok(()),
        other => Err(format!("a process ended with {other:?}")),
    }
}

fn verdict(world: &World) -> Result<(), String> {
    if let Some(complaint) = world.complaint.lock().unwrap_or_else(|e| e.into_inner()).take() {
        return Err(complaint);
    }
    let store = world.store.lock();
    for (table, expected) in &world.history.model() {
        let mut found: Vec<MemoryRow> =
            store.rows.get(table).map(|rows| rows.values().cloned().collect()).unwrap_or_default();
        found.sort();
        if found != *expected {
            return Err(format!("table {table} holds {found:?} instead of {expected:?}"));
        }
    }
    let dead_letters = world.dead_letter.lock().unwrap_or_else(|e| e.into_inner());
    let mut positions: Vec<u64> = dead_letters.iter().map(|a| a.position.sequence).collect();
    positions.sort_unstable();
    positions.dedup();
    let durable = store.position.map_or(0, |p| p.sequence);
    // What lies before an import is not read, bad or not.
    let bad = world.history.bad;
    let all_dead = positions.len() == bad
        || (positions.len() < bad && world.imports.load(Ordering::Relaxed) > 0);
    match (all_dead, durable == world.total()) {
        (true, true) => Ok(()),
        (false, _) => {
            Err(format!("{} messages were dead letters instead of {bad}", positions.len()))
        }
        (_, false) => Err(format!("the checkpoint is at {durable} of {}", world.total())),
    }
}

fn run(seed: u64, bug: Bug) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async { simulate(&World::new(seed, bug)).await })
}

/// Every seed ends equal; a failing one says how to repeat it.
#[test]
fn every_storm_ends_with_the_destination_equal_to_the_model() {
    if let Some(seed) = std::env::var("EDS_SIM_SEED").ok().and_then(|s| s.parse().ok()) {
        run(seed, Bug::None).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        return;
    }
    let seeds = std::env::var("EDS_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        if let Err(e) = run(seed, Bug::None) {
            panic!(
                "seed {seed}: {e}\nrepeat it with: EDS_SIM_SEED={seed} cargo test --test \
                 it simulation"
            );
        }
    }
}

/// The simulation is worth something: mistakes that lose data do not get through.
#[test]
fn planted_bugs_are_caught() {
    for bug in [Bug::AcknowledgesBeforeApply, Bug::CheckpointApart] {
        let caught = (0..200).filter(|seed| run(*seed, bug).is_err()).count();
        assert!(caught > 0, "{bug:?} went unnoticed in 200 seeds");
        println!("{bug:?}: {caught} of 200 seeds notice it");
    }
}
