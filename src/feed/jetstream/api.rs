//! The calls of JetStream's management API (NATS ADR-1) that EDS needs. All are under
//! `$JS.API.CONSUMER.>`, because the credentials that HQ issues allow no more.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use super::api_error::ApiError;
use super::api_error::Refusal;
use super::connect::Link;
use crate::change::value::unix_ns;

/// How long to wait for most answers. NATS never answers a call that is not allowed.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a consumer may take to be made, besides what its filters take: a busy server writes it
/// to its disk. That the credentials allow it is known from other calls by then.
const CREATE_WAIT_MAX: Duration = Duration::from_secs(15);

/// How messages are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum AckPolicy {
    /// One acknowledgement covers everything before it.
    All,
    /// Each message needs its own.
    #[default]
    Explicit,
    /// Messages need none.
    None,
}

/// Where a consumer begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum DeliverPolicy {
    /// With the oldest message.
    #[default]
    All,
    /// With the newest message.
    Last,
    /// With the next message that is published.
    New,
    /// At [`ConsumerConfig::opt_start_seq`].
    ByStartSequence,
    /// At [`ConsumerConfig::opt_start_time`].
    ByStartTime,
    /// With the newest message of each subject.
    LastPerSubject,
}

/// A consumer's configuration by JetStream's names, as far as EDS sets it. Durations are in
/// nanoseconds; an absent field has the server's default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ConsumerConfig {
    /// The name of a durable consumer; empty for another.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub durable_name: String,
    /// The name of a consumer that is not durable.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where it begins.
    pub deliver_policy: DeliverPolicy,
    /// The first stream sequence to deliver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_start_seq: Option<u64>,
    /// The time of publication to begin with, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_start_time: Option<String>,
    /// How messages are acknowledged.
    pub ack_policy: AckPolicy,
    /// After so long a message that is not acknowledged is delivered again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_wait: Option<u64>,
    /// Deliveries of a message, at most; negative: without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_deliver: Option<i64>,
    /// The only subject to deliver; empty with several or none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    /// Several subjects to deliver; needs NATS 2.10.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter_subjects: Vec<String>,
    /// Messages that may be delivered and not acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ack_pending: Option<i64>,
    /// Pulls that may wait at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_waiting: Option<i64>,
    /// Messages that one pull may ask for; the server sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<i64>,
    /// The server removes the consumer after so long without a pull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inactive_threshold: Option<u64>,
    /// Whatever the creator wrote; needs NATS 2.10.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Deliver messages without their payloads.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub headers_only: bool,
}

impl ConsumerConfig {
    /// Whether a consumer of this configuration delivers as one of `wanted` does, apart from where
    /// it begins.
    pub fn behaves_as(&self, wanted: &ConsumerConfig) -> bool {
        self.ack_policy == wanted.ack_policy
            && self.same_filter(wanted)
            && self.max_deliver.unwrap_or(-1) == wanted.max_deliver.unwrap_or(-1)
            && self.max_ack_pending == wanted.max_ack_pending
            && self.max_waiting == wanted.max_waiting
            && self.ack_wait == wanted.ack_wait
    }

    /// Whether both deliver the same subjects.
    pub fn same_filter(&self, wanted: &ConsumerConfig) -> bool {
        let filters = |c: &ConsumerConfig| {
            let mut all: Vec<String> = c
                .filter_subjects
                .iter()
                .cloned()
                .chain(Some(c.filter_subject.clone()).filter(|f| !f.is_empty()))
                .collect();
            all.sort();
            all
        };
        filters(self) == filters(wanted)
    }
}

/// A place in a consumer's deliveries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Default)]
#[serde(default)]
pub struct Sequences {
    /// Counts the consumer's deliveries.
    pub consumer_seq: u64,
    /// The message's place in the stream.
    pub stream_seq: u64,
}

/// The server's report about a consumer.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Its configuration.
    pub config: ConsumerConfig,
    /// The last message that was delivered.
    #[serde(default)]
    pub delivered: Sequences,
    /// The last message up to which everything is acknowledged; see [`ConsumerInfo::floor`].
    #[serde(default)]
    pub ack_floor: Sequences,
    /// Messages that were delivered and not acknowledged.
    #[serde(default)]
    pub num_ack_pending: u64,
    /// Pulls that wait: somebody reads the consumer.
    #[serde(default)]
    pub num_waiting: u64,
    /// Messages that are not delivered yet.
    #[serde(default)]
    pub num_pending: u64,
    /// The server's time of the report, RFC 3339; absent before NATS 2.10.
    #[serde(default, rename = "ts")]
    pub reported: Option<String>,
}

