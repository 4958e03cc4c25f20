//! What a command prints on standard output: lines for people, or with `--json` one document for
//! programs, whatever happens.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::exit::Exit;
use crate::help::{HelpCode, taken_apart};

/// Whether programs read what a command prints.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct JsonFlag {
    /// Print one JSON document: command, version, data (an array), error (null if all went well)
    #[arg(long)]
    pub json: bool,
}

impl JsonFlag {
    /// Prints for `command`, as its user calls it: `dlq list`.
    pub fn printer(self, command: &'static str) -> Printer {
        Printer { command, json: self.json, rows: 0, failed: None }
    }
}

/// Prints what a command has to say. Whoever reads may be gone: that is no reason to fall over.
pub struct Printer {
    command: &'static str,
    json: bool,
    /// How many rows of the document are written.
    rows: u64,
    /// Why no more can be written.
    failed: Option<std::io::Error>,
}

impl Printer {
    /// A line, or several, for people only.
    pub fn line(&mut self, text: impl AsRef<str>) {
        if !self.json {
            self.write(&format!("{}\n", text.as_ref()));
        }
    }

    /// One thing that is told: as it is for programs, and in a line, or several, for people.
    pub fn row(&mut self, data: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
        self.data(data);
        if !self.json {
            self.line(text());
        }
    }

    /// One thing that is told to programs; people read it in lines of their own.
    pub fn data(&mut self, data: impl FnOnce() -> Value) {
        if !self.json {
            return;
        }
        let before = match self.rows {
            0 => self.head(),
            _ => ",\n".to_owned(),
        };
        self.rows = self.rows.saturating_add(1);
        self.write(&format!("{before}{}", data()));
    }

    /// Ends the document with how the command ended, which is handed on.
    pub fn end(mut self, done: Result<(), Exit>) -> Result<(), Exit> {
        if self.json {
            let head = if self.rows == 0 { self.head() } else { String::new() };
            let error = done.as_ref().err().map(error);
            let tail = format!("{head}\n],\"error\":{}}}\n", error.unwrap_or(Value::Null));
            self.write(&tail);
        }
        match (done, self.failed) {
            (Ok(()), Some(e)) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Exit::failed(
                HelpCode::FileUnwritable,
                format!("standard output cannot be written: {e}"),
            )),
            (done, _) => done,
        }
    }

    /// The document up to its first row.
    fn head(&self) -> String {
        format!(
            "{{\"command\":{},\"version\":\"{}\",\"data\":[\n",
            json!(self.command),
            env!("CARGO_PKG_VERSION")
        )
    }

    fn write(&mut self, text: &str) {
        if self.failed.is_some() {
            return;
        }
        let mut out = std::io::stdout().lock();
        self.failed = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err();
    }
}

/// Why a command failed, for programs.
fn error(exit: &Exit) -> Value {
    let text = exit.text();
    let (message, code) = taken_apart(&text);
    json!({
        "message": message, "code": code.map(HelpCode::as_str), "exit_code": exit.code(),
    })
}
