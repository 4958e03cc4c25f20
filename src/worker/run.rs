//! One run of the engine: a feed into a destination, as every command that applies changes has it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tracing::info;

use crate::change::filter::TableFilter;
use crate::destination::dry_run::DryRun;
use crate::destination::{Destination, Driver, Epoch, Failure, FailureKind, Settings, Target};
use crate::feed::{Feed, FeedError};
use crate::pipeline::{
    Adoption, End, Engine, EngineDeps, EngineOptions, HELD_BYTES_MAX, Halt, LetterOptions,
    Progress, SchemaChange,
};
use crate::registry::{Registry, SchemaSource};
use crate::state::predecessor::Predecessor;
use crate::state::{DataDir, DataDirError};
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
    /// What the Go program has left in the data directory.
    pub predecessor: Predecessor,
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
    let ApplyRequest { destination: settings, driver, .. } = request;
    let abilities = (driver.abilities)(&settings);
    if request.schemas.is_nothing() && abilities.needs_schemas() {
        let what = settings
            .parameter("format")
            .map_or_else(|| driver.title.to_owned(), |format| format!("format={format}"));
        return Err(RunError::Refused(format!(
            "{what} needs the tables' schemas: name them with --schema FILE or URL, or HQ \
             with --api-url"
        )));
    }
    let flush_interval = settings.freshness.unwrap_or(abilities.flush_interval_preferred);
    let target = Target {
        settings,
        consumer: spec.consumer.clone(),
        epoch: Epoch::default(),
        companies: spec.companies.clone(),
        rules: request.rules.clone(),
    };
    let options = EngineOptions {
        consumer: spec.consumer,
        adoption: request.adoption,
        companies: spec.companies,
        rules: request.rules,
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
    if let Predecessor::Known { schemas, .. } = &spec.predecessor {
        data.state.adopt_schemas(schemas).map_err(RunError::setup)?;
    }
    let dry_run = data.is_dry_run();
    let deps = EngineDeps {
        feed: spec.feed,
        open: Box::new(move || open(target.clone(), driver, dry_run)),
        registry: Registry::new(request.schemas, data.state.clone()),
        state: data.state.clone(),
        predecessor: spec.predecessor,
        progress: spec.progress,
        options,
        stop: spec.stop,
    };
    Ok(Engine::start(deps).await?)
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
    let events = done.done - done.seen_before;
    match dry_run {
        true => info!("dry run of {events} events{dead}: nothing was written"),
        false => info!(
            "done: {events} events in {} batches{dead}; the destination is at stream sequence {}",
            done.batches, done.stream_sequence
        ),
    }
    Ok(end)
}
