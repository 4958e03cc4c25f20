//! Sending messages and waiting until each is confirmed; where that fails, which one it began with.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::{Instant, timeout_at};
use xxhash_rust::xxh64::xxh64;

use super::client::{ClientErrors, Cluster};
use super::{POSITION_HEADER, PendingMessage};

/// How long a batch may take without any message being confirmed.
const DELIVERY_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the others are waited for once one has failed, to learn what it began with.
const CAUSE_WAIT_MAX: Duration = Duration::from_secs(2);
const QUEUE_POLL_INTERVAL: Duration = Duration::from_millis(5);
const PARTITION_KEY_HEADER: &str = "eds-partitionkey";

/// What sends messages to a topic.
pub struct Sender<'a> {
    /// The client.
    pub producer: &'a FutureProducer<ClientErrors>,
    /// Where it sends to.
    pub cluster: &'a Cluster,
    /// Whose messages they are.
    pub consumer: &'a str,
    /// How many partitions the topic has.
    pub partitions: u32,
}

/// The message that a failed delivery began with.
pub struct Undelivered {
    /// Of the change in the batch.
    pub index: u32,
    /// Its size in bytes.
    pub size: usize,
    /// Why.
    pub error: KafkaError,
}

impl Undelivered {
    fn of((index, size): (u32, usize), error: KafkaError) -> Undelivered {
        Undelivered { index, size, error }
    }
}

/// Whether a message failed because another one did: the client gives up all that follow, so that
/// none overtakes what failed.
fn is_consequence(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::GaplessGuarantee
                | RDKafkaErrorCode::PurgeQueue
                | RDKafkaErrorCode::PurgeInflight
        )
    )
}

impl Sender<'_> {
    /// Sends all, and waits until each is confirmed.
    pub async fn deliver(
        &self,
        messages: impl Iterator<Item = PendingMessage>,
    ) -> Result<(), Undelivered> {
        let mut deliveries = Vec::new();
        let mut first: Option<Undelivered> = None;
        for message in messages {
            let sent = self.send(&message).await;
            let message = (message.index, message.size());
            match sent {
                Ok(delivery) => deliveries.push((message, delivery)),
                Err(error) => {
                    first = Some(Undelivered::of(message, error));
                    break;
                }
            }
        }
        let mut cause_known_by = first.is_some().then(|| Instant::now() + CAUSE_WAIT_MAX);
        for (message, delivery) in deliveries {
            let until = cause_known_by.unwrap_or_else(|| Instant::now() + DELIVERY_WAIT_MAX);
            let error = match timeout_at(until, delivery).await {
                Ok(Ok(Ok(_))) => continue,
                Ok(Ok(Err((error, _)))) => error,
                Ok(Err(_)) => KafkaError::Canceled,
                Err(_) if cause_known_by.is_some() => break,
                Err(_) => KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut),
            };
            let is_cause = !is_consequence(&error);
            if is_cause || first.is_none() {
                first = Some(Undelivered::of(message, error));
            }
            if is_cause {
                break;
            }
            cause_known_by = cause_known_by.or(Some(Instant::now() + CAUSE_WAIT_MAX));
        }
        first.map_or(Ok(()), Err)
    }

    async fn send(&self, message: &PendingMessage) -> Result<DeliveryFuture, KafkaError> {
        let mut headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: PARTITION_KEY_HEADER, value: Some(&message.partition_key) });
        if let Some(position) = message.position {
            headers = headers.insert(Header {
                key: POSITION_HEADER,
                value: Some(&position.written(self.consumer)),
            });
        }
        let mut record = FutureRecord::to(&self.cluster.topic)
            .key(&message.key)
            .payload(&message.value)
            .partition(partition(&message.partition_key, self.partitions))
            .headers(headers);
        let started = Instant::now();
        loop {
            record = match self.producer.send_result(record) {
                Ok(delivery) => return Ok(delivery),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record))
                    if started.elapsed() < DELIVERY_WAIT_MAX =>
                {
                    record
                }
                Err((error, _)) => return Err(error),
            };
            tokio::time::sleep(QUEUE_POLL_INTERVAL).await;
        }
    }
}

/// The partition of a key: `fnv1a-32(hex(xxhash64(key))) mod partitions`, the hexadecimal in 16
/// lower-case digits.
fn partition(key: &str, partitions: u32) -> i32 {
    (fnv1a(&format!("{:016x}", xxh64(key.as_bytes(), 0))) % partitions) as i32
}

fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_those_of_the_contract() {
        assert_eq!(format!("{:016x}", xxh64(b"hello", 0)), "26c7827d889f6da3");
        assert_eq!((fnv1a("") % 10, fnv1a("1") % 3, fnv1a("1 2 3 4") % 10), (1, 1, 5));
    }
}
