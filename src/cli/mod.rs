//! The command line: one file per command.

mod args;
mod columns;
mod completion;
#[cfg(feature = "server")]
mod config;
#[cfg(feature = "server")]
mod consumer;
#[cfg(feature = "sandbox")]
mod demo;
mod dlq;
#[cfg(feature = "jetstream")]
mod doctor;
#[cfg(feature = "server")]
mod download;
mod drivers;
#[cfg(feature = "server")]
mod enroll;
mod environment;
mod examples;
mod exit;
mod explain;
#[cfg(feature = "server")]
mod fork;
#[cfg(feature = "jetstream")]
mod health;
#[cfg(feature = "http")]
mod import;
mod log_lines;
mod logging;
mod man;
mod output;
mod replay;
#[cfg(all(feature = "sandbox", feature = "server"))]
mod sandbox;
mod secrets;
#[cfg(feature = "server")]
mod server;
mod state;
#[cfg(feature = "jetstream")]
mod stream;
#[cfg(feature = "jetstream")]
mod top;
#[cfg(feature = "server")]
mod trial;
#[cfg(feature = "http")]
mod verify;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::BoolishValueParser;
use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};

use crate::destination::{Driver, Settings};
use crate::help::HelpCode;
use crate::validator::Validator;
use crate::worker::exit_codes;
use exit::Exit;
use output::JsonFlag;
#[cfg(feature = "server")]
use trial::UnreadServer;

/// Where everything is that must survive a restart, unless an argument says so.
const DATA_DIR: &str = "./data";

/// Replicates a business system's change events into your own database, warehouse, bucket or
/// broker.
#[derive(Parser)]
#[command(name = "eds", version, args_override_self = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Directory for everything that must survive a restart.
    #[arg(short, long, global = true, default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Log everything, down to traces.
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Log errors only.
    #[arg(short, long, global = true)]
    silent: bool,
    /// Prefix log lines with the time [default: unless a terminal or a journal shows them]
    #[arg(
        short,
        long,
        global = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        value_name = "true|false"
    )]
    timestamp: Option<bool>,
    /// Log in lines for people, or one JSON object per line
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Log this much, of everything or of one module: debug, eds::feed=trace
    #[arg(long, global = true, value_name = "[MODULE=]LEVEL", value_delimiter = ',')]
    log_level: Vec<String>,
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