impl ConsumerInfo {
    /// Everything up to this stream sequence is acknowledged; `None` if the server does not report
    /// it. A consumer that begins at a start sequence reports 0 until its first acknowledgement,
    /// and stands before its start.
    pub fn floor(&self) -> Option<u64> {
        if self.config.deliver_policy == DeliverPolicy::ByStartSequence {
            return Some(
                self.ack_floor
                    .stream_seq
                    .max(self.config.opt_start_seq.unwrap_or(1).saturating_sub(1)),
            );
        }
        match (self.ack_floor.stream_seq, self.num_ack_pending, self.config.deliver_policy) {
            (0, _, DeliverPolicy::All) => Some(0),
            (0, 0, _) => Some(self.delivered.stream_seq),
            (0, ..) => None,
            (floor, ..) => Some(floor),
        }
    }

    /// Since when it delivers, by its start time or its creation, Unix nanoseconds; `None` where
    /// neither can be read.
    pub fn began(&self) -> Option<i64> {
        unix_ns(self.config.opt_start_time.as_ref().unwrap_or(&self.created))
    }

    /// By how much the server's clock was behind at its report, which came at `now_ns`; 0 where it
    /// was not, or the server does not tell its time.
    pub fn behind_ns(&self, now_ns: i64) -> i64 {
        let reported = self.reported.as_deref().and_then(unix_ns);
        reported.map_or(0, |reported| now_ns.saturating_sub(reported).max(0))
    }

    /// The server's time of the report, Unix nanoseconds, if everything was delivered and
    /// acknowledged by then.
    pub fn nothing_pending_at(&self) -> Option<i64> {
        match self.num_pending.saturating_add(self.num_ack_pending) {
            0 => self.reported.as_deref().and_then(unix_ns),
            _ => None,
        }
    }
}

/// The server's report about the stream, where the credentials allow the question.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct StreamReport {
    /// What was asked of it when it was made.
    pub config: StreamBounds,
    /// What it holds now.
    pub state: StreamContent,
    /// The server's time of the report, RFC 3339; absent before NATS 2.10.
    #[serde(default, rename = "ts")]
    pub reported: Option<String>,
}

/// What a stream allows, as far as EDS meets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub struct StreamBounds {
    /// Consumers that it may have; not above 0 means any number.
    #[serde(default)]
    pub max_consumers: i64,
}

/// What a stream holds.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct StreamContent {
    /// Its messages.
    pub messages: u64,
    /// The sequence of the oldest message; one behind the last where it is empty.
    pub first_seq: u64,
    /// When the oldest message was published, RFC 3339.
    #[serde(default)]
    pub first_ts: String,
    /// The last sequence that it has given.
    pub last_seq: u64,
    /// Consumers that it has.
    #[serde(default)]
    pub consumer_count: i64,
}

/// The calls, about the consumers of one stream. Each is made once and waits for its answer for 3
/// seconds; the creation of a consumer of very many companies for longer.
#[derive(Clone)]
pub struct Api {
    /// The connection.
    pub link: Link,
    /// The stream's name.
    pub stream: String,
}

impl Api {
    async fn call<T: DeserializeOwned>(
        &self,
        verb: &str,
        name: &str,
        body: Vec<u8>,
    ) -> Result<T, ApiError> {
        let subject = format!("$JS.API.CONSUMER.{verb}.{}.{name}", self.stream);
        self.ask(&format!("CONSUMER.{verb}"), subject, body, ANSWER_WAIT_MAX).await
    }

