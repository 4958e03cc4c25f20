//! HQ's notifications: what the server does about each, and what it answers.

use async_nats::{HeaderValue, Message};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tracing::{error, info, warn};

use super::worker::OnDone;
use super::{Ending, SessionLoop, TaskOutcome};
use crate::clock::now_ns;
use crate::config::Config;
use crate::destination::catalog::DRIVERS;
use crate::destination::form::{self, Filled};
use crate::destination::options::masked;
use crate::destination::{Access, Driver, Settings};
use crate::hq::nats::outcome_fields;
use crate::hq::notice::{self, Notice};
use crate::status::desk::PageAction;
use crate::worker::pipe::WorkerCommand;

/// A destination that HQ wants the server to use, and the request that HQ waits for.
pub(super) struct DestinationTest {
    request: Message,
    url: SecretString,
    update_strategy: String,
    backfill: bool,
}

impl SessionLoop<'_> {
    /// A notification that cannot be read is logged and nothing else: HQ may be newer.
    pub(super) async fn on_notice(&mut self, message: Message) -> Option<Ending> {
        let encoding = message
            .headers
            .as_ref()
            .and_then(|h| h.get("content-encoding"))
            .map(HeaderValue::as_str);
        let notice = match notice::read(&message.payload, encoding) {
            Ok(notice) => notice,
            Err(e) => {
                warn!("{e}");
                return None;
            }
        };
        match notice {
            Notice::Ping { subject } => self.connection.say(subject, "pong".into()).await,
            Notice::Restart => return self.restart().await,
            Notice::Pause => self.pause_for_hq(true).await,
            Notice::Unpause => self.pause_for_hq(false).await,
            Notice::Shutdown { message, deleted } => {
                return Some(self.shut_down(&message, deleted));
            }
            Notice::SendLogs => self.send_logs().await,
            Notice::Configure { url, backfill, update_strategy } => {
                let request = message;
                self.test(DestinationTest { request, url, update_strategy, backfill });
            }
            Notice::Import { backfill } => self.import(backfill).await,
            Notice::DriverConfig => self.connection.reply(&message, forms()).await,
            Notice::Validate { driver, config } => {
                self.connection.reply(&message, validated(&driver, &config)).await;
            }
            Notice::Upgrade { version } => self.upgrade(version).await,
        }
        None
    }

    async fn restart(&mut self) -> Option<Ending> {
        info!("HQ asks for a restart");
        self.status("restart").await;
        let failed = self.reload().await;
        let outcome = match &failed {
            None => Ok(None),
            Some(_) => Err("the worker cannot be started".into()),
        };
        self.respond("restart", &outcome).await;
        failed
    }

    /// Does what somebody wants at the status page. What comes of it the page shows.
    pub(super) async fn on_order(&mut self, order: PageAction) {
        match order {
            PageAction::Pause | PageAction::Unpause => {
                let pause = order == PageAction::Pause;
                info!("somebody at the status page {}", if pause { "pauses" } else { "unpauses" });
                self.pause(pause, OnDone::Nothing).await;
            }
            PageAction::Import { table } => {
                info!("somebody at the status page imports table {table:?}");
                let tables = vec![table];
                let command = |id| WorkerCommand::Import { id, schema_only: false, tables };
                if !self.command(OnDone::Nothing, command).await {
                    warn!("nothing can be imported: this server has no worker now");
                }
            }
            // That is for whoever streams, which hears of it by itself.
            PageAction::Retry { .. } => {}
        }
    }

    async fn pause_for_hq(&mut self, pause: bool) {
        let action = if pause { "pause" } else { "unpause" };
        info!("HQ asks to {action}");
        if !self.pause(pause, OnDone::Respond(action)).await {
            self.respond(action, &Ok(None)).await;
        }
    }

    /// Pauses the worker or lets it go on, and those after it, too. False if there is none now.
    async fn pause(&mut self, pause: bool, on_done: OnDone) -> bool {
        self.supervisor.paused_since = match (pause, self.supervisor.paused_since) {
            (true, None) => Some(now_ns()),
            (true, since) => since,
            (false, _) => None,
        };
        let command = |id| match pause {
            true => WorkerCommand::Pause { id },
            false => WorkerCommand::Unpause { id },
        };
        self.command(on_done, command).await
    }

    /// `deleted`: the server's identity is void, so that the next start must not use it.
    fn shut_down(&mut self, message: &str, deleted: bool) -> Ending {
        let reason = if message.is_empty() { String::new() } else { format!(": {message}") };
        info!("HQ asks to shut down{reason}");
        if deleted {
            match Config::write(&self.supervisor.options.data_dir, &[("server_id", None)]) {
                Ok(()) => info!("this server was deleted at HQ: enrol it again"),
                Err(e) => error!("{e}"),
            }
        }
        Ending::Shutdown
    }

    /// Tests a destination beside everything else: that may take a while.
    fn test(&mut self, test: DestinationTest) {
        self.tasks.push(Box::pin(async move {
            let outcome = match Settings::parse(test.url.expose_secret(), DRIVERS) {
                Ok((settings, driver)) => {
                    driver.test(&settings, Access::Write).await.map_err(|failure| failure.text)
                }
                Err(e) => Err(e.to_string()),
            };
            TaskOutcome::DestinationTested(Box::new(test), outcome)
        }));
    }

    /// Takes up the destination that was tested, if it can be used.
    pub(super) async fn configure(
        &mut self,
        test: DestinationTest,
        outcome: Result<(), String>,
    ) -> Option<Ending> {
        let DestinationTest { request, url, update_strategy, backfill } = test;
        let update_strategy = Some(update_strategy).filter(|text| !text.is_empty());
        let options = &mut self.supervisor.options;
        let saved = outcome.map(|()| {
            let entries = [
                ("url", Some(url.expose_secret())),
                ("update_strategy", update_strategy.as_deref()),
            ];
            let unsaved = Config::write(&options.data_dir, &entries).err();
            unsaved.map(|e| format!("{e}: it is forgotten at the end of this process"))
        });
        if let Ok(unsaved) = &saved {
            self.supervisor.is_unsaved = unsaved.is_some();
        }
        if let Ok(Some(remark)) = &saved {
            warn!("{remark}");
        }
        let mut answer = outcome_fields(&saved);
        answer.insert("backfill".into(), backfill.into());
        let masked = masked(url.expose_secret(), DRIVERS);
        if let Err(why) = saved {
            warn!("HQ configures {masked}, which cannot be used: {why}");
            self.connection.reply(&request, answer).await;
            return None;
        }
        info!("HQ configures {masked}: it is the destination from now on");
        answer.insert("maskedURL".into(), masked.into());
        if std::mem::replace(&mut options.given.url, false) {
            warn!(
                "--url, --url-file and EDS_URL would take precedence over HQ again at the next start: remove them"
            );
        }
        options.url = Some(url);
        options.update_strategy = update_strategy;
        self.connection.reply(&request, answer).await;
        self.restart_child().await
    }

    async fn import(&mut self, backfill: bool) {
        info!("HQ asks for an import{}", if backfill { "" } else { " of the tables' shapes" });
        self.status("import").await;
        let command = |id| WorkerCommand::Import { id, schema_only: !backfill, tables: Vec::new() };
        if !self.command(OnDone::Respond("import"), command).await {
            let why = match self.supervisor.options.url {
                None => "this server has no destination yet: configure it first",
                Some(_) => "the worker does not run now, and is started again: order it then",
            };
            self.respond("import", &Err(why.into())).await;
        }
    }
}

/// The forms of all destinations, by scheme.
fn forms() -> Map<String, Value> {
    let drivers: Map<String, Value> =
        DRIVERS.iter().map(|driver| (driver.scheme.to_owned(), form::shown(driver))).collect();
    [("drivers".to_owned(), Value::Object(drivers))].into_iter().collect()
}

/// HQ's form, checked: the URL, or what is wrong with which field. HQ reads the message from a
/// field of this spelling.
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
            let why = format!("there is no destination {scheme:?} in this version of EDS");
            json!({ "success": false, "messsage": why })
        }
    };
    match answer {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
