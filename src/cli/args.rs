//! Arguments that several commands share, parsed into the domain's own requests.

#[cfg(feature = "server")]
use std::ffi::OsString;
#[cfg(feature = "jetstream")]
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "server")]
use clap::{ArgMatches, Command};
use clap::{Args, ValueEnum};
#[cfg(feature = "http")]
use secrecy::SecretString;
use tracing::warn;

use super::Global;
use super::exit::Exit;
use crate::change::filter::TableFilter;
#[cfg(feature = "http")]
use crate::config::Config;
use crate::destination::catalog::DRIVERS;
use crate::destination::{Driver, Settings};
#[cfg(feature = "jetstream")]
use crate::feed::jetstream::api::AckPolicy;
#[cfg(feature = "http")]
use crate::hq::{Hq, api_of};
#[cfg(feature = "http")]
use crate::http::Http;
use crate::pipeline::{Adoption, LetterOptions, OnRejected, SchemaChange, WhenFull};
use crate::registry::SchemaSource;
#[cfg(feature = "server")]
use crate::release::ReleaseSource;
#[cfg(feature = "jetstream")]
use crate::worker::nats_login;
use crate::worker::run::ApplyRequest;
#[cfg(feature = "jetstream")]
use crate::worker::stream::StreamRequest;

/// The option of a destination's URL that says the same as the flag.
#[cfg(feature = "jetstream")]
const UPDATE_STRATEGY: &str = "update-strategy";

/// Where the destination is.
#[derive(Args, Clone, Debug, Default)]
pub struct DestinationArgs {
    /// Destination URL; prefer EDS_URL or --url-file for passwords, because every user of the
    /// machine can read arguments
    #[arg(long)]
    pub url: Option<String>,
    /// Read the destination URL from the first line of this file
    #[arg(long, value_name = "FILE")]
    pub url_file: Option<PathBuf>,
}

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
    #[arg(long, value_name = "TABLE")]
    pub adopt: Vec<String>,
    /// Resume from this other consumer's checkpoint in the destination; none: start with new
    /// changes
    #[arg(long, value_name = "NAME")]
    pub adopt_checkpoint: Option<String>,
    /// Collect changes at least this long before a flush [default: the destination's]
    #[arg(long = "minPendingLatency", value_name = "DURATION", value_parser = crate::duration::parse)]
    pub pending_latency_min: Option<Duration>,
    /// Let a change wait at most this long for its flush [default: the destination's]
    #[arg(long = "maxPendingLatency", value_name = "DURATION", value_parser = crate::duration::parse)]
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

impl DestinationArgs {
    /// The destination's URL; `fallback` is what the configuration names.
    pub fn text(&self, fallback: Option<&str>) -> Result<String, Exit> {
        let named = std::env::var("EDS_URL")
            .ok()
            .filter(|u| !u.is_empty())
            .or_else(|| fallback.map(str::to_owned));
        match (&self.url, &self.url_file, named) {
            (Some(url), ..) => Ok(url.clone()),
            (None, Some(file), _) => {
                let text = std::fs::read_to_string(file).map_err(|e| {
                    Exit::Usage(format!(
                        "the URL \
                    file {} cannot be read: {e}",
                        file.display()
                    ))
                })?;
                Ok(text.lines().next().unwrap_or_default().trim().to_owned())
            }
            (None, None, Some(url)) => Ok(url),
            (None, None, None) => Err(Exit::Usage(
                "no destination: name it with --url, --url-file \
                or EDS_URL; `eds drivers` shows what there is"
                    .into(),
            )),
        }
    }

