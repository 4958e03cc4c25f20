//! Azure Event Hubs: each change is an event, in the order of its partition; several go together,
//! up to what the hub takes.

mod form;
mod namespace;
mod partition;
mod session;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fe2o3_amqp::link::{LinkStateError, SendError};
use fe2o3_amqp::{Sendable, Sender};
use fe2o3_amqp_types::definitions::Error;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Batch as Sections, Data, Message, MessageAnnotations, Outcome,
    Properties,
};
use tokio::time::{sleep, timeout};

use super::{ABILITIES, Names};
use crate::cause::chain;
use crate::change::{Batch, Change};
use crate::destination::settings::{BadUrl, server_url};
use crate::destination::{Destination, Driver, Failure, FailureKind, Settings, Target};
use namespace::HubNamespace;
use partition::partition;
use session::{HubSession, failure};

/// Azure Event Hubs.
pub const DRIVER: Driver = Driver {
    scheme: "eventhub",
    aliases: &[],
    title: "Microsoft Azure EventHub",
    description: "Writes each change as an event to a hub of Azure Event Hubs.",
    example: "eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…",
    help: "The URL is the hub's connection string with eventhub:// for Endpoint=sb://; its policy \
           needs the right Send.\n\
           The partition key is <table>.<company>.<location>.<primary key>: changes of a row stay \
           in order. The message id is the\n\
           event's, the property objectId is dbchange.<table>.<operation>.<company>.<location>.<primary key>.\n\
           After a crash the events of the last batch may be sent again, with the same ids. Two \
           processes must not write to one hub\n\
           for the same server. UseDevelopmentEmulator=true is for an emulator on this machine.",
    fields: &form::CONNECTION,
    url_of_form: form::url,
    parameters: &[],
    read_url: connection_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// Several events in one message, as Event Hubs reads it.
const BATCH_FORMAT: u32 = 0x8001_3700;
/// Bytes that a batch takes beside its events, and each event beside itself.
const BATCH_OVERHEAD: u64 = 1024;
const EVENT_OVERHEAD: u64 = 16;
/// The longest partition key that the service takes.
const PARTITION_KEY_MAX: usize = 128;
const PARTITION_KEY: &str = "x-opt-partition-key";
/// How long a batch may be on its way.
const SEND_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long to wait where the service is busy, as its documentation advises, and how often.
const BUSY_WAIT: Duration = Duration::from_secs(4);
const BUSY_MAX: u32 = 15;

/// Reads a connection string. What follows the first semicolon holds the key, and is not shown.
fn connection_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    let settings = server_url(text, driver)?;
    let shown = settings.shown.split(';').next().unwrap_or_default().to_owned();
    Ok(Settings { shown, ..settings })
}

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let namespace = HubNamespace::read(&target.settings)?;
    let session = HubSession::open(&namespace).await?;
    Ok(Box::new(EventHub { namespace, session: Some(session) }))
}

struct EventHub {
    namespace: HubNamespace,
    /// `None` after the last one ended and no new one could be opened.
    session: Option<HubSession>,
}

/// A change as it is sent: the partition key, shortened where the service would not take it, and
/// the encoded message.
fn encoded(change: &Change) -> Result<(String, Vec<u8>), Failure> {
    let names = Names::of(change);
    let key = names.partition_key();
    let sent = if key.chars().count() > PARTITION_KEY_MAX {
        let start: String = key.chars().take(PARTITION_KEY_MAX - 33).collect();
        format!("{start}-{:032x}", xxhash_rust::xxh3::xxh3_128(key.as_bytes()))
    } else {
        key
    };
    let message = Message::builder()
        .message_annotations(
            MessageAnnotations::builder().insert(PARTITION_KEY, sent.as_str()).build(),
        )
        .properties(
            Properties::builder()
                .message_id(change.event.id().into_owned())
                .content_type("application/json")
                .build(),
        )
        .application_properties(
            ApplicationProperties::builder().insert("objectId", names.subject(&names.key)).build(),
        )
        .data(change.event.stored().into_bytes())
        .build();
    let bytes = serde_amqp::to_vec(&Serializable(message))
        .map_err(|_| Failure::new(FailureKind::Rejected, "the event cannot be encoded"))?;
    Ok((sent, bytes))
}

