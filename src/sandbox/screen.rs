//! How far a demo is, on standard output.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::pipeline::progress::Snapshot;

/// A table that stays in its place on a terminal; a line now and then elsewhere.
pub struct Screen {
    live: bool,
    /// Nothing is shown: programs read standard output.
    dark: bool,
    last: Mutex<Shown>,
}

/// What was shown last.
struct Shown {
    at: Instant,
    done: u64,
    lines: usize,
}

impl Screen {
    /// Standard output, with nothing on it yet.
    pub fn on_stdout() -> Screen {
        Screen {
            live: std::io::stdout().is_terminal(),
            dark: false,
            last: Mutex::new(Shown { at: Instant::now(), done: 0, lines: 0 }),
        }
    }

    /// A screen that shows nothing.
    pub fn dark() -> Screen {
        Screen { live: false, dark: true, ..Screen::on_stdout() }
    }

    /// How long what is shown may stay.
    pub fn interval(&self) -> Duration {
        if self.live { Duration::from_millis(500) } else { Duration::from_secs(2) }
    }

    /// Shows how far the demo is.
    pub fn show(&self, now: &Snapshot) {
        if self.dark {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = last.at.elapsed().as_secs_f64().max(0.001);
        let rate = now.done.saturating_sub(last.done) as f64 / seconds;
        let summary = format!(
            "{} events applied, {rate:.0} per second, lag {} events / {:.2} s",
            now.done, now.lag_events, now.lag_seconds
        );
        let mut out = String::new();
        if self.live {
            if last.lines > 0 {
                out += &format!("\x1b[{}A\x1b[J", last.lines);
            }
            out += &format!("\n  {:<16} {:>10} {:>9}\n", "table", "upserts", "deletes");
            now.tables.iter().for_each(|(name, counts)| {
                out += &format!("  {name:<16} {:>10} {:>9}\n", counts.upserts, counts.deletes);
            });
            out += &format!("  {summary}\n");
        } else {
            out = format!("  {summary}\n");
        }
        *last = Shown { at: Instant::now(), done: now.done, lines: out.matches('\n').count() };
        let _ =
            std::io::stdout().write_all(out.as_bytes()).and_then(|()| std::io::stdout().flush());
    }
}
