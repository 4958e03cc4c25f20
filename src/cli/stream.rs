//! `eds stream`: changes of NATS JetStream into a destination, without HQ.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tracing::info;

use super::args::Streaming;
use super::exit::Exit;
use super::{Global, logging};
use crate::pipeline::End;
use crate::signals::stop_on_signal_within;
use crate::systemd;
use crate::worker::run::finish;
use crate::worker::stream::StreamRequest;

#[derive(Args)]
pub struct Stream {
    #[command(flatten)]
    pub streaming: Streaming,
    /// NATS credentials file; not needed for a server on this machine without logins
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// Stop once nothing is pending
    #[arg(long)]
    until_caught_up: bool,
    #[arg(long, hide = true, value_name = "DIR")]
    pub logs_dir: Option<PathBuf>,
}

impl Stream {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        logging::start_in(&global, self.logs_dir.as_deref())?;
        let request = self.request(&global, None)?;
        let restart = request.apply.restart;
        let stop = stop_on_signal_within(self.streaming.stop_timeout);
        let stream = request.open(Duration::ZERO).await?;
        let engine = stream.start(restart, stop).await?;
        systemd::ready();
        match systemd::watched(finish(engine, &stream.progress, false)).await? {
            End::CaughtUp => info!("nothing is pending"),
            End::Stopped => info!("stopped"),
        }
        Ok(())
    }

    /// What is to be streamed; `fallback` is the destination's URL that is not an argument.
    pub fn request(&self, global: &Global, fallback: Option<&str>) -> Result<StreamRequest, Exit> {
        Ok(StreamRequest {
            creds: self.creds.clone(),
            until_caught_up: self.until_caught_up,
            ..self.streaming.request(global, fallback)?
        })
    }
}
