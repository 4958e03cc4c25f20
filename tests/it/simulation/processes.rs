//! Processes that crash, are stopped, overlap; restores and imports meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use eds::change::filter::TableFilter;
use eds::change::{NumberedLetter, TableSchema};
use eds::destination::memory::{self, MemoryRow};
use eds::destination::{
    Abilities, Destination, Epoch, Failure, FailureKind, Migration, OpenFuture, WriteMode,
};
use eds::feed::FeedError;
use eds::pipeline::dead_letter::LetterLimits;
use eds::pipeline::{
    Adoption, End, Engine, EngineDeps, EngineOptions, Halt, LetterOptions, Progress, SchemaChange,
};
use eds::registry::{Registry, SchemaSource};
use eds::state::predecessor::Predecessor;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::feed::SimFeed;
use super::history::key;
use super::log::{self, FaultyLog};
use super::rows::{FaultyRows, broken};
use super::verdict::verdict;
use super::world::{Bug, CONSUMER, SimStream, Weather, World, locked};

/// The schemas of the tables: of the first the world knows two versions.
pub const SCHEMAS: [&str; 3] = [
    r#"{"table":"a","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"},"n":{"type":"integer"}}}"#,
    r#"{"table":"a","modelVersion":"2","primaryKeys":["id"],"properties":{"id":{"type":"string"},"n":{"type":"integer"},"m":{"type":"integer","nullable":true}}}"#,
    r#"{"table":"b","modelVersion":"1","primaryKeys":["k","id"],"properties":{"id":{"type":"string"},"k":{"type":"integer"},"n":{"type":"string"}}}"#,
];

/// How long a process that was told to stop is waited for: its crash may have hit another one.
const STOP_WAIT_MAX: Duration = Duration::from_secs(120);

/// How a process ends, unless it crashes before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// It is killed.
    Killed(Duration),
    /// It is told to stop, and killed if that takes too long.
    Stopped(Duration),
    /// Nothing is left to do.
    CaughtUp,
}

impl Life {
    fn drawn(world: &World) -> Life {
        let patience = Duration::from_millis(200 + world.draw(20_000));
        match world.draw(3) {
            0 => Life::Stopped(patience),
            _ => Life::Killed(patience),
        }
    }
}

fn options(world: &World, until_caught_up: bool) -> EngineOptions {
    let limits = LetterLimits { letters_max: world.letters_max, bytes_max: u64::MAX };
    let abilities = match world.mode {
        WriteMode::Upsert => memory::ABILITIES,
        WriteMode::Append => log::ABILITIES,
    };
    // Few, so that one batch is full while the one before is under way; or more than arrive.
    let batch_max = if world.draw(2) == 0 { 4 } else { 30 };
    EngineOptions {
        adoption: Adoption::Without,
        companies: "*".into(),
        rules: None,
        columns: Arc::default(),
        consumer: CONSUMER.into(),
        filter: TableFilter::default(),
        restart: false,
        pending_latency_min: None,
        pending_latency_max: None,
        until_caught_up,
        adopt: Vec::new(),
        events_max: usize::MAX,
        held_bytes_max: 4_000,
        schema_change: SchemaChange::default(),
        letters: LetterOptions { limits, ..LetterOptions::default() },
        abilities: Abilities { batch_changes_max: batch_max, ..abilities },
    }
}

/// Connects, which may fail once the process has started.
async fn connect(
    world: Arc<World>,
    epoch: Epoch,
    is_first: bool,
) -> Result<Box<dyn Destination>, Failure> {
    world.step("connect").await;
    if world.chance(12) && !is_first {
        return Err(broken());
    }
    Ok(match world.mode {
        WriteMode::Upsert => Box::new(FaultyRows::open(&world, &epoch)),
        WriteMode::Append => Box::new(FaultyLog::open(&world)),
    })
}

/// One process: it ends in order, with an error, or by a crash or being killed (`None`).
async fn process(world: &Arc<World>, life: Life) -> Option<Result<End, Halt>> {
    let (epoch, connecting) = (Epoch::default(), world.clone());
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let open = move || -> OpenFuture<'static> {
        let is_first = is_first.swap(false, Ordering::Relaxed);
        Box::pin(connect(connecting.clone(), epoch.clone(), is_first))
    };
    if world.bug == Bug::IntentNotRecorded {
        world.state.clear_intent(CONSUMER).unwrap_or_else(|e| panic!("{e}"));
    }
    let (stopper, stop) = watch::channel(false);
    let schemas = SchemaSource::Fixed(world.schemas.clone());
    let deps = EngineDeps {
        feed: Box::new(SimFeed::new(world)),
        open: Box::new(open),
        registry: Registry::new(schemas, world.state.clone()),
        state: world.state.clone(),
        predecessor: Predecessor::Nobody,
        progress: Arc::new(Progress::new().unwrap_or_else(|e| panic!("{e}"))),
        options: options(world, life == Life::CaughtUp),
        stop,
    };
    world.note(|| format!("a process begins: {life:?}"));
    let ended = tokio::select! {
        biased;
        () = world.crash.notified() => None,
        ended = async { Engine::start(deps).await?.run().await } => Some(ended),
        () = end_of(life, &stopper) => None,
    };
    world.note(|| format!("the process ends: {ended:?}"));
    ended
}

