//! What `stream`, `replay` and `demo` share: reading the destination, assembling the parts, ending
//! on a signal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tracing::{info, warn};

use super::exit::Exit;
use crate::change::filter::TableFilter;
use crate::destination::catalog::DRIVERS;
use crate::destination::dry_run::DryRun;
use crate::destination::{Driver, Epoch, Settings, Target};
use crate::feed::Feed;
use crate::pipeline::{Adoption, DeadLetters, End, Engine, EngineDeps, EngineOptions, Progress};
use crate::registry::{Registry, SchemaSource};
use crate::state::{InUse, Lock, State};
use crate::validator::Validator;

/// Where the destination is.
#[derive(Args, Clone, Debug, Default)]
pub struct DestinationArgs {
    /// The destination. A password is better given by EDS_URL or --url-file: every user of the
    /// machine can read arguments
    #[arg(long)]
    pub url: Option<String>,
    /// A file whose first line is the destination
    #[arg(long, value_name = "FILE")]
    pub url_file: Option<PathBuf>,
}

/// Where the changes go, and how.
#[derive(Args, Clone, Debug)]
pub struct To {
    #[command(flatten)]
    pub place: DestinationArgs,
    /// The tables' schemas: a file or URL of what HQ's /v3/schema answers
    #[arg(long, value_name = "FILE|URL")]
    pub schema: Option<String>,
    /// HQ, which knows the tables' schemas
    #[arg(long, value_name = "URL")]
    pub api_url: Option<String>,
    /// Only these tables
    #[arg(long, value_name = "A,B", default_value = "", hide_default_value = true)]
    pub tables: String,
    /// Write to this existing table though EDS did not make it
    #[arg(long, value_name = "TABLE")]
    pub adopt: Vec<String>,
    /// Go on where this other consumer ended, whose rows the destination has; or none
    #[arg(long, value_name = "NAME")]
    pub adopt_checkpoint: Option<String>,
    /// Hold a flush that long even if the destination is free
    #[arg(long = "minPendingLatency", value_name = "DURATION", value_parser = crate::duration::parse)]
    pub pending_latency_min: Option<Duration>,
    /// The longest that a change waits for its flush
    #[arg(long = "maxPendingLatency", value_name = "DURATION", value_parser = crate::duration::parse)]
    pub pending_latency_max: Option<Duration>,
    /// Begin at the start, whatever was recorded
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    pub restart: bool,
}

impl DestinationArgs {
    /// The destination's URL; `fallback` is what the configuration names.
    pub fn text(&self, fallback: Option<&str>) -> Result<String, Exit> {
        let named = std::env::var("EDS_URL")
            .ok()
            .filter(|u| !u.is_empty())
            .or_else(|| fallback.map(str::to_owned));
        match (&self.url, &self.url_file, named) {
            (Some(url), ..) => Ok(url.clone()),
            (None, Some(file), _) => {
                let text = std::fs::read_to_string(file).map_err(|e| {
                    Exit::Usage(format!(
                        "the URL \
                    file {} cannot be read: {e}",
                        file.display()
                    ))
                })?;
                Ok(text.lines().next().unwrap_or_default().trim().to_owned())
            }
            (None, None, Some(url)) => Ok(url),
            (None, None, None) => Err(Exit::Usage(
                "no destination: name it with --url, --url-file \
                or EDS_URL; `eds drivers` shows what there is"
                    .into(),
            )),
        }
    }

    /// Its settings and driver.
    pub fn destination(&self, fallback: Option<&str>) -> Result<(Settings, &'static Driver), Exit> {
        let (settings, driver) = Settings::parse(&self.text(fallback)?, DRIVERS)
            .map_err(|e| Exit::Usage(e.to_string()))?;
        if self.url.is_some() && settings.password.is_some() {
            warn!(
                "the password in --url can be read by every user of this machine in the process \
                 list: EDS_URL or --url-file keep it private"
            );
        }
        Ok((settings, driver))
    }
}

impl To {
    /// What becomes of other consumers' checkpoints in the destination.
    #[cfg(feature = "jetstream")]
    pub fn adoption(&self) -> Adoption {
        match self.adopt_checkpoint.as_deref() {
            None | Some("") => Adoption::Ask,
            Some("none") => Adoption::Without,
            Some(name) => Adoption::Of(name.to_owned()),
        }
    }

    /// The destination's settings and driver.
    pub fn destination(&self) -> Result<(Settings, &'static Driver), Exit> {
        self.place.destination(None)
    }

    pub fn publisher(&self) -> Result<SchemaSource, Exit> {
        match (&self.schema, &self.api_url) {
            (Some(place), _) if !place.contains("://") => Ok(SchemaSource::File(place.into())),
            #[cfg(feature = "http")]
            (Some(url), _) => {
                Ok(SchemaSource::Url(crate::http::Http::new().map_err(Exit::Failed)?, url.clone()))
            }
            #[cfg(feature = "http")]
            (None, Some(url)) => Ok(SchemaSource::Hq(
                crate::http::Http::new().map_err(Exit::Failed)?,
                url.trim_end_matches('/').to_owned(),
            )),
            #[cfg(not(feature = "http"))]
            (Some(_), _) | (None, Some(_)) => Err(Exit::Usage(
                "this build cannot ask over HTTP (feature http): name a file with --schema".into(),
            )),
            (None, None) => Ok(SchemaSource::Fixed(Arc::default())),
        }
    }
}

