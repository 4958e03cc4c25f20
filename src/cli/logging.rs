//! What EDS tells while it works: lines for people on standard error, JSON lines in a file where
//! asked.

use std::fmt;
#[cfg(feature = "jetstream")]
use std::path::Path;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Global;
use super::exit::Exit;
use crate::clock;
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

/// Starts logging. Of libraries only errors are heard, with `--verbose` also what they inform
/// about. With `files` every line goes there too.
pub fn start(global: &Global, files: Option<LogFiles>) -> Result<(), Exit> {
    let files = match (files, &global.log_file_sink) {
        (None, Some(path)) => {
            let files = LogFiles::default();
            files.append_to(path).map_err(|e| {
                Exit::Failed(format!("no log can be written to {}: {e}", path.display()))
            })?;
            Some(files)
        }
        (files, _) => files,
    };
    let level = match (global.silent, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, true) => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    };
    let libraries = if global.verbose { LevelFilter::INFO } else { LevelFilter::ERROR };
    // One filter for all: with one of its own for each layer, a record of a library's that is
    // filtered out takes the next line of ours with it (tracing-subscriber 0.3).
    let filter = EnvFilter::builder()
        .with_default_directive(libraries.into())
        .parse_lossy(format!("eds={level}"));
    let prefix = Prefix { time: global.timestamp, label: global.log_label.clone() };
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // Whoever read the lines may be gone: that is no reason to fall over.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(ansi)
        .with_target(false)
        .with_timer(prefix);
    let files = files.map(|files| {
        tracing_subscriber::fmt::layer()
            .json()
            .with_writer(move || files.clone())
            .log_internal_errors(false)
    });
    // A second start, as in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(filter).with(lines).with(files).try_init();
    Ok(())
}

/// Starts logging, with a file in `dir`.
#[cfg(feature = "jetstream")]
pub fn start_in(global: &Global, dir: Option<&Path>) -> Result<Option<LogFiles>, Exit> {
    let files = dir.map(|dir| {
        let files = LogFiles::default();
        files
            .open_in(dir)
            .map(|()| files)
            .map_err(|e| Exit::Failed(format!("no log can be written to {}: {e}", dir.display())))
    });
    let files = files.transpose()?;
    start(global, files.clone())?;
    Ok(files)
}