    /// Asks, and reads the answer; `what` names the question.
    async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        subject: String,
        body: Vec<u8>,
        wait_max: Duration,
    ) -> Result<T, ApiError> {
        if !self.link.is_connected() {
            return Err(ApiError::NoAnswer(self.link.absence()));
        }
        self.link.complaint();
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(wait_max));
        let answer = match self.link.client.send_request(subject, request).await {
            Ok(answer) => answer,
            Err(e) => {
                let complaint = self
                    .link
                    .complaint()
                    .map(|c| format!(" (the server said: {c})"))
                    .unwrap_or_default();
                let right = format!(
                    "do the credentials allow publishing to $JS.API.CONSUMER.> and subscribing to \
                     _INBOX.>, and does the server have JetStream?{complaint}"
                );
                return Err(ApiError::NoAnswer(format!(
                    "no answer to $JS.API.{what}: {e}; {right}"
                )));
            }
        };
        let value: serde_json::Value = serde_json::from_slice(&answer.payload)
            .map_err(|e| ApiError::unreadable(format!("an answer that is not JSON: {e}")))?;
        if let Some(error) = value.get("error") {
            let refusal =
                Refusal::deserialize(error).map_err(|e| ApiError::unreadable(e.to_string()))?;
            return Err(ApiError::refused(refusal));
        }
        serde_json::from_value(value)
            .map_err(|e| ApiError::unreadable(format!("an answer of another form: {e}")))
    }

    /// The consumer of that name.
    pub async fn info(&self, name: &str) -> Result<ConsumerInfo, ApiError> {
        self.call("INFO", name, Vec::new()).await
    }

    /// The stream itself. The credentials that HQ issues do not allow the question.
    pub async fn stream_report(&self) -> Result<StreamReport, ApiError> {
        let subject = format!("$JS.API.STREAM.INFO.{}", self.stream);
        self.ask("STREAM.INFO", subject, Vec::new(), ANSWER_WAIT_MAX).await
    }

    /// Deletes the consumer of that name, if it exists.
    pub async fn delete(&self, name: &str) -> Result<(), ApiError> {
        match self.call::<serde_json::Value>("DELETE", name, Vec::new()).await {
            Ok(_) | Err(ApiError::NoConsumer) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Creates a consumer; an error if one of that name exists with another configuration.
    pub async fn create(&self, config: &ConsumerConfig) -> Result<ConsumerInfo, ApiError> {
        let name = if config.durable_name.is_empty() { &config.name } else { &config.durable_name };
        let body =
            serde_json::json!({ "stream_name": self.stream, "config": config, "action": "create" });
        let body = body.to_string().into_bytes();
        let (filters, bytes_max) =
            (config.filter_subjects.len(), self.link.client.server_info().max_payload);
        if body.len() > bytes_max {
            let description = format!(
                "a consumer of {filters} companies takes a request of {} bytes, and the server \
                 allows {bytes_max}: raise its max_payload, or divide the companies among several \
                 servers",
                body.len()
            );
            return Err(ApiError::Refused { code: 400, err_code: 0, description });
        }
        let subject = format!("$JS.API.CONSUMER.CREATE.{}.{name}", self.stream);
        self.ask("CONSUMER.CREATE", subject, body, create_wait_max(filters)).await
    }
}

/// How long the creation of a consumer may take: the server compares each filter with each other,
/// 4,000 in five seconds. Other companies' changes would come with fewer and wider ones.
fn create_wait_max(filters: usize) -> Duration {
    let pairs = (filters as u64).saturating_mul(filters as u64);
    CREATE_WAIT_MAX + Duration::from_micros(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> ConsumerInfo {
        serde_json::from_str(&format!(r#"{{"name":"c","created":"2024-01-01T00:00:00Z",{json}}}"#))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// Counts that no stream has add up to no zero.
    #[test]
    fn absurd_counts_are_pending() {
        let absurd = info(&format!(
            r#""config":{{"deliver_policy":"all","ack_policy":"all"}},"num_pending":{},"num_ack_pending":1,"ts":"2024-01-01T00:00:00Z""#,
            u64::MAX
        ));
        assert_eq!(absurd.nothing_pending_at(), None);
    }

    #[test]
    fn a_clock_that_is_behind_is_known_by_the_time_of_a_report() {
        let policy = r#""config":{"deliver_policy":"all","ack_policy":"all"}"#;
        let behind = |ts: &str| info(&format!("{policy}{ts}")).behind_ns(1_704_067_320_000_000_000);
        assert_eq!(behind(r#","ts":"2024-01-01T00:01:00Z""#), 60_000_000_000);
        assert_eq!(behind(r#","ts":"2024-01-01T00:03:00Z""#), 0);
        assert_eq!(behind(""), 0);
    }

    #[test]
    fn the_floor_of_a_consumer_made_at_a_sequence_is_where_it_starts() {
        let at = |json: &str| info(json).floor();
        assert_eq!(
            at(
                r#""config":{"deliver_policy":"by_start_sequence","opt_start_seq":100,"ack_policy":"all"}"#
            ),
            Some(99)
        );
        assert_eq!(
            at(
                r#""config":{"deliver_policy":"by_start_sequence","opt_start_seq":100},"ack_floor":{"consumer_seq":5,"stream_seq":140}"#
            ),
            Some(140)
        );
        assert_eq!(
            at(
                r#""config":{"deliver_policy":"new"},"delivered":{"consumer_seq":0,"stream_seq":77}"#
            ),
            Some(77)
        );
        assert_eq!(
            at(
                r#""config":{"deliver_policy":"new"},"delivered":{"consumer_seq":3,"stream_seq":80},"num_ack_pending":3"#
            ),
            None
        );
        assert_eq!(at(r#""config":{"deliver_policy":"all"},"num_ack_pending":3"#), Some(0));
    }
}
