//! The command line: one file per command.

mod args;
#[cfg(feature = "server")]
mod consumer;
#[cfg(feature = "sandbox")]
mod demo;
mod dlq;
#[cfg(feature = "server")]
mod download;
mod drivers;
#[cfg(feature = "server")]
mod enroll;
mod exit;
#[cfg(feature = "server")]
mod fork;
#[cfg(feature = "http")]
mod import;
mod logging;
mod replay;
#[cfg(all(feature = "sandbox", feature = "server"))]
mod sandbox;
#[cfg(feature = "server")]
mod server;
mod state;
#[cfg(feature = "jetstream")]
mod stream;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::validator::Validator;
use crate::worker::exit_codes;
use exit::Exit;

/// Replicates a business system's change events into your own database, warehouse, bucket or
/// broker.
#[derive(Parser)]
#[command(name = "eds", version, disable_help_subcommand = true, args_override_self = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
struct Global {
    /// Directory for everything that must survive a restart.
    #[arg(short, long, global = true, default_value = "./data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Log everything, down to traces.
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Log errors only.
    #[arg(short, long, global = true)]
    silent: bool,
    /// Prefix log lines with the time.
    #[arg(short, long, global = true)]
    timestamp: bool,
    /// Prefix log lines with this text.
    #[arg(long, global = true, hide = true)]
    log_label: Option<String>,
    /// Apply only events that match these rules: a directory with config.json and JSON Schemas
    /// [default: all events]
    #[arg(long, global = true, value_name = "DIR")]
    schema_validator: Option<PathBuf>,
    /// Also write the log to this file.
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    log_file_sink: Option<PathBuf>,
}

impl Global {
    /// The user's rules, if there are any.
    fn rules(&self) -> Result<Option<Arc<Validator>>, Exit> {
        let wrong = |why: String| {
            Exit::Usage(format!("the rules of --schema-validator cannot be used: {why}"))
        };
        self.schema_validator
            .as_deref()
            .map(|dir| Validator::load(dir).map(Arc::new))
            .transpose()
            .map_err(wrong)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Stream changes from NATS JetStream into a destination
    #[cfg(feature = "jetstream")]
    Stream(Box<stream::Stream>),
    /// Run as the worker of a supervisor
    #[cfg(feature = "server")]
    #[command(hide = true)]
    Fork(Box<fork::Worker>),
    /// Enrol this machine as a server of HQ
    #[cfg(feature = "server")]
    Enroll(enroll::Enroll),
    /// Run as a server of HQ, which configures it: stream, import, report and update
    #[cfg(feature = "server")]
    Server(Box<server::ServerCommand>),
    /// Load a full export into a destination
    #[cfg(feature = "http")]
    Import(Box<import::Import>),
    /// Apply a journal (files of events, one JSON object per line) to a destination
    Replay(Box<replay::Replay>),
    /// Stream a generated shop into a database and compare every row at the end
    #[cfg(feature = "sandbox")]
    Demo(demo::Demo),
    /// Run a local HQ for trying out a server: NATS, a generated shop, and a prompt
    #[cfg(all(feature = "sandbox", feature = "server"))]
    Sandbox(sandbox::Sandbox),
    /// Look at the changes that could not be applied, retry or drop them
    Dlq(dlq::Dlq),
    /// List the destinations, or describe one
    Drivers(drivers::Drivers),
    /// Show what EDS stores in its data directory
    State(state::StateCommand),
    /// Show the durable consumer on NATS, or hand it back to the Go program
    #[cfg(feature = "server")]
    Consumer(consumer::Consumer),
    /// Download a release and verify its signature
    #[cfg(feature = "server")]
    Download(download::Download),
    /// Print the public key that verifies releases
    #[cfg(feature = "server")]
    Publickey,
    /// Print the version
    Version,
}

/// Runs the program; the whole of it.
pub fn main() -> ExitCode {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default_hook(info);
        std::process::exit(i32::from(exit_codes::PANICKED));
    }));
    let (cli, matches) = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()));
        }
    };
    match run(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}

/// The arguments in their form, and as clap read them.
fn parse(
    args: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<(Cli, ArgMatches), clap::Error> {
    let mut command = with_switches(Cli::command());
    let matches = command.try_get_matches_from_mut(args)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))?;
    Ok((cli, matches))
}

/// Lets every flag that is on or off take a value: a script may say `--restart=false`.
fn with_switches(command: clap::Command) -> clap::Command {
    let switch = |argument: Arg| match argument.get_action() {
        ArgAction::SetTrue => argument
            .num_args(0..=1)
            .require_equals(true)
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => argument,
    };
    command.mut_args(switch).mut_subcommands(with_switches)
}

