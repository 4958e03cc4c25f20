//! `eds stream`: the worker without HQ, and what it shares with the one that HQ's server runs.

#[cfg(feature = "server")]
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::sync::watch;
use tracing::{info, warn};

use super::exit::Exit;
use super::run::{self, DataDir, RunSpec, To};
use super::{Global, logging};
use crate::destination::{Driver, Settings};
use crate::feed::Start;
use crate::feed::jetstream::api::AckPolicy;
use crate::feed::jetstream::connect::{Link, Servers};
use crate::feed::jetstream::identity::Identity;
use crate::feed::jetstream::{JetStream, JetStreamSettings};
use crate::pipeline::{End, Engine, Progress};
use crate::status::StatusServer;
use crate::validator::Validator;

/// Where changes come from without being told.
const SERVER: &str = "nats://connect.nats.shopmonkey.pub";
/// And where an HQ on this machine has them come from.
const LOCAL_SERVER: &str = "nats://localhost:4222";

/// The option of a destination's URL that says the same as the flag.
const UPDATE_STRATEGY: &str = "update-strategy";

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Ack {
    All,
    Explicit,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum UpdateStrategy {
    Standard,
    After,
}

/// How changes are streamed, whoever asks for it.
#[derive(Args, Clone)]
pub struct Streaming {
    #[command(flatten)]
    pub to: To,
    /// The NATS servers, separated by commas [default: nats://connect.nats.shopmonkey.pub]
    #[arg(long, value_name = "URL,…")]
    pub server: Option<String>,
    /// Certificate authorities to trust for NATS
    #[arg(long, value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Where health, metrics and status are served
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// The address of that port; beyond this machine only if you choose so
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    bind: IpAddr,
    /// Acknowledge all up to a message with one word, or each by itself
    #[arg(long, default_value = "all")]
    ack: Ack,
    /// Put behind the name of the consumer
    #[arg(long, value_name = "TEXT")]
    pub consumer_suffix: Option<String>,
    /// Only these companies of the credentials
    #[arg(long = "companyIds", value_name = "A,B", value_delimiter = ',')]
    pub company_ids: Vec<String>,
    #[arg(long = "maxAckPending", default_value_t = 25_000, hide = true)]
    max_ack_pending: i64,
    #[arg(long = "maxPendingBuffer", default_value_t = 4_096, hide = true)]
    max_pending_buffer: usize,
    /// Whole rows in stream order, or only if they are newer, where the destination can tell
    #[arg(long, hide = true)]
    pub update_strategy: Option<UpdateStrategy>,
}

#[derive(Args)]
pub struct Stream {
    #[command(flatten)]
    pub streaming: Streaming,
    /// The credentials of NATS; a server on this machine may do without
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// End once nothing is pending
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    until_caught_up: bool,
    #[arg(long, hide = true, value_name = "DIR")]
    pub logs_dir: Option<PathBuf>,
}

/// What stays from one engine of a process to the next.
pub struct StreamContext {
    pub destination: Settings,
    pub driver: &'static Driver,
    pub progress: Arc<Progress>,
    pub data: DataDir,
    pub durable: String,
    pub status: StatusServer,
    companies: Vec<String>,
    rules: Option<Arc<Validator>>,
    link: Link,
}

impl Streaming {
    /// The same flags as words, without the destination, whose URL is a secret, and without
    /// `--restart`.
    #[cfg(feature = "server")]
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut say = |flag: &str, value: OsString| {
            let mut word = OsString::from(format!("--{flag}="));
            word.push(value);
            words.push(word);
        };
        let to = &self.to;
        let millis = |d: &Duration| format!("{}us", d.as_micros());
        let texts = [
            ("schema", to.schema.clone()),
            ("tables", Some(to.tables.clone()).filter(|t| !t.is_empty())),
            ("consumer-suffix", self.consumer_suffix.clone()),
            ("adopt-checkpoint", to.adopt_checkpoint.clone()),
        ];
        texts
            .into_iter()
            .for_each(|(flag, text)| text.into_iter().for_each(|text| say(flag, text.into())));
        to.adopt.iter().for_each(|table| say("adopt", table.into()));
        to.pending_latency_min.iter().for_each(|d| say("minPendingLatency", millis(d).into()));
        to.pending_latency_max.iter().for_each(|d| say("maxPendingLatency", millis(d).into()));
        self.nats_ca.iter().for_each(|file| say("nats-ca", file.into()));
        say("port", self.port.to_string().into());
        say("bind", self.bind.to_string().into());
        say("ack", if self.ack == Ack::All { "all" } else { "explicit" }.into());
        if !self.company_ids.is_empty() {
            say("companyIds", self.company_ids.join(",").into());
        }
        say("maxAckPending", self.max_ack_pending.to_string().into());
        say("maxPendingBuffer", self.max_pending_buffer.to_string().into());
        words
    }

    /// The companies of the credentials, or those of them that were chosen.
    fn companies(&self, identity: &Identity) -> Result<Vec<String>, Exit> {
        let mut chosen: Vec<String> =
            self.company_ids.iter().filter(|c| !c.is_empty()).cloned().collect();
        if chosen.is_empty() {
            return Ok(identity.companies.clone());
        }
        let all = identity.companies.iter().any(|c| c == "*");
        if let Some(foreign) = chosen.iter().find(|c| !all && !identity.companies.contains(c)) {
            return Err(Exit::Usage(format!(
                "the credentials do not cover company {foreign:?}; they cover: {}",
                identity.companies.join(", ")
            )));
        }
        chosen.sort();
        chosen.dedup();
        Ok(chosen)
    }

    fn consumer(&self, durable: &str, companies: &[String], restart: bool) -> JetStreamSettings {
        JetStreamSettings {
            durable: durable.to_owned(),
            companies: companies.to_vec(),
            policy: match self.ack {
                Ack::All => AckPolicy::All,
                Ack::Explicit => AckPolicy::Explicit,
            },
            max_ack_pending: self.max_ack_pending.max(1),
            batch: self.max_pending_buffer.clamp(1, 16_384),
            start: if restart { Start::All } else { Start::NewOnly },
        }
    }
}

