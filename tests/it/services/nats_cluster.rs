//! Three nats-servers that are one, with a stream on each of them: one may crash, and who leads
//! may change.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use eds::sandbox::account::Account;
use futures::future::join_all;
use tempfile::TempDir;

use super::certs::write;
use super::{Server, eventually_ok, free_port, installed, plain};

const NODES: usize = 3;
/// Messages on their way at once.
const WINDOW: usize = 256;
/// How long the cluster may be without a leader.
const LEADERLESS_MAX: Duration = Duration::from_secs(120);
/// How long the publication of some messages may take. For two minutes the stream may say of a
/// message that was on its way when a leader ended that it is still on its way.
const PUBLISH_MAX: Duration = Duration::from_secs(300);

pub struct NatsCluster {
    pub ports: Vec<u16>,
    servers: Vec<Server>,
    account: Account,
    published: u64,
    dir: TempDir,
}

impl NatsCluster {
    pub async fn start() -> NatsCluster {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let ports: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
        let routes: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
        let account = Account::default();
        let all: Vec<String> = routes.iter().map(|p| format!("nats://127.0.0.1:{p}")).collect();
        for node in 0..NODES {
            let store = dir.path().join(format!("js{node}"));
            let config =
                account.server_config(ports[node], &store).unwrap_or_else(|e| panic!("{e}"));
            // Clients know the addresses that they were given, which may be wires to cut.
            let more = format!(
                "server_name: n{node}\ncluster {{ name: three, host: 127.0.0.1, port: {}, \
                 no_advertise: true, routes: [{}] }}\n",
                routes[node],
                all.join(", ")
            );
            write(dir.path(), &format!("nats{node}.conf"), &(config + &more));
        }
        let mut cluster = NatsCluster { ports, servers: Vec::new(), account, published: 0, dir };
        cluster.servers = (0..NODES).map(|node| cluster.node(node)).collect();
        cluster.stream().await;
        cluster
    }

    fn node(&self, node: usize) -> Server {
        let program = installed("nats-server").display().to_string();
        let config = self.dir.path().join(format!("nats{node}.conf"));
        let args = ["-c".to_owned(), config.display().to_string()];
        Server::start(plain(), &program, &args, &self.dir.path().join("log"), "TERM")
    }

    async fn stream(&self) {
        let config = jetstream::stream::Config {
            name: "dbchange".into(),
            subjects: vec!["dbchange.>".into()],
            num_replicas: NODES,
            max_consumers: 1,
            ..Default::default()
        };
        eventually_ok(LEADERLESS_MAX, async || {
            let made = self.admin().await?.create_stream(config.clone()).await;
            made.map(drop).map_err(|e| e.to_string())
        })
        .await;
    }

    async fn client(&self, creds: Result<String, String>) -> Result<async_nats::Client, String> {
        let urls: Vec<String> =
            self.ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let options = async_nats::ConnectOptions::with_credentials(&creds?);
        let connected = options.map_err(|e| e.to_string())?.connect(urls).await;
        connected.map_err(|e| e.to_string())
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> Result<jetstream::Context, String> {
        Ok(jetstream::new(self.client(self.account.admin_creds()).await?))
    }

    /// What HQ gives to server `name` for these companies.
    pub fn server_creds(&self, name: &str, companies: &[&str]) -> PathBuf {
        let companies: Vec<String> = companies.iter().map(|c| (*c).to_owned()).collect();
        let text = self.account.session_creds(name, "session", &companies, None);
        write(self.dir.path(), "server.creds", &text.unwrap_or_else(|e| panic!("{e}")))
    }

    /// Publishes each message once, whoever leads meanwhile.
    pub async fn publish(&mut self, messages: Vec<(String, Vec<u8>)>) {
        let mut js = eventually_ok(LEADERLESS_MAX, async || self.admin().await).await;
        for window in messages.chunks(WINDOW) {
            let first = self.published;
            self.published += window.len() as u64;
            let mut left: Vec<(u64, &(String, Vec<u8>))> = (first..).zip(window).collect();
            let started = tokio::time::Instant::now();
            let mut why = String::new();
            while !left.is_empty() {
                assert!(started.elapsed() < PUBLISH_MAX, "{} are left: {why}", left.len());
                let sent = join_all(left.iter().map(|(number, message)| {
                    // By its number the stream knows a message that comes again.
                    let (subject, payload) = (*message).clone();
                    let one = PublishMessage::build().payload(payload.into());
                    publish_one(&js, subject, one.message_id(number.to_string()))
                }))
                .await;
                let mut sent = sent.into_iter();
                left.retain(|_| match sent.next() {
                    Some(Err(e)) => {
                        why = e;
                        true
                    }
                    _ => false,
                });
                // The node may not know that it leads no more: another one is asked.
                if !left.is_empty() {
                    js = eventually_ok(LEADERLESS_MAX, async || self.admin().await).await;
                }
            }
        }
    }

    /// A node ends at once.
    pub fn crash(&mut self, node: usize) {
        self.servers[node].crash("KILL");
    }

    /// A node is back.
    pub fn start_again(&mut self, node: usize) {
        self.servers[node] = self.node(node);
    }

    /// Who leads the stream or the consumer of that name steps down. A cluster that has no leader
    /// now does not answer.
    pub async fn step_down(&self, kind: &str, name: &str) -> bool {
        let subject = format!("$JS.API.{kind}.LEADER.STEPDOWN.{name}");
        match self.admin().await {
            Ok(admin) => ask(&admin.client(), &subject).await,
            Err(_) => false,
        }
    }

    /// The leader of the cluster itself steps down.
    pub async fn meta_step_down(&self) -> bool {
        let system = self.client(self.account.system_creds()).await;
        match system {
            Ok(client) => ask(&client, "$JS.API.META.LEADER.STEPDOWN").await,
            Err(_) => false,
        }
    }
}

/// Waits until the stream has it.
async fn publish_one(
    js: &jetstream::Context,
    subject: String,
    message: PublishMessage,
) -> Result<(), String> {
    let ack = js.send_publish(subject, message).await.map_err(|e| e.to_string())?;
    ack.await.map(drop).map_err(|e| e.to_string())
}

async fn ask(client: &async_nats::Client, subject: &str) -> bool {
    let answer = client.request(subject.to_owned(), "".into()).await;
    answer.is_ok_and(|answer| String::from_utf8_lossy(&answer.payload).contains("\"success\""))
}
