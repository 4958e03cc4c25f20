//! One storm: faults one after the other, and now and then a second one within the first, while
//! events go on being published.

mod copies;

use std::path::PathBuf;
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use tokio::time::{Instant, sleep};

use super::faults::{StormFault, StormFaults, draw};
use super::poison::poison;
use super::source::{SchemaSite, StormSource};
use super::targets::{EventCounts, StormTarget};
use crate::services::disks::Disks;
use crate::services::eds::{Eds, Running};
use crate::services::proxy::Proxy;
use crate::services::send;
use copies::StormCopy;

/// A storm that is longer than this waits for a version that nobody publishes.
const LONG: Duration = Duration::from_secs(100);
/// How EDS tells that the stream has forgotten what the destination lacks.
const TOLD: &str = "changes may be missing";

/// What was published.
pub struct PublishedEvents {
    pub shop: Shop,
    pub events: u64,
    /// Each event, where the destination keeps them.
    pub stream: Vec<Vec<u8>>,
    /// Messages that have to be dead letters in the end.
    pub letters: usize,
    /// Events whose files were there and are gone, as an older copy of the folder was put back.
    pub taken_away: EventCounts,
}

/// A shop, NATS, a destination, an `eds` between them, wires that can be cut and disks that can be
/// full.
pub struct ChaosScene {
    pub published: PublishedEvents,
    pub faults: StormFaults,
    target: Box<dyn StormTarget>,
    source: StormSource,
    schemas: SchemaSite,
    consumer: String,
    running: Option<Running>,
    eds: Eds,
    wires: Vec<Proxy>,
    copy: Option<StormCopy>,
    /// The stream may forget what is applied, so that a backup can be older than the stream.
    purges: bool,
    poisoned: usize,
    rng: fastrand::Rng,
}

