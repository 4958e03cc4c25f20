//! NATS JetStream: a durable pull consumer that delivers in stream order from a given position on.

pub mod api;
pub mod connect;
pub mod hand_back;
pub mod identity;
mod pull;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Delivery, Feed, FeedError, OpenAt, Opened, Signal, Start};
use crate::change::Position;
use crate::change::cutover::CLOCKS_APART_MAX_NS;
use api::{AckPolicy, Api, ApiError, ConsumerConfig, ConsumerInfo, DeliverPolicy};
use connect::Link;
use pull::OpenPull;

/// The stream that carries the changes.
pub const STREAM: &str = "dbchange";

/// After so long without an acknowledgement the server delivers a message again.
const ACK_WAIT: Duration = Duration::from_secs(5 * 60);
/// The server removes a consumer that nobody has read for so long.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// How long the last pull of a process that has ended may still wait at the server. A pull that
/// waits for longer belongs to a process that runs.
const WAITING_GONE_MAX: Duration = Duration::from_secs(6);
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

/// The feed. Opening it recreates the durable consumer at the server, unless that already stands at
/// the wanted position.
pub struct JetStream {
    api: Api,
    settings: JetStreamSettings,
    opening: Option<OpenPull>,
    /// The consumer's acknowledgement floor when it was opened: the server does not report it while
    /// deliveries are not acknowledged.
    opened_at: Option<u64>,
}

impl JetStream {
    /// A feed that is not open. Nothing is sent yet.
    pub fn new(link: Link, settings: JetStreamSettings) -> JetStream {
        JetStream {
            api: Api { link, stream: STREAM.into() },
            settings,
            opening: None,
            opened_at: None,
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
            ..ConsumerConfig::default()
        }
    }

    /// The durable consumer at the server; `None` if there is none.
    async fn existing(&self) -> Result<Option<ConsumerInfo>, FeedError> {
        match self.api.info(&self.settings.durable).await {
            Ok(info) => Ok(Some(info)),
            Err(ApiError::NoConsumer) => Ok(None),
            Err(e) => Err(e.or_fail(&self.about())),
        }
    }

