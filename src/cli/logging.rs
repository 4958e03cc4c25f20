//! What EDS tells while it works: lines for people on standard error, JSON lines in a file where asked.

use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::Global;
use super::exit::Exit;

/// The time of a line, in UTC, or a label, or nothing.
struct Prefix {
    time: bool,
    label: Option<String>,
}

impl FormatTime for Prefix {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        if self.time {
            write!(w, "{:.3} ", jiff::Timestamp::now())?;
        }
        if let Some(label) = &self.label {
            write!(w, "[{label}]")?;
        }
        Ok(())
    }
}

/// Starts logging. Libraries are heard from warnings on, with `--verbose` from debug on.
pub fn start(global: &Global, logs_dir: Option<&Path>) -> Result<(), Exit> {
    let level = match (global.silent, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, true) => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    };
    let libraries = if global.verbose { LevelFilter::INFO } else { LevelFilter::ERROR };
    let filter = || EnvFilter::builder().with_default_directive(libraries.into()).parse_lossy(format!("eds={level}"));
    let prefix = Prefix { time: global.timestamp, label: global.log_label.clone() };
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false).with_timer(prefix).with_filter(filter());
    let file = match logs_dir {
        None => None,
        Some(dir) => {
            let failed = |e: std::io::Error| Exit::Failed(format!("no log can be written to {}: {e}", dir.display()));
            std::fs::create_dir_all(dir).map_err(failed)?;
            let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
            let file = OpenOptions::new().create(true).append(true).open(dir.join(format!("eds-{millis}.log"))).map_err(failed)?;
            Some(tracing_subscriber::fmt::layer().json().with_writer(Mutex::new(file)).with_filter(filter()))
        }
    };
    // A second start, as in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(lines).with(file).try_init();
    Ok(())
}
