//! One run of the engine: a feed into a destination, as every command that applies changes has it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tracing::info;

use crate::change::ColumnRules;
use crate::change::filter::TableFilter;
use crate::destination::dry_run::DryRun;
use crate::destination::{
    Access, CheckpointIn, Destination, Driver, Epoch, Failure, FailureKind, Settings, Target,
    WriteMode,
};
use crate::feed::{Feed, FeedError};
use crate::help::HelpCode;
use crate::pipeline::apply::Open;
use crate::pipeline::{
    Adoption, End, Engine, EngineDeps, EngineOptions, HELD_BYTES_MAX, Halt, LetterOptions,
    Progress, SchemaChange,
};
use crate::registry::{Registry, SchemaSource};
use crate::state::predecessor::Predecessor;
use crate::state::{DataDir, DataDirError, State, StateError};
use crate::validator::Validator;

/// Where changes go, and how: what the user chooses, whatever the feed is.
#[derive(Clone)]
pub struct ApplyRequest {
    /// The destination.
    pub destination: Settings,
    /// What opens that destination.
    pub driver: &'static Driver,
    /// Where the tables' schemas are published.
    pub schemas: SchemaSource,
    /// Tables that are streamed; changes of others are passed over.
    pub tables: TableFilter,
    /// Existing tables that may be written to though EDS did not make them.
    pub adopt: Vec<String>,
    /// What becomes of other consumers' checkpoints in the destination.
    pub adoption: Adoption,
    /// Holds a flush that long even if the destination is free; `None` leaves it to the
    /// destination's settings.
    pub pending_latency_min: Option<Duration>,
    /// The longest that a change waits for its flush.
    pub pending_latency_max: Option<Duration>,
    /// Begin at the start of the feed, whatever was recorded.
    pub restart: bool,
    /// Events that they do not want are passed over.
    pub rules: Option<Arc<Validator>>,
    /// Which columns are left out or hashed.
    pub columns: Arc<ColumnRules>,
    /// What is done to tables whose schema changes.
    pub schema_change: SchemaChange,
    /// What becomes of changes that cannot be applied.
    pub letters: LetterOptions,
}

/// Where changes come from in one run, and when it ends.
pub struct RunSpec {
    /// What delivers the changes.
    pub feed: Box<dyn Feed>,
    /// Whose checkpoint: the durable consumer's name, or the journal's.
    pub consumer: String,
    /// What the feed is about: a comma list of companies, `*` for all.
    pub companies: String,
    /// End once nothing is pending.
    pub until_caught_up: bool,
    /// How many events the feed delivers before it waits for acknowledgements.
    pub events_max: usize,
    /// Where the run reports how far it is.
    pub progress: Arc<Progress>,
    /// Whether the Go program may have left something in the data directory.
    pub has_predecessor: bool,
    /// Becomes true when the run is to end in order.
    pub stop: watch::Receiver<bool>,
}

/// Why a run did not start, or did not come to its end in order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The destination, the feed or the machine does not let it go on.
    #[error(transparent)]
    Halted(#[from] Halt),
    /// What the user asked for cannot be done; the text says what to change.
    #[error("{0}")]
    Refused(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> RunError {
        RunError::Halted(Halt::Destination(failure))
    }
}

impl From<FeedError> for RunError {
    fn from(error: FeedError) -> RunError {
        RunError::Halted(Halt::Feed(error))
    }
}

impl RunError {
    /// The machine does not let the run go on: a port that is taken, a metric that clashes.
    pub fn setup(why: impl ToString) -> RunError {
        RunError::Halted(Halt::Setup(why.to_string()))
    }

    /// Whether the destination or NATS cannot be reached, which may pass.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            RunError::Halted(
                Halt::Destination(Failure {
                    kind: FailureKind::Unavailable | FailureKind::TableUnavailable,
                    ..
                }) | Halt::Feed(FeedError::Unavailable(_))
            )
        )
    }

    /// Whether another process took over, beside which this one must not be started again.
    pub fn is_fenced(&self) -> bool {
        matches!(
            self,
            RunError::Halted(
                Halt::Destination(Failure { kind: FailureKind::Fenced, .. })
                    | Halt::Feed(FeedError::Taken(_))
            )
        )
    }
}

/// Opens the destination, and the feed where the destination stands. In a dry run nothing is
/// written. Errors of the start are the user's to cure.
pub async fn start(
    data: &DataDir,
    request: ApplyRequest,
    spec: RunSpec,
) -> Result<Engine, RunError> {
    if let Some(why) = lacks_schemas(&request) {
        return Err(RunError::Refused(why));
    }
    let ApplyRequest { destination: settings, driver, .. } = request;
    let abilities = (driver.abilities)(&settings);
    let flush_interval = settings.freshness.unwrap_or(abilities.flush_interval_preferred);
    let target = Target {
        settings,
        consumer: spec.consumer.clone(),
        epoch: Epoch::default(),
        companies: spec.companies.clone(),
        rules: request.rules.clone(),
        access: if data.is_dry_run() { Access::Rehearse } else { Access::Write },
    };
    let (state, first) = met(data, &target, driver).await?;
    let predecessor = predecessor(data, &state, &spec).map_err(RunError::setup)?;
    let options = EngineOptions {
        consumer: spec.consumer,
        adoption: request.adoption,
        companies: spec.companies,
        rules: request.rules,
        columns: columns_for(&request.columns, abilities.write_mode),
        filter: request.tables,
        restart: request.restart,
        pending_latency_min: request.pending_latency_min.or(Some(flush_interval)),
        pending_latency_max: request.pending_latency_max,
        until_caught_up: spec.until_caught_up,
        adopt: request.adopt,
        abilities,
        events_max: spec.events_max,
        held_bytes_max: HELD_BYTES_MAX,
        schema_change: request.schema_change,
        letters: request.letters,
    };
    let deps = EngineDeps {
        feed: spec.feed,
        open: opening(target, driver, data.is_dry_run(), first),
        registry: Registry::new(request.schemas, state.clone()),
        state,
        predecessor,
        progress: spec.progress,
        options,
        stop: spec.stop,
    };
    Ok(Engine::start(deps).await?)
}

