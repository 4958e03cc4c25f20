//! `eds fork`: the worker of a server.

use clap::Args;
use secrecy::ExposeSecret;
use tracing::error;

use super::exit::Exit;
use super::stream::Stream;
use super::{Global, logging};
use crate::logs::LogFiles;
use crate::worker::supervised::{WorkRequest, work};
use crate::worker::supervisor_pipe::SupervisorPipe;

#[derive(Args)]
pub struct Worker {
    #[command(flatten)]
    pub stream: Stream,
    /// Take commands on standard input, and write events to standard output
    #[arg(long, hide = true)]
    supervised: bool,
}

impl Worker {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        if !self.supervised {
            return Box::new(self.stream).run(global).await;
        }
        let logs = logging::start_in(&global, self.stream.logs_dir.as_deref())?;
        let mut supervisor = SupervisorPipe::open();
        let worked = self.work(&global, logs, &mut supervisor).await;
        if let Err(exit) = &worked {
            error!("{}", exit.text());
        }
        supervisor.close().await;
        worked
    }

    async fn work(
        self: Box<Self>,
        global: &Global,
        logs: Option<LogFiles>,
        supervisor: &mut SupervisorPipe,
    ) -> Result<(), Exit> {
        let begin = supervisor.begin().await?;
        let mut stream = self.stream;
        stream.streaming.to.api_url = begin.api_url.clone();
        let request = WorkRequest {
            stream: stream.request(global, Some(begin.url.expose_secret()))?,
            token: begin.token,
            api_url: begin.api_url,
            logs,
        };
        Ok(work(request, supervisor).await?)
    }
}