    fn about(&self) -> String {
        format!("consumer {} on stream {STREAM}", self.settings.durable)
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

    /// Creates the durable consumer as `config` says, in place of one that exists.
    async fn make(
        &self,
        config: &ConsumerConfig,
        existing: bool,
    ) -> Result<ConsumerInfo, FeedError> {
        let version = self.api.link.client.server_info().version;
        if config.filter_subjects.len() > 1 && is_before_2_10(&version) {
            return Err(FeedError::Misconfigured(format!(
                "the NATS server is of version {version}; several companies in one credential need \
                 2.10 or later (an older one would send the changes of all companies)"
            )));
        }
        if existing {
            self.api.delete(&self.settings.durable).await.map_err(|e| e.or_fail(&self.about()))?;
        }
        let info = self.api.create(config).await.map_err(|e| e.or_fail(&self.about()))?;
        if !info.config.same_filter(config) {
            let _ = self.api.delete(&self.settings.durable).await;
            return Err(FeedError::Misconfigured(format!(
                "the NATS server (version {version}) ignored the filter of {}: it is too old for \
                 several companies",
                self.about()
            )));
        }
        Ok(info)
    }

    /// The consumer at `after`. It is used as it is if it stands there and everything delivered is
    /// acknowledged; else it is recreated there. Also returns warnings for the user.
    async fn stand_at(
        &self,
        after: Option<Position>,
        existing: Option<ConsumerInfo>,
        idle_ns: Option<i64>,
    ) -> Result<(ConsumerInfo, Vec<String>), FeedError> {
        let wanted = self.wanted();
        let fits =
            |info: &ConsumerInfo| info.config.behaves_as(&wanted) && info.num_ack_pending == 0;
        if let Some(info) = existing.as_ref().filter(|info| {
            fits(info) && (after.is_none() || info.floor() == after.map(|p| p.sequence))
        }) {
            return Ok((info.clone(), Vec::new()));
        }
        let Some(position) = after else {
            let (start, warnings) = self.first_start(existing.as_ref());
            return Ok((
                self.make(&ConsumerConfig { ..start }, existing.is_some()).await?,
                warnings,
            ));
        };
        let mut warnings = Vec::new();
        let last = self
            .api
            .probe(DeliverPolicy::New, &ConsumerConfig::default())
            .await
            .map_err(|e| e.or_fail("the end of the stream"))?;
        let recreated = last.delivered.stream_seq < position.sequence;
        if recreated {
            warnings.push(format!(
                "the stream {STREAM} ends at sequence {}, before our position {}: it was recreated \
                 and is read from its beginning; changes in between need an import",
                last.delivered.stream_seq, position.sequence
            ));
        }
        let start = if recreated { 1 } else { position.sequence + 1 };
        let config = ConsumerConfig {
            deliver_policy: DeliverPolicy::ByStartSequence,
            opt_start_seq: Some(start),
            ..wanted.clone()
        };
        let info = self.make(&config, existing.is_some()).await?;
        if !recreated && position.sequence > 0 && info.delivered.stream_seq > position.sequence {
            warnings.extend(self.gap(position, &info, idle_ns).await);
        }
        info!(
            consumer = self.settings.durable,
            after = start - 1,
            pending = info.num_pending,
            "the consumer was recreated at our position"
        );
        Ok((info, warnings))
    }

    /// Recreates the consumer so that it begins with what was published at `since_ns`: after an
    /// import.
    async fn stand_since(
        &self,
        since_ns: i64,
        existing: bool,
    ) -> Result<(ConsumerInfo, Vec<String>), FeedError> {
        let since = crate::change::value::rfc3339(since_ns / 1000);
        let config = ConsumerConfig {
            deliver_policy: DeliverPolicy::ByStartTime,
            opt_start_time: Some(since.clone()),
            ..self.wanted()
        };
        let info = self.make(&config, existing).await?;
        info!(
            consumer = self.settings.durable,
            since,
            pending = info.num_pending,
            "the consumer starts shortly before the import's snapshot"
        );
        let first = self
            .api
            .probe(DeliverPolicy::All, &ConsumerConfig::default())
            .await
            .map_err(|e| e.or_fail("the beginning of the stream"))?;
        let mut warnings = Vec::new();
        // The stream has lost its beginning, and its oldest message is younger than the snapshot.
        if first.delivered.stream_seq > 0
            && let Some(oldest) = self.oldest_time(first.delivered.stream_seq + 1).await
            && oldest > since_ns + CLOCKS_APART_MAX_NS
        {
            let (oldest, snapshot) = (
                crate::change::value::rfc3339(oldest / 1000),
                crate::change::value::rfc3339((since_ns + CLOCKS_APART_MAX_NS) / 1000),
            );
            warnings.push(format!(
                "changes may be missing: the import shows the source as of \
                               {snapshot}, and the stream {STREAM} begins only at {oldest}; \
                               another import cures it"
            ));
        }
        Ok((info, warnings))
    }

    /// The configuration of a consumer if EDS knows no position, with warnings for the user.
    fn first_start(&self, existing: Option<&ConsumerInfo>) -> (ConsumerConfig, Vec<String>) {
        let wanted = self.wanted();
        if let Some(info) = existing {
            // The Go program created it, and nothing is acknowledged yet: its deliveries began when
            // it was created.
            let since = info.config.opt_start_time.clone().unwrap_or_else(|| info.created.clone());
            return (
                ConsumerConfig {
                    deliver_policy: DeliverPolicy::ByStartTime,
                    opt_start_time: Some(since),
                    ..wanted
                },
                Vec::new(),
            );
        }
        match self.settings.start {
            Start::All => {
                (ConsumerConfig { deliver_policy: DeliverPolicy::All, ..wanted }, Vec::new())
            }
            Start::NewOnly => {
                let warning = "there is no checkpoint of an earlier run: only new changes are streamed. --restart streams everything that the stream still has";
                (
                    ConsumerConfig { deliver_policy: DeliverPolicy::New, ..wanted },
                    vec![warning.into()],
                )
            }
        }
    }

    /// A warning if changes after `position` are no longer in the stream and some may have been for
    /// this consumer. None was if nothing was pending at a time that the stream still covers,
    /// because retention removes the oldest messages first.
    async fn gap(
        &self,
        position: Position,
        info: &ConsumerInfo,
        idle_ns: Option<i64>,
    ) -> Option<String> {
        let first = info.delivered.stream_seq + 1;
        let oldest_ns = self.oldest_time(first).await;
        if let (Some(idle), Some(oldest)) = (idle_ns, oldest_ns)
            && oldest <= idle
        {
            return None;
        }
        let since = crate::change::value::rfc3339(
            idle_ns.unwrap_or(position.time_ns).max(position.time_ns) / 1000,
        );
        Some(format!(
            "changes may be missing: the stream {STREAM} no longer has sequences {} to {}, \
             published after {since}; an import brings the destination up to date",
            position.sequence + 1,
            first - 1
        ))
    }

    /// When the first message from `sequence` on was published, Unix nanoseconds.
    async fn oldest_time(&self, sequence: u64) -> Option<i64> {
        let config = ConsumerConfig {
            name: format!("eds-probe-{}", uuid::Uuid::new_v4().simple()),
            deliver_policy: DeliverPolicy::ByStartSequence,
            opt_start_seq: Some(sequence),
            ack_policy: AckPolicy::None,
            inactive_threshold: Some(Duration::from_secs(10).as_nanos() as u64),
            headers_only: true,
            ..ConsumerConfig::default()
        };
        self.api.create(&config).await.ok()?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{}", config.name);
        let opening = OpenPull::new(
            &self.api.link.client,
            subject,
            1,
            AckPolicy::None,
            self.api.link.connections.clone(),
            0,
        )
        .await;
        let mut found = Vec::new();
        if let Ok(mut opening) = opening {
            let _ = tokio::time::timeout(Duration::from_secs(3), opening.next(&mut found, 1)).await;
        }
        let _ = self.api.delete(&config.name).await;
        found.first().map(|d| d.position.time_ns)
    }
}

fn is_before_2_10(version: &str) -> bool {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(u32::MAX));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (2, 10)
}

