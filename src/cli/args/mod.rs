//! Arguments that several commands share, parsed into the domain's own requests.

mod destination;
#[cfg(feature = "http")]
mod hq;
#[cfg(feature = "jetstream")]
mod nats;
#[cfg(feature = "server")]
mod releases;
#[cfg(feature = "jetstream")]
mod ui;
#[cfg(all(feature = "http", feature = "jetstream"))]
mod webhook;
#[cfg(feature = "server")]
mod worker_words;

#[cfg(feature = "jetstream")]
use std::net::IpAddr;
#[cfg(feature = "jetstream")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
#[cfg(feature = "jetstream")]
use tracing::warn;

use super::Global;
use super::columns::ColumnArgs;
use super::exit::Exit;
use crate::change::columns::ColumnRules;
use crate::change::filter::TableFilter;
#[cfg(feature = "http")]
use crate::config::Config;
#[cfg(feature = "jetstream")]
use crate::feed::jetstream::api::AckPolicy;
#[cfg(not(feature = "http"))]
use crate::help::HelpCode;
#[cfg(feature = "http")]
use crate::http::Http;
use crate::pipeline::{Adoption, LetterOptions, OnRejected, SchemaChange, WhenFull};
use crate::registry::SchemaSource;
#[cfg(all(feature = "http", feature = "jetstream"))]
use crate::status::otlp::Otlp;
#[cfg(feature = "jetstream")]
use crate::worker::nats_login;
use crate::worker::run::ApplyRequest;
#[cfg(feature = "jetstream")]
use crate::worker::stream::StreamRequest;
pub use destination::DestinationArgs;
#[cfg(feature = "http")]
pub use hq::{ApiKey, HqAccess};
#[cfg(feature = "jetstream")]
pub use nats::named_servers;
#[cfg(feature = "server")]
pub use releases::Releases;
#[cfg(feature = "jetstream")]
pub use ui::UiToken;
#[cfg(feature = "server")]
pub use webhook::WEBHOOK_VARIABLE;
#[cfg(all(feature = "http", feature = "jetstream"))]
pub use webhook::WebhookArgs;
#[cfg(feature = "server")]
pub use worker_words::worker_words;

/// The option of a destination's URL that says the same as the flag.
#[cfg(feature = "jetstream")]
const UPDATE_STRATEGY: &str = "update-strategy";