/// The form of log lines on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Global {
    /// The destination that is named, or that of the configuration in the data directory.
    fn destination(
        &self,
        named: &args::DestinationArgs,
    ) -> Result<(Settings, &'static Driver), Exit> {
        #[cfg(feature = "http")]
        let config = crate::config::Config::read(&self.data_dir)?;
        #[cfg(feature = "http")]
        let configured = config.url();
        #[cfg(not(feature = "http"))]
        let configured = None;
        named.destination(configured)
    }

    /// The user's rules, if there are any.
    fn rules(&self) -> Result<Option<Arc<Validator>>, Exit> {
        let wrong = |why: String| {
            let text = format!("the rules of --schema-validator cannot be used: {why}");
            Exit::usage(HelpCode::Rules, text)
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
    /// Compare the destination with an export while EDS streams, and repair what differs
    #[cfg(feature = "http")]
    Verify(Box<verify::Verify>),
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
    /// Show what EDS knows of one row: its last change, dead letters, changes that wait
    Why(why::Why),
    /// Look for what would keep a start from going well: machine, HQ, NATS, destination, tables
    #[cfg(feature = "jetstream")]
    Doctor(Box<doctor::DoctorCommand>),
    /// Ask a running server on this machine how it is; exits with 0 if it is well
    #[cfg(feature = "jetstream")]
    Health(health::Health),
    /// Watch a running server on this machine: what is wrong, the flow, its tables
    #[cfg(feature = "jetstream")]
    Top(top::Top),
    /// List the destinations, or describe one
    Drivers(drivers::Drivers),
    /// Show what EDS stores in its data directory
    State(state::StateCommand),
    /// Show the settings of a server, and where each is from
    #[cfg(feature = "server")]
    Config(Box<config::ConfigCommand>),
    /// Show the durable consumer on NATS, or hand it back to the Go program
    #[cfg(feature = "server")]
    Consumer(consumer::Consumer),
    /// Download a release and verify its signature
    #[cfg(feature = "server")]
    Download(download::Download),
    /// Print the public key that verifies releases
    #[cfg(feature = "server")]
    Publickey(JsonFlag),
    /// Print a script that completes commands and flags in your shell
    Completion(completion::Completion),
    /// Print the manual page
    Man(man::Man),
    /// Explain the code that an error ends with: cause, cure and an example
    Explain(explain::Explain),
    /// Print the version
    Version(JsonFlag),
}

/// Runs the program; the whole of it.
pub fn main() -> ExitCode {
    crate::private::leave_no_core();
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{}", panicked(info));
        std::process::exit(i32::from(exit_codes::PANICKED));
    }));
    if std::env::args_os().len() <= 1 {
        let _ = program().print_help();
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let (cli, matches) = match parse(arguments.iter().cloned()) {
        Ok(parsed) => parsed,
        Err(e) => return unreadable(&e, &arguments),
    };
    match run(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}

/// Says what is wrong with the arguments, or what they ask clap for.
fn unreadable(error: &clap::Error, arguments: &[std::ffi::OsString]) -> ExitCode {
    if error.use_stderr() && error.to_string().contains("://") {
        eprint!("{}", secrets::without_logins(error, arguments));
    } else {
        let _ = error.print();
    }
    // A new program may not know what an old one was started with.
    #[cfg(feature = "server")]
    if error.use_stderr() {
        let server = UnreadServer::of(arguments, &program(), UnreadServer::by_environment());
        if let Some(UnreadServer { data_dir, paused }) = server
            && trial::goes_back(&data_dir)
            && let Err(exit) = trial::run_program_in_place(paused)
        {
            return exit.report();
        }
    }
    ExitCode::from(u8::from(error.use_stderr()))
}

/// What is told of a panic: where, which way there, and a message that is part of the program's
/// text. One that was made at run time may hold a row, and what is printed is uploaded.
fn panicked(info: &std::panic::PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
    let message =
        shown_message(info.payload()).map_or_else(String::new, |message| format!(": {message}"));
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let trace = std::backtrace::Backtrace::force_capture();
    format!("thread '{thread}' panicked{place}{message}\n{trace}")
}

/// The message of a panic, if it is part of the program's text.
fn shown_message(payload: &dyn std::any::Any) -> Option<&'static str> {
    payload.downcast_ref::<&'static str>().copied()
}

/// The arguments in their form, and as clap read them.
fn parse(
    args: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<(Cli, ArgMatches), clap::Error> {
    let mut command = program();
    let matches = command.try_get_matches_from_mut(args)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))?;
    Ok((cli, matches))
}

/// The whole definition of the command line.
fn program() -> clap::Command {
    let command = examples::with_examples(with_switches(Cli::command()));
    environment::with_environment(command)
}

