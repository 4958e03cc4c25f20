//! The stream: changes of NATS JetStream into a destination, with the status served meanwhile.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::info;

use super::desk::StreamDesk;
use super::nats_login::{connection, identity};
use super::run::{self, ApplyRequest, RunError, RunSpec};
use crate::clock::{Expiry, now_ns};
use crate::feed::Start;
use crate::feed::jetstream::api::{AckPolicy, Api};
use crate::feed::jetstream::connect::{Link, Servers};
use crate::feed::jetstream::identity::Identity;
use crate::feed::jetstream::{JetStream, JetStreamSettings, STREAM};
use crate::pipeline::{Engine, Progress};
use crate::state::DataDir;
#[cfg(feature = "http")]
use crate::status::otlp::{self, Otlp};
#[cfg(feature = "http")]
use crate::status::webhook::{self, Webhook};
use crate::status::{OwnStatus, StatusServer};

/// Between two questions how much waits at NATS, while nothing is fetched.
const CONSUMER_WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// The most messages that one request asks NATS for.
const BATCH_MAX: usize = 16_384;

/// How changes are streamed, whoever asks for it.
#[derive(Clone)]
pub struct StreamRequest {
    /// Where they go.
    pub apply: ApplyRequest,
    /// What survives a restart is kept here.
    pub data_dir: PathBuf,
    /// The NATS servers, as a comma list of URLs.
    pub servers: String,
    /// The credentials file of NATS; servers on this machine may do without.
    pub creds: Option<PathBuf>,
    /// Certificate authorities to trust for NATS, beside the machine's.
    pub nats_ca: Option<PathBuf>,
    /// The address at which health, metrics and status are served.
    pub bind: IpAddr,
    /// The port of that address.
    pub port: u16,
    /// Whether they are served here, and not by the supervisor.
    pub serves_status: bool,
    /// Who has it may act on the status page; without one nobody may.
    pub ui_token: Option<SecretString>,
    /// Where alerts are posted to, by whoever serves the status.
    #[cfg(feature = "http")]
    pub webhook: Option<Webhook>,
    /// Where metrics are sent to, by whoever serves the status.
    #[cfg(feature = "http")]
    pub otlp: Result<Option<Otlp>, String>,
    /// A flush that takes longer hangs.
    pub flush_hang_max: Duration,
    /// Whether one acknowledgement stands for all messages before it.
    pub ack: AckPolicy,
    /// Put behind the name of the consumer.
    pub consumer_suffix: Option<String>,
    /// Companies of the credentials that are streamed; none means all of them.
    pub company_ids: Vec<String>,
    /// Messages that NATS delivers without an acknowledgement; at least 1 is taken.
    pub max_ack_pending: i64,
    /// Messages that are fetched at once; 1 to 16,384 are taken.
    pub max_pending_buffer: usize,
    /// End once nothing is pending.
    pub until_caught_up: bool,
}

/// What stays from one engine of a process to the next.
pub struct StreamContext {
    /// How far the stream is.
    pub progress: Arc<Progress>,
    /// The name of the durable consumer.
    pub durable: String,
    request: StreamRequest,
    /// `None` where the supervisor serves it.
    status: Option<StatusServer>,
    companies: Vec<String>,
    link: Link,
    /// Asks how much waits at NATS, and tells of alerts; it ends with this.
    _watch: JoinSet<()>,
    /// The data directory, which is this process's own meanwhile. The last field, and so the last
    /// to be given up: who waits for it finds the port free.
    pub data: DataDir,
}