/// Where the changes go, and how.
#[derive(Args, Clone, Debug)]
pub struct To {
    #[command(flatten)]
    pub place: DestinationArgs,
    /// Read the tables' schemas from this file or URL, in the form of HQ's /v3/schema [default: HQ
    /// at --api-url]
    #[arg(long, value_name = "FILE|URL")]
    pub schema: Option<String>,
    /// HQ's address, for the tables' schemas
    #[arg(long, value_name = "URL")]
    pub api_url: Option<String>,
    /// Only these tables [default: all]
    #[arg(long, value_name = "A,B", default_value = "", hide_default_value = true)]
    pub tables: String,
    /// Write to this existing table although EDS did not create it
    #[arg(long, value_name = "TABLE", value_delimiter = ',')]
    pub adopt: Vec<String>,
    /// Resume from this other consumer's checkpoint in the destination; none: start with new
    /// changes
    #[arg(long, value_name = "NAME")]
    pub adopt_checkpoint: Option<String>,
    /// Collect changes at least this long before a flush [default: the destination's]
    #[arg(long = "min-pending-latency", alias = "minPendingLatency", value_name = "DURATION", value_parser = crate::duration::parse)]
    pub pending_latency_min: Option<Duration>,
    /// Let a change wait at most this long for its flush [default: the destination's]
    #[arg(long = "max-pending-latency", alias = "maxPendingLatency", value_name = "DURATION", value_parser = crate::duration::parse)]
    pub pending_latency_max: Option<Duration>,
    /// Start at the beginning of the stream, not at the checkpoint
    #[arg(long)]
    pub restart: bool,
    /// When a table's schema changes: add columns and widen others, only add them, leave values of
    /// new columns out, or let the table wait for you
    #[arg(long, value_name = "WHAT", default_value = "widen")]
    schema_change: ChangePolicy,
    /// Keep a change that cannot be applied as a dead letter and go on, or stop before it
    #[arg(long, value_name = "WHAT", default_value = "dead-letter")]
    on_rejected: Reject,
    /// When 100,000 dead letters or 1 GiB of them are kept: wait, or drop the oldest
    #[arg(long, value_name = "WHAT", default_value = "wait")]
    dead_letters_full: LettersFull,
    #[command(flatten)]
    pub columns: ColumnArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum ChangePolicy {
    Widen,
    Add,
    Ignore,
    Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Reject {
    DeadLetter,
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum LettersFull {
    Wait,
    DropOldest,
}

impl To {
    /// What is to be applied where; `fallback` is the destination's URL that is not an argument.
    pub fn request(&self, global: &Global, fallback: Option<&str>) -> Result<ApplyRequest, Exit> {
        let (destination, driver) = self.place.destination(fallback)?;
        Ok(ApplyRequest {
            destination,
            driver,
            schemas: self.schemas()?,
            tables: TableFilter::parse(&self.tables),
            adopt: self.adopt.clone(),
            adoption: self.adoption(),
            pending_latency_min: self.pending_latency_min,
            pending_latency_max: self.pending_latency_max,
            restart: self.restart,
            rules: global.rules()?,
            columns: self.column_rules(global)?,
            schema_change: match self.schema_change {
                ChangePolicy::Widen => SchemaChange::Widen,
                ChangePolicy::Add => SchemaChange::Add,
                ChangePolicy::Ignore => SchemaChange::Ignore,
                ChangePolicy::Hold => SchemaChange::Hold,
            },
            letters: LetterOptions {
                on_rejected: match self.on_rejected {
                    Reject::DeadLetter => OnRejected::DeadLetter,
                    Reject::Stop => OnRejected::Stop,
                },
                when_full: match self.dead_letters_full {
                    LettersFull::Wait => WhenFull::Wait,
                    LettersFull::DropOldest => WhenFull::DropOldest,
                },
                ..LetterOptions::default()
            },
        })
    }

    /// The rules about columns. A column that is left out as the table lacks it cannot mark rows.
    fn column_rules(&self, global: &Global) -> Result<Arc<ColumnRules>, Exit> {
        let rules = self.columns.rules(global)?;
        match rules.stamps().deleted_at && self.schema_change == ChangePolicy::Ignore {
            true => Err(Exit::Usage(
                "--deletes soft needs the column _eds_deleted_at, and --schema-change ignore adds \
                 none: choose another --schema-change"
                    .into(),
            )),
            false => Ok(rules),
        }
    }

    /// Where the schemas are published, where that is a URL, which may hold a token.
    #[cfg(feature = "server")]
    pub fn schema_url(&self) -> Option<&str> {
        self.schema.as_deref().filter(|place| place.contains("://"))
    }

    /// What becomes of other consumers' checkpoints in the destination.
    fn adoption(&self) -> Adoption {
        match self.adopt_checkpoint.as_deref() {
            None | Some("") => Adoption::Ask,
            Some("none") => Adoption::Without,
            Some(name) => Adoption::Of(name.to_owned()),
        }
    }

    fn schemas(&self) -> Result<SchemaSource, Exit> {
        match (&self.schema, &self.api_url) {
            (Some(place), _) => schemas_of(place),
            #[cfg(feature = "http")]
            (None, Some(url)) => Ok(SchemaSource::of_hq(Http::new().map_err(Exit::Failed)?, url)),
            #[cfg(not(feature = "http"))]
            (None, Some(_)) => Err(no_http()),
            (None, None) => Ok(SchemaSource::Fixed(Arc::default())),
        }
    }
}

/// The schemas that `--schema` names: a file, or a URL.
pub fn schemas_of(place: &str) -> Result<SchemaSource, Exit> {
    if !place.contains("://") {
        return Ok(SchemaSource::File(place.into()));
    }
    #[cfg(feature = "http")]
    return Ok(SchemaSource::Url(Http::new().map_err(Exit::Failed)?, place.to_owned()));
    #[cfg(not(feature = "http"))]
    Err(no_http())
}

/// What the configuration in the data directory says. Where a file is in its place, whoever opens
/// the directory says so.
#[cfg(feature = "http")]
pub fn configured(global: &Global) -> Result<Config, Exit> {
    match global.data_dir.is_file() {
        true => Ok(Config::default()),
        false => Ok(Config::read(&global.data_dir)?),
    }
}

#[cfg(not(feature = "http"))]
fn no_http() -> Exit {
    let text = "this build cannot ask over HTTP (feature http): name a file with --schema";
    Exit::usage(HelpCode::NotInBuild, text)
}

#[cfg(feature = "jetstream")]
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Ack {
    All,
    Explicit,
}

#[cfg(feature = "jetstream")]
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum UpdateStrategy {
    Standard,
    After,
}

/// How changes are streamed, whoever asks for it.
#[cfg(feature = "jetstream")]
#[derive(Args, Clone)]
pub struct Streaming {
    #[command(flatten)]
    pub to: To,
    /// NATS servers, separated by commas [default: nats://connect.nats.shopmonkey.pub]
    #[arg(long, value_name = "URL,…")]
    pub server: Option<String>,
    /// Trust these certificate authorities for NATS, in PEM form [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Port of health, metrics and status
    #[arg(long, alias = "health-port", env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Address of that port; other machines reach it only if you change this
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub bind: IpAddr,
    #[command(flatten)]
    pub ui: UiToken,
    #[cfg(feature = "http")]
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// Take at most this long to end after a signal; what is not written then is redelivered
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = crate::duration::parse)]
    pub stop_timeout: Duration,
    /// Acknowledge messages cumulatively (all) or one by one (explicit)
    #[arg(long, default_value = "all")]
    ack: Ack,
    /// Let /livez fail once a flush takes longer
    #[arg(long, hide = true, default_value = "10m", value_name = "DURATION", value_parser = crate::duration::parse)]
    pub flush_hang_max: Duration,
    /// Append this to the name of the consumer [default: nothing]
    #[arg(long, value_name = "TEXT")]
    pub consumer_suffix: Option<String>,
    /// Only these companies of the credentials [default: all]
    #[arg(long = "company-ids", alias = "companyIds", value_name = "A,B", value_delimiter = ',')]
    pub company_ids: Vec<String>,
    #[arg(long = "max-ack-pending", alias = "maxAckPending", default_value_t = nats_login::MAX_ACK_PENDING, hide = true)]
    max_ack_pending: i64,
    #[arg(
        long = "max-pending-buffer",
        alias = "maxPendingBuffer",
        default_value_t = 4_096,
        hide = true
    )]
    max_pending_buffer: usize,
    /// Write whole rows in stream order, or only if they are newer, if the destination can tell
    #[arg(long, hide = true)]
    update_strategy: Option<UpdateStrategy>,
}