#[async_trait]
impl Feed for JetStream {
    async fn acknowledged_position(&mut self) -> Result<Option<Position>, FeedError> {
        let Some(mut info) = self.existing().await? else { return Ok(None) };
        if self.opening.is_none() {
            info = self.alone(info).await?;
        }
        let floor = info.floor().or(self.opened_at);
        Ok(floor.map(|sequence| Position { sequence, time_ns: 0 }))
    }

    async fn open(&mut self, at: OpenAt) -> Result<Opened, FeedError> {
        self.opening = None;
        let existing = self.existing().await?;
        let (info, warnings) = match at {
            OpenAt { after: None, since_ns: Some(since), .. } => {
                self.stand_since(since, existing.is_some()).await?
            }
            OpenAt { after, idle_ns, .. } => self.stand_at(after, existing, idle_ns).await?,
        };
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
                self.settings.policy,
                link.connections.clone(),
                info.delivered.consumer_seq,
            )
            .await?,
        );
        Ok(Opened { warnings, pending: Some(info.num_pending) })
    }

    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError> {
        match &mut self.opening {
            Some(opening) => opening.next(into, max).await,
            None => Ok(Signal::Lost("the feed is not open".into())),
        }
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
    use super::is_before_2_10;

    #[test]
    fn an_old_server_is_known_by_its_version() {
        for (version, old) in [
            ("2.9.25", true),
            ("2.10.0", false),
            ("2.12.2", false),
            ("1.4.1", true),
            ("3.0.0-beta", false),
        ] {
            assert_eq!(is_before_2_10(version), old, "{version}");
        }
    }
}