/// Lets every flag that is on or off take a value: a script may say `--restart=false`.
fn with_switches(command: clap::Command) -> clap::Command {
    let switch = |argument: Arg| match argument.get_action() {
        ArgAction::SetTrue => argument
            .num_args(0..=1)
            .require_equals(true)
            .value_name("true|false")
            .value_parser(BoolishValueParser::new())
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
        Command::Version(output) => {
            let version = env!("CARGO_PKG_VERSION");
            tell_one(output, "version", ("version", version))
        }
        Command::Completion(completion) => completion.run(program()),
        Command::Man(man) => man.run(program()),
        Command::Drivers(drivers) => drivers.run(),
        Command::Explain(explain) => explain.run(),
        #[cfg(feature = "jetstream")]
        Command::Health(health) => health.run(),
        #[cfg(feature = "jetstream")]
        Command::Top(top) => top.run(),
        Command::State(state) => state.run(&global),
        Command::Dlq(dlq) => block_on(dlq.run(global)),
        Command::Why(why) => block_on(why.run(global)),
        #[cfg(feature = "jetstream")]
        Command::Doctor(doctor) => block_on(doctor.run(global)),
        #[cfg(feature = "jetstream")]
        Command::Stream(stream) => block_on(stream.run(global)),
        #[cfg(feature = "server")]
        Command::Fork(fork) => block_on(fork.run(global)),
        #[cfg(feature = "server")]
        Command::Enroll(enroll) => block_on(enroll.run(global)),
        #[cfg(feature = "server")]
        Command::Server(server) => {
            let mut words =
                matches.subcommand().map_or_else(Vec::new, |(_, words)| args::worker_words(words));
            // The worker's lines go through the supervisor: where to is known here.
            words.push(format!("--timestamp={}", logging::shows_time(&global)).into());
            server.run(global, words)
        }
        #[cfg(feature = "server")]
        Command::Consumer(consumer) => block_on(consumer.run(global)),
        #[cfg(feature = "server")]
        Command::Download(download) => block_on(download.run(global)),
        #[cfg(feature = "server")]
        Command::Publickey(output) => {
            tell_one(output, "publickey", ("key", crate::release::PUBLIC_KEY))
        }
        #[cfg(feature = "server")]
        Command::Config(config) => match matches.subcommand() {
            Some((_, matches)) => config.run(&global, matches),
            None => config.run(&global, matches),
        },
        #[cfg(feature = "http")]
        Command::Import(import) => block_on(import.run(global)),
        #[cfg(feature = "http")]
        Command::Verify(verify) => block_on(verify.run(global)),
        Command::Replay(replay) => block_on(replay.run(global)),
        #[cfg(feature = "sandbox")]
        Command::Demo(demo) => block_on(demo.run(global)),
        #[cfg(all(feature = "sandbox", feature = "server"))]
        Command::Sandbox(sandbox) => block_on(sandbox.run(global)),
    }
}

/// Prints one text: a field of an object for programs.
fn tell_one(
    output: JsonFlag,
    command: &'static str,
    (name, text): (&str, &str),
) -> Result<(), Exit> {
    let mut printer = output.printer(command);
    printer.row(|| serde_json::json!({ name: text }), || text.trim_end().to_owned());
    printer.end(Ok(()))
}

fn block_on(command: impl Future<Output = Result<(), Exit>>) -> Result<(), Exit> {
    // Several rustls users share one provider; a second installation would fail, and that is fine.
    #[cfg(feature = "tls")]
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime =
        runtime.map_err(|e| Exit::failed(HelpCode::Machine, format!("no runtime: {e}")))?;
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

    /// A message that was made at run time may hold what a row holds.
    #[test]
    fn a_panic_tells_nothing_that_was_made_of_data() {
        let row = "a customer's row".to_owned();
        let caught = |panic: fn(String)| {
            let row = row.clone();
            std::panic::catch_unwind(move || panic(row)).err()
        };
        let message = |panic| caught(panic).map(|payload| shown_message(&*payload));
        assert_eq!(
            message(|_| panic!("in the program's text")),
            Some(Some("in the program's text"))
        );
        assert_eq!(message(|row| panic!("made of {row}")), Some(None));
        assert_eq!(message(|row| drop(row[..99].to_owned())), Some(None));
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

    /// Tables may be named one by one, and in a list.
    #[test]
    fn tables_of_an_import_add_up() -> Result<(), clap::Error> {
        let line = "eds import --only a --only b,c";
        let (cli, _) = parse(line.split(' ').map(Into::into))?;
        let Command::Import(import) = cli.command else { panic!("{line}") };
        assert_eq!(import.only, ["a", "b", "c"]);
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
             --api-url secret --schema https://hq/schema?token=secret --data-dir secret --log-file-sink secret --update-strategy after",
        )?;
        let expected = [
            "--verbose=true",
            "--timestamp=true",
            "--schema-validator=rules",
            "--tables=a,b",
            "--adopt=x",
            "--adopt=y",
            "--company-ids=1",
            "--company-ids=2",
            "--ack=explicit",
            "--min-pending-latency=1m30s",
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
        assert!(global.verbose && global.timestamp == Some(true) && !global.silent);
        assert_eq!(got.company_ids, ["1", "2"]);
        assert_eq!((got.to.tables.as_str(), got.to.adopt.len()), ("a,b", 2));
        assert_eq!(got.to.pending_latency_min, Some(std::time::Duration::from_secs(90)));
        Ok(())
    }
}
