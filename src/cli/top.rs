//! `eds top`: a running server, watched in a terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::health::RunningServer;
use super::logging::may_colour;
use super::output::JsonFlag;
use crate::help::HelpCode;
use crate::status::Status;
use crate::status::top::{Sheet, lines};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The most bytes of an answer that are read: thousands of tables.
const STATUS_BYTES_MAX: u64 = 32 << 20;
/// A terminal that does not tell its size.
const SIZE: (u16, u16) = (80, 24);

#[derive(Args)]
pub struct Top {
    /// Print it once, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    server: RunningServer,
    #[command(flatten)]
    output: JsonFlag,
}

impl Top {
    /// Shows until it is interrupted; once, where nobody watches a terminal.
    pub fn run(&self) -> Result<(), Exit> {
        if self.output.json {
            let mut printer = self.output.printer("top");
            let done = self.look().map(|status| printer.data(|| json!(status)));
            return printer.end(done);
        }
        let is_live = std::io::stdout().is_terminal() && !self.once;
        loop {
            let looked = self.look();
            if !is_live {
                let all = lines(&looked?, &Sheet { rows: usize::MAX, ..sheet() });
                return print(&format!("{}\n", all.join("\n")));
            }
            match looked {
                Ok(status) => print(&redrawn(&lines(&status, &sheet())))?,
                Err(Exit::Failed(why)) => print(&redrawn(&[format!("{why}; trying again")]))?,
                Err(other) => return Err(other),
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn look(&self) -> Result<Status, Exit> {
        const PATH: &str = "/status.json";
        let (status, body) = self.server.ask(PATH, STATUS_BYTES_MAX)?;
        match &*status {
            "200" => serde_json::from_str(&body)
                .map_err(|e| not_serving(&format!("{PATH} is not that of an EDS: {e}"))),
            _ => Err(not_serving(&format!("{PATH} answers {status}"))),
        }
    }
}

fn not_serving(text: &str) -> Exit {
    Exit::failed(HelpCode::NotServing, text)
}

/// What there is to write on.
fn sheet() -> Sheet {
    let (columns, rows) = size();
    let has_colour = std::io::stdout().is_terminal() && may_colour();
    Sheet { columns: columns.into(), rows: rows.into(), has_colour }
}

#[cfg(unix)]
fn size() -> (u16, u16) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map(|size| (size.ws_col, size.ws_row))
        .ok()
        .filter(|(w, h)| *w > 0 && *h > 0)
        .unwrap_or(SIZE)
}

#[cfg(not(unix))]
fn size() -> (u16, u16) {
    SIZE
}

/// From the top left over what was there, so that nothing flickers.
fn redrawn(lines: &[String]) -> String {
    format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n"))
}

fn print(text: &str) -> Result<(), Exit> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|e| Exit::Failed(e.to_string())),
    }
}
