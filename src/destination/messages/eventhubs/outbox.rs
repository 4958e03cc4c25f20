//! The events of a batch on their way: a queue of messages for each partition, from which the hub's
//! answers take what it has stored and what it refuses.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use fe2o3_amqp::link::{LinkStateError, SendError};
use fe2o3_amqp::{Sendable, Sender};
use fe2o3_amqp_types::definitions::Error;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Batch as Sections, Data, Message, MessageAnnotations, Outcome,
    Properties,
};
use tokio::time::{sleep, timeout};

use super::namespace::HubNamespace;
use super::partition::partition;
use super::session::failure;
use crate::cause::chain;
use crate::change::{Batch, Change, Position};
use crate::destination::messages::Names;
use crate::destination::{Failure, FailureKind};

/// Several events in one message, as Event Hubs reads it.
const BATCH_FORMAT: u32 = 0x8001_3700;
/// Bytes that a batch takes beside its events, and each event beside itself.
const BATCH_OVERHEAD: u64 = 1024;
const EVENT_OVERHEAD: u64 = 16;
/// The longest partition key that the service takes.
const PARTITION_KEY_MAX: usize = 128;
const PARTITION_KEY: &str = "x-opt-partition-key";
/// How long a message may be on its way.
const SEND_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long to wait where the service is busy, as its documentation advises, and how often.
const BUSY_WAIT: Duration = Duration::from_secs(4);
const BUSY_MAX: u32 = 15;

/// Which change an event is of: its index in the batch, and its place in the stream, which rows of
/// an import do not have.
type EventOrigin = (u32, Option<Position>);

/// Several events that travel as one message.
struct OutgoingMessage {
    origins: Vec<EventOrigin>,
    sendable: Sendable<Sections<Data>>,
}

impl OutgoingMessage {
    fn new(events: Vec<(EventOrigin, Data)>) -> OutgoingMessage {
        let (origins, sections): (Vec<EventOrigin>, Vec<Data>) = events.into_iter().unzip();
        let message = Message::builder().data_batch(Sections::new(sections)).build();
        let sendable = Sendable::builder().message(message).message_format(BATCH_FORMAT).build();
        OutgoingMessage { origins, sendable }
    }

    /// The same events, each in a message of its own.
    fn apart(self) -> impl DoubleEndedIterator<Item = OutgoingMessage> {
        let sections = self.sendable.message.body.into_inner();
        self.origins.into_iter().zip(sections).map(|event| OutgoingMessage::new(vec![event]))
    }
}

/// What is still to be sent to a partition, and what became of the rest.
#[derive(Default)]
pub struct PartitionQueue {
    waiting: VecDeque<OutgoingMessage>,
    /// Where the events are in the stream that the hub has confirmed.
    pub stored: Vec<Position>,
    /// The changes whose events the hub refuses, by their index in the batch, each with the reason.
    pub rejected: Vec<(u32, String)>,
}

impl PartitionQueue {
    /// Sends the messages one after the other: nothing overtakes what failed, which is sent first
    /// the next time. Of a message that the hub refuses, each event is tried alone.
    pub async fn drain(
        &mut self,
        namespace: &HubNamespace,
        sender: &mut Sender,
    ) -> Result<(), Failure> {
        while let Some(next) = self.waiting.front() {
            let answer = send(namespace, sender, &next.sendable).await?;
            let Some(sent) = self.waiting.pop_front() else { break };
            match (answer, sent.origins.as_slice()) {
                (HubAnswer::Stored, origins) => {
                    self.stored.extend(origins.iter().filter_map(|(_, position)| *position));
                }
                (HubAnswer::Refused(why), [(index, _)]) => {
                    let why = format!("Event Hubs does not take the event: {why}");
                    self.rejected.push((*index, why));
                }
                (HubAnswer::Refused(_), _) => {
                    sent.apart().rev().for_each(|alone| self.waiting.push_front(alone));
                }
            }
        }
        Ok(())
    }
}

/// A change as it is sent: the partition key, shortened where the service would not take it, and
/// the encoded message.
fn encoded(change: &Change) -> Result<(String, Vec<u8>), Failure> {
    let names = Names::of_row(change);
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
            ApplicationProperties::builder().insert("objectId", names.object_id()).build(),
        )
        .data(change.event.stored().into_bytes())
        .build();
    let bytes = serde_amqp::to_vec(&Serializable(message))
        .map_err(|_| Failure::new(FailureKind::Rejected, "the event cannot be encoded"))?;
    Ok((sent, bytes))
}

/// A queue while events are put into its last message.
#[derive(Default)]
struct FillingQueue {
    queue: PartitionQueue,
    events: Vec<(EventOrigin, Data)>,
    bytes: u64,
}

impl FillingQueue {
    fn end_message(&mut self) {
        if !self.events.is_empty() {
            let message = OutgoingMessage::new(std::mem::take(&mut self.events));
            self.queue.waiting.push_back(message);
        }
        self.bytes = 0;
    }
}

