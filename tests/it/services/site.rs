//! A customer's site: the real binary as HQ's server, the sandbox as HQ, NATS with real
//! credentials, a shop that changes.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eds::sandbox::check::{self, TableReport};
use eds::sandbox::hq::nats::HqNats;
use eds::sandbox::hq::{SandboxHq, SessionRecord};
use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::Value;
use tempfile::TempDir;

use super::eds::{Running, binary};
use super::nats::Nats;
use super::scene::publish;
use super::{eventually, eventually_ok};

/// What `enroll` is given.
pub const CODE: &str = "L-one";

pub struct Site {
    pub nats: Nats,
    pub hq: SandboxHq,
    pub hq_nats: HqNats,
    shop: Arc<Mutex<Shop>>,
    pub dir: TempDir,
}

impl Site {
    /// HQ knows the code of server `name`; the shop is new.
    pub async fn new(name: &str, seed: u64) -> Site {
        Site::with_history(name, seed, 0).await
    }

    /// The shop has seen so many events before, which nobody has published.
    pub async fn with_history(name: &str, seed: u64, events: u64) -> Site {
        let nats = Nats::start().await;
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let mut shop = Shop::new(seed, ShopOptions { rows: 500, repeats: 20 });
        (0..events).for_each(|_| drop(shop.next_event()));
        shop.begin_now();
        let shop = Arc::new(Mutex::new(shop));
        let hq = SandboxHq::start(0, shop.clone(), dir.path().join("exports"), 500, None)
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        hq.set_account(Some(nats.account.clone()), &Shop::companies());
        hq.add_code(CODE, name);
        let admin = nats.account.admin_creds().unwrap_or_else(|e| panic!("{e}"));
        let hq_nats =
            HqNats::connect(&nats.url(), Some(&admin)).await.unwrap_or_else(|e| panic!("{e}"));
        Site { nats, hq, hq_nats, shop, dir }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn sqlite(&self) -> String {
        format!("sqlite://{}", self.dir.path().join("shop.db").display())
    }

    /// The shop as it is now.
    pub fn shop(&self) -> Shop {
        self.shop.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        for name in ["EDS_URL", "SM_APIKEY", "PORT", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).args(args).arg("--data-dir").arg(self.data_dir());
        command
    }

    /// Runs `eds` to its end.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command_of(Path::new(binary()), args);
        // HQ lives in this process: its runtime must go on.
        tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap_or_else(|e| panic!("{e}"))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    pub async fn enroll(&self) {
        let output = self.run(&["enroll", CODE, "--api-url", self.hq.url()]).await;
        assert!(output.status.success(), "{}", super::hq::said(&output));
    }

    /// Starts the server, and leaves what it says in a file.
    pub fn server(&self, args: &[&str]) -> Running {
        self.server_of(Path::new(binary()), args)
    }

    pub fn server_of(&self, program: &Path, args: &[&str]) -> Running {
        let url = self.nats.url();
        let words = [&["server", "--port", "0", "--server", &url], args].concat();
        Running::start(self.command_of(program, &words), self.dir.path().join("server.log"))
    }

    /// What the server has said in all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }

    /// The session that is under way, with at least `after` others before it, once it can be
    /// notified.
    pub async fn session(&self, after: usize) -> String {
        let id = self.record(after).await.id;
        eventually("the server hears HQ", Duration::from_secs(30), async || {
            self.hq_nats.ping(&id).await
        })
        .await;
        id
    }

    pub async fn record(&self, after: usize) -> SessionRecord {
        let under_way = || {
            self.hq.sessions().into_iter().skip(after).rev().find(|record| record.ended.is_none())
        };
        eventually(
            &format!("a session begins after {after} others:\n{}", self.log()),
            Duration::from_secs(30),
            async || under_way().is_some(),
        )
        .await;
        under_way().unwrap_or_default()
    }

    /// Waits until the server's log has so many lines with `text`.
    pub async fn until_log(&self, text: &str, times: usize) {
        eventually_ok(Duration::from_secs(60), async || {
            let log = self.log();
            if log.matches(text).count() >= times {
                return Ok(());
            }
            Err(format!("{text:?} is not there {times} times:\n{log}"))
        })
        .await;
    }

    pub async fn publish(&self, events: u64) {
        let mut shop = self.shop();
        publish(&self.nats, &mut shop, events).await;
        *self.shop.lock().unwrap_or_else(PoisonError::into_inner) = shop;
    }

    /// Every row of the SQLite file is as the shop has it, sooner or later.
    pub async fn until_equal(&self) {
        let (shop, path) = (self.shop(), self.dir.path().join("shop.db").display().to_string());
        eventually_ok(Duration::from_secs(60), async || {
            let lines: Vec<String> = match check::sqlite(&shop, &path) {
                Ok(reports) if reports.iter().all(TableReport::is_equal) => return Ok(()),
                Ok(reports) => reports.iter().map(check::line).collect(),
                Err(why) => vec![why],
            };
            let lines = lines.join("\n");
            Err(format!("the destination is not equal:\n{lines}\n{}", self.log()))
        })
        .await;
    }

    /// The answer on `topic` that came after the first `from` words.
    pub async fn answer(&self, topic: &str, from: usize) -> Value {
        let said = self.hq_nats.wait_for(topic, from, Duration::from_secs(60)).await;
        said.unwrap_or_else(|| panic!("no {topic}:\n{}", self.log())).document()
    }

    /// Notifies, and waits for the response.
    pub async fn order(&self, session: &str, action: &str, data: Value) -> Value {
        let from = self.hq_nats.heard().len();
        self.hq_nats.send(session, action, data).await.unwrap_or_else(|e| panic!("{e}"));
        self.answer(&format!("{action}-response"), from).await
    }

    /// The worker of `server`.
    pub fn worker(server: &Running) -> u32 {
        let children =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid()))
                .unwrap_or_default();
        let own = children.split_whitespace().find_map(|pid| pid.parse().ok());
        // Another thread may have started it.
        own.or_else(|| children_of(server.pid()).first().copied())
            .unwrap_or_else(|| panic!("there is no worker"))
    }
}

/// All processes whose parent this is.
pub fn children_of(pid: u32) -> Vec<u32> {
    let parent = |dir: &Path| {
        let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path());
    all.filter(|dir| parent(dir) == Some(pid))
        .filter_map(|dir| dir.file_name()?.to_str()?.parse().ok())
        .collect()
}

/// What was uploaded, unpacked.
pub fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .read_to_string(&mut text)
        .unwrap_or_else(|e| panic!("{e}"));
    text
}
