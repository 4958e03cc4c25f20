//! NATS JetStream: a durable pull consumer that delivers in stream order from a given position on.

pub mod api;
mod api_error;
pub mod connect;
pub mod hand_back;
pub mod identity;
mod login;
pub mod look;
mod pull;
mod stand;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{Acknowledged, Delivery, Feed, FeedError, OpenAt, Opened, Signal, Start};
use crate::change::Position;
use crate::change::cutover::CLOCKS_APART_MAX_NS;
use crate::clock::now_ns;
use api::{AckPolicy, Api, ApiError, ConsumerConfig, ConsumerInfo, DeliverPolicy};
use connect::Link;
use pull::{OpenPull, PullAcks};
use stand::Standing;

/// The stream that carries the changes.
pub const STREAM: &str = "dbchange";

/// After so long without an acknowledgement the server delivers a message again.
const ACK_WAIT: Duration = Duration::from_secs(5 * 60);
/// The server removes a consumer that nobody has read for so long.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// How long the last pull of a process that has ended may still wait at the server. A pull that
/// waits for longer belongs to a process that runs.
const WAITING_GONE_MAX: Duration = Duration::from_secs(6);
/// The metadata of a consumer that names the process which made it.
const MAKER: &str = "eds-process";
/// How long to wait for the confirmation of the last acknowledgement.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// What kind of consumer the feed uses.
#[derive(Clone, Debug)]
pub struct JetStreamSettings {
    /// The durable consumer's name.
    pub durable: String,
    /// Ids of the companies whose changes are delivered; `*` for all.
    pub companies: Vec<String>,
    /// [`AckPolicy::All`], or [`AckPolicy::Explicit`] for compatibility with the Go program.
    pub policy: AckPolicy,
    /// The server delivers no more while so many messages are not acknowledged.
    pub max_ack_pending: i64,
    /// Messages per pull, at most.
    pub batch: usize,
    /// Where to begin if nothing is known of an earlier run.
    pub start: Start,
}

/// The feed. Opening it recreates the durable consumer at the server.
pub struct JetStream {
    api: Api,
    settings: JetStreamSettings,
    opening: Option<OpenPull>,
    /// The consumer's acknowledgement floor when it was opened: the server does not report it while
    /// deliveries are not acknowledged.
    opened_at: Option<u64>,
    /// It was opened before: the settings are right, and what is away now may come back.
    was_open: bool,
    /// Tells this process's consumer from those of others.
    process: String,
    /// The process that made the consumer which was opened.
    opened_maker: Option<String>,
}

impl JetStream {
    /// A feed that is not open. Nothing is sent yet.
    pub fn new(link: Link, settings: JetStreamSettings) -> JetStream {
        JetStream {
            api: Api { link, stream: STREAM.into() },
            settings,
            opening: None,
            opened_at: None,
            was_open: false,
            process: uuid::Uuid::new_v4().to_string(),
            opened_maker: None,
        }
    }

    fn wanted(&self) -> ConsumerConfig {
        let filters: Vec<String> = self
            .settings
            .companies
            .iter()
            .map(|company| format!("{STREAM}.*.*.{company}.*.PUBLIC.>"))
            .collect();
        let (filter_subject, filter_subjects) = match &filters[..] {
            [one] => (one.clone(), Vec::new()),
            _ => (String::new(), filters),
        };
        ConsumerConfig {
            durable_name: self.settings.durable.clone(),
            ack_policy: self.settings.policy,
            ack_wait: Some(ACK_WAIT.as_nanos() as u64),
            max_deliver: Some(-1),
            filter_subject,
            filter_subjects,
            max_ack_pending: Some(self.settings.max_ack_pending),
            max_waiting: Some(1),
            inactive_threshold: Some(INACTIVE_THRESHOLD.as_nanos() as u64),
            metadata: [(MAKER.to_owned(), self.process.clone())].into(),
            ..ConsumerConfig::default()
        }
    }

    /// The consumer that begins after stream sequence `after`.
    fn wanted_after(&self, after: u64) -> ConsumerConfig {
        ConsumerConfig {
            deliver_policy: DeliverPolicy::ByStartSequence,
            opt_start_seq: Some(after + 1),
            ..self.wanted()
        }
    }

    /// The consumer that begins with what was published at `since`, RFC 3339.
    fn wanted_since(&self, since: &str) -> ConsumerConfig {
        ConsumerConfig {
            deliver_policy: DeliverPolicy::ByStartTime,
            opt_start_time: Some(since.to_owned()),
            ..self.wanted()
        }
    }

    /// The durable consumer at the server; `None` if there is none.
    async fn existing(&self) -> Result<Option<ConsumerInfo>, FeedError> {
        match self.api.info(&self.settings.durable).await {
            Ok(info) => Ok(Some(info)),
            Err(ApiError::NoConsumer) => Ok(None),
            Err(e) => Err(self.failed(e, &self.about())),
        }
    }

    /// The failed call as an error of the feed; `what` names what was asked for.
    fn failed(&self, error: ApiError, what: &str) -> FeedError {
        match self.was_open {
            true => error.once_open(what),
            false => error.at_start(what),
        }
    }

    fn about(&self) -> String {
        format!("consumer {} on stream {STREAM}", self.settings.durable)
    }

