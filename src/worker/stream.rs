//! The stream: changes of NATS JetStream into a destination, with the status served meanwhile.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use super::nats_login::{connection, identity};
use super::run::{self, ApplyRequest, RunError, RunSpec};
use crate::feed::Start;
use crate::feed::jetstream::api::AckPolicy;
use crate::feed::jetstream::connect::Link;
use crate::feed::jetstream::identity::Identity;
use crate::feed::jetstream::{JetStream, JetStreamSettings};
use crate::pipeline::{Engine, Progress};
use crate::state::DataDir;
use crate::state::predecessor::Predecessor;
use crate::status::StatusServer;

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
    /// The data directory, which is this process's own meanwhile.
    pub data: DataDir,
    /// The name of the durable consumer.
    pub durable: String,
    request: StreamRequest,
    status: StatusServer,
    companies: Vec<String>,
    link: Link,
}

impl StreamRequest {
    /// Serves the status, connects to NATS and takes the data directory, for whose owner it waits
    /// up to `lock_wait_max`.
    pub async fn open(self, lock_wait_max: Duration) -> Result<StreamContext, RunError> {
        let (identity, creds) = identity(self.creds.as_deref(), &self.servers)?;
        let companies = self.companies(&identity)?;
        let progress = Arc::new(Progress::new().map_err(RunError::setup)?);
        let status = StatusServer::start(self.bind, self.port, progress.clone())
            .await
            .map_err(RunError::setup)?;
        let nats_ca = self.nats_ca.as_deref();
        let connection = connection(&self.servers, creds, nats_ca, &identity.server_id);
        let link = Link::connect(&connection).await?;
        let durable = identity.consumer(self.consumer_suffix.as_deref());
        let data = DataDir::take_within(&self.data_dir, lock_wait_max).await?;
        Ok(StreamContext { progress, data, durable, request: self, status, companies, link })
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

impl StreamContext {
    /// What was asked for.
    pub fn request(&self) -> &StreamRequest {
        &self.request
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
            predecessor: match self.data.state.position(&self.durable).map_err(RunError::setup)? {
                Some(_) => Predecessor::Nobody,
                None => Predecessor::read(self.data.path()),
            },
            stop,
            feed: Box::new(JetStream::new(self.link.clone(), consumer)),
        };
        let apply = ApplyRequest { restart, ..request.apply.clone() };
        let engine = run::start(&self.data, apply, spec).await?;
        let at = engine
            .position()
            .map_or_else(|| "its start".to_owned(), |p| format!("sequence {}", p.sequence));
        info!(
            "streaming {} into {} from {at}; status at http://{}/status.json",
            self.durable, request.apply.destination, self.status.address
        );
        Ok(engine)
    }

    fn consumer(&self, restart: bool) -> JetStreamSettings {
        JetStreamSettings {
            durable: self.durable.clone(),
            companies: self.companies.clone(),
            policy: self.request.ack,
            max_ack_pending: self.request.max_ack_pending.max(1),
            batch: self.request.max_pending_buffer.clamp(1, BATCH_MAX),
            start: if restart { Start::All } else { Start::NewOnly },
        }
    }
}
