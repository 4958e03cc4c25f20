//! A NATS server for the demo or the sandbox: one that is named, or a `nats-server` of the PATH
//! that is started for it; and the shop's changes on their way there.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::account::Account;
use super::shop::{Shop, ShopEvent};
use crate::feed::jetstream::api::AckPolicy;
use crate::feed::jetstream::connect::{Link, Servers};
use crate::feed::jetstream::{JetStream, JetStreamSettings, STREAM};
use crate::feed::{Feed, FeedError, Start};

/// Publications that wait for the server's word.
const IN_FLIGHT_MAX: u64 = 256;
/// How often changes are published at a rate.
const TICKS_PER_SECOND: u32 = 20;
/// Messages that a demo's feed takes without an acknowledgement, and at once.
const UNACKNOWLEDGED_MAX: i64 = 25_000;
const BATCH: usize = 4_096;

/// A server; one that was started here ends with this.
pub struct NatsServer {
    url: String,
    child: Option<Child>,
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl NatsServer {
    /// The server at `url`, or one from the PATH with its files in `folder`; `None` if there is
    /// neither, or `without` says not to start one.
    pub async fn find(
        url: Option<&str>,
        without: bool,
        folder: &Path,
    ) -> Result<Option<NatsServer>, String> {
        match url {
            Some(url) => Ok(Some(NatsServer { url: url.to_owned(), child: None })),
            None if without => Ok(None),
            None => Self::start(folder).await,
        }
    }

    async fn start(folder: &Path) -> Result<Option<NatsServer>, String> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .map_err(|e| e.to_string())?
            .port();
        let port_word = port.to_string();
        Self::run(port, &["-a", "127.0.0.1", "-p", &port_word, "-js", "-sd"], &folder.join("nats"))
            .await
    }

    /// A server from the PATH that lets in who has credentials of `account`; it keeps its files in
    /// `folder`.
    pub async fn guarded(
        account: &Account,
        port: u16,
        folder: &Path,
    ) -> Result<NatsServer, String> {
        let config = folder.join("nats.conf");
        let written = std::fs::create_dir_all(folder)
            .map_err(|e| e.to_string())
            .and_then(|()| account.server_config(port, &folder.join("nats")));
        written
            .and_then(|text| std::fs::write(&config, text).map_err(|e| e.to_string()))
            .map_err(|e| format!("{}: {e}", config.display()))?;
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return Err(format!(
                "something listens on port {port} already: end it, or choose another"
            ));
        }
        Self::run(port, &["-c"], &config)
            .await?
            .ok_or_else(|| "there is no nats-server on the PATH: install it first".into())
    }

    async fn run(port: u16, words: &[&str], file: &Path) -> Result<Option<NatsServer>, String> {
        let mut command = Command::new("nats-server");
        command
            .args(words)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Ctrl-C is for the program that started it, which ends it in turn.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let Ok(child) = command.spawn() else { return Ok(None) };
        let nats = NatsServer { url: format!("nats://127.0.0.1:{port}"), child: Some(child) };
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if Instant::now() > deadline {
                return Err("the nats-server of the PATH does not start".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Some(nats))
    }

    /// The URL of the server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The stream of one demo.
    pub async fn demo_stream(&self) -> Result<DemoStream, FeedError> {
        let link = Link::connect(&Servers {
            urls: self.url.clone(),
            name: "eds-demo".into(),
            ..Servers::default()
        })
        .await?;
        let js = jetstream::new(link.client.clone());
        let away = |e: &dyn std::fmt::Display| {
            FeedError::Unavailable(format!(
                "JetStream at {}: {e}; was nats-server started with -js?",
                self.url
            ))
        };
        let suffix = uuid::Uuid::new_v4().simple().to_string();
        // Another demo's changes may be there still: this one's company is its own, and so is its
        // consumer.
        let config = jetstream::stream::Config {
            max_bytes: 2 << 30,
            discard: jetstream::stream::DiscardPolicy::Old,
            ..stream_config()
        };
        js.get_or_create_stream(config).await.map_err(|e| away(&e))?;
        let consumer = format!("eds-demo-{suffix}");
        let settings = JetStreamSettings {
            durable: consumer.clone(),
            companies: vec![suffix.clone()],
            tables: Vec::new(),
            policy: AckPolicy::All,
            max_ack_pending: UNACKNOWLEDGED_MAX,
            batch: BATCH,
            start: Start::All,
        };
        let publisher = EventPublisher { js, company: Some(suffix), url: self.url.clone() };
        Ok(DemoStream { feed: Box::new(JetStream::new(link, settings)), publisher, consumer })
    }
}