/// The identity that a credentials file gives; a server on this machine may do without.
pub fn identity(
    creds: Option<&PathBuf>,
    servers: &str,
) -> Result<(Identity, Option<secrecy::SecretString>), Exit> {
    if let Some(file) = creds {
        let (identity, text) = Identity::from_file(file)?;
        return Ok((identity, Some(text.into())));
    }
    if is_local(servers) {
        Ok((Identity::local(), None))
    } else {
        Err(Exit::Usage(format!("NATS at {servers} needs credentials: name the file with --creds")))
    }
}

/// The servers of NATS: those that were given, else those of the HQ at `api_url`.
pub fn servers(given: Option<&String>, api_url: Option<&str>) -> String {
    let own = if api_url.is_some_and(is_local) { LOCAL_SERVER } else { SERVER };
    given.cloned().unwrap_or_else(|| own.to_owned())
}

/// Whether all of these servers are on this machine.
fn is_local(servers: &str) -> bool {
    servers
        .split(',')
        .all(|url| ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| url.contains(host)))
}

impl Stream {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        logging::start_in(&global, self.logs_dir.as_deref())?;
        let (destination, driver) = self.streaming.to.destination()?;
        let stop = run::stop_on_signal();
        let station = self.open(&global, destination, driver, Duration::ZERO).await?;
        let engine = self.start(&station, self.streaming.to.restart, stop).await?;
        match run::finish(engine, &station.progress, false).await? {
            End::CaughtUp => info!("nothing is pending"),
            End::Stopped => info!("stopped"),
        }
        Ok(())
    }

    /// Connects to NATS, serves the status, takes the data directory, for which another owner may
    /// be waited for.
    pub async fn open(
        &self,
        global: &Global,
        mut destination: Settings,
        driver: &'static Driver,
        lock_wait_max: Duration,
    ) -> Result<StreamContext, Exit> {
        let streaming = &self.streaming;
        if streaming.update_strategy == Some(UpdateStrategy::After) {
            match driver.has_parameter(UPDATE_STRATEGY) {
                true => drop(
                    destination
                        .parameters
                        .entry(UPDATE_STRATEGY.into())
                        .or_insert_with(|| "after".into()),
                ),
                false => warn!(
                    "--update-strategy after is nothing that {} knows: it keeps whole rows in \
                     stream order",
                    driver.title
                ),
            }
        }
        let rules = global.rules()?;
        let urls = servers(streaming.server.as_ref(), None);
        let (identity, creds) = identity(self.creds.as_ref(), &urls)?;
        let companies = streaming.companies(&identity)?;
        let progress = Arc::new(Progress::new().map_err(|e| Exit::Failed(e.to_string()))?);
        let status = StatusServer::start(streaming.bind, streaming.port, progress.clone())
            .await
            .map_err(Exit::Failed)?;
        let servers = Servers {
            urls,
            creds,
            certificate_authority: streaming.nats_ca.clone(),
            name: format!("eds-{}", identity.server_id),
        };
        let link = Link::connect(&servers).await?;
        let durable = identity.consumer(streaming.consumer_suffix.as_deref());
        let data = DataDir::take_within(&global.data_dir, lock_wait_max).await?;
        Ok(StreamContext {
            destination,
            driver,
            progress,
            data,
            durable,
            status,
            companies,
            rules,
            link,
        })
    }

    /// Opens the destination, and the feed where the destination stands.
    pub async fn start(
        &self,
        station: &StreamContext,
        restart: bool,
        stop: watch::Receiver<bool>,
    ) -> Result<Engine, Exit> {
        let to = To { restart, ..self.streaming.to.clone() };
        let consumer = self.streaming.consumer(&station.durable, &station.companies, restart);
        let plan = RunSpec {
            consumer: station.durable.clone(),
            companies: station.companies.join(","),
            publisher: to.publisher()?,
            until_caught_up: self.until_caught_up,
            events_max: usize::try_from(consumer.max_ack_pending).unwrap_or(usize::MAX),
            adoption: to.adoption(),
            rules: station.rules.clone(),
            progress: station.progress.clone(),
            stop,
            feed: Box::new(JetStream::new(station.link.clone(), consumer)),
        };
        let engine =
            run::start(&station.data, &to, station.destination.clone(), station.driver, plan)
                .await?;
        let at = engine
            .position()
            .map_or_else(|| "its start".to_owned(), |p| format!("sequence {}", p.sequence));
        info!(
            "streaming {} into {} from {at}; status at http://{}/status.json",
            station.durable, station.destination, station.status.address
        );
        Ok(engine)
    }
}