fn run(cli: Cli, matches: &ArgMatches) -> Result<(), Exit> {
    #[cfg(not(feature = "server"))]
    let _ = matches;
    let global = cli.global;
    match cli.command {
        Command::Version => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Drivers(drivers) => drivers.run(),
        Command::State(state) => state.run(&global),
        Command::Dlq(dlq) => block_on(dlq.run(global)),
        #[cfg(feature = "jetstream")]
        Command::Stream(stream) => block_on(stream.run(global)),
        #[cfg(feature = "server")]
        Command::Fork(fork) => block_on(fork.run(global)),
        #[cfg(feature = "server")]
        Command::Enroll(enroll) => block_on(enroll.run(global)),
        #[cfg(feature = "server")]
        Command::Server(server) => {
            let words =
                matches.subcommand().map_or_else(Vec::new, |(_, words)| args::worker_words(words));
            server.run(global, words)
        }
        #[cfg(feature = "server")]
        Command::Consumer(consumer) => block_on(consumer.run(global)),
        #[cfg(feature = "server")]
        Command::Download(download) => block_on(download.run(global)),
        #[cfg(feature = "server")]
        Command::Publickey => {
            print!("{}", crate::release::PUBLIC_KEY);
            Ok(())
        }
        #[cfg(feature = "http")]
        Command::Import(import) => block_on(import.run(global)),
        Command::Replay(replay) => block_on(replay.run(global)),
        #[cfg(feature = "sandbox")]
        Command::Demo(demo) => block_on(demo.run(global)),
        #[cfg(all(feature = "sandbox", feature = "server"))]
        Command::Sandbox(sandbox) => block_on(sandbox.run(global)),
    }
}

fn block_on(command: impl Future<Output = Result<(), Exit>>) -> Result<(), Exit> {
    // Several rustls users share one provider; a second installation would fail, and that is fine.
    #[cfg(feature = "tls")]
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime =
        runtime.map_err(|e| Exit::Failed(format!("the runtime cannot be started: {e}")))?;
    let done = runtime.block_on(command);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, clap::Error> {
        let (_, matches) = parse(line.split(' ').map(Into::into))?;
        let (_, server) = matches.subcommand().unwrap_or(("", &matches));
        let words = args::worker_words(server);
        Ok(words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect())
    }

    /// Every flag that is on or off can be switched off by its value, in whatever command.
    #[test]
    fn switches_take_a_value() -> Result<(), clap::Error> {
        for (line, is_on) in [
            ("eds replay x --dry-run", true),
            ("eds replay x --dry-run=false", false),
            ("eds replay x --dry-run=true --dry-run=false", false),
            ("eds replay x", false),
        ] {
            let (cli, _) = parse(line.split(' ').map(Into::into))?;
            let Command::Replay(replay) = cli.command else { panic!("{line}") };
            assert_eq!(replay.dry_run, is_on, "{line}");
        }
        assert!(parse("eds replay --dry-run yes x".split(' ').map(Into::into)).is_err());
        Ok(())
    }

    /// What a server is told about streaming reaches its worker, but for secrets and what the
    /// supervisor chooses.
    #[test]
    fn a_worker_gets_the_arguments_of_its_server() -> Result<(), clap::Error> {
        let words = words(
            "eds -v server --tables=a,b --adopt x --adopt y --companyIds 1,2 --ack explicit \
             --minPendingLatency 1m30s --bind ::1 --port 0 --timestamp --schema-validator rules \
             --url sqlite://secret --url-file secret --api-key secret --restart --server secret \
             --api-url secret --data-dir secret --log-file-sink secret --update-strategy after",
        )?;
        let expected = [
            "--verbose=true",
            "--timestamp=true",
            "--schema-validator=rules",
            "--tables=a,b",
            "--adopt=x",
            "--adopt=y",
            "--companyIds=1",
            "--companyIds=2",
            "--ack=explicit",
            "--minPendingLatency=1m30s",
            "--bind=::1",
            "--port=0",
            "--update-strategy=after",
        ];
        for word in expected {
            assert!(words.iter().any(|w| w == word), "{word} is missing: {words:?}");
        }
        assert!(words.iter().all(|word| !word.contains("secret") && !word.contains("restart")));
        let fork = ["eds", "fork", "--supervised"].map(str::to_owned);
        let (cli, _) = parse(fork.into_iter().chain(words).map(Into::into))?;
        let Command::Fork(fork) = cli.command else { panic!("eds fork is the worker") };
        let (got, global) = (&fork.stream.streaming, cli.global);
        assert!(global.verbose && global.timestamp && !global.silent);
        assert_eq!(got.company_ids, ["1", "2"]);
        assert_eq!((got.to.tables.as_str(), got.to.adopt.len()), ("a,b", 2));
        assert_eq!(got.to.pending_latency_min, Some(std::time::Duration::from_secs(90)));
        Ok(())
    }
}