/// The messages of each partition, oldest first, each up to `bytes_max`, without the events that
/// are `stored` already.
pub fn queues(
    batch: &Batch,
    stored: &HashSet<Position>,
    partitions: usize,
    bytes_max: u64,
) -> Result<Vec<PartitionQueue>, Failure> {
    let room = bytes_max.saturating_sub(BATCH_OVERHEAD);
    let mut filling: Vec<FillingQueue> = (0..partitions).map(|_| Default::default()).collect();
    let mut culprits = Vec::new();
    for (index, change) in batch.ordered() {
        let position = (!batch.is_import()).then_some(change.position);
        if position.is_some_and(|position| stored.contains(&position)) {
            continue;
        }
        let (key, bytes) = encoded(change)?;
        let size = bytes.len() as u64 + EVENT_OVERHEAD;
        if size > room {
            culprits.push((
                index,
                format!("the event would have {size} bytes, and the hub takes {room}"),
            ));
            continue;
        }
        let queue = &mut filling[partition(&key, partitions)];
        if queue.bytes + size > room {
            queue.end_message();
        }
        queue.bytes += size;
        queue.events.push(((index, position), Data::from(bytes)));
    }
    // Before anything is sent, so that nothing overtakes what is left out.
    if !culprits.is_empty() {
        return Err(Failure::rejected(culprits));
    }
    let whole = filling.into_iter().map(|mut queue| {
        queue.end_message();
        queue.queue
    });
    Ok(whole.collect())
}

/// What the hub says of a message.
#[derive(Debug)]
enum HubAnswer {
    Stored,
    /// It refuses what the message holds; why.
    Refused(String),
}

/// What a rejected outcome means.
#[derive(PartialEq, Eq, Debug)]
enum Rejection {
    /// The same message is taken later.
    Busy,
    /// The service cannot do it now, or does not allow it to us, whatever the message holds.
    OfService,
    /// The message is at fault.
    OfData,
}

/// What a rejected outcome means, by the error's condition alone. Its text is free, and may name
/// anything.
fn rejection(error: &Error) -> Rejection {
    // The library's own names for the conditions that it knows: NotAllowed for amqp:not-allowed.
    let condition: String = format!("{:?}", error.condition)
        .to_lowercase()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let is = |words: &[&str]| words.iter().any(|word| condition.contains(word));
    match () {
        () if is(&["serverbusy"]) => Rejection::Busy,
        () if is(&[
            "timeout",
            "internalerror",
            "unauthorized",
            "notfound",
            "entitydisabled",
            "resourcelimitexceeded",
            "resourcelocked",
            "resourcedeleted",
            "quotaexceeded",
            "operationcancelled",
            "detachforced",
            "stolen",
            "redirect",
        ]) =>
        {
            Rejection::OfService
        }
        () => Rejection::OfData,
    }
}

/// The service's own words for an error.
fn reason(error: &Error) -> String {
    format!("{:?} {}", error.condition, error.description.as_deref().unwrap_or_default())
        .trim_end()
        .to_owned()
}

/// Sends a message and waits for its outcome. Only a rejected outcome speaks of what the message
/// holds; whatever else goes wrong is an outage.
async fn send(
    namespace: &HubNamespace,
    sender: &mut Sender,
    message: &Sendable<Sections<Data>>,
) -> Result<HubAnswer, Failure> {
    let failed = |text: &str| Err(failure(namespace, "sending", text));
    for _ in 0..BUSY_MAX {
        match timeout(SEND_WAIT_MAX, sender.send_ref(message)).await {
            Ok(Ok(Outcome::Accepted(_))) => return Ok(HubAnswer::Stored),
            Ok(Ok(Outcome::Rejected(rejected))) => {
                let Some(error) = &rejected.error else {
                    return Ok(HubAnswer::Refused("rejected without a reason".into()));
                };
                match rejection(error) {
                    Rejection::Busy => {}
                    Rejection::OfService => return failed(&reason(error)),
                    Rejection::OfData => return Ok(HubAnswer::Refused(reason(error))),
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

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::definitions::{AmqpError, ErrorCondition, LinkError};
    use fe2o3_amqp_types::primitives::Symbol;

    use super::*;

    #[test]
    fn a_rejection_is_read_by_its_condition_alone() {
        let custom = |name: &str| ErrorCondition::Custom(Symbol::from(name));
        for (condition, expected) in [
            (custom("com.microsoft:server-busy"), Rejection::Busy),
            (custom("com.microsoft:timeout"), Rejection::OfService),
            (AmqpError::InternalError.into(), Rejection::OfService),
            (AmqpError::UnauthorizedAccess.into(), Rejection::OfService),
            (AmqpError::ResourceLimitExceeded.into(), Rejection::OfService),
            (custom("com.microsoft:argument-error"), Rejection::OfData),
            (AmqpError::NotAllowed.into(), Rejection::OfData),
            (AmqpError::DecodeError.into(), Rejection::OfData),
            (LinkError::MessageSizeExceeded.into(), Rejection::OfData),
        ] {
            let text = Some("server-busy, not-found: words of a description".to_owned());
            let error = Error::new(condition, text, None);
            assert_eq!(rejection(&error), expected, "{error:?}");
        }
    }
}
