//! SeaweedFS, which checks signatures, and moto, which knows no bucket; read back past S3, by
//! SeaweedFS's own listing.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Server, ask, free_port, fresh, installed, plain, until_ok};

pub const SECRET: &str = "eds/secret+key";

pub struct Seaweed {
    /// None while it is down.
    pub server: Option<Server>,
    pub port: u16,
    filer: u16,
    args: Vec<String>,
    dir: TempDir,
}

fn encoded(path: &str) -> String {
    path.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"/-_.~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

impl Seaweed {
    pub fn start() -> Seaweed {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let identity = |name: &str, key: &str, secret: &str, actions: &[&str]| json!({"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions});
        let identities = json!({"identities": [identity("eds", "eds-key", SECRET, &["Admin", "Read", "Write", "List"]), identity("reader", "read-key", "read-secret", &["Read"])]});
        let config = dir.path().join("s3.json");
        std::fs::write(&config, identities.to_string()).unwrap_or_else(|e| panic!("{e}"));
        let (port, filer) = (free_port(), free_port());
        let mut args = vec![
            "server".to_owned(),
            format!("-dir={}", dir.path().display()),
            "-ip=127.0.0.1".into(),
            "-ip.bind=127.0.0.1".into(),
            "-filer=true".into(),
            "-s3=true".into(),
        ];
        args.extend([
            format!("-s3.port={port}"),
            format!("-filer.port={filer}"),
            format!("-s3.config={}", config.display()),
            "-volume.max=20".into(),
            "-s3.port.iceberg=0".into(),
            "-s3.port.lance=0".into(),
            "-master.telemetry=false".into(),
            "-master.volumeSizeLimitMB=64".into(),
        ]);
        // Each of its parts listens on a second port for itself.
        for (part, at) in [
            ("master.port", free_port()),
            ("volume.port", free_port()),
            ("master.port.grpc", free_port()),
            ("volume.port.grpc", free_port()),
            ("filer.port.grpc", free_port()),
            ("s3.port.grpc", free_port()),
        ] {
            args.push(format!("-{part}={at}"));
        }
        let mut seaweed = Seaweed { server: None, port, filer, args, dir };
        seaweed.run();
        seaweed
    }

    /// Starts it, with what it has stored.
    pub fn run(&mut self) {
        self.server = Some(Server::start(
            plain(),
            &installed("../s3/bin/weed").display().to_string(),
            &self.args,
            &self.dir.path().join("log"),
            "KILL",
        ));
        until_ok(Duration::from_secs(60), || {
            // A bucket is a directory.
            let (status, _) = ask(self.filer, "POST", "/buckets/shop/", "")?;
            if status >= 300 && status != 409 {
                return Err(format!("SeaweedFS makes no bucket: {status}"));
            }
            ask(self.port, "GET", "/", "")
        });
    }

    /// Ends at once, as at a power cut.
    pub fn crash(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.crash("KILL");
        }
    }

    /// A fresh folder, and its URL.
    pub fn folder(&self) -> (String, String) {
        let folder = fresh("folder-");
        let url = self.url(&folder, "eds-key", "eds%2Fsecret%2Bkey");
        (folder, url)
    }

    pub fn url(&self, folder: &str, key: &str, secret: &str) -> String {
        format!(
            "s3://127.0.0.1:{}/shop/{folder}?access-key-id={key}&secret-access-key={secret}",
            self.port
        )
    }

    /// Everything below a folder of the bucket: name → content.
    pub fn objects(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![format!("/buckets/shop/{folder}")];
        while let Some(folder) = folders.pop() {
            let mut last = String::new();
            loop {
                let (_, listing) = ask(
                    self.filer,
                    "GET",
                    &format!("{}/?limit=1000&lastFileName={}", encoded(&folder), encoded(&last)),
                    "",
                )
                .unwrap_or_else(|e| panic!("{e}"));
                let listing: Value = serde_json::from_slice(&listing).unwrap_or(Value::Null);
                let entries = listing["Entries"].as_array().cloned().unwrap_or_default();
                for entry in &entries {
                    let path = entry["FullPath"].as_str().unwrap_or_default().to_owned();
                    // Folders have the highest bit of the mode.
                    if entry["Mode"].as_u64().unwrap_or(0) & (1 << 31) != 0 {
                        folders.push(path);
                        continue;
                    }
                    let (_, content) = ask(self.filer, "GET", &encoded(&path), "")
                        .unwrap_or_else(|e| panic!("{e}"));
                    found.insert(path.trim_start_matches("/buckets/shop/").to_owned(), content);
                }
                match listing["ShouldDisplayLoadMore"].as_bool() {
                    Some(true) => {
                        last = listing["LastFileName"].as_str().unwrap_or_default().to_owned();
                    }
                    _ => break,
                }
            }
        }
        found
    }
}

/// The server that tests share.
pub fn shared() -> &'static Seaweed {
    static SHARED: OnceLock<Option<Seaweed>> = OnceLock::new();
    super::shared(&SHARED, "SeaweedFS", Seaweed::start)
}

/// A server that has no bucket at all.
pub struct Moto {
    _server: Server,
    pub port: u16,
    _dir: TempDir,
}

impl Moto {
    pub fn start() -> Moto {
        let (dir, port) = (TempDir::new().unwrap_or_else(|e| panic!("{e}")), free_port());
        let args = ["-H", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned);
        let server = Server::start(
            plain(),
            &installed("../s3/bin/moto_server").display().to_string(),
            &args,
            &dir.path().join("log"),
            "KILL",
        );
        until_ok(Duration::from_secs(60), || ask(port, "GET", "/", ""));
        Moto { _server: server, port, _dir: dir }
    }
}