    /// Fails where another process has made the consumer anew since it was opened here. Each would
    /// delete the other's without end, and both would write.
    fn still_ours(&self, existing: Option<&ConsumerInfo>) -> Result<(), FeedError> {
        let maker = existing.and_then(|info| info.config.metadata.get(MAKER));
        let is_known =
            |maker: &String| *maker == self.process || Some(maker) == self.opened_maker.as_ref();
        match maker.filter(|maker| self.was_open && !is_known(maker)) {
            None => Ok(()),
            Some(_) => Err(FeedError::Taken(format!(
                "another EDS has taken over {} while this one was not connected: this one ends",
                self.about()
            ))),
        }
    }

    /// Waits until nobody else reads the consumer. A pull that a dead process left ends when it
    /// expires; a consumer that is still read after that is another EDS's.
    async fn alone(&self, mut info: ConsumerInfo) -> Result<ConsumerInfo, FeedError> {
        let deadline = Instant::now() + WAITING_GONE_MAX;
        while info.num_waiting > 0 {
            if Instant::now() > deadline {
                return Err(FeedError::Taken(format!(
                    "another EDS is reading {}: stop it first, or give this one a \
                     --consumer-suffix of its own",
                    self.about()
                )));
            }
            sleep(Duration::from_millis(300)).await;
            match self.existing().await? {
                Some(now) => info = now,
                None => break,
            }
        }
        Ok(info)
    }
}

fn clock_warning(behind_ns: i64) -> String {
    format!(
        "the clock of the NATS server is {} s behind this machine's; EDS allows for that, but let \
         both be set by NTP",
        behind_ns / 1_000_000_000
    )
}

/// How many messages the server delivers without an acknowledgement.
fn pending_max(info: &ConsumerInfo) -> usize {
    let limit = info.config.max_ack_pending.and_then(|max| usize::try_from(max).ok());
    limit.filter(|max| *max > 0).unwrap_or(usize::MAX)
}

#[async_trait]
impl Feed for JetStream {
    async fn acknowledged(&mut self) -> Result<Acknowledged, FeedError> {
        let Some(mut info) = self.existing().await? else { return Ok(Acknowledged::Nothing) };
        if self.opening.is_none() {
            info = self.alone(info).await?;
        }
        if let Some(sequence) = info.floor().or(self.opened_at) {
            return Ok(Acknowledged::Through(Position { sequence, time_ns: 0 }));
        }
        // The Go program created it, and nothing is acknowledged yet.
        let began = info.began().ok_or_else(|| {
            let about = self.about();
            FeedError::Unavailable(format!("{about}: it is not known since when it delivers"))
        })?;
        Ok(Acknowledged::NothingSince(began))
    }

    async fn open(&mut self, at: OpenAt) -> Result<Opened, FeedError> {
        self.opening = None;
        let existing = self.existing().await?;
        self.still_ours(existing.as_ref())?;
        let Standing { info, mut warnings, recreated } = match at {
            OpenAt { after: None, since_ns: Some(since), .. } => {
                self.stand_since(since, existing.is_some()).await?
            }
            at => self.stand_at(at, existing).await?,
        };
        let behind_ns = info.behind_ns(now_ns());
        let late = (behind_ns > CLOCKS_APART_MAX_NS).then(|| clock_warning(behind_ns));
        warnings.extend(late);
        self.opened_at = info.floor();
        let allowed = info
            .config
            .max_batch
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0)
            .unwrap_or(usize::MAX);
        let batch = self.settings.batch.min(allowed).max(1);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{}", self.settings.durable);
        let link = &self.api.link;
        self.opening = Some(
            OpenPull::new(
                &link.client,
                subject,
                batch,
                PullAcks { policy: self.settings.policy, pending_max: pending_max(&info) },
                link.connections.clone(),
                info.delivered.consumer_seq,
            )
            .await?,
        );
        self.was_open = true;
        self.opened_maker = info.config.metadata.get(MAKER).cloned();
        Ok(Opened { recreated, warnings, pending: Some(info.num_pending), behind_ns })
    }

    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError> {
        loop {
            let Some(opening) = &mut self.opening else {
                return Ok(Signal::Lost("the feed is not open".into()));
            };
            if let Some(signal) = opening.next(into, max).await? {
                return Ok(signal);
            }
            let Some(info) = self.existing().await? else {
                return Ok(Signal::Lost("the consumer was deleted".into()));
            };
            self.still_ours(Some(&info))?;
            self.opening.iter_mut().for_each(OpenPull::trust);
        }
    }

    async fn nothing_pending_at(&mut self) -> Option<i64> {
        self.opening.as_ref()?;
        self.api.info(&self.settings.durable).await.ok()?.nothing_pending_at()
    }

    async fn acknowledge(&mut self, through: Position) -> Result<(), FeedError> {
        match &mut self.opening {
            Some(opening) => opening.acknowledge(through).await,
            None => Ok(()),
        }
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        let Some(mut opening) = self.opening.take() else { return Ok(()) };
        let closed = opening.close(CLOSE_WAIT_MAX).await;
        // Where NATS is away, what is to be sent waits until it comes back.
        if !matches!(
            tokio::time::timeout(CLOSE_WAIT_MAX, self.api.link.client.flush()).await,
            Ok(Ok(()))
        ) {
            warn!("the connection to NATS was gone before its end");
        }
        closed
    }
}
