//! HQ's side of NATS: it notifies servers and receives their messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long to wait for a reply: the server may test a destination first.
const REPLY_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long to wait for the answer to a ping.
const PONG_WAIT_MAX: Duration = Duration::from_secs(1);

/// A message of a server.
#[derive(Clone, Debug)]
pub struct Said {
    /// The server's session.
    pub session: String,
    /// `heartbeat`, `pause-response` …
    pub topic: String,
    /// The message's headers.
    pub headers: HeaderMap,
    /// The body as it came, in MessagePack.
    pub payload: Vec<u8>,
}

impl Said {
    /// The body as JSON; null if it cannot be read.
    pub fn document(&self) -> Value {
        #[cfg(feature = "server")]
        let document = rmp_serde::from_slice(&self.payload).unwrap_or_default();
        #[cfg(not(feature = "server"))]
        let document = Value::Null;
        document
    }
}

/// A connection to all servers of an account.
pub struct HqNats {
    client: Client,
    heard: Arc<Mutex<Vec<Said>>>,
    listening: JoinHandle<()>,
}

impl Drop for HqNats {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl HqNats {
    /// Connects to NATS and keeps every message of servers from then on. `creds`: the text of a
    /// credentials file with all rights.
    pub async fn connect(url: &str, creds: Option<&str>) -> Result<HqNats, String> {
        let mut options = async_nats::ConnectOptions::new().name("hq");
        if let Some(creds) = creds {
            options = options.credentials(creds).map_err(|e| e.to_string())?;
        }
        let client = options.connect(url).await.map_err(|e| e.to_string())?;
        let mut said = client.subscribe("eds.client.>").await.map_err(|e| e.to_string())?;
        client.flush().await.map_err(|e| e.to_string())?;
        let heard: Arc<Mutex<Vec<Said>>> = Arc::default();
        let into = heard.clone();
        let listening = tokio::spawn(async move {
            while let Some(message) = said.next().await {
                let mut parts = message.subject.splitn(4, '.').skip(2).map(str::to_owned);
                let (session, topic) =
                    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                let headers = message.headers.unwrap_or_default();
                into.lock().unwrap_or_else(PoisonError::into_inner).push(Said {
                    session,
                    topic,
                    headers,
                    payload: message.payload.to_vec(),
                });
            }
        });
        Ok(HqNats { client, heard, listening })
    }

    fn said(&self) -> MutexGuard<'_, Vec<Said>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All messages so far, in the order in which they came.
    pub fn heard(&self) -> Vec<Said> {
        self.said().clone()
    }

    /// Waits for a message on `topic`, not counting the first `from` messages. `None` if none comes
    /// within `wait_max`.
    pub async fn wait_for(&self, topic: &str, from: usize, wait_max: Duration) -> Option<Said> {
        let deadline = Instant::now() + wait_max;
        loop {
            let found = self.said().iter().skip(from).find(|said| said.topic == topic).cloned();
            if found.is_some() || Instant::now() > deadline {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn subject(session: &str, action: &str) -> String {
        format!("eds.notify.{session}.{action}")
    }

    /// Publishes bytes as a notification.
    pub async fn send_raw(
        &self,
        session: &str,
        payload: Vec<u8>,
        encoding: Option<&str>,
    ) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert("content-encoding", encoding);
        }
        self.client
            .publish_with_headers(Self::subject(session, "raw"), headers, payload.into())
            .await
            .map_err(|e| e.to_string())?;
        self.client.flush().await.map_err(|e| e.to_string())
    }

    /// Notifies a server.
    pub async fn send(&self, session: &str, action: &str, data: Value) -> Result<(), String> {
        let payload = json!({ "action": action, "data": data }).to_string();
        self.client
            .publish(Self::subject(session, action), payload.into())
            .await
            .map_err(|e| e.to_string())?;
        self.client.flush().await.map_err(|e| e.to_string())
    }

    /// Notifies a server and waits for its reply.
    pub async fn ask(&self, session: &str, action: &str, data: Value) -> Result<Value, String> {
        let payload = json!({ "action": action, "data": data }).to_string();
        let request =
            async_nats::Request::new().payload(payload.into()).timeout(Some(REPLY_WAIT_MAX));
        let reply = self
            .client
            .send_request(Self::subject(session, action), request)
            .await
            .map_err(|e| e.to_string())?;
        serde_json::from_slice(&reply.payload).map_err(|e| e.to_string())
    }

    /// Whether the server of the session answers a ping within a second.
    pub async fn ping(&self, session: &str) -> bool {
        let subject = self.client.new_inbox();
        let Ok(mut pongs) = self.client.subscribe(subject.clone()).await else { return false };
        if self.send(session, "ping", json!({ "subject": subject })).await.is_err() {
            return false;
        }
        let pong = tokio::time::timeout(PONG_WAIT_MAX, pongs.next()).await;
        pong.is_ok_and(|pong| pong.is_some_and(|pong| &*pong.payload == b"pong"))
    }
}