    /// Its settings and driver.
    pub fn destination(&self, fallback: Option<&str>) -> Result<(Settings, &'static Driver), Exit> {
        let (settings, driver) = Settings::parse(&self.text(fallback)?, DRIVERS)
            .map_err(|e| Exit::Usage(e.to_string()))?;
        if self.url.is_some() && settings.password.is_some() {
            warn!(
                "the password in --url can be read by every user of this machine in the process \
                 list: EDS_URL or --url-file keep it private"
            );
        }
        Ok((settings, driver))
    }
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

#[cfg(not(feature = "http"))]
fn no_http() -> Exit {
    Exit::Usage("this build cannot ask over HTTP (feature http): name a file with --schema".into())
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
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Address of that port; other machines reach it only if you change this
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    bind: IpAddr,
    /// Acknowledge messages cumulatively (all) or one by one (explicit)
    #[arg(long, default_value = "all")]
    ack: Ack,
    /// Append this to the name of the consumer [default: nothing]
    #[arg(long, value_name = "TEXT")]
    pub consumer_suffix: Option<String>,
    /// Only these companies of the credentials [default: all]
    #[arg(long = "companyIds", value_name = "A,B", value_delimiter = ',')]
    pub company_ids: Vec<String>,
    #[arg(long = "maxAckPending", default_value_t = nats_login::MAX_ACK_PENDING, hide = true)]
    max_ack_pending: i64,
    #[arg(long = "maxPendingBuffer", default_value_t = 4_096, hide = true)]
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
            servers: nats_login::servers(self.server.as_deref(), None),
            creds: None,
            nats_ca: self.nats_ca.clone(),
            bind: self.bind,
            port: self.port,
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

/// The names of a list that are not empty: a script may pass `--companyIds ""`.
#[cfg(any(feature = "jetstream", feature = "http"))]
pub fn named(list: &[String]) -> Vec<String> {
    list.iter().filter(|name| !name.is_empty()).cloned().collect()
}

/// How HQ is reached: as was given, else as the configuration and the token say.
#[cfg(feature = "http")]
pub struct HqAccess {
    pub token: Option<SecretString>,
    pub address: Option<String>,
}

#[cfg(feature = "http")]
impl HqAccess {
    /// `api_key` and `api_url` are arguments.
    pub fn new(api_key: Option<&str>, api_url: Option<&str>, config: &Config) -> HqAccess {
        let given = api_key.filter(|key| !key.is_empty()).map(SecretString::from);
        let token = given.or_else(|| config.token.clone());
        let address = api_url.map(str::to_owned).or_else(|| token.as_ref().and_then(api_of));
        HqAccess { token, address }
    }

    /// `None` if HQ's address is not known.
    pub fn client(self) -> Result<Option<Hq>, Exit> {
        let http = Http::new().map_err(Exit::Failed)?;
        Ok(self.address.map(|base| Hq::new(http, &base, self.token)))
    }
}

/// Where releases are looked for.
#[cfg(feature = "server")]
#[derive(Args, Clone)]
pub struct Releases {
    /// Download releases from below this URL: <URL>/download/v<version>/ [default: the project's
    /// releases]
    #[arg(long, value_name = "URL")]
    release_url: Option<String>,
    /// Verify releases with this OpenPGP public key [default: the built-in key]
    #[arg(long, value_name = "FILE")]
    release_key: Option<PathBuf>,
}

#[cfg(feature = "server")]
impl Releases {
    pub fn source(&self) -> Result<ReleaseSource, String> {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file)
                .map_err(|e| format!("the key {} cannot be read: {e}", file.display()))
        };
        ReleaseSource::new(
            Http::new()?,
            self.release_url.as_deref(),
            self.release_key.as_ref().map(read).transpose()?,
        )
    }
}

/// Arguments that no worker gets: secrets and HQ's address go through the pipe, the others are for
/// the supervisor to choose at each start of a worker.
#[cfg(feature = "server")]
const NOT_PASSED_ON: [&str; 7] =
    ["url", "url-file", "api-url", "server", "restart", "data-dir", "log-file-sink"];

/// The arguments of a server that are its workers' too, as one `--flag=value` for each that has a
/// value, given, from the environment or by default. They are read from the definition of the
/// arguments, so that there is no second list of them.
#[cfg(feature = "server")]
pub fn worker_words(server: &ArgMatches) -> Vec<OsString> {
    let command = Global::augment_args(Streaming::augment_args(Command::new("fork")));
    let mut words = Vec::new();
    for argument in command.get_arguments() {
        let Some(flag) = argument.get_long().filter(|flag| !NOT_PASSED_ON.contains(flag)) else {
            continue;
        };
        for value in server.get_raw(argument.get_id().as_str()).into_iter().flatten() {
            let mut word = OsString::from(format!("--{flag}="));
            word.push(value);
            words.push(word);
        }
    }
    words
}
