//! Where the events of a storm arrive, and how what arrived is compared with what was published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use eds::sandbox::check::{self, TableReport};

use super::storm::PublishedEvents;
use crate::kafka::{assert_whole, identity};
use crate::parquet;
use crate::parts::finished;
use crate::services::Server;
use crate::services::disks::Disks;
use crate::services::kafka::{Kafka, messages};
use crate::services::scene::Keeper;

/// Where EDS writes to.
#[async_trait(?Send)]
pub trait StormTarget {
    fn url(&self) -> String;

    /// Every change stays, as itself; otherwise rows are what the last change left.
    fn keeps_changes(&self) -> bool;

    /// A value that does not fit its column is a dead letter.
    fn has_columns(&self) -> bool;

    /// Its columns become wider by themselves.
    fn widens(&self) -> bool {
        true
    }

    /// Events between two faults, at most.
    fn events_max(&self) -> u64 {
        2_000
    }

    /// Its connections can be led over a wire.
    fn is_wired(&self) -> bool {
        false
    }

    /// Where its data are, if copies of them can be put back.
    fn data(&self) -> Option<PathBuf> {
        None
    }

    /// Files that EDS itself writes, which belong on a disk that EDS sees.
    fn files(&self) -> Option<PathBuf> {
        None
    }

    /// The disk of its own that its data have.
    fn disks(&mut self) -> Option<&mut Disks> {
        None
    }

    /// Its process, if it is a server.
    fn process(&mut self) -> Option<&mut Server> {
        None
    }

    /// It can end, as at a power cut.
    fn can_crash(&self) -> bool {
        false
    }

    fn crash(&mut self) {}

    async fn start_again(&mut self) {}

    /// It does what such a service does at times, or no more. Whether it can.
    fn disturb(&mut self, _disturbed: bool) -> bool {
        false
    }

    /// Ids of the events in its files, and how often each is there, where these can be told: then
    /// copies of them are put back without EDS's position, too.
    fn ids(&self, _place: &Path) -> Option<EventCounts> {
        None
    }

    async fn answers(&self) -> bool {
        true
    }

    /// Fails the test where what is there is not what was published; `place` is where its files
    /// are seen.
    async fn check(&self, published: &PublishedEvents, place: &Path);
}

/// A database server.
pub struct ServedTarget<K> {
    keeper: K,
    database: String,
    url: String,
    events_max: u64,
}

impl<K: Keeper> ServedTarget<K> {
    pub async fn of(keeper: K) -> ServedTarget<K> {
        let (database, url) = keeper.fresh().await;
        ServedTarget { keeper, database, url, events_max: 2_000 }
    }

    /// It takes fewer events a second.
    pub fn slow(self, events_max: u64) -> ServedTarget<K> {
        ServedTarget { events_max, ..self }
    }
}

#[async_trait(?Send)]
impl<K: Keeper> StormTarget for ServedTarget<K> {
    fn url(&self) -> String {
        self.url.clone()
    }
    fn keeps_changes(&self) -> bool {
        false
    }
    fn has_columns(&self) -> bool {
        true
    }
    fn widens(&self) -> bool {
        self.keeper.widens()
    }
    fn events_max(&self) -> u64 {
        self.events_max
    }
    fn is_wired(&self) -> bool {
        true
    }
    fn data(&self) -> Option<PathBuf> {
        self.keeper.data()
    }
    fn disks(&mut self) -> Option<&mut Disks> {
        self.keeper.disks()
    }
    fn process(&mut self) -> Option<&mut Server> {
        self.keeper.process()
    }
    fn can_crash(&self) -> bool {
        true
    }
    fn crash(&mut self) {
        self.keeper.crash();
    }
    fn disturb(&mut self, disturbed: bool) -> bool {
        self.keeper.disturb(&self.database, disturbed)
    }
    async fn start_again(&mut self) {
        self.keeper.start_again().await;
    }
    async fn answers(&self) -> bool {
        self.keeper.answers().await
    }
    async fn check(&self, published: &PublishedEvents, _: &Path) {
        let reports = self.keeper.reports(&published.shop, &self.database).await;
        assert_rows(reports);
    }
}

fn assert_rows(reports: Result<Vec<TableReport>, String>) {
    let reports = reports.unwrap_or_else(|e| panic!("{e}"));
    let wrong: Vec<String> = reports.iter().filter(|r| !r.is_equal()).map(check::line).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(reports.iter().map(|r| r.expected).sum::<usize>() > 0);
}

/// What files hold.
#[derive(Clone, Copy, PartialEq)]
pub enum FilesForm {
    Sqlite,
    Ndjson,
    Parquet,
}

/// Files that EDS writes.
pub struct FilesTarget {
    pub form: FilesForm,
    pub dir: tempfile::TempDir,
}

