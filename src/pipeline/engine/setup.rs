//! Starting a run: the destination first, then the position, then the feed.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{info, warn};

use super::intake::Intake;
use super::positions::Positions;
use super::reopen::Reopenings;
use super::retries::Retries;
use super::saved_recent::SavedRecent;
use super::start::{
    PositionSource, StartInputs, StartPosition, TimeSource, new_companies, start_position,
};
use super::states::{ApplyState, FeedState, Lifecycle};
use super::work::EventTurns;
use super::{Engine, EngineDeps, Halt, SAVE_INTERVAL};
use crate::change::cutover::{Cutovers, TableSnapshot};
use crate::change::{Cutover, Position, TableSchema, Version};
use crate::destination::{CheckpointIn, Recorded};
use crate::feed::{Acknowledged, Feed};
use crate::pipeline::EngineOptions;
use crate::pipeline::apply::Applier;
use crate::pipeline::batcher::{BatchLimits, Batcher};
use crate::pipeline::resolve::Resolver;
use crate::state::predecessor::Predecessor;
use crate::state::{State, StateError};

impl EngineDeps {
    /// What the destination needs to know of tables. Rules about columns are compared with the
    /// schemas wherever there are any.
    async fn schemas_at_start(&mut self) -> Result<Vec<Arc<TableSchema>>, Halt> {
        let EngineOptions { abilities, columns, .. } = &self.options;
        let needs_schemas = abilities.needs_schemas();
        if !needs_schemas && !columns.hides() {
            return Ok(Vec::new());
        }
        let all = self.registry.current().await.map_err(Halt::Setup)?;
        Ok(if needs_schemas { all } else { Vec::new() })
    }
}

impl Engine {
    /// Connects to the destination, finds the position, opens the feed there. Fails at once where
    /// something is away or wrong, as whoever starts a program wants to know, and soon where the
    /// feed went away since.
    pub async fn start(mut deps: EngineDeps) -> Result<Engine, Halt> {
        let acknowledged = deps.feed.acknowledged().await?;
        deps.registry = deps.registry.with_columns(deps.options.columns.clone());
        let schemas = deps.schemas_at_start().await?;
        let EngineDeps { mut feed, open, registry, state, predecessor, .. } = deps;
        let (progress, options, stop) = (deps.progress, deps.options, deps.stop);
        let (mut applier, records) =
            Applier::start(open, options.clone(), &state, progress.clone(), &schemas).await?;
        let mut cutover = applier.cutover(options.restart).map_err(unusable)?;
        let consumer = &*options.consumer;
        let start = start_position(&StartInputs {
            restart: options.restart,
            consumer,
            recorded: applier.recorded(),
            cutover: &cutover,
            saved: state.position(consumer).map_err(unusable)?,
            saved_since_ns: state.since(consumer).map_err(unusable)?,
            acknowledged,
            predecessor: &predecessor,
            records: &records,
            adoption: &options.adoption,
        })?;
        warn_of_new_companies(&records, &options);
        // Before the position is recorded, after which nobody would think of it any more.
        if let StartPosition::After { source: PositionSource::Adopted(name), .. } = &start {
            applier.adopt_kept(name).await?;
        }
        record_start(&start, &state, &options).map_err(unusable)?;
        if let StartPosition::Since { source: TimeSource::Predecessor, .. } = start {
            cutover = take_over(&predecessor, &state, &options).map_err(unusable)?;
        }
        lay_out(&mut *feed, &start, &state, consumer)?;
        let positions = Positions::new(&start, state.idle(consumer).map_err(unusable)?);
        let mut batcher = Batcher::new(batch_limits(&options));
        batcher.replay_to(applier.unconfirmed_through());
        let resolver = resolver(&options, positions.durable(), cutover);
        let engine = Engine {
            feed,
            feed_state: FeedState::Lost("it was not opened yet".into()),
            reopenings: Reopenings::new(),
            intake: Intake::new(resolver, batcher, registry, progress.clone()),
            lifecycle: Lifecycle::Running,
            positions,
            saved_recent: SavedRecent::new(state.clone(), &options.consumer),
            retries: Retries::new(state.clone(), &options.consumer, applier.has_letters()),
            is_schema_new: false,
            events: EventTurns::new(Instant::now()),
            apply: ApplyState::Idle(Box::new(applier)),
            save_at: Instant::now() + SAVE_INTERVAL,
            state,
            progress,
            options,
            stop,
        };
        engine.open_first(&start).await
    }

    /// Opens the feed for the first time.
    async fn open_first(mut self, start: &StartPosition) -> Result<Engine, Halt> {
        self.settle();
        self.load_recent();
        if !self.open_first_feed(start).await? {
            return Ok(self);
        }
        // Where nothing is saved, a crash leaves no place from which the memory of rows could see
        // the stream again.
        let through = self.positions.savable_through();
        self.saved_recent.save(&mut self.intake.resolver.recent, through).map_err(unusable)?;
        self.progress.stands_at(self.positions.durable().unwrap_or_default(), 0);
        let imported = &self.intake.resolver.cutover.imported;
        self.progress.imports(imported.iter().map(|(table, import)| {
            let at_unix = u64::try_from(import.since_ns / 1_000_000_000).unwrap_or(0);
            (&**table, at_unix)
        }));
        self.progress.streaming();
        Ok(self)
    }

