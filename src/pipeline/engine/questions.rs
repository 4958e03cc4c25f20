//! The schemas that are being asked for: one that arriving events wait for, for a short while, and
//! others for which nobody waits.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::registry::{Lookup, Registry, SchemaAnswer};

/// How long what arrives waits for a schema where the changes of its table can be kept without it.
/// A publisher answers in less, mostly.
const ARRIVALS_WAIT_MAX: Duration = Duration::from_secs(1);

/// A table and a version of its schema.
type VersionName = (String, String);

/// What came of a question.
pub type Answer = (String, String, SchemaAnswer);

/// The schema that the first of what has arrived needs.
struct Waited {
    name: VersionName,
    lookup: Lookup,
    since: Instant,
}

/// Questions to the publisher of schemas.
#[derive(Default)]
pub struct Questions {
    waited: Option<Waited>,
    /// An unknown version is being asked for again, or one of a dead letter.
    recheck: Option<Lookup>,
    /// Those of kept changes: of each table at most one for what arrived and one for what is kept.
    unwaited: FuturesUnordered<Lookup>,
    /// What the unwaited are about.
    names: HashSet<VersionName>,
}

impl Questions {
    /// Whether what arrives waits for a schema.
    pub fn is_waited(&self) -> bool {
        self.waited.is_some()
    }

    /// Whether a schema of kept changes is being asked for.
    pub fn has_unwaited(&self) -> bool {
        !self.unwaited.is_empty()
    }

    /// Asks for the schema that the first of what has arrived needs.
    pub fn wait_for(&mut self, (table, version): VersionName, registry: &Registry) {
        let lookup = registry.ask(&table, &version);
        self.waited = Some(Waited { name: (table, version), lookup, since: Instant::now() });
    }

    /// When it was waited for long enough.
    pub fn waited_until(&self) -> Option<Instant> {
        self.waited.as_ref().map(|waited| waited.since + ARRIVALS_WAIT_MAX)
    }

    /// Nobody waits for it any more; the table that it is about.
    pub fn stop_waiting(&mut self) -> Option<String> {
        let Waited { name, lookup, .. } = self.waited.take()?;
        if self.names.insert(name.clone()) {
            self.unwaited.push(lookup);
        }
        Some(name.0)
    }

    /// What has arrived was dropped.
    pub fn forget_waited(&mut self) {
        self.waited = None;
    }

    /// Asks for the schema of kept changes, unless that is being done.
    pub fn ask(&mut self, name: VersionName, registry: &Registry) {
        if !self.names.contains(&name) {
            self.unwaited.push(registry.ask(&name.0, &name.1));
            self.names.insert(name);
        }
    }

    /// Asks for an unknown version again, if it is time.
    pub fn recheck(&mut self, registry: &mut Registry) {
        if self.recheck.is_none() {
            self.recheck = registry.recheck();
        }
    }

    /// Asks for the schema of a dead letter once. `false`: another is being asked for.
    pub fn ask_once(&mut self, table: &str, version: &str, registry: &Registry) -> bool {
        let is_free = self.recheck.is_none();
        if is_free {
            self.recheck = Some(registry.ask_now(table, version));
        }
        is_free
    }

    /// Waits for an answer; for ever where nothing is asked. May be dropped while it waits.
    pub async fn answer(&mut self) -> Answer {
        tokio::select! {
            biased;
            answer = of_waited(&mut self.waited) => {
                self.waited = None;
                answer
            }
            Some(answer) = self.unwaited.next(), if !self.unwaited.is_empty() => {
                self.names.remove(&(answer.0.clone(), answer.1.clone()));
                answer
            }
            answer = of_recheck(&mut self.recheck) => {
                self.recheck = None;
                answer
            }
        }
    }
}

async fn of_waited(waited: &mut Option<Waited>) -> Answer {
    match waited {
        Some(waited) => (&mut waited.lookup).await,
        None => std::future::pending().await,
    }
}

async fn of_recheck(recheck: &mut Option<Lookup>) -> Answer {
    match recheck {
        Some(lookup) => lookup.await,
        None => std::future::pending().await,
    }
}
