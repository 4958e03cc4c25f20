//! What HQ tells a server, and what the server then does and answers.

use std::path::Path;

use async_nats::Message;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    Config, Ending, Finished, Notice, SessionLoop, Swap, UPDATE_WAIT_MAX, Update, Waiting,
    WorkerCommand, notice,
};
use crate::destination::catalog::DRIVERS;
use crate::destination::form::{self, Filled};
use crate::destination::{Driver, Settings};
use crate::hq::post::outcome_fields;
use crate::release;

impl SessionLoop<'_> {
    pub(super) async fn on_notice(&mut self, message: Message) -> Option<Ending> {
        let encoding = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("content-encoding"))
            .map(|value| value.as_str().to_owned());
        let notice = match notice::read(&message.payload, encoding.as_deref()) {
            Ok(notice) => notice,
            Err(e) => {
                warn!("{e}");
                return None;
            }
        };
        match notice {
            Notice::Ping { subject } => self.post.say(subject, "pong".into()).await,
            Notice::Restart => {
                info!("HQ asks for a restart");
                self.status("restart").await;
                let failed = self.restart_child().await;
                self.respond(
                    "restart",
                    &if failed.is_none() {
                        Ok(None)
                    } else {
                        Err("the worker cannot be started".into())
                    },
                )
                .await;
                return failed;
            }
            Notice::Pause => self.pause(true).await,
            Notice::Unpause => self.pause(false).await,
            Notice::Shutdown { message, deleted } => {
                return Some(self.shut_down(&message, deleted));
            }
            Notice::SendLogs => self.send_logs(true).await,
            Notice::Configure { url, backfill, update_strategy } => {
                self.test(message, url, update_strategy, backfill);
            }
            Notice::Import { backfill } => self.import(backfill).await,
            Notice::DriverConfig => {
                let drivers: Map<String, Value> = DRIVERS
                    .iter()
                    .map(|driver| (driver.scheme.to_owned(), form::shown(driver)))
                    .collect();
                self.post
                    .reply(
                        &message,
                        [("drivers".to_owned(), Value::Object(drivers))].into_iter().collect(),
                    )
                    .await;
            }
            Notice::Validate { driver, config } => {
                self.post.reply(&message, validated(&driver, &config)).await;
            }
            Notice::Upgrade { version } => self.upgrade(version).await,
        }
        None
    }

    async fn pause(&mut self, pause: bool) {
        let action = if pause { "pause" } else { "unpause" };
        info!("HQ asks to {action}");
        self.supervisor.paused = pause;
        if !self
            .order(Waiting::Respond(action), |id| {
                if pause { WorkerCommand::Pause { id } } else { WorkerCommand::Unpause { id } }
            })
            .await
        {
            self.respond(action, &Ok(None)).await;
        }
    }

    fn shut_down(&mut self, message: &str, deleted: bool) -> Ending {
        info!(
            "HQ asks to shut down{}",
            if message.is_empty() { String::new() } else { format!(": {message}") }
        );
        if deleted {
            match Config::write(&self.supervisor.options.data_dir, &[("server_id", None)]) {
                Ok(()) => info!("this server was deleted at HQ: it has to be enrolled anew"),
                Err(e) => error!("{e}"),
            }
        }
        Ending::Shutdown
    }

    /// Tries the destination out, beside everything else.
    fn test(&mut self, message: Message, url: SecretString, strategy: String, backfill: bool) {
        self.tasks.push(Box::pin(async move {
            let outcome = match Settings::parse(url.expose_secret(), DRIVERS) {
                Ok((settings, driver)) => {
                    driver.test(&settings).await.map_err(|failure| failure.text)
                }
                Err(e) => Err(e.to_string()),
            };
            Finished::Tested { message: Box::new(message), url, strategy, backfill, outcome }
        }));
    }

    async fn configured(
        &mut self,
        message: &Message,
        url: SecretString,
        strategy: &str,
        backfill: bool,
        tested: Result<(), String>,
    ) -> Option<Ending> {
        let options = &mut self.supervisor.options;
        let saved = tested.and_then(|()| {
            let strategy = Some(strategy).filter(|text| !text.is_empty());
            Config::write(
                &options.data_dir,
                &[("url", Some(url.expose_secret())), ("update_strategy", strategy)],
            )
            .map_err(|e| e.to_string())
        });
        let mut answer = outcome_fields(&saved.clone().map(|()| None));
        answer.insert("backfill".into(), backfill.into());
        let masked = crate::secret::mask_text(url.expose_secret());
        if let Err(why) = saved {
            warn!("HQ configures {masked}, which cannot be used: {why}");
            self.post.reply(message, answer).await;
            return None;
        }
        info!("HQ configures {masked}: it is the destination from now on");
        answer.insert("maskedURL".into(), masked.into());
        if std::mem::replace(&mut options.url_is_given, false) {
            warn!(
                "the destination that was given by hand (--url, --url-file or EDS_URL) would win \
                 again at the next start: leave it away"
            );
        }
        options.url = Some(url);
        self.post.reply(message, answer).await;
        self.restart_child().await
    }

    async fn import(&mut self, backfill: bool) {
        info!("HQ asks for an import{}", if backfill { "" } else { " of the tables' shapes" });
        self.status("import").await;
        if !self
            .order(Waiting::Respond("import"), |id| WorkerCommand::Import {
                id,
                schema_only: !backfill,
            })
            .await
        {
            self.respond(
                "import",
                &Err("this server has no destination yet: configure it first".into()),
            )
            .await;
        }
    }

    pub(super) async fn finished(&mut self, finished: Finished) -> Option<Ending> {
        match finished {
            Finished::Tested { message, url, strategy, backfill, outcome } => {
                return self.configured(&message, url, &strategy, backfill, outcome).await;
            }
            Finished::Uploaded { asked, path, outcome } => {
                if let Err(why) = &outcome {
                    warn!("{why}; they are uploaded later");
                }
                if asked {
                    let more = [("path".to_owned(), path.into())].into_iter().collect();
                    self.post.answer("sendlogs", "response", &outcome.map(|()| None), more).await;
                }
            }
            Finished::Fetched { version, outcome: Ok(()) } => return self.try_out(version).await,
            Finished::Fetched { version, outcome: Err(why) } => {
                self.not_upgraded(&version, &why).await;
            }
            Finished::RotationOver { id } => {
                if self.waiting.contains_key(&id) {
                    warn!("the worker does not rotate its log");
                    return self.done(id, Ok(None)).await;
                }
            }
            Finished::Renewal { .. } => {}
        }
        None
    }

    // Updates.

    async fn upgrade(&mut self, version: String) {
        info!("HQ asks for version {version}");
        self.status("upgrade").await;
        let options = &self.supervisor.options;
        let refused = match (&options.no_update, &options.releases) {
            (Some(why), _) => Some(why.clone()),
            (None, Err(why)) => Some(why.clone()),
            (None, Ok(_)) if self.update.is_some() => Some("an update is under way".into()),
            (None, Ok(_)) => None,
        };
        if let Some(why) = refused {
            return self.not_upgraded(&version, &why).await;
        }
        let Ok(source) = options.releases.clone() else { return };
        let staging = Swap::staging(&self.supervisor.program);
        self.tasks.push(Box::pin(async move {
            let outcome = fetched(&source, &version, &staging).await;
            if outcome.is_err() {
                let _ = std::fs::remove_file(&staging);
            }
            Finished::Fetched { version, outcome }
        }));
    }

    async fn upgraded(&self, version: &str, outcome: &Result<Option<String>, String>) {
        let more = [("version".to_owned(), version.into())].into_iter().collect();
        self.post.answer("upgrade", "response", outcome, more).await;
    }

    pub(super) async fn not_upgraded(&self, version: &str, why: &str) {
        error!("no update to {version}: {why}");
        self.upgraded(version, &Err(why.to_owned())).await;
    }

    /// The new program takes the old one's place, and shows with a worker whether it can do the
    /// work.
    async fn try_out(&mut self, version: String) -> Option<Ending> {
        let has_worker = self.child.is_some();
        self.end_child().await;
        let swap = match Swap::make(&self.supervisor.program) {
            Ok(swap) => swap,
            Err(e) => {
                self.not_upgraded(
                    &version,
                    &format!("{} cannot be replaced: {e}", self.supervisor.program.display()),
                )
                .await;
                return self.start_child().await.err();
            }
        };
        self.update = Some(Update { swap, version, until: Instant::now() + UPDATE_WAIT_MAX });
        match self.start_child().await {
            Err(Ending::Crashed { how, .. }) => self.roll_back(how).await,
            Err(other) => Some(other),
            // Nothing to show it with.
            Ok(()) if !has_worker => self.update_is_good().await,
            Ok(()) => None,
        }
    }

    /// The worker does its work; where it is a new program's, that stays, and the upper half
    /// becomes it, too.
    pub(super) async fn update_is_good(&mut self) -> Option<Ending> {
        let Update { swap, version, .. } = self.update.take()?;
        swap.keep();
        info!("updated to {version}");
        self.upgraded(&version, &Ok(None)).await;
        Some(Ending::Replaced)
    }

    pub(super) async fn roll_back(&mut self, why: String) -> Option<Ending> {
        let Update { swap, version, .. } = self.update.take()?;
        if let Some(mut child) = self.child.take() {
            child.kill().await;
        }
        let back = swap.roll_back();
        let why = match &back {
            Ok(()) => format!("{why}; the old program is in its place again"),
            Err(e) => format!("{why}; the old program cannot be put back: {e}"),
        };
        self.not_upgraded(&version, &why).await;
        self.start_child().await.err()
    }
}

/// A genuine program of that version, at `staging`.
async fn fetched(
    source: &release::ReleaseSource,
    version: &str,
    staging: &Path,
) -> Result<(), String> {
    source.fetch(version, staging).await?;
    let found = release::version_of(staging).await?;
    let wanted = version.trim_start_matches('v');
    if found == wanted {
        Ok(())
    } else {
        Err(format!("the program in the release says that it is version {found:?}"))
    }
}

/// HQ's form, checked: the URL, or what is wrong with which field. HQ knows the message by its odd
/// name.
fn validated(scheme: &str, filled: &Filled) -> Map<String, Value> {
    let known = |driver: &&Driver| driver.scheme == scheme || driver.aliases.contains(&scheme);
    let answer = match DRIVERS.iter().find(known).map(|driver| form::url_of(driver, filled)) {
        Some(Ok(url)) => json!({ "success": true, "url": url }),
        Some(Err(errors)) => {
            let errors: Vec<Value> =
                errors.into_iter().map(|e| json!({ "field": e.field, "error": e.error })).collect();
            json!({ "success": false, "field_errors": errors })
        }
        None => {
            json!({ "success": false, "messsage": format!("there is no destination {scheme:?} in \
                this version of EDS") })
        }
    };
    match answer {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
