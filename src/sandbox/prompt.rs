//! The prompt of `eds sandbox`: what HQ is told to do there, and what servers tell it.

use std::io::BufRead;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::check;
use super::hq::SandboxHq;
use super::hq::nats::HqNats;
use super::shop::Shop;
use crate::destination::Settings;
use crate::destination::catalog::DRIVERS;

/// What can be typed.
pub const WORDS: &str =
    "  configure URL    the server's destination, e.g. configure sqlite://shop.db
  import           import a full export; `import shapes` for the tables alone
  pause, unpause   stop and resume streaming
  restart          start a new worker
  sendlogs         upload the log
  upgrade VERSION  replace the program, from --releases
  drivers          the destinations, as the server describes them
  ping             ask whether the server is alive
  sessions         what HQ knows of each session
  check URL        compare a destination with the shop, row by row
  rate N           changes per second from now on
  shutdown         stop the server
  quit             stop the sandbox";

/// Lines that wait to be obeyed.
const LINES_MAX: usize = 16;
/// The most changes per second.
const RATE_MAX: f64 = 1e5;
/// How long what was published last may be on its way to a destination.
const ARRIVAL_WAIT: Duration = Duration::from_secs(1);

/// Obeys what is typed.
pub struct Prompt {
    /// What servers talk to over HTTP.
    pub hq: SandboxHq,
    /// What servers talk to over NATS.
    pub nats: HqNats,
    /// The shop that they stream.
    pub shop: Arc<Mutex<Shop>>,
    /// Its changes per second.
    pub rate: Arc<Mutex<f64>>,
}

/// What is typed, line by line.
pub fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || line.is_ok_and(|line| sender.blocking_send(line).is_err()) {
                return;
            }
        }
    });
    lines
}

impl Prompt {
    /// Prints what servers have said since; how much that is by now.
    pub fn tell(&self, told: usize) -> usize {
        let heard = self.nats.heard();
        for said in &heard[told..] {
            let document = said.document();
            match said.topic.as_str() {
                "heartbeat" => {
                    let stats = &document["stats"]["metrics"];
                    let paused = if document["paused"].is_string() { ", paused" } else { "" };
                    println!(
                        "« heartbeat {}: up {} s, {} events, {} pending{paused}",
                        document["offset"],
                        document["uptime"],
                        stats["totalEvents"],
                        stats["pendingEvents"]
                    );
                }
                topic => println!("« {topic} {document}"),
            }
        }
        heard.len()
    }

    /// Does what the line says, or prints why not.
    pub async fn obey(&self, line: &str) {
        let (word, rest) =
            line.split_once(' ').map_or((line, ""), |(word, rest)| (word, rest.trim()));
        let session = self
            .hq
            .sessions()
            .into_iter()
            .rev()
            .find(|session| session.ended.is_none())
            .map(|session| session.id);
        let done = match (word, session) {
            ("", _) => Ok(()),
            ("help" | "?", _) => {
                println!("{WORDS}");
                Ok(())
            }
            ("sessions", _) => {
                self.sessions();
                Ok(())
            }
            ("check", _) => self.check(rest).await,
            ("rate", _) => rest
                .parse()
                .map(|rate: f64| {
                    *self.rate.lock().unwrap_or_else(PoisonError::into_inner) =
                        rate.clamp(0.0, RATE_MAX);
                })
                .map_err(|e| e.to_string()),
            (_, None) => Err("no server has a session".into()),
            (word, Some(session)) => self.notify(&session, word, rest).await,
        };
        if let Err(why) = done {
            println!("{why}");
        }
    }

    async fn notify(&self, session: &str, word: &str, rest: &str) -> Result<(), String> {
        let nats = &self.nats;
        match word {
            "configure" => {
                let reply = nats
                    .ask(
                        session,
                        word,
                        json!({ "url": rest, "backfill": true, "updateStrategy": "standard" }),
                    )
                    .await?;
                println!("« {reply}");
                Ok(())
            }
            "drivers" => {
                let reply = nats.ask(session, "driverconfig", Value::Null).await?;
                println!("« {}", serde_json::to_string_pretty(&reply).unwrap_or_default());
                Ok(())
            }
            "ping" => {
                println!("« {}", if nats.ping(session).await { "pong" } else { "no answer" });
                Ok(())
            }
            "import" => nats.send(session, word, json!({ "backfill": rest != "shapes" })).await,
            "upgrade" => nats.send(session, word, json!({ "version": rest })).await,
            "shutdown" => {
                nats.send(
                    session,
                    word,
                    json!({ "message": "the sandbox says so", "deleted": false }),
                )
                .await
            }
            "pause" | "unpause" | "restart" | "sendlogs" => {
                nats.send(session, word, Value::Null).await
            }
            other => Err(format!("{other:?} is not known; `help` shows what is")),
        }
    }

    fn sessions(&self) {
        for session in self.hq.sessions() {
            let state = match session.ended {
                None => "under way",
                Some(false) => "ended",
                Some(true) => "ended in error",
            };
            let uploads: Vec<String> = session
                .uploads
                .iter()
                .map(|upload| format!("{} ({} bytes)", upload.kind, upload.bytes.len()))
                .collect();
            println!(
                "{} of {}: {state}; version {}, destination {}; uploads: {}",
                session.id,
                session.server_id,
                session.said["version"],
                session.said["driver"]["url"],
                uploads.join(", ")
            );
        }
    }

    /// The shop stands still meanwhile, and what it published last may still be on its way.
    async fn check(&self, url: &str) -> Result<(), String> {
        let (settings, _) = Settings::parse(url, DRIVERS).map_err(|e| e.to_string())?;
        let rate =
            std::mem::replace(&mut *self.rate.lock().unwrap_or_else(PoisonError::into_inner), 0.0);
        tokio::time::sleep(ARRIVAL_WAIT).await;
        let shop = self.shop.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reports = check::reports(&shop, &settings, url).await;
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = rate;
        reports?.iter().for_each(|report| println!("  {}", check::line(report)));
        Ok(())
    }
}
