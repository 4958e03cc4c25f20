//! `eds server`: enrolled once, then left alone.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use secrecy::SecretString;
use tokio::task::JoinSet;
use tracing::{error, info};

use super::args::{ApiKey, HqAccess, Releases, Streaming, named_servers};
use super::enroll::ask_for_code;
use super::exit::Exit;
use super::trial::{self, TrialStart};
use super::{Global, drivers, logging};
use crate::config::{Config, FILE_NAME};
use crate::help::HelpCode;
use crate::hq::enrolment::enrol;
use crate::logs::LogFiles;
use crate::machine;
use crate::state::DataDirError;
use crate::status::otlp::{self, Otlp};
use crate::status::{StatusBoard, serve_when_free, webhook};
use crate::supervisor::{
    GivenOptions, ServerEnd, ServerFailure, ServerOptions, Supervisor, server_lock,
};
use crate::systemd;
use crate::worker::exit_codes;
use crate::worker::nats_login::servers;

/// Whether the server replaces its own program when HQ asks for it.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum SelfUpdate {
    // Unless this is the inside of a container.
    Auto,
    Always,
    Never,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct ServerCommand {
    #[command(subcommand)]
    help: Option<Help>,
    #[command(flatten)]
    settings: ServerSettings,
}

/// What a server may be told.
#[derive(Args)]
pub struct ServerSettings {
    #[command(flatten)]
    pub streaming: Streaming,
    #[command(flatten)]
    pub api_key: ApiKey,
    /// This server's id [default: from the enrolment]
    #[arg(long, value_name = "ID")]
    pub eds_id: Option<String>,
    /// Keep logs on this machine after they are uploaded to HQ
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = clap::builder::BoolishValueParser::new(),
        value_name = "true|false"
    )]
    keep_logs: Option<bool>,
    #[command(flatten)]
    releases: Releases,
    /// Whether HQ may replace this program by another version; auto: unless it runs in a container
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    self_update: SelfUpdate,
    /// Let HQ replace this program by an older version
    #[arg(long)]
    allow_downgrade: bool,
    /// Renew the session with HQ this often
    #[arg(long, hide = true, default_value = "24h", value_name = "DURATION", value_parser = crate::duration::parse)]
    renew_interval: Duration,
    /// Upload the log to HQ this often
    #[arg(long, hide = true, default_value = "1h", value_name = "DURATION", value_parser = crate::duration::parse)]
    upload_interval: Duration,
    #[arg(long, hide = true)]
    no_restart: bool,
    #[arg(long, hide = true)]
    paused: bool,
    /// Accepted for old scripts, without effect
    #[arg(long, hide = true)]
    wrapper: bool,
    /// Accepted for old scripts, without effect
    #[arg(long, hide = true)]
    parent: Option<String>,
}

#[derive(Subcommand)]
enum Help {
    /// List the destinations, or describe one
    Help(drivers::Drivers),
}

impl ServerCommand {
    /// Returns once it was told to end. After an update this process becomes the new program and
    /// does not return.
    pub fn run(self: Box<Self>, global: Global, worker_words: Vec<OsString>) -> Result<(), Exit> {
        if let Some(Help::Help(drivers)) = &self.help {
            return drivers.run();
        }
        let mut done = ServerEnd::Shutdown;
        let mut has_begun = false;
        let served = super::block_on(async {
            done = self.settings.serve(&global, worker_words, &mut has_begun).await?;
            Ok(())
        });
        match (served, done) {
            (Err(_), _) if !has_begun && trial::goes_back(&global.data_dir) => {
                trial::run_program_in_place(self.settings.paused)
            }
            (Err(exit), _) => Err(exit),
            (Ok(()), ServerEnd::Shutdown) => Ok(()),
            (Ok(()), ServerEnd::Replaced { paused }) => trial::run_program_in_place(paused),
        }
    }
}

impl ServerSettings {
    /// Serves; `has_begun` once this start is one that a program on trial answers for.
    async fn serve(
        &self,
        global: &Global,
        worker_words: Vec<OsString>,
        has_begun: &mut bool,
    ) -> Result<ServerEnd, Exit> {
        let logs = LogFiles::default();
        logging::start(global, Some(logs.clone()))?;
        // Probes are answered from the first second, whatever HQ or the destination does.
        let Streaming { bind, port, flush_hang_max, .. } = &self.streaming;
        let board = Arc::new(StatusBoard::new(*flush_hang_max));
        let mut probes = JoinSet::new();
        probes.spawn(serve_when_free(*bind, *port, board.clone()));
        global.rules()?;
        self.streaming.to.columns.rules(global)?;
        let config = self.enrolled(global).await?;
        if let Some(hook) = self.streaming.webhook.webhook(&config)? {
            probes.spawn(webhook::watch(board.clone(), hook));
        }
        probes.spawn(otlp::export_if_asked(board.clone(), Otlp::of_environment()));
        let options = self.options(global, config, worker_words, logs)?;
        *has_begun = true;
        let lock = server_lock(&global.data_dir).map_err(DataDirError::Lock)?;
        let unproven = match trial::count_start(&global.data_dir) {
            TrialStart::GoesOn(unproven) => unproven,
            TrialStart::WentBack(said) => {
                error!("{said}");
                return Ok(ServerEnd::Replaced { paused: self.paused });
            }
        };
        let ended = match Supervisor::new(ServerOptions { board, unproven, ..options }, lock) {
            Ok(supervisor) => {
                systemd::ready();
                systemd::watched(supervisor.run()).await
            }
            Err(failed) => Err(failed),
        };
        ended.map_err(|failed| match failed {
            ServerFailure::Worker { code: exit_codes::UNUSABLE, text } => Exit::Usage(text),
            ServerFailure::Worker { code: exit_codes::DISCONNECTED, text } => {
                Exit::Disconnected(text)
            }
            ServerFailure::Worker { text, .. } => Exit::failed(HelpCode::WorkerFailed, text),
            ServerFailure::Refused(text) => Exit::failed(HelpCode::HqRefused, text),
            ServerFailure::Machine(text) => Exit::failed(HelpCode::Machine, text),
        })
    }

