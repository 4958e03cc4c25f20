//! `eds health`: asks a running server how it is, for containers without a shell.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use crate::help::HelpCode;

/// How long the server may take for each step of its answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

#[derive(Args)]
pub struct Health {
    /// Ask whether changes are delivered, not only whether the server lives
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    server: RunningServer,
    #[command(flatten)]
    output: JsonFlag,
}

impl Health {
    /// Ends with 0 if the server says that it is well.
    pub fn run(&self) -> Result<(), Exit> {
        let mut printer = self.output.printer("health");
        let done = self.ask(&mut printer);
        printer.end(done)
    }

    fn ask(&self, printer: &mut Printer) -> Result<(), Exit> {
        let path = if self.ready { "/readyz" } else { "/livez" };
        let (status, body) = self.server.ask(path, ANSWER_BYTES_MAX)?;
        match &*status {
            "200" => {
                let answer = body.trim();
                printer.row(|| json!({"path": path, "answer": answer}), || answer.to_owned());
                Ok(())
            }
            _ => {
                let answer = body.trim().lines().next().unwrap_or_default();
                let answer = match answer.starts_with('<') {
                    true => "what answers there is no EDS; --port names the right one",
                    false => answer,
                };
                let text = format!("{path} answers {status}: {answer}");
                Err(Exit::failed(HelpCode::NotServing, text))
            }
        }
    }
}

/// Where a running server tells how it is.
#[derive(Args)]
pub struct RunningServer {
    /// Port of the server's health endpoint
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// Address of that port
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    bind: IpAddr,
}

impl RunningServer {
    /// Status and body of the answer about `path`, of which so many bytes are read at most.
    pub fn ask(&self, path: &str, bytes_max: u64) -> Result<(String, String), Exit> {
        // A server that listens on every address is reached at this machine's own.
        let address = match self.bind {
            IpAddr::V4(all) if all.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(all) if all.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            one => one,
        };
        let address = SocketAddr::new(address, self.port);
        let answer = answer(address, path, bytes_max).map_err(|e| {
            let text = format!(
                "nothing answers at http://{address}{path}: {e}; does EDS run, and with this \
                 --port?"
            );
            Exit::failed(HelpCode::NotServing, text)
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or("no status");
        Ok((status.to_owned(), body.to_owned()))
    }
}

fn answer(address: SocketAddr, path: &str, bytes_max: u64) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WAIT_MAX)?;
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
    // Of HTTP/1.0, so that the body comes as it is and not in chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(bytes_max).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
