//! The way back to the Go program: the durable consumer in the form that it creates. It knows start
//! times and no start sequences.

use super::api::{AckPolicy, ApiError, ConsumerConfig, ConsumerInfo};
use super::{JetStream, STREAM};
use crate::change::cutover::CLOCKS_APART_MAX_NS;
use crate::change::value::rfc3339;
use crate::clock::now_ns;
use crate::feed::FeedError;

/// How often the Go program has a message delivered before it is lost.
const DELIVERIES_MAX: i64 = 20;

impl JetStream {
    /// The durable consumer at the server; `None` if there is none.
    pub async fn look(&self) -> Result<Option<ConsumerInfo>, FeedError> {
        self.existing().await
    }

    /// Recreates the durable consumer in the Go program's form, from the first message that is not
    /// acknowledged on. Returns the time since which it delivers (RFC 3339), and the new consumer.
    /// Messages that were published at that very time may be delivered again.
    pub async fn hand_back(&mut self) -> Result<(String, ConsumerInfo), FeedError> {
        let missing = || {
            FeedError::Misconfigured(format!(
                "there is no {}: there is nothing to hand back",
                self.about()
            ))
        };
        let info = self.existing().await?.ok_or_else(missing)?;
        let info = self.alone(info).await?;
        let Some(floor) = info.floor() else {
            return Err(FeedError::Misconfigured(format!(
                "the position of {} is not known: run EDS once until it streams, and stop it",
                self.about()
            )));
        };
        self.clear(true).await?;
        let first = match info.num_pending.saturating_add(info.num_ack_pending) {
            0 => None,
            _ => match self.api.first_message(floor + 1).await {
                Ok(first) => first,
                Err(e) => return self.put_back(floor, e).await,
            },
        };
        // Where nothing is pending, the consumer begins with the present. The server's clock may
        // differ from this machine's.
        let since_ns = first.map_or_else(|| now_ns() - CLOCKS_APART_MAX_NS, |first| first.time_ns);
        let since = rfc3339(since_ns / 1000);
        let config = ConsumerConfig {
            ack_policy: AckPolicy::Explicit,
            max_deliver: Some(DELIVERIES_MAX),
            ..self.wanted_since(&since)
        };
        let made = self.make(&config).await?;
        Ok((since, made))
    }

    /// It could not be found out since when the Go program has to read: the consumer is made again
    /// as it was.
    async fn put_back<T>(&self, floor: u64, why: ApiError) -> Result<T, FeedError> {
        self.make(&self.wanted_after(floor)).await?;
        Err(self.failed(why, &format!("the message after sequence {floor} of stream {STREAM}")))
    }
}

/// A description of a durable consumer for people, line by line.
pub fn described(info: &ConsumerInfo) -> Vec<String> {
    let config = &info.config;
    let filters: Vec<&str> = config
        .filter_subjects
        .iter()
        .map(String::as_str)
        .chain(Some(config.filter_subject.as_str()).filter(|f| !f.is_empty()))
        .collect();
    let ours = config.ack_policy == AckPolicy::All && config.max_deliver.unwrap_or(-1) < 0;
    let acknowledges = match config.ack_policy {
        AckPolicy::All => "cumulatively",
        AckPolicy::Explicit => "each message on its own",
        AckPolicy::None => "nothing",
    };
    let deliveries = match config.max_deliver.unwrap_or(-1) {
        ..=0 => "without a limit".to_owned(),
        times => format!("at most {times} times, then the message is lost"),
    };
    let standing = info
        .floor()
        .map_or_else(|| "not known".to_owned(), |floor| format!("stream sequence {floor}"));
    vec![
        format!("consumer {} on stream {STREAM}, made {}", info.name, info.created),
        format!(
            "  form              {}",
            if ours { "EDS's own" } else { "that of the Go program" }
        ),
        format!("  takes             {}", filters.join(", ")),
        format!("  acknowledges      {acknowledges}"),
        format!("  redelivers        {deliveries}"),
        format!("  acknowledged to   {standing}"),
        format!("  unacknowledged    {} messages", info.num_ack_pending),
        format!("  pending           {} messages", info.num_pending),
        format!("  is read           {}", if info.num_waiting > 0 { "now" } else { "by nobody" }),
    ]
}