#[async_trait(?Send)]
impl StormTarget for FilesTarget {
    fn url(&self) -> String {
        let dir = self.dir.path().display();
        match self.form {
            FilesForm::Sqlite => format!("sqlite://{dir}/shop.db"),
            FilesForm::Ndjson => format!("file://{dir}?format=ndjson&freshness=50ms"),
            FilesForm::Parquet => format!("file://{dir}?format=parquet&freshness=50ms"),
        }
    }
    fn keeps_changes(&self) -> bool {
        self.form != FilesForm::Sqlite
    }
    fn has_columns(&self) -> bool {
        self.form != FilesForm::Ndjson
    }
    fn events_max(&self) -> u64 {
        match self.form {
            FilesForm::Sqlite => 1_000,
            FilesForm::Ndjson => 2_000,
            // Reading them back takes the memory of all their values.
            FilesForm::Parquet => 300,
        }
    }
    fn data(&self) -> Option<PathBuf> {
        Some(self.dir.path().to_owned())
    }
    fn files(&self) -> Option<PathBuf> {
        Some(self.dir.path().to_owned())
    }
    fn ids(&self, place: &Path) -> Option<EventCounts> {
        let lines = || finished(place).into_values().flatten();
        (self.form == FilesForm::Ndjson).then(|| counts(lines().map(String::into_bytes)))
    }
    async fn check(&self, published: &PublishedEvents, place: &Path) {
        match self.form {
            FilesForm::Sqlite => {
                // Its library follows the way to the place, which others cannot go.
                let dir = tempfile::TempDir::new().unwrap_or_else(|e| panic!("{e}"));
                for (name, content) in crate::parts::files(place) {
                    std::fs::write(dir.path().join(name), content)
                        .unwrap_or_else(|e| panic!("{e}"));
                }
                let path = dir.path().join("shop.db").display().to_string();
                assert_rows(check::sqlite(&published.shop, &path));
            }
            FilesForm::Ndjson => {
                let files = finished(place);
                let lines: Vec<&String> = files.values().flatten().collect();
                assert_each_once(published, &lines);
            }
            FilesForm::Parquet => {
                let found = parquet::read_all(place);
                parquet::assert_whole(&published.shop, &published.stream, &found);
            }
        }
    }
}

/// How often events are there, by their ids.
pub type EventCounts = BTreeMap<Vec<u8>, usize>;

fn counts(events: impl Iterator<Item = impl AsRef<[u8]>>) -> EventCounts {
    let mut counts = EventCounts::new();
    events.for_each(|event| *counts.entry(id_of(event.as_ref()).to_vec()).or_default() += 1);
    counts
}

/// Each event is there as often as it is in the stream, but for those whose files were taken away.
fn assert_each_once(published: &PublishedEvents, lines: &[&String]) {
    let (there, expected) = (counts(lines.iter()), counts(published.stream.iter()));
    let of = |counts: &EventCounts, id: &Vec<u8>| counts.get(id).copied().unwrap_or(0);
    let missing = expected
        .iter()
        .filter(|(id, times)| of(&there, id) + of(&published.taken_away, id) < **times)
        .count();
    let doubled = there.iter().filter(|(id, times)| of(&expected, id) < **times).count();
    assert_eq!((missing, doubled), (0, 0), "of {} events", published.stream.len());
}

/// The event's own id, from its text.
fn id_of(event: &[u8]) -> &[u8] {
    let name = b"\"id\":\"";
    let at = event.windows(name.len()).position(|part| part == name);
    let rest = &event[at.map_or(0, |at| at + name.len())..];
    rest.split(|byte| *byte == b'"').next().unwrap_or_default()
}

/// A topic of a broker of its own.
pub struct KafkaTarget {
    kafka: Kafka,
    topic: String,
}

impl KafkaTarget {
    pub fn start() -> KafkaTarget {
        let kafka = Kafka::start();
        let topic = kafka.topic();
        KafkaTarget { kafka, topic }
    }
}

#[async_trait(?Send)]
impl StormTarget for KafkaTarget {
    fn url(&self) -> String {
        self.kafka.url(&self.topic)
    }
    fn keeps_changes(&self) -> bool {
        true
    }
    fn has_columns(&self) -> bool {
        false
    }
    fn events_max(&self) -> u64 {
        1_000
    }
    fn process(&mut self) -> Option<&mut Server> {
        self.kafka.process()
    }
    fn can_crash(&self) -> bool {
        true
    }
    fn crash(&mut self) {
        self.kafka.kill();
    }
    async fn start_again(&mut self) {
        self.kafka.run();
    }
    async fn check(&self, published: &PublishedEvents, _: &Path) {
        let found = messages(&self.kafka.brokers(), &self.topic);
        let known = published.stream.iter().map(|event| identity(event)).collect();
        assert_eq!(assert_whole(&found, &known), 0, "repeats");
        assert_eq!(found.len(), published.stream.len(), "messages for so many events");
    }
}
