//! One storm: faults one after the other, while events go on being published.

use std::collections::BTreeSet;
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use tokio::time::{Instant, sleep};

use super::id_of;
use crate::services::eds::{Eds, Running};
use crate::services::nats::Nats;
use crate::services::proxy::Proxy;
use crate::services::scene::{COMPANIES, Keeper};
use crate::services::send;

/// Events between two faults, at most.
const EVENTS_MAX: u64 = 2_000;

/// How often each fault happened.
#[derive(Default, Debug)]
pub struct StormFaults {
    killed: u32,
    stopped: u32,
    suspended: u32,
    nats_crashed: u32,
    database_crashed: u32,
    consumer_deleted: u32,
    connections_cut: u32,
    connections_stalled: u32,
    poison: u32,
}

impl StormFaults {
    pub fn total(&self) -> u32 {
        self.killed
            + self.stopped
            + self.suspended
            + self.nats_crashed
            + self.database_crashed
            + self.consumer_deleted
            + self.connections_cut
            + self.connections_stalled
            + self.poison
    }
}

/// A shop, NATS, a destination, an `eds` between them, and wires that can be cut.
pub struct ChaosScene {
    pub shop: Shop,
    pub published: u64,
    /// Bad messages that were published.
    pub poisoned: usize,
    /// The ids of the events that were published.
    pub ids: BTreeSet<String>,
    nats: Nats,
    consumer: String,
    eds: Eds,
    wires: Vec<Proxy>,
    rng: fastrand::Rng,
}

impl ChaosScene {
    pub async fn new(name: &str, seed: u64, url: &str) -> ChaosScene {
        let nats = Nats::start().await;
        let shop = Shop::new(seed, ShopOptions::default());
        let creds = nats.server_creds(name, COMPANIES, None);
        let to_nats = Proxy::start(nats.port).await;
        let mut wires = vec![];
        let mut url = url.to_owned();
        if let Some(port) = port_of(&url) {
            let to_database = Proxy::start(port).await;
            url = url.replacen(&format!(":{port}"), &format!(":{}", to_database.port), 1);
            wires.push(to_database);
        }
        let server = format!("nats://127.0.0.1:{}", to_nats.port);
        wires.push(to_nats);
        let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map()).with(&["--server", &server]);
        eds.begin();
        ChaosScene {
            shop,
            published: 0,
            poisoned: 0,
            ids: BTreeSet::new(),
            consumer: format!("eds-{name}"),
            nats,
            eds,
            wires,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// How many dead letters there are.
    pub fn dead_letters(&self) -> usize {
        self.eds.dead_letters().len()
    }

    async fn publish(&mut self) {
        let events = self.rng.u64(..EVENTS_MAX);
        let mut messages = Vec::new();
        for _ in 0..events {
            let event = self.shop.next_event();
            self.ids.insert(id_of(&event.payload).to_owned());
            messages.push((event.subject, event.payload.into_bytes()));
        }
        self.published += events;
        self.nats.publish(messages.into_iter()).await;
    }

    /// StormFaults, one after the other, for so long.
    pub async fn storm(
        &mut self,
        lasting: Duration,
        mut database: Option<&mut dyn Keeper>,
    ) -> StormFaults {
        let (until, mut faults) = (Instant::now() + lasting, StormFaults::default());
        let mut running = self.eds.start(&["--restart=false"]);
        while Instant::now() < until {
            self.publish().await;
            sleep(Duration::from_millis(self.rng.u64(..600))).await;
            running = self.fault(running, &mut database, &mut faults).await;
            if !running.is_running() {
                // Something that it needed was away when it started.
                running = self.eds.start(&["--restart=false"]);
            }
        }
        running.kill();
        faults
    }

    /// What happens to the process; the one that runs after it.
    async fn fault_of_process(
        &mut self,
        running: Running,
        brief: Duration,
        faults: &mut StormFaults,
    ) -> Running {
        match self.rng.u32(..5) {
            0..3 => {
                faults.killed += 1;
                running.kill();
            }
            3 => {
                faults.stopped += 1;
                running.stop();
            }
            _ => {
                faults.suspended += 1;
                send(running.pid(), "STOP");
                sleep(brief).await;
                send(running.pid(), "CONT");
                return running;
            }
        }
        self.eds.start(&["--restart=false"])
    }

    async fn fault(
        &mut self,
        running: Running,
        database: &mut Option<&mut dyn Keeper>,
        faults: &mut StormFaults,
    ) -> Running {
        let brief = Duration::from_millis(self.rng.u64(50..1_500));
        match (self.rng.u32(..12), database) {
            (0..5, _) => return self.fault_of_process(running, brief, faults).await,
            (5, _) => {
                faults.nats_crashed += 1;
                if let Some(server) = self.nats.server.as_mut() {
                    server.crash("KILL");
                }
                sleep(brief).await;
                self.nats.run().await;
            }
            (6, Some(database)) => {
                faults.database_crashed += 1;
                database.crash();
                sleep(brief).await;
                database.start_again().await;
            }
            (7, _) => {
                faults.consumer_deleted += 1;
                let admin = self.nats.admin().await;
                let _ = admin.delete_consumer_from_stream(&self.consumer, "dbchange").await;
            }
            (8 | 9, _) => {
                faults.connections_cut += 1;
                self.wires[self.rng.usize(..self.wires.len())].cut();
            }
            (10, _) => {
                faults.connections_stalled += 1;
                let wire = &self.wires[self.rng.usize(..self.wires.len())];
                wire.stall(true);
                sleep(brief).await;
                wire.stall(false);
            }
            _ => {
                faults.poison += 1;
                self.poisoned += 1;
                let poison = ("dbchange.order.insert.c0.l0.PUBLIC.bad".to_owned(), b"{".to_vec());
                self.nats.publish(std::iter::once(poison)).await;
            }
        }
        running
    }

    /// Nothing happens any more, and everything is applied.
    pub async fn calm(&self) {
        let wait = Duration::from_secs(300);
        let ended = self.eds.start(&["--restart=false", "--until-caught-up"]).wait(wait);
        assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
    }
}

/// The port of a URL on this machine.
fn port_of(url: &str) -> Option<u16> {
    let (_, rest) = url.split_once("127.0.0.1:")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
