//! nats-server with operator, account and user JWTs, and exactly the rights that a credential of HQ has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream;
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Server, eventually, free_port, installed, plain};

pub struct Nats {
    pub port: u16,
    account: KeyPair,
    pub server: Option<Server>,
    dir: TempDir,
}

fn jwt(mut claims: Value, signer: &KeyPair) -> String {
    claims["jti"] = json!("");
    claims["jti"] = json!(BASE32_NOPAD.encode(&Sha256::digest(claims.to_string().as_bytes())));
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let input = format!("{header}.{}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let signature = signer.sign(input.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    format!("{input}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Nats {
    pub async fn start() -> Nats {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
        let claims = |subject: &KeyPair, name: &str, nats: Value| json!({"iat": now(), "iss": operator.public_key(), "sub": subject.public_key(), "name": name, "nats": nats});
        let mut limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
        let operator_jwt = jwt(claims(&operator, "operator", json!({"type": "operator", "version": 2, "system_account": system.public_key()})), &operator);
        let system_jwt = jwt(claims(&system, "system", json!({"type": "account", "version": 2, "limits": limits})), &operator);
        for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
            limits[key] = json!(-1);
        }
        let account_jwt = jwt(claims(&account, "account", json!({"type": "account", "version": 2, "limits": limits})), &operator);
        let port = free_port();
        let config = format!(
            "host: 127.0.0.1\nport: {port}\noperator: {operator_jwt}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n {}: {system_jwt}\n {}: {account_jwt}\n}}\njetstream {{ store_dir: \"{}\", max_file_store: 8GB }}\n",
            system.public_key(),
            system.public_key(),
            account.public_key(),
            dir.path().join("js").display()
        );
        std::fs::write(dir.path().join("nats.conf"), config).unwrap_or_else(|e| panic!("{e}"));
        let mut nats = Nats { port, dir, account, server: None };
        nats.run().await;
        nats.stream().await;
        nats
    }

    /// Starts the server (again).
    pub async fn run(&mut self) {
        let program = std::env::var("EDS_TEST_NATS_SERVER").unwrap_or_else(|_| installed("nats-server").display().to_string());
        let args = ["-c".to_owned(), self.dir.path().join("nats.conf").display().to_string()];
        self.server = Some(Server::start(plain(), &program, &args, &self.dir.path().join("log"), "TERM"));
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
        let options = async_nats::ConnectOptions::with_credentials(&text).map_err(|e| e.to_string())?;
        options.connect(self.url()).await.map_err(|e| e.to_string())
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> jetstream::Context {
        let client = self.try_connect(&self.admin_creds()).await.unwrap_or_else(|e| panic!("{e}"));
        jetstream::new(client)
    }

    /// Makes the stream.
    pub async fn stream(&self) {
        let config = jetstream::stream::Config { name: "dbchange".into(), subjects: vec!["dbchange.>".into()], ..Default::default() };
        self.admin().await.create_stream(config).await.unwrap_or_else(|e| panic!("{e}"));
    }

    fn admin_creds(&self) -> PathBuf {
        self.creds("admin", &json!({}), &json!({}), None)
    }

    /// What HQ gives to server `name` for these companies.
    pub fn server_creds(&self, name: &str, companies: &[&str], expires: Option<u64>) -> PathBuf {
        let publish = [
            "$JS.API.STREAM.NAMES",
            "$JS.ACK.dbchange.>",
            "$JS.API.CONSUMER.MSG.NEXT.dbchange.>",
            "$JS.API.STREAM.CREATE.dbchange",
            "$JS.API.CONSUMER.>",
            "eds.client.session.>",
            "_INBOX.>",
            "dbchange.>",
        ];
        let mut subscribe: Vec<String> = companies.iter().map(|c| format!("dbchange.*.*.{c}.*.PUBLIC.>")).collect();
        subscribe.extend(["eds.notify.session.>".to_owned(), "_INBOX.>".to_owned()]);
        self.creds(name, &json!({"allow": publish}), &json!({"allow": subscribe}), expires)
    }

    pub fn creds(&self, name: &str, publish: &Value, subscribe: &Value, expires: Option<u64>) -> PathBuf {
        let user = KeyPair::new_user();
        let nats = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": publish, "sub": subscribe});
        let mut claims = json!({"iat": now(), "iss": self.account.public_key(), "sub": user.public_key(), "name": name, "nats": nats});
        if let Some(expires) = expires {
            claims["exp"] = json!(expires);
        }
        let jwt = jwt(claims, &self.account);
        let seed = user.seed().unwrap_or_else(|e| panic!("{e}"));
        let text = format!("-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n");
        let path = self.dir.path().join(format!("{name}.creds"));
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{e}"));
        path
    }

    /// Publishes messages in this order and waits until the server has them.
    pub async fn publish(&self, messages: impl Iterator<Item = (String, Vec<u8>)>) {
        let js = self.admin().await;
        let mut waiting = Vec::new();
        for (subject, payload) in messages {
            waiting.push(js.publish(subject, payload.into()).await.unwrap_or_else(|e| panic!("{e}")));
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
        let stream = self.admin().await.get_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
        stream.purge().sequence(before).await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// The consumer's state: waiting for acknowledgement, waiting for delivery, acknowledged up to.
    pub async fn consumer(&self, name: &str) -> (usize, u64, u64) {
        let js = self.admin().await;
        let deadline = Instant::now() + Duration::from_secs(10);
        let consumer = loop {
            // For a moment it may not be there: it is being made anew.
            match js.get_consumer_from_stream::<jetstream::consumer::pull::Config, _, _>(name, "dbchange").await {
                Ok(consumer) => break consumer,
                Err(e) => assert!(Instant::now() < deadline, "{name}: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let info = consumer.cached_info();
        (info.num_ack_pending, info.num_pending, info.ack_floor.stream_sequence)
    }
}
