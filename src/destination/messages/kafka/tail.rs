//! Which messages of a batch a topic has already, where the outcome of writing it is unknown: read
//! from the ends of the partitions.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::Offset;

use super::POSITION_HEADER;
use super::client::{ClientErrors, Cluster, REQUEST_WAIT_MAX};
use crate::change::Position;
use crate::destination::Failure;

/// How many messages back from its end a partition is read: the next step, as long as it met
/// nothing older than the batch. The last step is twice the largest batch.
const STEPS: [i64; 3] = [100, 2_000, 20_000];
/// How long the partitions may bring nothing before reading fails.
const READ_WAIT_MAX: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The place of a message's change in the stream, as a header of the message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PositionHeader {
    sequence: u64,
    time_ns: i64,
}

impl PositionHeader {
    /// That of a change at `position`.
    pub fn of(position: Position) -> PositionHeader {
        PositionHeader { sequence: position.sequence, time_ns: position.time_ns }
    }

    /// Appends the header's text. It names the consumer, because others may write to the same
    /// topic.
    pub fn write(self, consumer: &str, out: &mut String) {
        let _ = write!(out, "{} {} {consumer}", self.sequence, self.time_ns);
    }

    fn read(text: &str, consumer: &str) -> Option<PositionHeader> {
        let mut words = text.splitn(3, ' ');
        let (sequence, time_ns) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (words.next() == Some(consumer)).then_some(PositionHeader { sequence, time_ns })
    }

    fn is_beyond(self, after: Option<Position>) -> bool {
        !after.is_some_and(|after| {
            after.contains(Position { sequence: self.sequence, time_ns: self.time_ns })
        })
    }
}

/// The messages of `consumer` beyond `after` that the topic has. Blocks the thread.
pub fn positions_beyond(
    cluster: &Cluster,
    partitions: u32,
    consumer: &str,
    after: Option<Position>,
    errors: &ClientErrors,
) -> Result<HashSet<PositionHeader>, Failure> {
    let found = Tail::open(cluster, errors)
        .and_then(|tail| tail.positions_beyond(partitions, consumer, after));
    match found {
        Err(e) if e.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            tracing::warn!(
                "the end of topic {:?} may not be read (the user has no READ on it): what an \
                 unfinished batch wrote is written again",
                cluster.topic
            );
            Ok(HashSet::new())
        }
        other => other.map_err(|e| cluster.failure(&e, errors)),
    }
}

struct Tail {
    reader: BaseConsumer<ClientErrors>,
    topic: String,
}

impl Tail {
    fn open(cluster: &Cluster, errors: &ClientErrors) -> Result<Tail, KafkaError> {
        let mut config = cluster.config();
        // The group is a name that the client asks for; nobody joins it, and nothing is kept under
        // it.
        config
            .set("group.id", "eds")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_uncommitted");
        let reader: BaseConsumer<ClientErrors> = config.create_with_context(errors.clone())?;
        // It asks for a token, where the login needs one, when it is polled: requests wait for it.
        let _ = reader.poll(POLL_INTERVAL);
        Ok(Tail { reader, topic: cluster.topic.clone() })
    }

    fn positions_beyond(
        &self,
        partitions: u32,
        consumer: &str,
        after: Option<Position>,
    ) -> Result<HashSet<PositionHeader>, KafkaError> {
        let mut ends = BTreeMap::new();
        for partition in 0..partitions as i32 {
            let (low, high) =
                self.reader.fetch_watermarks(&self.topic, partition, REQUEST_WAIT_MAX)?;
            if low < high {
                ends.insert(partition, (low, high));
            }
        }
        let mut found = HashSet::new();
        for step in STEPS {
            let from: BTreeMap<i32, i64> = ends
                .iter()
                .map(|(partition, (low, high))| (*partition, (high - step).max(*low)))
                .collect();
            // A partition is finished once a message older than the batch, or the partition's
            // beginning, was read.
            let mut finished: HashSet<i32> = ends
                .iter()
                .filter(|(partition, (low, _))| from.get(partition) == Some(low))
                .map(|(partition, _)| *partition)
                .collect();
            self.read(&from, &ends, |message| {
                let Some(position) = position_of(message, consumer) else { return };
                if position.is_beyond(after) {
                    found.insert(position);
                } else {
                    finished.insert(message.partition());
                }
            })?;
            ends.retain(|partition, _| !finished.contains(partition));
            if ends.is_empty() {
                break;
            }
        }
        if !ends.is_empty() {
            let partitions: Vec<String> = ends.keys().map(i32::to_string).collect();
            tracing::warn!(
                "the last {} messages of topic {:?} in partition {} are others': what an \
                 unfinished batch wrote before them is not looked for, and may be written again",
                STEPS[STEPS.len() - 1],
                self.topic,
                partitions.join(", ")
            );
        }
        Ok(found)
    }

    /// Reads each partition `from` an offset up to its end.
    fn read(
        &self,
        from: &BTreeMap<i32, i64>,
        ends: &BTreeMap<i32, (i64, i64)>,
        mut on_message: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for (partition, offset) in from {
            assignment.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))?;
        }
        self.reader.assign(&assignment)?;
        let mut open: HashSet<i32> = from.keys().copied().collect();
        let mut last_message_at = Instant::now();
        while !open.is_empty() {
            match self.reader.poll(POLL_INTERVAL) {
                Some(Ok(message)) => {
                    last_message_at = Instant::now();
                    on_message(&message);
                    if ends
                        .get(&message.partition())
                        .is_none_or(|(_, high)| message.offset() + 1 >= *high)
                    {
                        open.remove(&message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(e))
                    if e.rdkafka_error_code()
                        == Some(RDKafkaErrorCode::TopicAuthorizationFailed) =>
                {
                    return Err(e);
                }
                // Other errors are retried by the client itself.
                Some(Err(_)) | None if last_message_at.elapsed() < READ_WAIT_MAX => {}
                Some(Err(e)) => return Err(e),
                None => {
                    return Err(KafkaError::MessageConsumption(
                        RDKafkaErrorCode::OperationTimedOut,
                    ));
                }
            }
        }
        Ok(())
    }
}

fn position_of(message: &BorrowedMessage<'_>, consumer: &str) -> Option<PositionHeader> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == POSITION_HEADER)?;
    PositionHeader::read(std::str::from_utf8(header.value?).ok()?, consumer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_for_its_own_consumer_only() {
        let position =
            PositionHeader::of(Position { sequence: 7, time_ns: 1_700_000_000_000_000_000 });
        let mut text = String::new();
        position.write("eds-one two", &mut text);
        assert_eq!(PositionHeader::read(&text, "eds-one two"), Some(position));
        assert_eq!(PositionHeader::read(&text, "eds-one"), None);
        assert_eq!(PositionHeader::read("7", "eds"), None);
        assert!(
            position.is_beyond(None)
                && position.is_beyond(Some(Position { sequence: 6, time_ns: 0 }))
                && !position.is_beyond(Some(Position { sequence: 7, time_ns: i64::MAX }))
        );
    }
}
