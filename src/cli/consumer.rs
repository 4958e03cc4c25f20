//! `eds consumer`: the durable consumer on NATS, in words, and the way back to the Go program.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::{ApiKey, HqAccess, named_servers};
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
use crate::config::Config;
use crate::feed::jetstream::api::{AckPolicy, ConsumerInfo};
use crate::feed::jetstream::hand_back::described;
use crate::help::HelpCode;
use crate::supervisor::consumer::ConsumerAccess;
use crate::worker::nats_login::servers;

#[derive(Args)]
pub struct Consumer {
    #[command(subcommand)]
    what: ConsumerTask,
}

#[derive(Subcommand)]
enum ConsumerTask {
    /// Show its configuration and position
    Show(Reach),
    /// Recreate it as the Go program does, at EDS's position, to go back to that program
    HandBack(Reach),
}

/// How to get to NATS.
#[derive(Args)]
struct Reach {
    /// NATS servers, separated by commas [default: nats://connect.nats.shopmonkey.pub]
    #[arg(long, value_name = "URL,…")]
    server: Option<String>,
    /// NATS credentials file [default: the running server's, else requested from HQ]
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// Trust these certificate authorities for NATS, in PEM form [default: the system's]
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    #[arg(long, value_name = "URL", hide = true)]
    api_url: Option<String>,
    /// Append this to the name of the consumer [default: nothing]
    #[arg(long, value_name = "TEXT")]
    consumer_suffix: Option<String>,
    #[command(flatten)]
    output: JsonFlag,
}

impl Consumer {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut printer = match &self.what {
            ConsumerTask::Show(reach) => reach.output.printer("consumer show"),
            ConsumerTask::HandBack(reach) => reach.output.printer("consumer hand-back"),
        };
        let done = Box::pin(self.tell(&global, &mut printer)).await;
        printer.end(done)
    }

    async fn tell(self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        match self.what {
            ConsumerTask::Show(reach) => {
                let info = reach.access(global)?.look().await?.ok_or_else(|| {
                    Exit::failed(
                        HelpCode::NotThere,
                        "there is no such consumer: EDS has not streamed yet, or not for three days",
                    )
                })?;
                printer.row(|| for_programs(&info), || described(&info).join("\n"));
            }
            ConsumerTask::HandBack(reach) => {
                let (since, info) = reach.access(global)?.hand_back().await?;
                printer.row(
                    || {
                        let mut told = for_programs(&info);
                        told["resumes_with_messages_since"] = json!(since);
                        told
                    },
                    || described(&info).join("\n"),
                );
                printer.line(format!(
                    "\nThe Go program can resume with messages published since {since}. Do not \
                     start EDS meanwhile: it would take the consumer back."
                ));
            }
        }
        Ok(())
    }
}

fn for_programs(info: &ConsumerInfo) -> Value {
    json!({
        "name": info.name, "created": info.created,
        "is_cumulative": info.config.ack_policy == AckPolicy::All,
        "acknowledged_sequence": info.floor(), "delivered_sequence": info.delivered.stream_seq,
        "unacknowledged": info.num_ack_pending, "pending": info.num_pending,
        "is_read": info.num_waiting > 0,
    })
}

impl Reach {
    fn access(self, global: &Global) -> Result<ConsumerAccess, Exit> {
        let config = Config::read(&global.data_dir)?;
        let hq = HqAccess::of_server(&ApiKey::default(), self.api_url.as_deref(), &config)?;
        let servers =
            servers(named_servers(self.server.as_deref())?.as_deref(), hq.address.as_deref());
        // Without a token HQ gives no credentials.
        let hq = if hq.token.is_some() { hq.client()? } else { None };
        Ok(ConsumerAccess {
            data_dir: global.data_dir.clone(),
            servers,
            creds: self.creds,
            nats_ca: self.nats_ca,
            hq,
            server_id: config.server_id.unwrap_or_default(),
            consumer_suffix: self.consumer_suffix,
        })
    }
}
