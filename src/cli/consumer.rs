//! `eds consumer`: the durable consumer on NATS, in words, and the way back to the Go program.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};

use super::exit::Exit;
use super::{Global, logging};
use crate::config::Config;
use crate::feed::Start;
use crate::feed::jetstream::api::AckPolicy;
use crate::feed::jetstream::connect::{Link, Servers};
use crate::feed::jetstream::hand_back::described;
use crate::feed::jetstream::identity::Identity;
use crate::feed::jetstream::{JetStream, JetStreamSettings};
use crate::hq::session::{self, NoSession};
use crate::hq::{Hq, api_of};
use crate::http::Http;
use crate::state::Lock;
use crate::worker::nats::{identity, servers};

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
}

/// A session of HQ that was begun for the credentials alone.
struct CredentialSession {
    hq: Hq,
    id: String,
}

impl Consumer {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        match self.what {
            ConsumerTask::Show(reach) => {
                let (stream, session) = reach.stream(&global).await?;
                let looked = stream.look().await;
                end(session).await;
                let info = looked?.ok_or_else(|| {
                    Exit::Failed(
                        "there is no such consumer: EDS has \
                    not streamed yet, or not for three days"
                            .into(),
                    )
                })?;
                described(&info).iter().for_each(|line| println!("{line}"));
                Ok(())
            }
            ConsumerTask::HandBack(reach) => {
                let _lock =
                    Lock::take(&global.data_dir).map_err(|e| Exit::Failed(e.to_string()))?;
                let (mut stream, session) = reach.stream(&global).await?;
                let handed = stream.hand_back().await;
                end(session).await;
                let (since, info) = handed?;
                described(&info).iter().for_each(|line| println!("{line}"));
                println!(
                    "\nThe Go program can resume with messages published since {since}. Do not \
                     start EDS meanwhile: it would take the consumer back."
                );
                Ok(())
            }
        }
    }
}

async fn end(credential_session: Option<CredentialSession>) {
    if let Some(CredentialSession { hq, id }) = credential_session
        && let Err(e) = session::end(&hq, &id, false).await
    {
        tracing::warn!("the end of the session was not reported to HQ: {e}");
    }
}

impl Reach {
    async fn stream(
        &self,
        global: &Global,
    ) -> Result<(JetStream, Option<CredentialSession>), Exit> {
        let config = Config::read(&global.data_dir)?;
        let api_url = self.api_url.clone().or_else(|| config.token.as_ref().and_then(api_of));
        let urls = servers(self.server.as_deref(), api_url.as_deref());
        let file = self.creds.clone().or_else(|| of_running(&global.data_dir));
        let (identity, creds, session) = match (file, api_url, &config.token) {
            (None, Some(api_url), Some(token)) => {
                self.ask(&api_url, token, config.server_id.as_deref().unwrap_or_default(), &urls)
                    .await?
            }
            (file, ..) => {
                let (identity, creds) = identity(file.as_deref(), &urls)?;
                (identity, creds, None)
            }
        };
        let servers = Servers {
            urls,
            creds,
            certificate_authority: self.nats_ca.clone(),
            name: format!("eds-{}", identity.server_id),
        };
        let settings = JetStreamSettings {
            durable: identity.consumer(self.consumer_suffix.as_deref()),
            companies: identity.companies,
            policy: AckPolicy::All,
            max_ack_pending: 25_000,
            batch: 1,
            start: Start::NewOnly,
        };
        match Link::connect(&servers).await {
            Ok(link) => Ok((JetStream::new(link, settings), session)),
            Err(e) => {
                end(session).await;
                Err(e.into())
            }
        }
    }

    async fn ask(
        &self,
        api_url: &str,
        token: &SecretString,
        server_id: &str,
        urls: &str,
    ) -> Result<(Identity, Option<SecretString>, Option<CredentialSession>), Exit> {
        let hq = Hq::new(Http::new().map_err(Exit::Failed)?, api_url, Some(token.clone()));
        let session = session::start(&hq, server_id, &[], None).await.map_err(|e| match e {
            NoSession::Conflict(e) => Exit::Failed(format!(
                "{e}: a server runs elsewhere; run this command there, or stop that server \
                     first"
            )),
            NoSession::Unavailable(e) | NoSession::Refused(e) => Exit::Failed(e.to_string()),
        })?;
        let opened = Some(CredentialSession { hq, id: session.id.clone() });
        let read = match &session.credential {
            Some(credential) => session::credential_text(credential)
                .and_then(|text| Ok((Identity::from_hq(text.expose_secret())?, Some(text))))
                .map_err(Exit::Failed),
            None => identity(None, urls).map_err(Exit::from),
        };
        match read {
            Ok((identity, creds)) => Ok((identity, creds, opened)),
            Err(exit) => {
                end(opened).await;
                Err(exit)
            }
        }
    }
}

/// The credentials of the server that runs with this data directory.
fn of_running(data_dir: &Path) -> Option<PathBuf> {
    let sessions = std::fs::read_dir(data_dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path().join(crate::supervisor::CREDS));
    sessions
        .filter(|creds| creds.is_file())
        .max_by_key(|creds| std::fs::metadata(creds).and_then(|m| m.modified()).ok())
}
