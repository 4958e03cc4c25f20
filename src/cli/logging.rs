//! What EDS tells while it works: lines on standard error, JSON lines in a file where asked. The Go
//! program writes its log to standard output; ours keeps that for what a command was asked for, so
//! that it can be piped on.

use std::fmt;
#[cfg(feature = "jetstream")]
use std::path::Path;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::exit::Exit;
use super::log_lines::JsonLines;
use super::{Global, LogFormat};
use crate::clock;
use crate::help::HelpCode;
use crate::logs::LogFiles;

/// The time of a line, in UTC, or a label, or nothing.
struct Prefix {
    time: bool,
    label: Option<String>,
}

impl FormatTime for Prefix {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        if self.time {
            let now = jiff::Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default();
            write!(w, "{now:.3} ")?;
        }
        if let Some(label) = &self.label {
            write!(w, "[{label}]")?;
        }
        Ok(())
    }
}

/// Whether standard error goes to systemd's journal, which adds the time itself. The variable
/// names the journal's socket by device and file number.
#[cfg(unix)]
fn is_journal() -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(socket) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/dev/stderr")
        .is_ok_and(|stderr| socket == format!("{}:{}", stderr.dev(), stderr.ino()))
}

#[cfg(not(unix))]
fn is_journal() -> bool {
    false
}

/// Whether colours are wanted where a terminal shows them: <https://no-color.org>.
pub fn may_colour() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether lines begin with the time: as was said, else where nobody watches and no journal adds
/// it.
pub fn shows_time(global: &Global) -> bool {
    let watched = || std::io::IsTerminal::is_terminal(&std::io::stderr());
    global.timestamp.unwrap_or_else(|| !watched() && !is_journal())
}

/// What is heard: of EDS what the flags say, of libraries only errors, with `--verbose` also what
/// they inform about; `--log-level` goes before both.
fn filter(global: &Global) -> Result<EnvFilter, Exit> {
    let level = match (global.silent, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, true) => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    };
    let libraries = if global.verbose { LevelFilter::INFO } else { LevelFilter::ERROR };
    let mut directives = vec![format!("eds={level}")];
    for wish in &global.log_level {
        let (module, level) = wish.split_once('=').unwrap_or(("eds", wish));
        let level: LevelFilter = level.parse().map_err(|_| {
            Exit::Usage(format!(
                "--log-level {wish:?} is not of the form LEVEL or MODULE=LEVEL; a level is error, \
                 warn, info, debug, trace or off"
            ))
        })?;
        directives.push(format!("{module}={level}"));
    }
    EnvFilter::builder()
        .with_default_directive(libraries.into())
        .parse(directives.join(","))
        .map_err(|e| Exit::Usage(format!("--log-level cannot be used: {e}")))
}

/// Starts logging. With `files` every line goes there too.
pub fn start(global: &Global, files: Option<LogFiles>) -> Result<(), Exit> {
    let files = match (files, &global.log_file_sink) {
        (None, Some(path)) => {
            let files = LogFiles::default();
            files.append_to(path).map_err(|e| {
                Exit::failed(
                    HelpCode::FileUnwritable,
                    format!("no log can be written to {}: {e}", path.display()),
                )
            })?;
            Some(files)
        }
        (files, _) => files,
    };
    // One filter for all: with one of its own for each layer, a record of a library's that is
    // filtered out takes the next line of ours with it (tracing-subscriber 0.3).
    let filter = filter(global)?;
    let label = global.log_label.clone();
    let prefix = Prefix { time: shows_time(global), label: label.clone() };
    let json = || JsonLines { label: label.clone() };
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && may_colour();
    // Whoever read the lines may be gone: that is no reason to fall over.
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = match global.log_format {
        LogFormat::Text => lines.with_ansi(ansi).with_target(false).with_timer(prefix).boxed(),
        LogFormat::Json => lines.with_ansi(false).event_format(json()).boxed(),
    };
    let files = files.map(|files| {
        tracing_subscriber::fmt::layer()
            .event_format(json())
            .with_ansi(false)
            .with_writer(move || files.clone())
            .log_internal_errors(false)
    });
    // A second start, as in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(filter).with(lines).with(files).try_init();
    super::secrets::warn_of_arguments();
    Ok(())
}

/// Starts logging, with a file in `dir`.
#[cfg(feature = "jetstream")]
pub fn start_in(global: &Global, dir: Option<&Path>) -> Result<Option<LogFiles>, Exit> {
    let files = dir.map(|dir| {
        let files = LogFiles::default();
        files.open_in(dir).map(|()| files).map_err(|e| {
            Exit::failed(
                HelpCode::FileUnwritable,
                format!("no log can be written to {}: {e}", dir.display()),
            )
        })
    });
    let files = files.transpose()?;
    start(global, files.clone())?;
    Ok(files)
}