    /// Opens the feed and learns where it begins. May be repeated.
    pub(super) async fn begin_at(&mut self, start: &StartPosition) -> Result<(), Halt> {
        self.open_feed().await?;
        match start {
            StartPosition::After { .. } => Ok(()),
            StartPosition::Since { began, source, .. } => self.begin_since(*began, *source).await,
            StartPosition::FeedDecides => self.begin_where_opened().await,
        }
    }

    /// The feed chose where to begin: from now on that is known.
    async fn begin_where_opened(&mut self) -> Result<(), Halt> {
        let Acknowledged::Through(opened) = self.feed.acknowledged().await? else {
            return Ok(());
        };
        self.state.save_position(&self.options.consumer, opened).map_err(unusable)?;
        self.positions.reached(opened);
        self.positions.recent_reached(Some(opened));
        Ok(())
    }

    /// The feed found where the time is, or `began` is earlier: from now on that is known.
    async fn begin_since(
        &mut self,
        began: Option<Position>,
        source: TimeSource,
    ) -> Result<(), Halt> {
        let Acknowledged::Through(opened) = self.feed.acknowledged().await? else {
            return Ok(());
        };
        if !matches!(source, TimeSource::Import | TimeSource::SetBack) {
            self.state.save_position(&self.options.consumer, opened).map_err(unusable)?;
        }
        let earlier = began.filter(|began| began.sequence < opened.sequence);
        self.positions.reached(earlier.unwrap_or(opened));
        // Versions that were seen before the import still count: an older one of a row must not
        // follow them.
        self.load_recent();
        match self.positions.open_at().after == Some(opened) {
            true => Ok(()),
            false => self.open_feed().await,
        }
    }
}

fn warn_of_new_companies(records: &[Recorded], options: &EngineOptions) {
    for company in new_companies(records, &options.consumer, &options.companies) {
        warn!(
            "company {company} is new to this destination: its changes are streamed from now on, \
             and its earlier rows need an import"
        );
    }
}

/// Records where a run begins, before the feed may forget it.
fn record_start(
    start: &StartPosition,
    state: &State,
    options: &EngineOptions,
) -> Result<(), StateError> {
    if let StartPosition::After { source: PositionSource::Adopted(name), .. } = start {
        state.adopt_recent(name, &options.consumer)?;
    }
    if let Some(position) = start.to_save() {
        state.save_position(&options.consumer, position)?;
    }
    if let Some(since_ns) = start.since_to_save() {
        state.save_since(&options.consumer, since_ns)?;
    }
    if options.restart {
        state.clear_intent(&options.consumer)?;
    }
    Ok(())
}

fn resolver(options: &EngineOptions, seen: Option<Position>, cutover: Cutover) -> Resolver {
    let (filter, rules) = (options.filter.clone(), options.rules.clone());
    let mut resolver = Resolver::new(filter, rules, options.abilities, seen);
    resolver.cutover = cutover;
    resolver
}

/// Has the feed arranged as at the start from which the position is.
fn lay_out(
    feed: &mut dyn Feed,
    start: &StartPosition,
    state: &State,
    consumer: &str,
) -> Result<(), Halt> {
    let kept = match start {
        StartPosition::After { position, .. } if position.sequence > 0 => {
            state.layout(consumer).map_err(unusable)?
        }
        _ => None,
    };
    match feed.layout(kept.as_deref())? {
        Some(words) => state.save_layout(consumer, &words).map_err(unusable),
        None => Ok(()),
    }
}

/// What the Go program's import contains is not applied again. Where the destination keeps cutovers
/// itself this is known until the next start only, by which a position is: there older versions of
/// rows would be followed by the newer ones of the stream, too.
fn take_over(
    predecessor: &Predecessor,
    state: &State,
    options: &EngineOptions,
) -> Result<Cutover, StateError> {
    let Predecessor::Known { imported, .. } = predecessor else { return Ok(Cutover::default()) };
    info!(
        "taking over from the former program: its import of {} tables is known, and the stream is \
         read from there",
        imported.len()
    );
    let snapshots: Vec<TableSnapshot> = imported
        .iter()
        .map(|(table, at_ns)| TableSnapshot {
            table: table.clone(),
            at: Version { nanos: u64::try_from(*at_ns).unwrap_or(0), logical: 0 },
            whole: true,
        })
        .collect();
    if options.abilities.checkpoint_in == CheckpointIn::StateFile {
        state.finish_import(&snapshots)?;
    }
    let mut cutovers = Cutovers::default();
    cutovers.import(&snapshots, &[]);
    Ok(cutovers.of(&options.consumer))
}

fn batch_limits(options: &EngineOptions) -> BatchLimits {
    BatchLimits {
        changes_max: options.abilities.batch_changes_max,
        bytes_max: options.abilities.batch_bytes_max,
        events_max: options.events_max,
        wait_min: options.pending_latency_min,
        wait_max: options.pending_latency_max,
    }
}

fn unusable(e: StateError) -> Halt {
    Halt::Setup(e.to_string())
}
