//! What a topic has already of a batch whose end was not seen: read from the ends of its
//! partitions.

use std::collections::{BTreeMap, HashSet};
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

/// How far back from its end a partition is read; further in steps, while nothing older than the
/// batch was met. A batch has at most half of the last.
const STEPS: [i64; 3] = [100, 2_000, 20_000];
/// How long the partitions may bring nothing.
const READ_WAIT_MAX: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The place of a message's change in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PositionHeader {
    sequence: u64,
    time_ns: i64,
}

impl PositionHeader {
    pub fn of(position: Position) -> PositionHeader {
        PositionHeader { sequence: position.sequence, time_ns: position.time_ns }
    }

    /// As a header: other consumers may write to the same topic.
    pub fn written(self, consumer: &str) -> String {
        format!("{} {} {consumer}", self.sequence, self.time_ns)
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

/// The messages of `consumer` beyond `after` that the topic has.
pub async fn marks(
    cluster: &Cluster,
    partitions: u32,
    consumer: &str,
    after: Option<Position>,
    heard: &ClientErrors,
) -> Result<HashSet<PositionHeader>, Failure> {
    let (cluster, consumer, heard) = (cluster.clone(), consumer.to_owned(), heard.clone());
    let read = tokio::task::spawn_blocking(move || {
        let found = Tail::open(&cluster).and_then(|tail| tail.marks(partitions, &consumer, after));
        match found {
            Err(e)
                if e.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) =>
            {
                tracing::warn!(
                    "the end of topic {:?} may not be read (the user has no READ on it): what an \
                     unfinished batch wrote is written again",
                    cluster.topic
                );
                Ok(HashSet::new())
            }
            other => other.map_err(|e| cluster.failure(&e, &heard)),
        }
    });
    read.await.map_err(|e| Failure::unavailable(e.to_string()))?
}

struct Tail {
    reader: BaseConsumer,
    topic: String,
}

impl Tail {
    fn open(cluster: &Cluster) -> Result<Tail, KafkaError> {
        let mut config = cluster.config();
        // The group is a name that the client asks for; nobody joins it, and nothing is kept under
        // it.
        config
            .set("group.id", "eds")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_uncommitted");
        Ok(Tail { reader: config.create()?, topic: cluster.topic.clone() })
    }

    fn marks(
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
            // Whoever met a message that is older than the batch, or the partition's beginning, has
            // seen all of it.
            let mut whole: HashSet<i32> = ends
                .iter()
                .filter(|(partition, (low, _))| from.get(partition) == Some(low))
                .map(|(partition, _)| *partition)
                .collect();
            self.read(&from, &ends, |message| {
                let Some(mark) = mark(message, consumer) else { return };
                if mark.is_beyond(after) {
                    found.insert(mark);
                } else {
                    whole.insert(message.partition());
                }
            })?;
            ends.retain(|partition, _| !whole.contains(partition));
            if ends.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Reads each partition `from` an offset up to its end.
    fn read(
        &self,
        from: &BTreeMap<i32, i64>,
        ends: &BTreeMap<i32, (i64, i64)>,
        mut see: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for (partition, offset) in from {
            assignment.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))?;
        }
        self.reader.assign(&assignment)?;
        let mut open: HashSet<i32> = from.keys().copied().collect();
        let mut heard_at = Instant::now();
        while !open.is_empty() {
            match self.reader.poll(POLL_INTERVAL) {
                Some(Ok(message)) => {
                    heard_at = Instant::now();
                    see(&message);
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
                // Others pass, or nothing comes any more.
                Some(Err(_)) | None if heard_at.elapsed() < READ_WAIT_MAX => {}
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

fn mark(message: &BorrowedMessage<'_>, consumer: &str) -> Option<PositionHeader> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == POSITION_HEADER)?;
    PositionHeader::read(std::str::from_utf8(header.value?).ok()?, consumer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_for_its_own_consumer_only() {
        let mark = PositionHeader::of(Position { sequence: 7, time_ns: 1_700_000_000_000_000_000 });
        let text = mark.written("eds-one two");
        assert_eq!(PositionHeader::read(&text, "eds-one two"), Some(mark));
        assert_eq!(PositionHeader::read(&text, "eds-one"), None);
        assert_eq!(PositionHeader::read("7", "eds"), None);
        assert!(
            mark.is_beyond(None)
                && mark.is_beyond(Some(Position { sequence: 6, time_ns: 0 }))
                && !mark.is_beyond(Some(Position { sequence: 7, time_ns: i64::MAX }))
        );
    }
}