impl ChaosScene {
    pub async fn new(
        name: &str,
        seed: u64,
        source: StormSource,
        target: Box<dyn StormTarget>,
    ) -> ChaosScene {
        let shop = Shop::new(seed, ShopOptions::default());
        let schemas = SchemaSite::start().await;
        schemas.publish(shop.schemas());
        let (mut wires, mut servers) = (Vec::new(), Vec::new());
        for port in source.ports() {
            let wire = Proxy::start(port).await;
            servers.push(format!("nats://127.0.0.1:{}", wire.port));
            wires.push(wire);
        }
        let mut url = target.url();
        if let Some(port) = port_of(&url).filter(|_| target.is_wired()) {
            let wire = Proxy::start(port).await;
            url = url.replacen(&format!(":{port}"), &format!(":{}", wire.port), 1);
            wires.push(wire);
        }
        let creds = source.creds(name);
        let mut eds = Eds::stream_from(&servers.join(","), &creds, &url, "")
            .with(&["--schema", &schemas.url]);
        std::fs::create_dir(eds.data_dir()).unwrap_or_else(|e| panic!("{e}"));
        let mut directories = vec![eds.data_dir()];
        directories.extend(target.files());
        let directories: Vec<_> = directories.iter().map(PathBuf::as_path).collect();
        eds.disks = Disks::on(&directories, "root");
        eds.begin();
        ChaosScene {
            published: PublishedEvents {
                shop,
                events: 0,
                stream: Vec::new(),
                letters: 0,
                taken_away: EventCounts::new(),
            },
            faults: StormFaults::default(),
            target,
            source,
            schemas,
            consumer: format!("eds-{name}"),
            running: None,
            eds,
            wires,
            copy: None,
            purges: false,
            poisoned: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The stream forgets what is applied, now and then.
    pub fn purged(self) -> ChaosScene {
        ChaosScene { purges: true, ..self }
    }

    async fn publish(&mut self) {
        let events = self.rng.u64(..self.target.events_max());
        let mut messages = Vec::new();
        for _ in 0..events {
            let event = self.published.shop.next_event();
            if self.target.keeps_changes() {
                self.published.stream.push(event.payload.clone().into_bytes());
            }
            messages.push((event.subject, event.payload.into_bytes()));
        }
        self.published.events += events;
        self.source.publish(messages).await;
    }

    fn start(&mut self) {
        self.running = Some(self.eds.start(&["--restart=false"]));
    }

    fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }

    /// Faults, one after the other, for so long.
    pub async fn storm(&mut self, lasting: Duration) {
        let until = Instant::now() + lasting;
        self.start();
        if lasting > LONG && self.target.has_columns() && !self.target.keeps_changes() {
            self.publish_strange().await;
        }
        while Instant::now() < until {
            self.publish().await;
            sleep(Duration::from_millis(self.rng.u64(..600))).await;
            let mut rng = self.rng.fork();
            let fault = draw(&mut rng, self.purges, |fault| self.can_happen(fault));
            if self.happens(fault).await {
                self.faults.count(fault);
            }
            if self.running.as_mut().is_none_or(|running| !running.is_running()) {
                // Something that it needed was away when it started.
                self.start();
            }
        }
        self.kill();
    }

    fn can_happen(&mut self, fault: StormFault) -> bool {
        match fault {
            StormFault::StreamLeaderStepsDown
            | StormFault::ConsumerLeaderStepsDown
            | StormFault::ClusterLeaderStepsDown => self.source.is_cluster(),
            StormFault::DestinationCrashed => self.target.can_crash(),
            StormFault::DestinationSuspended => self.target.process().is_some(),
            StormFault::DestinationDisturbed => self.target.disturb(false),
            StormFault::DestinationDiskFull => self.destination_disk().is_some(),
            StormFault::DestinationRestored => self.target.data().is_some(),
            StormFault::DataDiskFull => self.eds.disks.is_some(),
            StormFault::StreamPurged => self.purges,
            _ => true,
        }
    }

    /// Whether it happened.
    async fn happens(&mut self, fault: StormFault) -> bool {
        match fault {
            StormFault::Killed => self.restart(),
            StormFault::Stopped => {
                let running = self.running.take();
                running.map(Running::stop);
                self.start();
            }
            StormFault::Suspended => self.suspend().await,
            StormFault::NatsCrashed => {
                let node = self.rng.usize(..self.source.ports().len());
                self.source.crash(node);
                self.meanwhile().await;
                self.source.start_again(node).await;
            }
            StormFault::StreamLeaderStepsDown
            | StormFault::ConsumerLeaderStepsDown
            | StormFault::ClusterLeaderStepsDown => {
                return self.source.step_down(fault, &self.consumer).await;
            }
            StormFault::ConsumerDeleted => {
                return self.source.delete_consumer(&self.consumer).await;
            }
            StormFault::StreamPurged => return self.source.purge(&self.consumer).await,
            StormFault::ConnectionsCut => {
                let wire = self.rng.usize(..self.wires.len());
                self.wires[wire].cut();
            }
            StormFault::ConnectionsStalled => {
                let wire = self.rng.usize(..self.wires.len());
                self.wires[wire].stall(true);
                self.meanwhile().await;
                self.wires[wire].stall(false);
            }
            StormFault::SchemasAway => {
                self.schemas.set_away(true);
                self.meanwhile().await;
                self.schemas.set_away(false);
            }
            StormFault::DataDiskFull => return self.data_disk_is_full().await,
            StormFault::SchemaChanged => return self.change_schema(),
            StormFault::Poison => self.publish_poison().await,
            _ => return self.destination_suffers(fault).await,
        }
        true
    }

    async fn destination_suffers(&mut self, fault: StormFault) -> bool {
        match fault {
            StormFault::DestinationCrashed => {
                self.target.crash();
                self.meanwhile().await;
                self.target.start_again().await;
            }
            StormFault::DestinationSuspended => {
                for signal in ["STOP", "CONT"] {
                    if let Some(process) = self.target.process() {
                        process.signal(signal);
                    }
                    if signal == "STOP" {
                        self.meanwhile().await;
                    }
                }
            }
            StormFault::DestinationDisturbed => {
                self.target.disturb(true);
                self.publish().await;
                self.meanwhile().await;
                self.target.disturb(false);
            }
            StormFault::DestinationDiskFull => return self.destination_disk_is_full().await,
            _ => return self.restore().await,
        }
        true
    }

    /// A while, in which EDS may be killed, too.
    async fn meanwhile(&mut self) {
        let part = Duration::from_millis(self.rng.u64(25..750));
        sleep(part).await;
        if self.rng.u32(..3) == 0 {
            self.faults.count(StormFault::Killed);
            self.restart();
        }
        sleep(part).await;
    }

    fn restart(&mut self) {
        self.kill();
        self.start();
    }

    async fn suspend(&mut self) {
        let brief = Duration::from_millis(self.rng.u64(50..1_500));
        if let Some(running) = &self.running {
            send(running.pid(), "STOP");
            sleep(brief).await;
            send(running.pid(), "CONT");
        }
    }

    async fn data_disk_is_full(&mut self) -> bool {
        let directory = self.eds.data_dir();
        let full = self.eds.disks.as_mut().is_some_and(|disks| disks.fill(&directory));
        self.publish().await;
        self.meanwhile().await;
        if let Some(disks) = &mut self.eds.disks {
            disks.make_room(&directory);
        }
        full
    }

    /// The disk that has the destination's data, and where on it.
    fn destination_disk(&mut self) -> Option<(&mut Disks, PathBuf)> {
        if let Some(files) = self.target.files() {
            return self.eds.disks.as_mut().map(|disks| (disks, files));
        }
        let data = self.target.data()?;
        self.target.disks().map(|disks| (disks, data))
    }

    async fn destination_disk_is_full(&mut self) -> bool {
        let full = self.destination_disk().is_some_and(|(disks, place)| disks.fill(&place));
        self.publish().await;
        self.meanwhile().await;
        if let Some((disks, place)) = self.destination_disk() {
            disks.make_room(&place);
        }
        // A server may have ended for that.
        if !self.target.answers().await {
            self.target.crash();
            self.target.start_again().await;
        }
        full
    }

    /// Events use a version before or after it is published.
    fn change_schema(&mut self) -> bool {
        let table = self.rng.usize(..self.published.shop.tables.len());
        // Where no column can become wider, the table waits for a person.
        let widened = self.rng.u32(..3) == 0 && self.target.widens();
        let changed = self.published.shop.change_schema(table, widened);
        self.schemas.publish(self.published.shop.schemas().into_iter().nth(table));
        changed
    }

    async fn publish_poison(&mut self) {
        let orders = self.published.shop.tables.iter().find(|table| table.name == "order");
        let version = orders.map(|table| table.version.clone()).unwrap_or_default();
        self.poisoned += 1;
        let poison = poison(&mut self.rng, self.poisoned, &version);
        if poison.is_event && !self.target.has_columns() {
            self.published.stream.push(poison.payload.clone());
        } else {
            self.published.letters += 1;
        }
        self.source.publish(vec![(poison.subject, poison.payload)]).await;
    }

    /// An event in a version that nobody publishes, of a table of its own.
    async fn publish_strange(&mut self) {
        self.published.letters += 1;
        let event = r#"{"operation":"INSERT","id":"strange","table":"ghost","key":["g"],"modelVersion":"none","companyId":"c0","after":{"id":"g"},"timestamp":1720732611000,"mvccTimestamp":"1720732611000000000.0000000000"}"#;
        let subject = "dbchange.ghost.insert.c0.lc0.PUBLIC.g".to_owned();
        self.source.publish(vec![(subject, event.as_bytes().to_vec())]).await;
    }

    /// Nothing happens any more, and everything is applied. What that run says.
    pub fn calm(&self) -> String {
        let wait = Duration::from_secs(300);
        let ended = self.eds.start(&["--restart=false", "--until-caught-up"]).wait(wait);
        assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
        ended.log
    }

    /// What arrived is what was published, and nobody was told anything else. Where a copy can be
    /// older than what the stream still has, users may be told instead that changes are missing.
    pub async fn check(&self) -> &'static str {
        let logs = self.eds.logs();
        let says = |word: &str| logs.iter().find(|log| log.contains(word));
        assert_eq!(says("panicked at"), None);
        let told = says(TOLD);
        let restored = self.faults.of(StormFault::DestinationRestored);
        if told.is_some() && restored > 0 && self.faults.of(StormFault::StreamPurged) > 0 {
            return "users are told to import";
        }
        assert_eq!(told, None);
        self.check_target().await;
        assert_eq!(self.eds.dead_letters().len(), self.published.letters, "dead letters");
        "0 lost, 0 doubled, 0 stale"
    }

    async fn check_target(&self) {
        self.target.check(&self.published, &self.place()).await;
    }

    /// Where this process sees the destination's files.
    fn place(&self) -> PathBuf {
        let files = self.target.files().unwrap_or_default();
        self.eds.disks.as_ref().map_or(files.clone(), |disks| disks.outside(&files))
    }
}

/// The port of a URL on this machine.
fn port_of(url: &str) -> Option<u16> {
    let (_, rest) = url.split_once("127.0.0.1:")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