#[cfg(feature = "jetstream")]
impl Streaming {
    /// What is to be streamed; `fallback` is the destination's URL that is not an argument.
    pub fn request(&self, global: &Global, fallback: Option<&str>) -> Result<StreamRequest, Exit> {
        let mut apply = self.to.request(global, fallback)?;
        self.apply_update_strategy(&mut apply);
        Ok(StreamRequest {
            apply,
            data_dir: global.data_dir.clone(),
            servers: nats_login::servers(named_servers(self.server.as_deref())?.as_deref(), None),
            creds: None,
            nats_ca: self.nats_ca.clone(),
            bind: self.bind,
            port: self.port,
            serves_status: true,
            ui_token: self.ui.token()?,
            #[cfg(feature = "http")]
            webhook: self.webhook.webhook(&configured(global)?)?,
            #[cfg(feature = "http")]
            otlp: Otlp::of_environment(),
            flush_hang_max: self.flush_hang_max,
            ack: match self.ack {
                Ack::All => AckPolicy::All,
                Ack::Explicit => AckPolicy::Explicit,
            },
            consumer_suffix: self.consumer_suffix.clone(),
            company_ids: named(&self.company_ids),
            max_ack_pending: self.max_ack_pending,
            max_pending_buffer: self.max_pending_buffer,
            until_caught_up: false,
        })
    }

    fn apply_update_strategy(&self, apply: &mut ApplyRequest) {
        if self.update_strategy != Some(UpdateStrategy::After) {
            return;
        }
        if apply.driver.has_parameter(UPDATE_STRATEGY) {
            let parameters = &mut apply.destination.parameters;
            parameters.entry(UPDATE_STRATEGY.into()).or_insert_with(|| "after".into());
        } else {
            warn!(
                "--update-strategy after has no effect on {}: it keeps whole rows in stream order",
                apply.driver.title
            );
        }
    }
}

/// The names of a list that are not empty: a script may pass `--company-ids ""`.
#[cfg(any(feature = "jetstream", feature = "http"))]
pub fn named(list: &[String]) -> Vec<String> {
    list.iter().filter(|name| !name.is_empty()).cloned().collect()
}