/// The batches of each partition, oldest first, each up to `bytes_max`.
fn batches(
    batch: &Batch,
    partitions: usize,
    bytes_max: u64,
) -> Result<Vec<Vec<Vec<Data>>>, Failure> {
    let room = bytes_max.saturating_sub(BATCH_OVERHEAD);
    let mut queues: Vec<(Vec<Vec<Data>>, u64)> = (0..partitions).map(|_| (Vec::new(), 0)).collect();
    let mut culprits = Vec::new();
    for (index, change) in batch.ordered() {
        let (key, bytes) = encoded(change)?;
        let size = bytes.len() as u64 + EVENT_OVERHEAD;
        if size > room {
            culprits.push((
                index,
                format!("the event would have {size} bytes, and the hub takes {room}"),
            ));
            continue;
        }
        let (queue, filled) = &mut queues[partition(&key, partitions)];
        if queue.is_empty() || *filled + size > room {
            queue.push(Vec::new());
            *filled = 0;
        }
        *filled += size;
        if let Some(last) = queue.last_mut() {
            last.push(Data::from(bytes));
        }
    }
    // Before anything is sent, so that nothing overtakes what is left out.
    if culprits.is_empty() {
        Ok(queues.into_iter().map(|(queue, _)| queue).collect())
    } else {
        Err(Failure::rejected(culprits))
    }
}

/// Sends the batches of a partition one after the other: nothing overtakes what failed.
async fn send_all(
    namespace: &HubNamespace,
    sender: &mut Sender,
    queue: Vec<Vec<Data>>,
) -> Result<(), Failure> {
    for events in queue {
        let message = Message::builder().data_batch(Sections::new(events)).build();
        send(
            namespace,
            sender,
            &Sendable::builder().message(message).message_format(BATCH_FORMAT).build(),
        )
        .await?;
    }
    Ok(())
}

/// The service's own words for an error.
fn reason(error: &Error) -> String {
    format!("{:?} {}", error.condition, error.description.as_deref().unwrap_or_default())
        .trim_end()
        .to_owned()
}

async fn send(
    namespace: &HubNamespace,
    sender: &mut Sender,
    batch: &Sendable<Sections<Data>>,
) -> Result<(), Failure> {
    let failed = |text: &str| Err(failure(namespace, "sending", text));
    for _ in 0..BUSY_MAX {
        match timeout(SEND_WAIT_MAX, sender.send_ref(batch)).await {
            Ok(Ok(Outcome::Accepted(_))) => return Ok(()),
            Ok(Ok(Outcome::Rejected(rejected))) => {
                let why = rejected
                    .error
                    .as_ref()
                    .map_or_else(|| "rejected without a reason".to_owned(), reason);
                if !why.contains("server-busy") {
                    return failed(&why);
                }
            }
            // The other outcomes do not promise that the events are stored.
            Ok(Ok(other)) => return failed(&format!("the events were not stored ({other:?})")),
            Ok(Err(SendError::LinkStateError(
                LinkStateError::RemoteClosedWithError(e)
                | LinkStateError::RemoteDetachedWithError(e),
            ))) => return failed(&reason(&e)),
            Ok(Err(e)) => return failed(&chain(&e)),
            Err(_) => return failed(&format!("no answer within {SEND_WAIT_MAX:?}")),
        }
        tracing::debug!("Event Hubs is busy; waiting for {BUSY_WAIT:?}");
        sleep(BUSY_WAIT).await;
    }
    failed("it is busy all the time: the namespace needs more throughput units")
}

#[async_trait]
impl Destination for EventHub {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let session = match self.session.take() {
            Some(session) if !session.is_old() => session,
            old => {
                if let Some(old) = old {
                    old.close().await;
                }
                HubSession::open(&self.namespace).await?
            }
        };
        let session = self.session.insert(session);
        let queues = batches(batch, session.senders.len(), session.message_bytes_max)?;
        let sent = session
            .senders
            .iter_mut()
            .zip(queues)
            .map(|(sender, queue)| send_all(&self.namespace, sender, queue));
        // All partitions are waited for: one that fails does not undo what the others stored.
        let outcomes = tokio::select! {
            outcomes = futures::future::join_all(sent) => outcomes,
            // A sender that waits for an outcome does not learn from its link that the connection
            // ended.
            ended = session.connection.on_close() => {
                let text = format!("the connection ended ({ended:?})");
                return Err(failure(&self.namespace, "sending", &text));
            }
        };
        session.used();
        outcomes.into_iter().collect()
    }

    async fn close(mut self: Box<Self>) -> Result<(), Failure> {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
        Ok(())
    }
}