/// What a demo streams through NATS.
pub struct DemoStream {
    /// The feed of a company of its own.
    pub feed: Box<dyn Feed>,
    /// Publishes that company's changes.
    pub publisher: EventPublisher,
    /// The name of the feed's durable consumer.
    pub consumer: String,
}

fn stream_config() -> jetstream::stream::Config {
    jetstream::stream::Config {
        name: STREAM.into(),
        subjects: vec![format!("{STREAM}.>")],
        ..Default::default()
    }
}

/// Publishes the shop's changes.
pub struct EventPublisher {
    js: jetstream::Context,
    /// Whose changes they are, instead of the shop's own companies.
    company: Option<String>,
    url: String,
}

impl EventPublisher {
    /// Connects to the server at `url` as the user of `creds`, the text of a credentials file, and
    /// creates the stream there.
    pub async fn connect(url: &str, creds: &str) -> Result<EventPublisher, String> {
        let options =
            async_nats::ConnectOptions::new().credentials(creds).map_err(|e| e.to_string())?;
        let js = jetstream::new(options.connect(url).await.map_err(|e| e.to_string())?);
        js.get_or_create_stream(stream_config()).await.map_err(|e| e.to_string())?;
        Ok(EventPublisher { js, company: None, url: url.to_owned() })
    }

    /// Publishes what is due until `due` has no sender any more; how many were published.
    pub async fn publish(
        self,
        mut shop: Shop,
        mut due: watch::Receiver<u64>,
    ) -> Result<u64, String> {
        let mut made = 0;
        loop {
            let waited = due.wait_for(|due| *due > made).await.map(|due| *due);
            let upto = waited.unwrap_or_else(|_| *due.borrow());
            if upto == made {
                return Ok(made);
            }
            while made < upto {
                let count = (upto - made).min(IN_FLIGHT_MAX);
                self.send((0..count).map(|_| shop.next_event()).collect()).await?;
                made += count;
            }
        }
    }

    /// Publishes changes of a shop that others look at, at `rate` per second, until NATS is lost.
    pub async fn publish_at_rate(
        self,
        shop: Arc<Mutex<Shop>>,
        rate: Arc<Mutex<f64>>,
    ) -> Result<(), String> {
        let mut due = 0.0;
        let mut tick = tokio::time::interval(Duration::from_secs(1) / TICKS_PER_SECOND);
        loop {
            tick.tick().await;
            due +=
                *rate.lock().unwrap_or_else(PoisonError::into_inner) / f64::from(TICKS_PER_SECOND);
            while due >= 1.0 {
                let count = (due as u64).min(IN_FLIGHT_MAX);
                due -= count as f64;
                let events = {
                    let mut shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
                    (0..count).map(|_| shop.next_event()).collect()
                };
                self.send(events).await?;
            }
        }
    }

    /// Returns once the server has all of them.
    async fn send(&self, events: Vec<ShopEvent>) -> Result<(), String> {
        let failed = |e: &dyn std::fmt::Display| format!("publishing to {}: {e}", self.url);
        let mut confirmations = Vec::with_capacity(events.len());
        for ShopEvent { subject, payload } in events {
            let mut parts: Vec<&str> = subject.split('.').collect();
            if let (Some(part), Some(company)) = (parts.get_mut(3), &self.company) {
                *part = company;
            }
            let sent = self.js.publish(parts.join("."), payload.into()).await;
            confirmations.push(sent.map_err(|e| failed(&e))?);
        }
        for confirmation in confirmations {
            confirmation.await.map_err(|e| failed(&e))?;
        }
        Ok(())
    }
}