/// The rules about columns, as far as they say something to a destination that writes so.
pub fn columns_for(rules: &Arc<ColumnRules>, write_mode: WriteMode) -> Arc<ColumnRules> {
    match write_mode {
        WriteMode::Append if rules.stamps().any() => {
            info!(
                "--deletes soft and --add-columns have no effect here: every change is stored as it \
                 came, deletions and versions among them"
            );
            Arc::new(rules.of_changes())
        }
        WriteMode::Append | WriteMode::Upsert => rules.clone(),
    }
}

/// Why the destination cannot be written to without the schemas that are missing.
pub fn lacks_schemas(request: &ApplyRequest) -> Option<String> {
    let ApplyRequest { destination: settings, driver, schemas, .. } = request;
    let needs_schemas = (driver.abilities)(settings).needs_schemas();
    if !schemas.is_nothing() || (!needs_schemas && !request.columns.hides()) {
        return None;
    }
    let what = match (needs_schemas, settings.parameter("format")) {
        (false, _) => "what leaves out or hashes columns".to_owned(),
        (true, Some(format)) => format!("format={format}"),
        (true, None) => driver.title.to_owned(),
    };
    Some(HelpCode::SchemasMissing.tag(&format!(
        "{what} needs the tables' schemas: name them with --schema FILE or URL, or HQ with \
         --api-url"
    )))
}

/// What the Go program has left for a consumer without a position; its schemas are kept.
fn predecessor(data: &DataDir, state: &State, spec: &RunSpec) -> Result<Predecessor, StateError> {
    if !spec.has_predecessor || state.position(&spec.consumer)?.is_some() {
        return Ok(Predecessor::Nobody);
    }
    let predecessor = Predecessor::read(data.path());
    if let Predecessor::Known { schemas, .. } = &predecessor {
        state.adopt_schemas(schemas)?;
    }
    Ok(predecessor)
}

/// The state file's part about the destination, and the destination where that was opened for it:
/// what is kept here about one belongs to it, and not to a URL of it.
async fn met(
    data: &DataDir,
    target: &Target,
    driver: &'static Driver,
) -> Result<(State, Option<Box<dyn Destination>>), RunError> {
    let first = match (driver.abilities)(&target.settings).checkpoint_in {
        CheckpointIn::StateFile => Some(open(target.clone(), driver, data.is_dry_run()).await?),
        CheckpointIn::Destination => None,
    };
    let identity = first.as_ref().and_then(|opened| opened.identity());
    let name = target.settings.place();
    let state = data.state.of_destination(&name, identity.as_deref()).map_err(RunError::setup)?;
    state.adopt_unplaced().map_err(RunError::setup)?;
    Ok((state, first))
}

/// Opens the destination again and again; at first there may be one that is open.
fn opening(
    target: Target,
    driver: &'static Driver,
    dry_run: bool,
    first: Option<Box<dyn Destination>>,
) -> Open {
    let first = Mutex::new(first);
    Box::new(move || match first.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(opened) => Box::pin(std::future::ready(Ok(opened))),
        None => open(target.clone(), driver, dry_run),
    })
}

fn open(
    target: Target,
    driver: &'static Driver,
    dry_run: bool,
) -> BoxFuture<'static, Result<Box<dyn Destination>, Failure>> {
    Box::pin(async move {
        let opened = (driver.open)(&target).await?;
        Ok(if dry_run { Box::new(DryRun::new(opened)) } else { opened })
    })
}

/// Runs until the end, and logs how much was done.
pub async fn finish(engine: Engine, progress: &Progress, dry_run: bool) -> Result<End, RunError> {
    let end = engine.run().await?;
    let done = progress.snapshot();
    let dead = if done.dead_letters > 0 {
        format!(", {} dead letters", done.dead_letters)
    } else {
        String::new()
    };
    let left_out = match done.filtered {
        0 => String::new(),
        events => format!(", {events} of them left out as you asked"),
    };
    let events = done.done - done.seen_before;
    match dry_run {
        true => info!("dry run of {events} events{left_out}{dead}: nothing was written"),
        false => info!(
            "done: {events} events{left_out} in {} batches{dead}; the destination is at stream \
             sequence {}",
            done.batches, done.stream_sequence
        ),
    }
    Ok(end)
}