impl StreamRequest {
    /// Takes the data directory, for whose owner it waits up to `lock_wait_max`, then serves the
    /// status and connects to NATS. The owner, a worker whose supervisor was killed, has the port
    /// and the consumer, too, and gives them up before the directory.
    pub async fn open(self, lock_wait_max: Duration) -> Result<StreamContext, RunError> {
        let (identity, creds) = identity(self.creds.as_deref(), &self.servers)?;
        let companies = self.companies(&identity)?;
        let data = DataDir::take_within(&self.data_dir, lock_wait_max).await?;
        let progress = Arc::new(Progress::new().map_err(RunError::setup)?);
        let creds_expiry = Expiry::default();
        let mut watch = JoinSet::new();
        let status = match self.serves_status {
            true => {
                let flush_hang_max = self.flush_hang_max;
                let source = Arc::new(OwnStatus {
                    progress: progress.clone(),
                    flush_hang_max,
                    creds_expiry: creds_expiry.clone(),
                    desk: Arc::new(StreamDesk {
                        data_dir: self.data_dir.clone(),
                        destination: self.apply.destination.clone(),
                        driver: self.apply.driver,
                        token: self.ui_token.clone(),
                    }),
                });
                #[cfg(feature = "http")]
                if let Some(hook) = self.webhook.clone() {
                    watch.spawn(webhook::watch(source.clone(), hook));
                }
                #[cfg(feature = "http")]
                watch.spawn(otlp::export_if_asked(source.clone(), self.otlp.clone()));
                let started = StatusServer::start(self.bind, self.port, source).await;
                Some(started.map_err(RunError::setup)?)
            }
            false => None,
        };
        let nats_ca = self.nats_ca.as_deref();
        let connection = Servers {
            creds_file: self.creds.clone(),
            creds_expiry,
            ..connection(&self.servers, creds, nats_ca, &identity.server_id)
        };
        let link = Link::connect(&connection).await?;
        let durable = identity.consumer(self.consumer_suffix.as_deref());
        progress.about(&durable, &self.apply.destination.to_string());
        let place = self.apply.destination.place();
        let state = data.state.of_destination(&place, None).map_err(RunError::setup)?;
        let idle = state.idle(&durable).map_err(RunError::setup)?.unwrap_or_default();
        let saved = state.position(&durable).map_err(RunError::setup)?.unwrap_or_default();
        progress.stands_at(saved, idle.time_ns);
        watch.spawn(watch_consumer(link.clone(), durable.clone(), progress.clone()));
        Ok(StreamContext {
            progress,
            durable,
            request: self,
            status,
            companies,
            link,
            _watch: watch,
            data,
        })
    }

    /// The companies of the credentials, or those of them that were chosen.
    fn companies(&self, identity: &Identity) -> Result<Vec<String>, RunError> {
        if self.company_ids.is_empty() {
            return Ok(identity.companies.clone());
        }
        let all = identity.companies.iter().any(|c| c == "*");
        if let Some(foreign) =
            self.company_ids.iter().find(|c| !all && !identity.companies.contains(c))
        {
            return Err(RunError::Refused(format!(
                "the credentials do not cover company {foreign:?}; they cover: {}",
                identity.companies.join(", ")
            )));
        }
        let mut chosen = self.company_ids.clone();
        chosen.sort();
        chosen.dedup();
        Ok(chosen)
    }
}

/// Asks NATS again and again how much waits there, which nobody else tells while nothing is
/// fetched: a destination that is away, a pause, an import.
async fn watch_consumer(link: Link, durable: String, progress: Arc<Progress>) {
    let api = Api { link, stream: STREAM.into() };
    let mut turns = tokio::time::interval(CONSUMER_WATCH_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let asked_ns = now_ns();
        // What fails here fails for the stream, too, which says so.
        if !progress.is_flowing()
            && let Ok(info) = api.info(&durable).await
        {
            progress
                .unacknowledged(info.num_pending.saturating_add(info.num_ack_pending), asked_ns);
        }
    }
}

impl StreamContext {
    /// What was asked for.
    pub fn request(&self) -> &StreamRequest {
        &self.request
    }

    /// The next reconnect to NATS logs in with these credentials.
    pub fn log_in_as(&self, creds: &SecretString) -> Result<(), String> {
        self.link.log_in_as(creds)
    }

    /// Opens the destination, and the feed where the destination stands; with `restart` the feed
    /// begins at its start.
    pub async fn start(
        &self,
        restart: bool,
        stop: watch::Receiver<bool>,
    ) -> Result<Engine, RunError> {
        let request = &self.request;
        let consumer = self.consumer(restart);
        let spec = RunSpec {
            consumer: self.durable.clone(),
            companies: self.companies.join(","),
            until_caught_up: request.until_caught_up,
            events_max: usize::try_from(consumer.max_ack_pending).unwrap_or(usize::MAX),
            progress: self.progress.clone(),
            has_predecessor: true,
            stop,
            feed: Box::new(JetStream::new(self.link.clone(), consumer)),
        };
        let apply = ApplyRequest { restart, ..request.apply.clone() };
        let engine = run::start(&self.data, apply, spec).await?;
        let at = engine
            .position()
            .map_or_else(|| "its start".to_owned(), |p| format!("sequence {}", p.sequence));
        let status = self.status.as_ref().map_or_else(String::new, |status| {
            format!("; status at http://{}/status.json", status.address)
        });
        info!("streaming {} into {} from {at}{status}", self.durable, request.apply.destination);
        Ok(engine)
    }

    fn consumer(&self, restart: bool) -> JetStreamSettings {
        JetStreamSettings {
            durable: self.durable.clone(),
            companies: self.companies.clone(),
            tables: self.request.apply.tables.names().cloned().collect(),
            policy: self.request.ack,
            max_ack_pending: self.request.max_ack_pending.max(1),
            batch: self.request.max_pending_buffer.clamp(1, BATCH_MAX),
            start: if restart { Start::All } else { Start::NewOnly },
        }
    }
}
