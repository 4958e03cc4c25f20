//! `eds sandbox`: HQ on this machine, for trying out what a server does from its enrolment on.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;

use super::exit::Exit;
use super::{Global, logging};
use crate::sandbox::account::Account;
use crate::sandbox::hq::SandboxHq;
use crate::sandbox::hq::nats::HqNats;
use crate::sandbox::nats::{EventPublisher, NatsServer};
use crate::sandbox::prompt::{self, Prompt};
use crate::sandbox::shop::{Shop, ShopOptions};
use crate::signals::stop_on_signal;

/// The code of the first server; others have other numbers.
const CODE: &str = "L1";
const SERVER_ID: &str = "sandbox-1";
/// Changes that the shop has seen before it opens.
const HISTORY: u64 = 20_000;

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
        let hq_nats = HqNats::connect(nats.url(), Some(&admin)).await.map_err(Exit::Failed)?;
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
        hq.set_account(Some(account), &Shop::companies());
        hq.add_code(CODE, SERVER_ID);
        if let Some(releases) = self.releases.clone() {
            hq.serve_releases(releases);
        }
        let rate = Arc::new(Mutex::new(self.rate));
        let publisher = EventPublisher::connect(nats.url(), &admin).await.map_err(Exit::Failed)?;
        let publishing = tokio::spawn(publisher.publish_at_rate(shop.clone(), rate.clone()));
        let prompt = Prompt { hq, nats: hq_nats, shop, rate };
        self.welcome(&nats);
        let mut stop = stop_on_signal();
        let mut lines = prompt::lines();
        let (mut told, mut is_silent) = (0, false);
        let mut looks = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                line = lines.recv(), if !is_silent => match line {
                    // Without a terminal it goes on until it is ended.
                    None => is_silent = true,
                    Some(line) if line.trim() == "quit" => break,
                    Some(line) => prompt.obey(line.trim()).await,
                },
                _ = looks.tick() => {
                    told = prompt.tell(told);
                    // HQ's codes work once; here one may be given as often as somebody tries.
                    prompt.hq.add_code(CODE, SERVER_ID);
                }
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
             server{server}\n\nThen type here what HQ is to do:\n\n{}\n",
            prompt::WORDS
        );
    }
}
