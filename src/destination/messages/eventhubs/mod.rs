//! Azure Event Hubs: each change is an event, in the order of its partition; several go together,
//! up to what the hub takes.

mod entra;
mod form;
mod namespace;
mod outbox;
mod partition;
mod session;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::ABILITIES;
use crate::backoff::Backoff;
use crate::change::{Batch, Position};
use crate::destination::settings::{BadUrl, server_url};
use crate::destination::{Destination, Driver, Failure, FailureKind, Settings, Target};
use namespace::HubNamespace;
use outbox::{PartitionQueue, queues};
use session::{HubSession, failure};

/// Azure Event Hubs.
pub const DRIVER: Driver = Driver {
    scheme: "eventhub",
    aliases: &[],
    title: "Microsoft Azure EventHub",
    description: "Writes each change as an event to a hub of Azure Event Hubs.",
    example: "eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…",
    help: "The URL is the hub's connection string with eventhub:// for Endpoint=sb://; its policy \
           needs the right Send. Instead of\n\
           a key: Authentication=ManagedIdentity, or Authentication=ClientSecret with TenantId, \
           ClientId and ClientSecret.\n\
           The partition key is <table>.<company>.<location>.<primary key>: changes of a row stay \
           in order. The message id is the\n\
           event's, the property objectId is dbchange.<table>.<operation>.<company>.<location>.<primary key>.\n\
           After a crash the events of the last batch may be sent again, with the same ids. Two \
           processes must not write to one hub\n\
           for the same server. UseDevelopmentEmulator=true is for an emulator on this machine.",
    fields: &form::CONNECTION,
    url_of_form: form::url,
    parameters: &[],
    accepted: &[],
    secrets: &[],
    read_url: connection_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// How long a batch whose connection, session or link ended is gone on with on new ones, before
/// the failure is reported.
const RESUME_TIME_MAX: Duration = Duration::from_secs(45);

/// Reads a connection string. What follows the first semicolon holds the key, and is not shown.
fn connection_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    let settings = server_url(text, driver)?;
    let shown = settings.shown.split(';').next().unwrap_or_default().to_owned();
    Ok(Settings { shown, ..settings })
}

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let namespace = HubNamespace::read(&target.settings)?;
    let session = HubSession::open(&namespace).await?;
    Ok(Box::new(EventHub { namespace, session: Some(session), stored: HashSet::new() }))
}

struct EventHub {
    namespace: HubNamespace,
    /// `None` after the last one ended and no new one could be opened.
    session: Option<HubSession>,
    /// Where the events are in the stream that the hub has confirmed of the current batch: the
    /// other events of a batch of which the hub refused some are not sent again.
    stored: HashSet<Position>,
}

impl EventHub {
    /// A session that can be used: the one that there is, unless it is old or has ended.
    async fn session(&mut self) -> Result<&mut HubSession, Failure> {
        if let Some(session) = &mut self.session
            && !session.is_usable()
        {
            self.end_session().await;
        }
        let session = match self.session.take() {
            Some(session) => session,
            None => HubSession::open(&self.namespace).await?,
        };
        Ok(self.session.insert(session))
    }

    async fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Sends what is left in the queues, as far as this session lets it.
    async fn drain(&mut self, queues: &mut [PartitionQueue]) -> Result<(), Failure> {
        let namespace = self.namespace.clone();
        let session = self.session().await?;
        if session.senders.len() != queues.len() {
            return Err(Failure::unavailable(
                "the hub's number of partitions has changed: events are assigned anew",
            ));
        }
        let sent = session
            .senders
            .iter_mut()
            .zip(&mut *queues)
            .map(|(sender, queue)| queue.drain(&namespace, sender));
        // All partitions are waited for: one that fails does not undo what the others stored.
        let outcomes = tokio::select! {
            outcomes = futures::future::join_all(sent) => outcomes,
            // A sender that waits for an outcome does not learn from its link that the connection
            // ended.
            ended = session.connection.on_close() => {
                let text = format!("the connection ended ({ended:?})");
                return Err(failure(&namespace, "sending", &text));
            }
        };
        session.used();
        outcomes.into_iter().collect()
    }

    /// Sends what is left in the queues. Where a connection, session or link ends, the rest goes
    /// over new ones: what the hub has confirmed is not sent again.
    async fn drain_all(&mut self, queues: &mut [PartitionQueue]) -> Result<(), Failure> {
        let started = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            let Err(failure) = self.drain(queues).await else { return Ok(()) };
            if failure.kind != FailureKind::Unavailable || started.elapsed() > RESUME_TIME_MAX {
                return Err(failure);
            }
            debug!("{failure}; going on with a new session");
            self.end_session().await;
            sleep(backoff.next(&self.namespace.host)).await;
        }
    }
}

#[async_trait]
impl Destination for EventHub {
    /// A namespace has one name, and hubs are named in whatever case.
    fn identity(&self) -> Option<String> {
        let HubNamespace { host, port, hub, .. } = &self.namespace;
        Some(format!("eventhub {host}:{port} {hub}").to_ascii_lowercase())
    }

    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let session = self.session().await?;
        let (partitions, bytes_max) = (session.senders.len(), session.message_bytes_max);
        let mut queues = queues(batch, &self.stored, partitions, bytes_max)?;
        let drained = self.drain_all(&mut queues).await;
        let mut culprits = Vec::new();
        for queue in queues {
            self.stored.extend(queue.stored);
            culprits.extend(queue.rejected);
        }
        drained?;
        if culprits.is_empty() {
            self.stored.clear();
            Ok(())
        } else {
            culprits.sort_unstable_by_key(|(index, _)| *index);
            Err(Failure::rejected(culprits))
        }
    }

    async fn close(mut self: Box<Self>) -> Result<(), Failure> {
        self.end_session().await;
        Ok(())
    }
}
