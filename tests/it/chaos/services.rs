//! Services that keep every change under a name or an id of its own, so that a repeat is known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use async_trait::async_trait;
use serde_json::Value;

use super::storm::PublishedEvents;
use super::targets::StormTarget;
use crate::kafka::identity;
use crate::services::Server;
use crate::services::eventhubs::{EventHubs, PeerHabits};
use crate::services::s3::Seaweed;

/// A folder of a bucket, with an object for each change.
pub struct BucketTarget {
    server: Seaweed,
    folder: String,
    url: String,
}

impl BucketTarget {
    pub fn start() -> BucketTarget {
        let server = Seaweed::start();
        let (folder, url) = server.folder();
        BucketTarget { server, folder, url }
    }
}

#[async_trait(?Send)]
impl StormTarget for BucketTarget {
    fn url(&self) -> String {
        self.url.clone()
    }
    fn keeps_changes(&self) -> bool {
        true
    }
    fn has_columns(&self) -> bool {
        false
    }
    fn events_max(&self) -> u64 {
        400
    }
    fn is_wired(&self) -> bool {
        true
    }
    fn process(&mut self) -> Option<&mut Server> {
        self.server.server.as_mut()
    }
    fn can_crash(&self) -> bool {
        true
    }
    fn crash(&mut self) {
        self.server.crash();
    }
    async fn start_again(&mut self) {
        self.server.run();
    }
    /// A repeat has the name of the first.
    async fn check(&self, published: &PublishedEvents, _: &Path) {
        let mut objects = self.server.objects(&self.folder);
        objects.retain(|name, _| !name.contains(".eds-probe"));
        let there: BTreeSet<String> = objects.values().map(|content| identity(content)).collect();
        let expected: BTreeSet<String> =
            published.stream.iter().map(|event| identity(event)).collect();
        let missing = expected.difference(&there).count();
        assert_eq!(missing, 0, "of {} events are missing", expected.len());
        assert_eq!(objects.len(), expected.len(), "objects for so many events");
    }
}

/// The peer that speaks as Event Hubs does.
pub struct HubTarget {
    hub: EventHubs,
}

impl HubTarget {
    pub async fn start() -> HubTarget {
        HubTarget { hub: EventHubs::start(None).await }
    }
}

#[async_trait(?Send)]
impl StormTarget for HubTarget {
    fn url(&self) -> String {
        self.hub.url()
    }
    fn keeps_changes(&self) -> bool {
        true
    }
    fn has_columns(&self) -> bool {
        false
    }
    fn events_max(&self) -> u64 {
        500
    }
    fn is_wired(&self) -> bool {
        true
    }
    fn can_crash(&self) -> bool {
        true
    }
    fn crash(&mut self) {
        self.hub.set_down(true);
    }
    async fn start_again(&mut self) {
        self.hub.set_down(false);
    }
    fn disturb(&mut self, disturbed: bool) -> bool {
        self.hub.disturb(match disturbed {
            true => PeerHabits { busy: 20, release: 50, detach: 50, lose: 50, idle: None },
            false => PeerHabits::default(),
        });
        true
    }
    /// Batches may be repeated, with the ids that they had, and in their order: the last event of
    /// each row is the last that came.
    async fn check(&self, published: &PublishedEvents, _: &Path) {
        let found = self.hub.received();
        let known = |events: &mut dyn Iterator<Item = &[u8]>| -> BTreeSet<String> {
            events.map(identity).collect()
        };
        let expected = known(&mut published.stream.iter().map(Vec::as_slice));
        let there = known(&mut found.iter().map(|event| event.body.as_slice()));
        let missing = expected.difference(&there).count();
        assert!(missing == 0 && there.len() == expected.len(), "{missing} events are missing");
        let parsed = |event: &[u8]| serde_json::from_slice::<Value>(event).unwrap_or_default();
        let lasts = |events: &mut dyn Iterator<Item = Value>| -> BTreeMap<String, Value> {
            let of_row = |event: Value| {
                (format!("{} {}", event["table"], event["key"]), event["id"].clone())
            };
            events.map(of_row).collect()
        };
        let wanted = lasts(&mut published.stream.iter().map(|event| parsed(event)));
        let arrived = lasts(&mut found.iter().map(|event| parsed(&event.body)));
        let stale = wanted.iter().filter(|(row, id)| arrived.get(*row) != Some(id)).count();
        assert_eq!(stale, 0, "rows end with another event");
        println!("{} repeats", found.len() - there.len());
    }
}
