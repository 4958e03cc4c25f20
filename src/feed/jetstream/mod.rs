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
use stand::{Standing, is_before_2_10};

/// The stream that carries the changes.
pub const STREAM: &str = "dbchange";

/// After so long without an acknowledgement the server delivers a message again.
const ACK_WAIT: Duration = Duration::from_secs(5 * 60);
/// The server removes a consumer that nobody has read for so long.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// How long the last pull of a process that has ended may still wait at the server. A pull that
/// waits for longer belongs to a process that runs.
const WAITING_GONE_MAX: Duration = Duration::from_secs(6);
/// Subjects of one consumer for the sake of tables, at most: the server compares each message with
/// them.
const FILTERS_MAX: usize = 64;
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
    /// The tables whose changes are needed; none for all. Others may come, too.
    pub tables: Vec<String>,
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
    /// The process that made the consumer which was opened, or was there before the first opening.
    known_maker: Option<String>,
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
            known_maker: None,
        }
    }

    fn wanted(&self) -> ConsumerConfig {
        let takes_several = !is_before_2_10(&self.api.link.client.server_info().version);
        let filters = filters(&self.settings.companies, &self.settings.tables, takes_several);
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

    /// Fails where another process has made the consumer anew since it was looked at last. Each
    /// would delete the other's without end, and both would write.
    fn still_ours(&self, existing: Option<&ConsumerInfo>) -> Result<(), FeedError> {
        let is_known =
            |maker: &String| *maker == self.process || Some(maker) == self.known_maker.as_ref();
        let how = match self.was_open {
            true => "has taken over",
            false => "has just made",
        };
        match existing.and_then(ConsumerInfo::maker).filter(|maker| !is_known(maker)) {
            None => Ok(()),
            Some(_) => {
                Err(FeedError::Taken(format!("another EDS {how} {}: this one ends", self.about())))
            }
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

impl ConsumerInfo {
    /// The process that made it; `None` where that was not EDS.
    fn maker(&self) -> Option<&String> {
        self.config.metadata.get(MAKER)
    }
}

/// What is delivered, as subjects: at most [`FILTERS_MAX`] for the sake of tables. A server that
/// does not take several delivers all tables.
fn filters(companies: &[String], tables: &[String], takes_several: bool) -> Vec<String> {
    let count = companies.len().saturating_mul(tables.len());
    let is_token = |table: &String| {
        !table.is_empty()
            && !table.contains(['.', '*', '>'])
            && !table.contains(char::is_whitespace)
    };
    let is_narrow = count > 0
        && count <= FILTERS_MAX
        && (takes_several || count == 1)
        && tables.iter().all(is_token);
    let all = ["*".to_owned()];
    let tables = if is_narrow { tables } else { &all };
    let of_table = |table: &String| {
        let subject = |company: &String| format!("{STREAM}.{table}.*.{company}.*.PUBLIC.>");
        companies.iter().map(subject).collect::<Vec<String>>()
    };
    tables.iter().flat_map(of_table).collect()
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
            self.known_maker = info.maker().cloned();
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
        let ours = self.still_ours(existing.as_ref());
        if ours.is_err() {
            // Whoever asks again knows that, and takes it away from the other.
            self.known_maker = existing.as_ref().and_then(ConsumerInfo::maker).cloned();
        }
        ours?;
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
                (info.delivered.consumer_seq, info.num_pending),
            )
            .await?,
        );
        self.was_open = true;
        self.known_maker = info.maker().cloned();
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
            if let Err(taken) = self.still_ours(Some(&info)) {
                return Ok(Signal::Lost(taken.to_string()));
            }
            self.opening.iter_mut().for_each(|opening| opening.trust(info.num_pending));
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

#[cfg(test)]
mod tests {
    use super::filters;

    #[test]
    fn tables_that_are_needed_are_subjects_as_far_as_that_goes() {
        let named = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let (two, all) = (named(&["acme", "bolt"]), named(&["*"]));
        assert_eq!(filters(&all, &[], true), ["dbchange.*.*.*.*.PUBLIC.>"]);
        let narrow = filters(&two, &named(&["order", "user"]), true);
        assert_eq!((narrow.len(), &*narrow[1]), (4, "dbchange.order.*.bolt.*.PUBLIC.>"));
        // An old server takes one.
        assert_eq!(filters(&all, &named(&["order"]), false), ["dbchange.order.*.*.*.PUBLIC.>"]);
        assert_eq!(filters(&all, &named(&["order", "user"]), false).len(), 1);
        // Names that are no part of a subject, and too many.
        assert_eq!(filters(&all, &named(&["order", "my.own"]), true).len(), 1);
        let many: Vec<String> = (0..33).map(|n| format!("t{n}")).collect();
        assert_eq!(filters(&two, &many, true).len(), 2);
    }
}
