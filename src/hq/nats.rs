//! The server's own connection to HQ over NATS: notifications come in, heartbeats and answers go
//! out.

use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::{Message, Subscriber};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::timeout;
use tracing::warn;

use crate::feed::FeedError;
use crate::feed::jetstream::connect::{Link, Servers};
use crate::machine;

/// How long the server's last words may take to be sent.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);

/// A session's connection. Sending never fails the server: what cannot be sent is logged, because
/// only HQ waits for it, and HQ asks again. Clones share the connection.
#[derive(Clone)]
pub struct HqConnection {
    link: Link,
    session: String,
}

/// The sign of life that is published every minute.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// The session.
    pub session_id: String,
    /// Counts up from 0 within a session.
    pub offset: u64,
    /// How long the supervisor has run, in whole seconds.
    pub uptime: u64,
    /// How the worker and the machine are.
    pub stats: Stats,
    /// Since when the server is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<PackedTime>,
}

/// A time in MessagePack's own form: the extension of type -1, with the nanoseconds and the seconds
/// since 1970 in 12 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackedTime {
    /// Unix nanoseconds.
    pub nanos: i64,
}

impl Serialize for PackedTime {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        const SECOND: i64 = 1_000_000_000;
        let (seconds, nanos) = (self.nanos.div_euclid(SECOND), self.nanos.rem_euclid(SECOND));
        let mut bytes = u32::try_from(nanos).unwrap_or_default().to_be_bytes().to_vec();
        bytes.extend(seconds.to_be_bytes());
        let bytes = PackedBytes(bytes);
        to.serialize_newtype_struct(rmp_serde::MSGPACK_EXT_STRUCT_NAME, &(TIME_TYPE, bytes))
    }
}

/// MessagePack's extension type of times.
const TIME_TYPE: i8 = -1;

/// Bytes that are serialized as such, and not as a list of numbers.
struct PackedBytes(Vec<u8>);

impl Serialize for PackedBytes {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

/// Readings in a heartbeat.
#[derive(Serialize)]
pub struct Stats {
    /// Of the worker; zeros if there is none.
    pub metrics: Metrics,
    /// Of the machine.
    pub memory: machine::MemoryUse,
    /// Of the machine.
    pub load: machine::Load,
}

/// The worker's counts since it started, by HQ's names.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Batches that were written to the destination.
    pub flush_count: f64,
    /// How many of them were timed; HQ's name says otherwise.
    pub flush_duration: f64,
    /// How many events were timed from their publication on; HQ's name says otherwise.
    pub processing_duration: f64,
    /// Events that wait in the stream.
    pub pending_events: f64,
    /// Events that were received.
    pub total_events: f64,
}

impl HqConnection {
    /// Connects to NATS and subscribes to the notifications of `session`. Tries once; an error is
    /// one of the connection or of the credentials.
    pub async fn connect(
        servers: &Servers,
        session: &str,
    ) -> Result<(HqConnection, Subscriber), FeedError> {
        let link = Link::connect(servers).await?;
        let notices =
            link.client.subscribe(format!("eds.notify.{session}.>")).await.map_err(|e| {
                FeedError::Unavailable(format!("notifications of HQ cannot be subscribed to: {e}"))
            })?;
        Ok((HqConnection { link, session: session.to_owned() }, notices))
    }

    /// Whether NATS rejects this session's credentials since the connection was last lost.
    pub fn is_locked_out(&self) -> bool {
        !self.link.is_connected()
            && self.link.complaint().is_some_and(|said| {
                let said = said.to_lowercase();
                ["authorization", "authentication", "expired"]
                    .iter()
                    .any(|word| said.contains(word))
            })
    }

    /// Publishes `document` in MessagePack on `eds.client.<session>.<topic>`.
    pub async fn tell(&self, topic: &str, document: &impl Serialize) {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, uuid::Uuid::new_v4().to_string());
        headers.insert("content-encoding", "msgpack");
        let subject = format!("eds.client.{}.{topic}", self.session);
        let sent = match rmp_serde::to_vec_named(document) {
            Ok(payload) => self
                .link
                .client
                .publish_with_headers(subject, headers, payload.into())
                .await
                .map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        if let Err(e) = sent {
            warn!("{topic} could not be sent to HQ: {e}");
        }
    }

    /// Publishes the outcome of `action`, with the fields of `more`, on the topic
    /// `<action>-<kind>`. `kind` is `status` where the work begins and `response` where it is done.
    pub async fn answer(
        &self,
        action: &str,
        kind: &str,
        outcome: &Result<Option<String>, String>,
        more: Map<String, Value>,
    ) {
        let mut document = outcome_fields(outcome);
        document.insert("sessionId".into(), self.session.clone().into());
        document.extend(more);
        self.tell(&format!("{action}-{kind}"), &document).await;
    }

    /// Answers the request `message` with `document` in JSON.
    pub async fn reply(&self, message: &Message, mut document: Map<String, Value>) {
        document.insert("sessionId".into(), self.session.clone().into());
        let Some(reply) = message.reply.clone() else {
            return warn!("a request of HQ has no reply subject: {}", message.subject);
        };
        self.say(reply.to_string(), Value::Object(document).to_string()).await;
    }

    /// Publishes `text` as it is on `subject`.
    pub async fn say(&self, subject: String, text: String) {
        if let Err(e) = self.link.client.publish(subject, text.into()).await {
            warn!("the answer to HQ could not be sent: {e}");
        }
    }

    /// Waits until everything is sent, at most [`FLUSH_WAIT_MAX`].
    pub async fn flush(&self) {
        let _ = timeout(FLUSH_WAIT_MAX, self.link.client.flush()).await;
    }
}

/// An outcome in HQ's form: `success`, and `message` with a remark or the reason of a failure.
pub fn outcome_fields(outcome: &Result<Option<String>, String>) -> Map<String, Value> {
    let mut document = Map::new();
    document.insert("success".into(), outcome.is_ok().into());
    let message = match outcome {
        Ok(message) => message.clone(),
        Err(why) => Some(why.clone()),
    };
    if let Some(message) = message {
        document.insert("message".into(), message.into());
    }
    document
}
