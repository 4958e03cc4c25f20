//! `eds server`: enrolled once, then left alone.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use secrecy::SecretString;
use tracing::{info, warn};

use super::args::{HqAccess, Releases, Streaming, named};
use super::exit::Exit;
use super::{Global, drivers, logging};
use crate::config::{Config, FILE_NAME};
use crate::hq::enrolment::enrol;
use crate::logs::LogFiles;
use crate::machine;
use crate::supervisor::{ServerEnd, ServerFailure, ServerOptions, Supervisor};
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
#[command(args_conflicts_with_subcommands = true)]
pub struct ServerCommand {
    #[command(subcommand)]
    help: Option<Help>,
    #[command(flatten)]
    streaming: Streaming,
    /// HQ's API key; prefer SM_APIKEY, because every user of the machine can read arguments
    #[arg(long, env = "SM_APIKEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// This server's id [default: from the enrolment]
    #[arg(long, value_name = "ID")]
    eds_id: Option<String>,
    /// Keep logs on this machine after they are uploaded to HQ
    #[arg(long)]
    keep_logs: bool,
    #[command(flatten)]
    releases: Releases,
    /// Whether HQ may replace this program by another version; auto: unless it runs in a container
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    self_update: SelfUpdate,
    /// Renew the session with HQ this often
    #[arg(long, hide = true, default_value = "24h", value_name = "DURATION", value_parser = crate::duration::parse)]
    renew_interval: Duration,
    #[arg(long, hide = true)]
    no_restart: bool,
    #[arg(long, hide = true)]
    paused: bool,
    /// Deprecated: health is served on --port
    #[arg(long, hide = true)]
    health_port: Option<u16>,
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
        super::block_on(async {
            done = self.serve(&global, worker_words).await?;
            Ok(())
        })?;
        match done {
            ServerEnd::Shutdown => Ok(()),
            ServerEnd::Replaced { paused } => run_replaced_program(paused),
        }
    }

    async fn serve(&self, global: &Global, worker_words: Vec<OsString>) -> Result<ServerEnd, Exit> {
        let logs = LogFiles::default();
        logging::start(global, Some(logs.clone()))?;
        if self.health_port.is_some() {
            warn!("--health-port is deprecated and without effect: health is served on --port");
        }
        global.rules()?;
        let config = self.enrolled(global).await?;
        let options = self.options(global, config, worker_words, logs)?;
        let ended = Supervisor::new(options).map_err(Exit::Failed)?.run().await;
        ended.map_err(|failed| match failed {
            ServerFailure::Worker { code: exit_codes::UNUSABLE, text } => Exit::Usage(text),
            ServerFailure::Worker { code: exit_codes::DISCONNECTED, text } => {
                Exit::Disconnected(text)
            }
            other => Exit::Failed(other.to_string()),
        })
    }

    /// The configuration; somebody at a terminal is asked for the code where this server is not
    /// enrolled yet.
    async fn enrolled(&self, global: &Global) -> Result<Config, Exit> {
        let config = Config::read(&global.data_dir)?;
        if self.api_key.is_some()
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
            return Err(Exit::Usage(format!(
                "{missing}; `eds enroll CODE` enrols it, with the code that HQ shows"
            )));
        }
        eprint!("This server is not enrolled yet.\nThe code that HQ shows: ");
        let _ = std::io::stderr().flush();
        let mut code = String::new();
        std::io::stdin().lock().read_line(&mut code).map_err(|e| Exit::Failed(e.to_string()))?;
        if code.trim().is_empty() {
            return Err(Exit::Usage(missing));
        }
        let id = enrol(&global.data_dir, code.trim(), self.streaming.to.api_url.as_deref()).await?;
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
        let hq = HqAccess::new(self.api_key.as_deref(), streaming.to.api_url.as_deref(), &config);
        let Some(api_url) = hq.address else {
            return Err(Exit::Usage(
                "HQ's address is not known: the token does not name it; give it with --api-url"
                    .into(),
            ));
        };
        Ok(ServerOptions {
            data_dir: global.data_dir.clone(),
            servers: servers(streaming.server.as_deref(), Some(&api_url)),
            api_url,
            token: hq.token,
            server_id: self.eds_id.clone().or(config.server_id).unwrap_or_default(),
            companies: named(&streaming.company_ids),
            url,
            url_is_given,
            update_strategy: config.update_strategy,
            nats_ca: streaming.nats_ca.clone(),
            keep_logs: self.keep_logs || config.keep_logs,
            renew_interval: self.renew_interval.max(Duration::from_secs(1)),
            no_restart: self.no_restart,
            from_start: streaming.to.restart,
            paused: self.paused,
            worker_words,
            logs,
            releases: self.releases.source(),
            no_update: self.no_update(),
        })
    }

    /// The destination, where there is one yet, and whether it was given by hand.
    fn url(&self, config: &Config) -> Result<(Option<SecretString>, bool), Exit> {
        let place = &self.streaming.to.place;
        let given = place.url.is_some()
            || place.url_file.is_some()
            || std::env::var("EDS_URL").is_ok_and(|u| !u.is_empty());
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

/// Runs the program that the update has put in place of this one, in the same process and with the
/// same arguments.
fn run_replaced_program(paused: bool) -> Result<(), Exit> {
    let failed =
        |e: std::io::Error| Exit::Failed(format!("the new program cannot be started: {e}"));
    let program: PathBuf = std::env::args_os()
        .next()
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .map_or_else(own_file, Ok)
        .map_err(failed)?;
    let mut command = std::process::Command::new(program);
    // These two flags are about the first start only.
    let once = |word: &OsString| {
        word.to_str().is_some_and(|word| {
            ["--paused", "--restart"].iter().any(|flag| word.split('=').next() == Some(*flag))
        })
    };
    command.args(std::env::args_os().skip(1).filter(|word| !once(word)));
    if paused {
        command.arg("--paused");
    }
    #[cfg(unix)]
    {
        Err(failed(std::os::unix::process::CommandExt::exec(&mut command)))
    }
    // A process of Windows cannot become another program: the new one is a child, and this process
    // ends with the child's exit code.
    #[cfg(not(unix))]
    {
        let status = command.status().map_err(failed)?;
        std::process::exit(status.code().unwrap_or(1));
    }
}

/// The file of this program; Linux says so where it is another one by now.
fn own_file() -> std::io::Result<PathBuf> {
    let file = std::env::current_exe()?;
    let name = file.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or_else(|| file.clone(), PathBuf::from))
}
