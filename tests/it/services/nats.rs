//! nats-server with operator, account and user JWTs, and exactly the rights that a credential of HQ
//! has.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use eds::sandbox::account::Account;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::certs::{certificates, write};
use super::{Server, eventually, eventually_ok, free_port, installed, plain};

pub struct Nats {
    pub port: u16,
    pub account: Arc<Account>,
    pub server: Option<Server>,
    /// Who signed the server's certificate, where it speaks TLS only.
    pub authority: Option<PathBuf>,
    dir: TempDir,
}

impl Nats {
    pub async fn start() -> Nats {
        Nats::configured(false, "").await
    }

    /// One that speaks TLS only, with a certificate for 127.0.0.1.
    pub async fn encrypted() -> Nats {
        Nats::configured(true, "").await
    }

    /// One with more words in its configuration.
    pub async fn with(more: &str) -> Nats {
        Nats::configured(false, more).await
    }

    async fn configured(encrypted: bool, more: &str) -> Nats {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let account = Arc::new(Account::default());
        let port = free_port();
        let mut nats = Nats { port, dir, account, server: None, authority: None };
        let mut config = nats
            .account
            .server_config(port, &nats.dir.path().join("js"))
            .unwrap_or_else(|e| panic!("{e}"));
        config += more;
        if encrypted {
            let [authority, certificate, key] = certificates().unwrap_or_else(|e| panic!("{e}"));
            let dir = nats.dir.path();
            nats.authority = Some(write(dir, "ca.pem", &authority));
            let (certificate, key) =
                (write(dir, "server.pem", &certificate), write(dir, "server.key", &key));
            config += &format!(
                "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
                certificate.display(),
                key.display()
            );
        }
        write(nats.dir.path(), "nats.conf", &config);
        nats.run().await;
        nats.stream().await;
        nats
    }

    /// The server knows another account from now on, and nobody of the old one.
    pub async fn change_account(&mut self) {
        self.server = None;
        self.account = Arc::new(Account::default());
        let config = self
            .account
            .server_config(self.port, &self.dir.path().join("js"))
            .unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(self.dir.path().join("nats.conf"), config).unwrap_or_else(|e| panic!("{e}"));
        self.run().await;
        self.stream().await;
    }

    /// Starts the server (again).
    pub async fn run(&mut self) {
        let program = std::env::var("EDS_TEST_NATS_SERVER")
            .unwrap_or_else(|_| installed("nats-server").display().to_string());
        let args = ["-c".to_owned(), self.dir.path().join("nats.conf").display().to_string()];
        self.server =
            Some(Server::start(plain(), &program, &args, &self.dir.path().join("log"), "TERM"));
        let admin = self.admin_creds();
        eventually("nats-server answers", Duration::from_secs(20), async || {
            let Ok(client) = self.try_connect(&admin).await else { return false };
            jetstream::new(client).query_account().await.is_ok()
        })
        .await;
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    async fn try_connect(&self, creds: &Path) -> Result<async_nats::Client, String> {
        let text = std::fs::read_to_string(creds).map_err(|e| e.to_string())?;
        let mut options =
            async_nats::ConnectOptions::with_credentials(&text).map_err(|e| e.to_string())?;
        if let Some(authority) = &self.authority {
            options = options.add_root_certificates(authority.clone());
        }
        options.connect(self.url()).await.map_err(|e| e.to_string())
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> jetstream::Context {
        let client = self.try_connect(&self.admin_creds()).await.unwrap_or_else(|e| panic!("{e}"));
        jetstream::new(client)
    }

    /// Makes the stream. Like HQ's it allows one consumer.
    pub async fn stream(&self) {
        self.stream_of(1).await;
    }

    /// Makes the stream again, empty, for so many consumers.
    pub async fn allow_consumers(&self, consumers_max: i32) {
        let admin = self.admin().await;
        admin.delete_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
        self.stream_of(consumers_max).await;
    }

    async fn stream_of(&self, consumers_max: i32) {
        let config = jetstream::stream::Config {
            name: "dbchange".into(),
            subjects: vec!["dbchange.>".into()],
            max_consumers: consumers_max,
            ..Default::default()
        };
        self.admin().await.create_stream(config).await.unwrap_or_else(|e| panic!("{e}"));
    }

    fn admin_creds(&self) -> PathBuf {
        self.creds("admin", &json!({}), &json!({}), None)
    }

    /// What HQ gives to server `name` for these companies.
    pub fn server_creds(&self, name: &str, companies: &[&str], expires: Option<u64>) -> PathBuf {
        let companies: Vec<String> = companies.iter().map(|c| (*c).to_owned()).collect();
        let text = self
            .account
            .session_creds(name, "session", &companies, expires)
            .unwrap_or_else(|e| panic!("{e}"));
        self.keep(name, &text)
    }

    pub fn creds(
        &self,
        name: &str,
        publish: &Value,
        subscribe: &Value,
        expires: Option<u64>,
    ) -> PathBuf {
        let text =
            self.account.creds(name, publish, subscribe, expires).unwrap_or_else(|e| panic!("{e}"));
        self.keep(name, &text)
    }

    fn keep(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.creds"));
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{e}"));
        path
    }

    /// Publishes messages in this order and waits until the server has them.
    pub async fn publish(&self, messages: impl Iterator<Item = (String, Vec<u8>)>) {
        let js = self.admin().await;
        let mut waiting = Vec::new();
        for (subject, payload) in messages {
            waiting
                .push(js.publish(subject, payload.into()).await.unwrap_or_else(|e| panic!("{e}")));
            if waiting.len() == 512 {
                for ack in waiting.drain(..) {
                    ack.await.unwrap_or_else(|e| panic!("{e}"));
                }
            }
        }
        for ack in waiting {
            ack.await.unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// Takes everything before this sequence out of the stream, as retention does.
    pub async fn purge(&self, before: u64) {
        let stream =
            self.admin().await.get_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
        stream.purge().sequence(before).await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// The consumer's state: waiting for acknowledgement, waiting for delivery, acknowledged up to.
    pub async fn consumer(&self, name: &str) -> (usize, u64, u64) {
        let js = self.admin().await;
        // For a moment it may not exist: EDS recreates it.
        let consumer = eventually_ok(Duration::from_secs(10), async || {
            js.get_consumer_from_stream::<jetstream::consumer::pull::Config, _, _>(name, "dbchange")
                .await
                .map_err(|e| format!("{name}: {e}"))
        })
        .await;
        let info = consumer.cached_info();
        (info.num_ack_pending, info.num_pending, info.ack_floor.stream_sequence)
    }
}
