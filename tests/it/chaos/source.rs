//! Where a storm's events come from: one nats-server, or three that are one; and a publisher of
//! schemas that may be away.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream::consumer::pull;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::faults::StormFault;
use crate::services::nats::Nats;
use crate::services::nats_cluster::NatsCluster;
use crate::services::scene::COMPANIES;

pub enum StormSource {
    One(Nats),
    Three(Box<NatsCluster>),
}

impl StormSource {
    pub fn ports(&self) -> Vec<u16> {
        match self {
            StormSource::One(nats) => vec![nats.port],
            StormSource::Three(cluster) => cluster.ports.clone(),
        }
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, StormSource::Three(_))
    }

    pub fn creds(&self, name: &str) -> PathBuf {
        match self {
            StormSource::One(nats) => nats.server_creds(name, COMPANIES, None),
            StormSource::Three(cluster) => cluster.server_creds(name, COMPANIES),
        }
    }

    pub async fn publish(&mut self, messages: Vec<(String, Vec<u8>)>) {
        match self {
            StormSource::One(nats) => nats.publish(messages.into_iter()).await,
            StormSource::Three(cluster) => cluster.publish(messages).await,
        }
    }

    /// Whether it could be asked for.
    pub async fn delete_consumer(&self, name: &str) -> bool {
        let admin = match self {
            StormSource::One(nats) => Ok(nats.admin().await),
            StormSource::Three(cluster) => cluster.admin().await,
        };
        let Ok(admin) = admin else { return false };
        admin.delete_consumer_from_stream(name, "dbchange").await.is_ok()
    }

    /// The stream forgets what the consumer has acknowledged. Whether that is known.
    pub async fn purge(&self, consumer: &str) -> bool {
        let StormSource::One(nats) = self else { return false };
        let admin = nats.admin().await;
        let found = admin.get_consumer_from_stream::<pull::Config, _, _>(consumer, "dbchange");
        // Of a consumer that was deleted nothing is known before EDS makes it again.
        let Ok(found) = found.await else { return false };
        let through = found.cached_info().ack_floor.stream_sequence;
        // Without a sequence it would forget everything.
        if through > 0 {
            nats.purge(through + 1).await;
        }
        through > 0
    }

    /// A server ends at once.
    pub fn crash(&mut self, node: usize) {
        match self {
            StormSource::One(nats) => {
                if let Some(server) = nats.server.as_mut() {
                    server.crash("KILL");
                }
            }
            StormSource::Three(cluster) => cluster.crash(node),
        }
    }

    pub async fn start_again(&mut self, node: usize) {
        match self {
            StormSource::One(nats) => nats.run().await,
            StormSource::Three(cluster) => cluster.start_again(node),
        }
    }

    /// A leader steps down. Whether there was one.
    pub async fn step_down(&self, fault: StormFault, consumer: &str) -> bool {
        let StormSource::Three(cluster) = self else { return false };
        match fault {
            StormFault::StreamLeaderStepsDown => cluster.step_down("STREAM", "dbchange").await,
            StormFault::ConsumerLeaderStepsDown => {
                cluster.step_down("CONSUMER", &format!("dbchange.{consumer}")).await
            }
            _ => cluster.meta_step_down().await,
        }
    }
}

/// Publishes schemas as HQ does.
#[derive(Default)]
pub struct SchemaSite {
    pub url: String,
    state: Arc<Mutex<SchemaSiteState>>,
}

#[derive(Default)]
struct SchemaSiteState {
    /// All versions of all tables.
    schemas: Vec<String>,
    is_away: bool,
}

impl SchemaSiteState {
    fn answer(&self) -> String {
        let entries: Vec<String> =
            self.schemas.iter().enumerate().map(|(n, json)| format!("\"o{n}\":{json}")).collect();
        let (status, body) = match self.is_away {
            true => ("503 Service Unavailable", String::new()),
            false => ("200 OK", format!("{{{}}}", entries.join(","))),
        };
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

impl SchemaSite {
    pub async fn start() -> SchemaSite {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|e| panic!("{e}"));
        let port = listener.local_addr().unwrap_or_else(|e| panic!("{e}")).port();
        let site =
            SchemaSite { url: format!("http://127.0.0.1:{port}/schemas"), ..SchemaSite::default() };
        let state = site.state.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = vec![0; 8192];
                let _ = stream.read(&mut asked).await;
                let answer = state.lock().unwrap_or_else(PoisonError::into_inner).answer();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        site
    }

    pub fn publish(&self, schemas: impl IntoIterator<Item = String>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).schemas.extend(schemas);
    }

    pub fn set_away(&self, away: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_away = away;
    }
}
