//! `eds fork`: the worker of a server.

use clap::Args;
use tracing::error;

use super::exit::Exit;
use super::stream::Stream;
use super::{Global, logging};
use crate::logs::LogFiles;
use crate::worker::pipe::WorkerEvent;
use crate::worker::stream::StreamRequest;
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
            if !matches!(exit, Exit::Fenced(_)) {
                let why = exit.text();
                supervisor.events().send(WorkerEvent::Failed { why }).await;
            }
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
        stream.streaming.to.place.chosen = Some(begin.url);
        if begin.schema.is_some() {
            stream.streaming.to.schema = begin.schema;
        }
        if begin.servers.is_some() {
            stream.streaming.server = begin.servers;
        }
        // A supervisor that serves the status itself leaves its worker no port.
        let serves_status = stream.streaming.port != 0;
        let request = WorkRequest {
            stream: StreamRequest { serves_status, ..stream.request(global, None)? },
            token: begin.token,
            api_url: begin.api_url,
            logs,
        };
        Ok(work(request, supervisor).await?)
    }
}