/// Returns when the process is killed; until then it is told to stop, where it is to be.
async fn end_of(life: Life, stopper: &watch::Sender<bool>) {
    match life {
        Life::Killed(after) => sleep(after).await,
        Life::Stopped(after) => {
            sleep(after).await;
            stopper.send_replace(true);
            sleep(STOP_WAIT_MAX).await;
        }
        Life::CaughtUp => std::future::pending().await,
    }
}

/// Puts the destination back to an earlier state, now and then.
async fn restores(world: &Arc<World>) {
    loop {
        sleep(Duration::from_millis(200 + world.draw(3000))).await;
        let mut backup = locked(&world.backup);
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
        world.note(|| format!("imports {tables:?} through {through}, whole: {whole}"));
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

/// The state file's disk is full at times.
async fn full_disks(world: &Arc<World>) {
    loop {
        sleep(Duration::from_millis(world.draw(6_000))).await;
        world.note(|| "the disk is full".into());
        world.state.refuse_writes(true).unwrap_or_else(|e| panic!("{e}"));
        sleep(Duration::from_millis(world.draw(3_000))).await;
        world.note(|| "the disk has room".into());
        world.state.refuse_writes(false).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// The stream is recreated once: with everything that was not acknowledged, and maybe more.
async fn recreations(world: &Arc<World>) {
    while world.stream().recreations == 0 {
        sleep(Duration::from_millis(500 + world.draw(6_000))).await;
        let kept = world.draw(world.acknowledged.load(Ordering::Relaxed) + 1);
        // Its clock is as before, an hour ahead, or behind: then not so that its messages look as
        // old as those that they replace, give or take what clocks may differ.
        let behind = if (6..=13).contains(&kept) { 0 } else { -1_200_000_000_000 };
        let shift_ns = [0, 3_600_000_000_000, behind][world.draw(3) as usize];
        if (shift_ns == 0 && kept == 0) || kept == world.total() {
            continue;
        }
        world.acknowledged.store(0, Ordering::Relaxed);
        world.set_stream(SimStream { first: kept + 1, shift_ns, removed: 0, recreations: 1 });
    }
    std::future::pending::<()>().await;
}

/// Retention removes messages, read or not.
async fn removals(world: &Arc<World>) {
    loop {
        sleep(Duration::from_millis(500 + world.draw(8_000))).await;
        let old = world.stream();
        let unread = match world.draw(3) {
            0 => world.draw(20),
            _ => 0,
        };
        let durable = world.store.lock().position.map_or(0, |p| p.sequence);
        let read = world.acknowledged.load(Ordering::Relaxed).min(durable);
        let removed = (read + unread).min(world.total());
        if removed > old.removed {
            world.note(|| format!("removes what is before {}", removed + 1));
            world.has_gap.fetch_or(removed > durable, Ordering::Relaxed);
            world.set_stream(SimStream { removed, ..old });
        }
    }
}

/// A table cannot be written at times: a lock, a right that is missing.
async fn troubles(world: &Arc<World>) {
    if !world.has_troubles {
        return;
    }
    loop {
        sleep(Duration::from_millis(world.draw(4_000))).await;
        let table = ["a", "b"][world.draw(2) as usize];
        world.note(|| format!("table {table} cannot be written"));
        *locked(&world.troubled) = Some(table);
        sleep(Duration::from_millis(world.draw(8_000))).await;
        world.note(|| format!("table {table} can be written"));
        *locked(&world.troubled) = None;
    }
}

/// A row cannot be written at times: a trigger that raises. A person orders what was refused to be
/// tried again, now and then.
async fn refusals(world: &Arc<World>) {
    if !world.has_refusals {
        return;
    }
    loop {
        sleep(Duration::from_millis(world.draw(3_000))).await;
        let row = world.draw(6);
        world.note(|| format!("row {row} of table b is refused"));
        *locked(&world.refused) = Some(row);
        sleep(Duration::from_millis(world.draw(6_000))).await;
        *locked(&world.refused) = None;
        if world.draw(2) == 0 {
            order_letters(world);
        }
    }
}

/// A person drops what can never be applied or is of no use, where only few letters may be kept.
async fn drops(world: &Arc<World>) {
    loop {
        sleep(Duration::from_millis(500 + world.draw(4_000))).await;
        let mut store = world.store.lock();
        let is_useless = |letter: &NumberedLetter| {
            let message = String::from_utf8_lossy(&letter.letter.payload);
            let is_bad = world.history.is_bad(&message);
            is_bad || letter.superseded_by.is_some()
        };
        if world.letters_max < 100 && !store.letters.is_empty() {
            let (useless, kept) =
                std::mem::take(&mut store.letters).into_iter().partition(|(_, l)| is_useless(l));
            store.letters = kept;
            let useless: BTreeMap<u64, NumberedLetter> = useless;
            world.note(|| format!("a person drops letters {:?}", useless.keys()));
            locked(&world.dropped).extend(useless.into_values());
        }
    }
}

/// The publisher of schemas is away at times.
async fn late_schemas(world: &Arc<World>) {
    if !world.has_late_schemas {
        return;
    }
    loop {
        sleep(Duration::from_millis(world.draw(5_000))).await;
        let mut schemas = world.schemas.write().unwrap_or_else(PoisonError::into_inner);
        schemas.is_away = !schemas.is_away;
        world.note(|| format!("the publisher of schemas is away: {}", schemas.is_away));
    }
}

/// All letters are to be tried again, superseded or not.
fn order_letters(world: &World) {
    let store = world.store.lock();
    let letters: Vec<(u64, u64)> =
        store.letters.values().map(|n| (n.number, n.letter.position.sequence)).collect();
    world.note(|| format!("letters {letters:?} are ordered"));
    // A disk that is full is tried again by a person, too.
    let _ = world.state.order_letters(CONSUMER, &letters);
}

/// Lets the world's weather and its troubles happen.
async fn blow(world: &Arc<World>) {
    let others = futures::future::join(drops(world), late_schemas(world));
    tokio::join!(weather(world), troubles(world), refusals(world), others);
    std::future::pending::<()>().await;
}

async fn weather(world: &Arc<World>) {
    match world.weather {
        Weather::Plain => std::future::pending().await,
        Weather::Restores => restores(world).await,
        Weather::Imports => imports(world).await,
        Weather::FullDisks => full_disks(world).await,
        Weather::Recreations => recreations(world).await,
        Weather::Removals => removals(world).await,
    }
}

/// One process, or two at once, which only a destination with a fence has to bear.
async fn gust(world: &Arc<World>) -> Result<(), String> {
    let life = Life::drawn(world);
    let may_be_two = world.mode == WriteMode::Upsert
        && match world.bug {
            Bug::None => world.draw(4) == 0,
            bug => bug == Bug::NoFence,
        };
    if !may_be_two {
        return expected(process(world, life).await);
    }
    let first = tokio::spawn({
        let world = world.clone();
        async move { process(&world, life).await }
    });
    sleep(Duration::from_millis(world.draw(500))).await;
    let second = process(world, Life::drawn(world)).await;
    expected(second)?;
    expected(first.await.map_err(|e| e.to_string())?)
}

/// A process may end because another took over, or because it could not start.
fn expected(ended: Option<Result<End, Halt>>) -> Result<(), String> {
    match ended {
        None | Some(Ok(End::Stopped)) => Ok(()),
        Some(Err(Halt::Destination(f)))
            if f.kind != FailureKind::Misconfigured && f.kind != FailureKind::Rejected =>
        {
            Ok(())
        }
        Some(Err(Halt::Feed(FeedError::Unavailable(_)))) => Ok(()),
        // The disk was full when it started.
        Some(Err(Halt::Setup(why))) if why.contains("readonly") => Ok(()),
        // The schemas could not be had, and none was known.
        Some(Err(Halt::Setup(why))) if why.contains("cannot be fetched") => Ok(()),
        other => Err(format!("a process ended with {other:?}")),
    }
}

/// Crashes, stops and restarts, at times two processes at once, until the weather is calm; then one
/// that catches up.
pub async fn simulate(world: &Arc<World>) -> Result<(), String> {
    world.note(|| format!("{:?}", world.weather));
    let storm = async {
        for _ in 0..world.draw(8) {
            gust(world).await?;
        }
        Ok::<(), String>(())
    };
    tokio::select! {
        biased;
        done = storm => done?,
        () = blow(world) => {}
    }
    // What was reported as failed and is still under way lands.
    sleep(Duration::from_secs(1)).await;
    world.calm_down();
    order_letters(world);
    // A crash that nobody was there to suffer.
    let _ = timeout(Duration::ZERO, world.crash.notified()).await;
    let last = async {
        tokio::select! {
            biased;
            ended = process(world, Life::CaughtUp) => ended,
            () = drops(world) => None,
        }
    };
    match timeout(Duration::from_secs(3600), last).await {
        Ok(Some(Ok(End::CaughtUp))) => verdict(world),
        other => Err(format!("the last process did not catch up: {other:?}")),
    }
}
