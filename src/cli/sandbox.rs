//! `eds sandbox`: HQ on this machine, for trying out what a server does from its enrolment on.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::exit::Exit;
use super::{Global, logging};
use crate::destination::Settings;
use crate::destination::catalog::DRIVERS;
use crate::feed::jetstream::STREAM;
use crate::sandbox::account::Account;
use crate::sandbox::check;
use crate::sandbox::console::Console;
use crate::sandbox::hq::SandboxHq;
use crate::sandbox::nats::NatsServer;
use crate::sandbox::shop::{Shop, ShopOptions};
use crate::signals::stop_on_signal;

/// The code of the first server; others have other numbers.
const CODE: &str = "L1";
const SERVER_ID: &str = "sandbox-1";
/// Changes that the shop has seen before it opens.
const HISTORY: u64 = 20_000;

const WORDS: &str = "  configure URL    the server's destination, e.g. configure sqlite://shop.db
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

#[derive(Args)]
pub struct Sandbox {
    /// Port of HQ; codes that begin with L refer to the default
    #[arg(long, default_value_t = 3101)]
    port: u16,
    /// Port of NATS, which needs a nats-server on the PATH
    #[arg(long, default_value_t = 4222)]
    nats_port: u16,
    /// Generate this many changes per second
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Seed of the generator: the same seed generates the same changes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Serve releases from this directory: download/v<version>/<archive> and its .asc [default:
    /// none]
    #[arg(long, value_name = "DIR")]
    releases: Option<PathBuf>,
}

struct Stage {
    hq: SandboxHq,
    console: Console,
    shop: Arc<Mutex<Shop>>,
    rate: Arc<Mutex<f64>>,
}

impl Sandbox {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(
            &Global { silent: global.silent || !global.verbose, ..global.clone() },
            None,
        )?;
        let folder = std::env::temp_dir().join(format!("eds-sandbox-{}", std::process::id()));
        let ended = self.play(folder.clone()).await;
        let _ = std::fs::remove_dir_all(folder);
        ended
    }

    async fn play(self, folder: PathBuf) -> Result<(), Exit> {
        let account = Arc::new(Account::default());
        let nats =
            NatsServer::guarded(&account, self.nats_port, &folder).await.map_err(Exit::Usage)?;
        let admin = account.admin_creds().map_err(Exit::Failed)?;
        let console = Console::connect(nats.url(), Some(&admin)).await.map_err(Exit::Failed)?;
        let mut shop = Shop::new(self.seed, ShopOptions::default());
        (0..HISTORY).for_each(|_| drop(shop.next_event()));
        shop.begin_now();
        let shop = Arc::new(Mutex::new(shop));
        let hq =
            SandboxHq::start(self.port, shop.clone(), folder.join("exports"), 5_000, None).await;
        let hq = hq.map_err(|e| {
            Exit::Usage(format!(
                "port {} of this machine cannot be used: {e}; choose another --port",
                self.port
            ))
        })?;
        hq.employ(Some(account), &Shop::companies());
        hq.code(CODE, SERVER_ID);
        if let Some(releases) = self.releases.clone() {
            hq.publish(releases);
        }
        let stage = Stage { hq, console, shop, rate: Arc::new(Mutex::new(self.rate)) };
        self.welcome(&nats);
        let publishing = tokio::spawn(publish(
            nats.url().to_owned(),
            admin,
            stage.shop.clone(),
            stage.rate.clone(),
        ));
        let mut stop = stop_on_signal();
        let mut lines = lines();
        let (mut told, mut is_silent) = (0, false);
        let mut looks = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                line = lines.recv(), if !is_silent => match line {
                    // Without a terminal it goes on until it is ended.
                    None => is_silent = true,
                    Some(line) if line.trim() == "quit" => break,
                    Some(line) => stage.obey(line.trim()).await,
                },
                _ = looks.tick() => told = stage.tell(told),
            }
            if publishing.is_finished() {
                return Err(Exit::Failed("NATS was lost".into()));
            }
        }
        publishing.abort();
        Ok(())
    }

    fn welcome(&self, nats: &NatsServer) {
        let api = if self.port == 3101 {
            String::new()
        } else {
            format!(" --api-url http://127.0.0.1:{}", self.port)
        };
        let server = if self.nats_port == 4222 {
            String::new()
        } else {
            format!(" --server {}", nats.url())
        };
        println!(
            "HQ listens on http://127.0.0.1:{}, NATS on {}; a shop changes {} times a second.\n",
            self.port,
            nats.url(),
            self.rate
        );
        println!(
            "In another terminal, in an empty directory:\n\n  eds enroll {CODE}{api}\n  eds \
             server{server}\n\nThen type here what HQ is to do:\n\n{WORDS}\n"
        );
    }
}

/// What is typed, line by line.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || line.is_ok_and(|line| sender.blocking_send(line).is_err()) {
                return;
            }
        }
    });
    lines
}

/// Publishes the shop's changes.
async fn publish(
    url: String,
    creds: String,
    shop: Arc<Mutex<Shop>>,
    rate: Arc<Mutex<f64>>,
) -> Result<(), String> {
    let options =
        async_nats::ConnectOptions::new().credentials(&creds).map_err(|e| e.to_string())?;
    let js = jetstream::new(options.connect(url).await.map_err(|e| e.to_string())?);
    let config = jetstream::stream::Config {
        name: STREAM.into(),
        subjects: vec![format!("{STREAM}.>")],
        ..Default::default()
    };
    js.get_or_create_stream(config).await.map_err(|e| e.to_string())?;
    let mut due = 0.0;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        due += *rate.lock().unwrap_or_else(PoisonError::into_inner) / 20.0;
        let mut sent = Vec::new();
        while due >= 1.0 {
            due -= 1.0;
            let event = shop.lock().unwrap_or_else(PoisonError::into_inner).next_event();
            sent.push(
                js.publish(event.subject, event.payload.into()).await.map_err(|e| e.to_string())?,
            );
        }
        for confirmation in sent {
            confirmation.await.map_err(|e| e.to_string())?;
        }
    }
}

impl Stage {
    /// Prints what servers have said since; how much that is by now.
    fn tell(&self, told: usize) -> usize {
        let heard = self.console.heard();
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

    async fn obey(&self, line: &str) {
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
                        rate.clamp(0.0, 1e5);
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
        let console = &self.console;
        match word {
            "configure" => {
                let reply = console
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
                let reply = console.ask(session, "driverconfig", Value::Null).await?;
                println!("« {}", serde_json::to_string_pretty(&reply).unwrap_or_default());
                Ok(())
            }
            "ping" => {
                println!("« {}", if console.ping(session).await { "pong" } else { "no answer" });
                Ok(())
            }
            "import" => console.send(session, word, json!({ "backfill": rest != "shapes" })).await,
            "upgrade" => console.send(session, word, json!({ "version": rest })).await,
            "shutdown" => {
                console
                    .send(
                        session,
                        word,
                        json!({ "message": "the sandbox says so", "deleted": false }),
                    )
                    .await
            }
            "pause" | "unpause" | "restart" | "sendlogs" => {
                console.send(session, word, Value::Null).await
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
                .map(|(kind, _, bytes)| format!("{kind} ({} bytes)", bytes.len()))
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
        tokio::time::sleep(Duration::from_secs(1)).await;
        let shop = self.shop.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reports = check::reports(&shop, &settings, url).await;
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = rate;
        reports?.iter().for_each(|report| println!("  {}", check::line(report)));
        Ok(())
    }
}
