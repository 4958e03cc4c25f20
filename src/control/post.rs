//! The server's own line to HQ over NATS: notifications come in, words about the server go out.

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::{Message, Subscriber};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::warn;

use crate::feed::FeedError;
use crate::feed::jetstream::connect::{Link, Servers};
use crate::machine;

/// Counts for HQ since the worker began, under HQ's names.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Flushes.
    pub flush_count: f64,
    /// How many durations of flushes were observed.
    pub flush_duration: f64,
    /// How many durations from publication to application were observed.
    pub processing_duration: f64,
    /// Events that wait.
    pub pending_events: f64,
    /// Events received.
    pub total_events: f64,
}

/// A session's post. What cannot be sent is logged: nobody waits for it but HQ, who asks again.
#[derive(Clone)]
pub struct Post {
    link: Link,
    session: String,
}

/// What is told every minute.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    pub session_id: String,
    /// Counts up from 0 within a session.
    pub offset: u64,
    /// Whole seconds.
    pub uptime: u64,
    pub stats: Stats,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
}

#[derive(Serialize)]
pub struct Stats {
    pub metrics: Metrics,
    pub memory: machine::MemoryUse,
    pub load: machine::Load,
}

impl Post {
    pub async fn connect(
        servers: &Servers,
        session: &str,
    ) -> Result<(Post, Subscriber), FeedError> {
        let link = Link::connect(servers).await?;
        let notices =
            link.client.subscribe(format!("eds.notify.{session}.>")).await.map_err(|e| {
                FeedError::Unavailable(format!("notifications of HQ cannot be subscribed to: {e}"))
            })?;
        Ok((Post { link, session: session.to_owned() }, notices))
    }

    /// Whether NATS lets this session's credentials in no more.
    pub fn is_locked_out(&self) -> bool {
        !self.link.is_connected()
            && self.link.complaint().is_some_and(|said| {
                ["uthorization", "uthentication", "xpired"].iter().any(|word| said.contains(word))
            })
    }

    /// Publishes `document` in msgpack on `eds.client.<session>.<topic>`.
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

    /// `{success, message?, sessionId, action}` with `more`, as status or response to `action`.
    pub async fn answer(
        &self,
        action: &str,
        kind: &str,
        outcome: &Result<Option<String>, String>,
        more: Map<String, Value>,
    ) {
        let mut document = said(outcome);
        document.insert("sessionId".into(), self.session.clone().into());
        document.extend(more);
        self.tell(&format!("{action}-{kind}"), &document).await;
    }

    /// Answers the sender of `message` in JSON.
    pub async fn reply(&self, message: &Message, mut document: Map<String, Value>) {
        document.insert("sessionId".into(), self.session.clone().into());
        let Some(reply) = message.reply.clone() else {
            return warn!("a request of HQ has no reply subject: {}", message.subject);
        };
        self.say(reply.to_string(), Value::Object(document).to_string()).await;
    }

    /// Publishes a plain text.
    pub async fn say(&self, subject: String, text: String) {
        if let Err(e) = self.link.client.publish(subject, text.into()).await {
            warn!("the answer to HQ could not be sent: {e}");
        }
    }

    /// Waits until all that was said is on its way.
    pub async fn flush(&self) {
        let _ =
            tokio::time::timeout(std::time::Duration::from_secs(2), self.link.client.flush()).await;
    }
}

/// `success`, and a `message` where there is something to say.
pub fn said(outcome: &Result<Option<String>, String>) -> Map<String, Value> {
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
