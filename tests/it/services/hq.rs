//! The sandbox's HQ with a shop behind it, and the real binary that imports from it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use eds::sandbox::hq::SandboxHq;
use eds::sandbox::shop::{Shop, ShopOptions};
use tempfile::TempDir;

use super::eds::binary;

/// What `eds import` says who it is.
pub const KEY: &str = "k3y-of-the-shop";

pub struct Importing {
    pub dir: TempDir,
    pub hq: SandboxHq,
    pub shop: Arc<Mutex<Shop>>,
}

impl Importing {
    /// A shop that has seen so many events.
    pub async fn new(seed: u64, events: u64, rows_per_file: usize) -> Importing {
        let mut shop = Shop::new(seed, ShopOptions { rows: 3_000, repeats: 20 });
        (0..events).for_each(|_| drop(shop.next_event()));
        Importing::of(shop, rows_per_file).await
    }

    pub async fn of(shop: Shop, rows_per_file: usize) -> Importing {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let shop = Arc::new(Mutex::new(shop));
        let hq = SandboxHq::start(
            0,
            shop.clone(),
            dir.path().join("exports"),
            rows_per_file,
            Some(KEY.into()),
        )
        .await
        .unwrap_or_else(|e| panic!("{e}"));
        Importing { dir, hq, shop }
    }

    /// The shop as it is now.
    pub fn shop(&self) -> Shop {
        self.shop.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn command(&self, url: &str, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .env("EDS_URL", url)
            .env("SM_APIKEY", KEY)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
            .args(["import", "--no-confirm", "--api-url", self.hq.url(), "--data-dir"])
            .arg(self.data_dir())
            .args(args);
        command
    }

    /// Imports to the end.
    pub async fn run(&self, url: &str, args: &[&str]) -> Output {
        let mut command = self.command(url, args);
        // The server under test lives in this process: its runtime must go on.
        tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap_or_else(|e| panic!("{e}"))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// Imports to the end, which has to be a good one; what was printed.
    pub async fn import(&self, url: &str, args: &[&str]) -> String {
        let output = self.run(url, args).await;
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        text
    }

    pub fn start(&self, url: &str, args: &[&str]) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap_or_else(|e| panic!("{e}"));
        self.command(url, args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"))
    }
}

/// What a run wrote, on both channels.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