    /// The configuration; somebody at a terminal is asked for the code where this server is not
    /// enrolled yet.
    async fn enrolled(&self, global: &Global) -> Result<Config, Exit> {
        let config = Config::read(&global.data_dir)?;
        if self.api_key.given()?.is_some()
            || ApiKey::of_go_program()?.is_some()
            || (config.token.is_some() && config.server_id.is_some())
            || (config.token.is_some() && self.eds_id.is_some())
        {
            return Ok(config);
        }
        let missing = format!(
            "this server is not enrolled: {} has no token and server_id",
            global.data_dir.join(FILE_NAME).display()
        );
        if !std::io::stdin().is_terminal() {
            return Err(Exit::usage(
                HelpCode::NotEnrolled,
                format!("{missing}; `eds enroll CODE` enrols it, with the code that HQ shows"),
            ));
        }
        eprintln!("This server is not enrolled yet.");
        let code = ask_for_code()?;
        let id = enrol(&global.data_dir, &code, self.streaming.to.api_url.as_deref()).await?;
        info!("enrolled as server {id}");
        Ok(Config::read(&global.data_dir)?)
    }

    fn options(
        &self,
        global: &Global,
        config: Config,
        worker_words: Vec<OsString>,
        logs: LogFiles,
    ) -> Result<ServerOptions, Exit> {
        let streaming = &self.streaming;
        let (url, url_is_given) = self.url(&config)?;
        let hq = HqAccess::of_server(&self.api_key, streaming.to.api_url.as_deref(), &config)?;
        let Some(api_url) = hq.address else {
            return Err(Exit::usage(
                HelpCode::NotEnrolled,
                "HQ's address is not known: the token does not name it; give it with --api-url",
            ));
        };
        let named = named_servers(streaming.server.as_deref())?;
        Ok(ServerOptions {
            data_dir: global.data_dir.clone(),
            servers: servers(named.as_deref(), Some(&api_url)),
            api_url,
            token: hq.token,
            server_id: self.eds_id.clone().or(config.server_id).unwrap_or_default(),
            companies: super::args::named(&streaming.company_ids),
            url,
            given: GivenOptions {
                url: url_is_given,
                token: self.api_key.given()?.is_some(),
                server_id: self.eds_id.is_some(),
                keep_logs: self.keep_logs.is_some(),
                api_url: streaming.to.api_url.is_some(),
                servers: named.is_some(),
            },
            update_strategy: config.update_strategy,
            nats_ca: streaming.nats_ca.clone(),
            keep_logs: self.keep_logs.unwrap_or(config.keep_logs),
            stop_timeout: self.streaming.stop_timeout,
            renew_interval: self.renew_interval.max(Duration::from_secs(1)),
            upload_interval: self.upload_interval.max(Duration::from_secs(1)),
            no_restart: self.no_restart,
            from_start: streaming.to.restart,
            paused: self.paused,
            schema_url: streaming.to.schema_url().map(str::to_owned),
            worker_words,
            logs,
            board: Arc::default(),
            ui_token: streaming.ui.token()?,
            releases: self.releases.source(),
            allow_downgrade: self.allow_downgrade,
            no_update: self.no_update(),
            unproven: None,
        })
    }

    /// The destination, where there is one yet, and whether it was given by hand.
    fn url(&self, config: &Config) -> Result<(Option<SecretString>, bool), Exit> {
        let place = &self.streaming.to.place;
        let given = place.is_given()?;
        let fallback = config.url();
        if !given && fallback.is_none() {
            return Ok((None, false));
        }
        // What cannot be right is said before anything begins.
        place.destination(fallback)?;
        Ok((Some(SecretString::from(place.text(fallback)?)), given))
    }

    /// Why this server does not replace its own program, if so.
    fn no_update(&self) -> Option<String> {
        match self.self_update {
            SelfUpdate::Never => {
                Some("updates are switched off here (--self-update never)".to_owned())
            }
            SelfUpdate::Auto if machine::is_container() => {
                Some("this is a container: its image is what has to be replaced".to_owned())
            }
            SelfUpdate::Auto | SelfUpdate::Always => None,
        }
    }
}
