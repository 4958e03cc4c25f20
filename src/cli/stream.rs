//! `eds stream`: the worker without HQ.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tracing::{info, warn};

use super::exit::Exit;
use super::run::{self, Plan, To};
use super::{Global, logging};
use crate::feed::Start;
use crate::feed::jetstream::api::AckPolicy;
use crate::feed::jetstream::connect::{Link, Servers};
use crate::feed::jetstream::identity::Identity;
use crate::feed::jetstream::{JetStream, Settings as Consumer};
use crate::pipeline::{End, Progress};
use crate::status::StatusServer;

/// Where changes come from without being told.
const SERVER: &str = "nats://connect.nats.shopmonkey.pub";

#[derive(Clone, Copy, ValueEnum)]
enum Ack {
    All,
    Explicit,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum UpdateStrategy {
    Standard,
    After,
}

#[derive(Args)]
pub struct Stream {
    #[command(flatten)]
    to: To,
    /// The NATS servers, separated by commas
    #[arg(long, default_value = SERVER, value_name = "URL,…")]
    server: String,
    /// The credentials of NATS; a server on this machine may do without
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// Certificate authorities to trust for NATS
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// End once nothing is pending
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    until_caught_up: bool,
    /// Where health, metrics and status are served
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// The address of that port; beyond this machine only if you choose so
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    bind: IpAddr,
    /// Acknowledge all up to a message with one word, or each by itself
    #[arg(long, default_value = "all")]
    ack: Ack,
    /// Put behind the name of the consumer
    #[arg(long, value_name = "TEXT")]
    consumer_suffix: Option<String>,
    /// Only these companies of the credentials
    #[arg(long = "companyIds", value_name = "A,B", value_delimiter = ',')]
    company_ids: Vec<String>,
    #[arg(long = "maxAckPending", default_value_t = 25_000, hide = true)]
    max_ack_pending: i64,
    #[arg(long = "maxPendingBuffer", default_value_t = 4_096, hide = true)]
    max_pending_buffer: usize,
    #[arg(long, hide = true, value_name = "DIR")]
    logs_dir: Option<PathBuf>,
    #[arg(long, hide = true, default_value = "standard")]
    update_strategy: UpdateStrategy,
}

impl Stream {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        logging::start(&global, self.logs_dir.as_deref())?;
        let (settings, driver) = self.to.destination()?;
        if self.update_strategy == UpdateStrategy::After && driver.scheme != "snowflake" {
            warn!("--update-strategy after is about Snowflake; {} keeps whole rows in stream order", driver.title);
        }
        let (identity, creds) = self.identity()?;
        let companies = self.companies(&identity)?;
        let progress = Arc::new(Progress::new().map_err(|e| Exit::Failed(e.to_string()))?);
        let status = StatusServer::start(self.bind, self.port, progress.clone()).await.map_err(Exit::Failed)?;
        let stop = run::stop_on_signal();
        let servers = Servers { urls: self.server.clone(), creds, certificate_authority: self.nats_ca.clone(), name: format!("eds-{}", identity.server_id) };
        let link = Link::connect(&servers).await?;
        let durable = identity.consumer(self.consumer_suffix.as_deref());
        let consumer = Consumer {
            durable: durable.clone(),
            companies: companies.clone(),
            policy: match self.ack {
                Ack::All => AckPolicy::All,
                Ack::Explicit => AckPolicy::Explicit,
            },
            max_ack_pending: self.max_ack_pending.max(1),
            batch: self.max_pending_buffer.clamp(1, 16_384),
            start: if self.to.restart { Start::All } else { Start::NewOnly },
        };
        let plan = Plan {
            feed: Box::new(JetStream::new(link, consumer)),
            consumer: durable.clone(),
            companies: companies.join(","),
            publisher: self.to.publisher()?,
            until_caught_up: self.until_caught_up,
            dry_run: false,
            progress: progress.clone(),
            stop,
        };
        let shown = settings.to_string();
        let run = run::start(&global, &self.to, settings, driver, plan).await?;
        let at = run.engine.position().map_or_else(|| "its start".to_owned(), |p| format!("sequence {}", p.sequence));
        info!("streaming {durable} into {shown} from {at}; status at http://{}/status.json", status.address);
        match run::finish(run, &progress, false).await? {
            End::CaughtUp => info!("nothing is pending"),
            End::Stopped => info!("stopped"),
        }
        Ok(())
    }

    fn identity(&self) -> Result<(Identity, Option<secrecy::SecretString>), Exit> {
        if let Some(file) = &self.creds {
            let (identity, text) = Identity::from_file(file)?;
            return Ok((identity, Some(text.into())));
        }
        let local = self.server.split(',').all(|url| ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| url.contains(host)));
        if local { Ok((Identity::local(), None)) } else { Err(Exit::Usage(format!("NATS at {} needs credentials: name the file with --creds", self.server))) }
    }

    /// The companies of the credentials, or those of them that were chosen.
    fn companies(&self, identity: &Identity) -> Result<Vec<String>, Exit> {
        let mut chosen: Vec<String> = self.company_ids.iter().filter(|c| !c.is_empty()).cloned().collect();
        if chosen.is_empty() {
            return Ok(identity.companies.clone());
        }
        let all = identity.companies.iter().any(|c| c == "*");
        if let Some(foreign) = chosen.iter().find(|c| !all && !identity.companies.contains(c)) {
            return Err(Exit::Usage(format!("the credentials do not cover company {foreign:?}; they cover: {}", identity.companies.join(", "))));
        }
        chosen.sort();
        chosen.dedup();
        Ok(chosen)
    }
}