/// What a run needs beyond its destination.
pub struct RunSpec {
    pub feed: Box<dyn Feed>,
    pub consumer: String,
    pub companies: String,
    pub publisher: SchemaSource,
    pub until_caught_up: bool,
    /// How many events the feed delivers before it waits to be told of some.
    pub events_max: usize,
    pub adoption: Adoption,
    pub rules: Option<Arc<Validator>>,
    pub progress: Arc<Progress>,
    pub stop: watch::Receiver<bool>,
}

/// The data directory, which is this process's own as long as this is held; a dry run owns none.
pub struct DataDir {
    pub state: State,
    path: Option<PathBuf>,
    _lock: Option<Lock>,
}

impl DataDir {
    pub fn take(path: &Path, dry_run: bool) -> Result<DataDir, Exit> {
        if dry_run {
            return Ok(DataDir {
                state: State::in_memory().map_err(|e| Exit::Failed(e.to_string()))?,
                path: None,
                _lock: None,
            });
        }
        DataDir::owned(path, Lock::take(path))
    }

    /// Takes it once its owner is gone, if that does not take longer.
    #[cfg(feature = "jetstream")]
    pub async fn take_within(path: &Path, wait_max: Duration) -> Result<DataDir, Exit> {
        let until = tokio::time::Instant::now() + wait_max;
        loop {
            match Lock::take(path) {
                Err(InUse::Owned { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                lock => return DataDir::owned(path, lock),
            }
        }
    }

    fn owned(path: &Path, lock: Result<Lock, InUse>) -> Result<DataDir, Exit> {
        let lock = lock.map_err(|e| Exit::Failed(e.to_string()))?;
        Ok(DataDir {
            state: State::open(path).map_err(|e| Exit::Failed(e.to_string()))?,
            path: Some(path.to_owned()),
            _lock: Some(lock),
        })
    }
}

/// Starts the engine; errors of the start are the user's to cure.
pub async fn start(
    data: &DataDir,
    to: &To,
    settings: Settings,
    driver: &'static Driver,
    plan: RunSpec,
) -> Result<Engine, Exit> {
    let abilities = (driver.abilities)(&settings);
    if matches!(plan.publisher, SchemaSource::Fixed(ref all) if all.read().is_ok_and(|all| all.is_empty()))
        && abilities.needs_schemas()
    {
        let what = settings
            .parameter("format")
            .map_or_else(|| driver.title.to_owned(), |format| format!("format={format}"));
        return Err(Exit::Usage(format!(
            "{what} needs the tables' schemas: name them with --schema FILE or URL, or HQ \
             with --api-url"
        )));
    }
    let flush_interval = settings.freshness.unwrap_or(abilities.flush_interval_preferred);
    let state = data.state.clone();
    let dry_run = data.path.is_none();
    let dead_letters =
        data.path.as_ref().map_or(DeadLetters::Nowhere, |path| DeadLetters::in_directory(path));
    let target = Target {
        settings,
        consumer: plan.consumer.clone(),
        epoch: Epoch::default(),
        companies: plan.companies.clone(),
        rules: plan.rules.clone(),
    };
    let open = move || -> futures::future::BoxFuture<'static, _> {
        let target = target.clone();
        Box::pin(async move {
            let opened = (driver.open)(&target).await?;
            Ok(if dry_run { Box::new(DryRun::new(opened)) } else { opened })
        })
    };
    let options = EngineOptions {
        consumer: plan.consumer,
        adoption: plan.adoption,
        companies: plan.companies,
        rules: plan.rules,
        filter: TableFilter::parse(&to.tables),
        restart: to.restart,
        pending_latency_min: to.pending_latency_min.or(Some(flush_interval)),
        pending_latency_max: to.pending_latency_max,
        until_caught_up: plan.until_caught_up,
        adopt: to.adopt.clone(),
        abilities,
        events_max: plan.events_max,
    };
    let parts = EngineDeps {
        feed: plan.feed,
        open: Box::new(open),
        registry: Registry::new(plan.publisher, state.clone()),
        state,
        dead_letters,
        progress: plan.progress,
        options,
        stop: plan.stop,
    };
    Ok(Engine::start(parts).await?)
}

/// Runs until the end, and says how much was done.
pub async fn finish(engine: Engine, progress: &Progress, dry_run: bool) -> Result<End, Exit> {
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

/// Becomes true at SIGINT, SIGTERM or SIGHUP; a second one ends the program at once.
pub fn stop_on_signal() -> watch::Receiver<bool> {
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        signalled().await;
        sender.send_replace(true);
        signalled().await;
        eprintln!("eds: ended at once; what was not acknowledged comes again at the next start");
        std::process::exit(1);
    });
    stop
}

async fn signalled() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // A terminal that is closed hangs up.
        if let (Ok(mut term), Ok(mut hangup)) =
            (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
                _ = hangup.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
