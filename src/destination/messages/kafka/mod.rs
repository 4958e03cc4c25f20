//! Kafka: each change is a message, in the order of its partition; what an unknown end left is
//! looked for, and not sent again.

mod client;
mod tail;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer, PurgeConfig};
use xxhash_rust::xxh64::xxh64;

use super::{ABILITIES, Names};
use crate::change::{Batch, Change};
use crate::destination::{Destination, Driver, Failure, Settings, Target, form};
use client::{ClientErrors, Cluster, METADATA_WAIT_MAX, REQUEST_WAIT_MAX};
use tail::PositionHeader;

pub const DRIVER: Driver = Driver {
    scheme: "kafka",
    aliases: &[],
    title: "Kafka",
    description: "Writes each change as a message to a topic of Apache Kafka.",
    example: "kafka://kafka:9092/topic",
    help: "Several brokers are separated by commas: kafka://a:9092,b:9092/topic. The \
           message's key is\n\
           dbchange.<table>.<operation>.<company>.<location>.<event id>, its value the event, its \
           header eds-partitionkey\n\
           <table>.<company>.<location>.<primary key>, by which it finds its partition: changes of \
           a row stay in order.\n\
           The header eds-position tells them apart after a crash. A login encrypts, except to \
           this machine.\n\
           A missing topic is created, if the brokers do so. The user needs WRITE, \
           DESCRIBE and READ on the topic.",
    fields: &form::TOPIC,
    parameters: &[
        ("tls", "true or false; true with a login, unless the broker is on this machine"),
        ("ca", "a file with the certificates to trust, in PEM form; else the system's"),
        ("sasl", "how to log in: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
        ("compression", "none, gzip, snappy, lz4 (default), zstd"),
        (
            "max-message-bytes",
            "the topic's max.message.bytes, if the user may not read it (1000000)",
        ),
    ],
    abilities: ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// How long a batch may take without any message being confirmed.
const DELIVERY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks for a topic that is being made.
const TOPIC_LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long the topic's limit is asked for.
const LIMIT_WAIT_MAX: Duration = Duration::from_secs(3);
/// Where the topic's own limit cannot be asked for: a little less than what brokers take unless
/// told otherwise.
const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// The largest limit that librdkafka takes.
const MESSAGE_BYTES_LIMIT: usize = 1_000_000_000;
/// What a message costs beside key, value and headers.
const OVERHEAD_BYTES: usize = 512;
/// How often it is looked whether the topic has more partitions.
const PARTITIONS_LOOK_INTERVAL: Duration = Duration::from_secs(300);
const PARTITION_KEY_HEADER: &str = "eds-partitionkey";
const POSITION_HEADER: &str = "eds-position";

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let cluster = Cluster::read(&target.settings)?;
    let heard = ClientErrors::default();
    let told = told_limit(&target.settings)?;
    let producer = |message_bytes_max| {
        cluster
            .producer_config(message_bytes_max)
            .create_with_context(heard.clone())
            .map_err(|e| unusable(&e))
    };
    let mut producer_of_limit: FutureProducer<ClientErrors> =
        producer(told.unwrap_or(MESSAGE_BYTES_MAX))?;
    let partitions = partitions(&producer_of_limit, &cluster, &heard).await?;
    // Only now there is certainly a topic, which may have a limit of its own.
    let asked = if told.is_none() { asked_limit(&cluster, &heard).await? } else { None };
    if let Some(limit) = asked.filter(|limit| *limit != MESSAGE_BYTES_MAX) {
        producer_of_limit = producer(limit)?;
    }
    let (producer, message_bytes_max) =
        (producer_of_limit, asked.or(told).unwrap_or(MESSAGE_BYTES_MAX));
    let topic = Topic {
        producer,
        cluster,
        heard,
        partitions,
        looked: Instant::now(),
        message_bytes_max,
        consumer: target.consumer.clone(),
        known: None,
    };
    Ok(Box::new(topic))
}

/// What librdkafka does not take, such as a certificate file that is not there.
fn unusable(error: &KafkaError) -> Failure {
    Failure::misconfigured(format!("the Kafka client cannot be made: {error}"))
}

fn told_limit(settings: &Settings) -> Result<Option<usize>, Failure> {
    let Some(text) = settings.parameter("max-message-bytes") else { return Ok(None) };
    let number = text.parse::<usize>().ok().filter(|n| (10_000..=MESSAGE_BYTES_LIMIT).contains(n));
    number.map(Some).ok_or_else(|| {
        Failure::misconfigured(format!(
            "max-message-bytes={text:?} is not a number from 10000 to {MESSAGE_BYTES_LIMIT}"
        ))
    })
}

/// The topic's own limit, where the broker tells this user.
async fn asked_limit(cluster: &Cluster, heard: &ClientErrors) -> Result<Option<usize>, Failure> {
    let admin: AdminClient<ClientErrors> =
        cluster.config().create_with_context(heard.clone()).map_err(|e| unusable(&e))?;
    let options = AdminOptions::new().request_timeout(Some(LIMIT_WAIT_MAX));
    let described =
        admin.describe_configs([&ResourceSpecifier::Topic(&cluster.topic)], &options).await;
    // The client's thread is waited for when it ends.
    let ended = tokio::task::spawn_blocking(move || drop(admin)).await;
    ended.map_err(|e| Failure::unavailable(e.to_string()))?;
    // Brokers of other makes may not know the question.
    let resources = described.unwrap_or_default();
    let limit = |config: rdkafka::admin::ConfigResource| {
        config
            .get("max.message.bytes")
            .and_then(|entry| entry.value.as_ref()?.parse::<usize>().ok())
    };
    Ok(resources
        .into_iter()
        .flatten()
        .find_map(limit)
        .map(|n| n.clamp(10_000, MESSAGE_BYTES_LIMIT)))
}

/// How many partitions the topic has. A topic that is not there is made by asking, if the broker
/// does such things.
async fn partitions(
    producer: &FutureProducer<ClientErrors>,
    cluster: &Cluster,
    heard: &ClientErrors,
) -> Result<u32, Failure> {
    let (producer, cluster, heard) = (producer.clone(), cluster.clone(), heard.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        loop {
            let is_late = started.elapsed() > REQUEST_WAIT_MAX;
            let metadata = match producer
                .client()
                .fetch_metadata(Some(&cluster.topic), METADATA_WAIT_MAX)
            {
                Ok(metadata) => metadata,
                Err(e) if is_late || heard.is_certain() => return Err(cluster.failure(&e, &heard)),
                Err(_) => {
                    std::thread::sleep(TOPIC_LOOK_INTERVAL);
                    continue;
                }
            };
            let topic = metadata.topics().iter().find(|topic| topic.name() == cluster.topic);
            let error = match topic {
                Some(topic) if topic.error().is_none() && !topic.partitions().is_empty() => {
                    return Ok(topic.partitions().len() as u32);
                }
                Some(topic) => topic
                    .error()
                    .map_or(RDKafkaErrorCode::UnknownTopicOrPartition, RDKafkaErrorCode::from),
                None => RDKafkaErrorCode::UnknownTopicOrPartition,
            };
            let may_pass = matches!(
                error,
                RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::UnknownTopic
            );
            if !may_pass || is_late {
                heard.forget();
                return Err(cluster.failure(&KafkaError::MetadataFetch(error), &heard));
            }
            std::thread::sleep(TOPIC_LOOK_INTERVAL);
        }
    });
    asked.await.map_err(|e| Failure::unavailable(e.to_string()))?
}

/// The partition of a key: `fnv1a-32(hex(xxhash64(key))) mod partitions`, the hexadecimal in 16
/// lower-case digits.
fn partition(key: &str, partitions: u32) -> i32 {
    (fnv1a(&format!("{:016x}", xxh64(key.as_bytes(), 0))) % partitions) as i32
}

fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

struct Topic {
    producer: FutureProducer<ClientErrors>,
    cluster: Cluster,
    heard: ClientErrors,
    partitions: u32,
    /// When the partitions were counted last.
    looked: Instant,
    message_bytes_max: usize,
    consumer: String,
    /// What the topic has already of the batch, while one is tried; where an earlier try's end is
    /// not known, that was looked for.
    known: Option<HashSet<PositionHeader>>,
}

/// A change as it is sent.
struct PendingMessage {
    key: String,
    partition_key: String,
    value: String,
    /// None of an import, whose lines have no place in the stream.
    mark: Option<PositionHeader>,
}

impl PendingMessage {
    fn of(change: &Change, is_streamed: bool) -> PendingMessage {
        let names = Names::of(change);
        let mark = is_streamed.then(|| PositionHeader::of(change.position));
        PendingMessage {
            key: names.subject(&change.event.id()),
            partition_key: names.partition_key(),
            value: change.event.stored(),
            mark,
        }
    }

    fn size(&self) -> usize {
        self.key.len() + self.partition_key.len() + self.value.len() + OVERHEAD_BYTES
    }
}

impl Topic {
    /// The messages of the batch that the topic does not have yet, oldest first.
    fn missing(&self, batch: &Batch) -> Result<Vec<PendingMessage>, Failure> {
        let (mut messages, mut culprits) = (Vec::with_capacity(batch.order.len()), Vec::new());
        for (index, change) in batch.ordered() {
            let message = PendingMessage::of(change, !batch.is_import());
            if message.size() > self.message_bytes_max {
                culprits.push((
                    index,
                    format!(
                        "the message would have {} bytes, and the topic takes {}",
                        message.size(),
                        self.message_bytes_max
                    ),
                ));
            } else if !message
                .mark
                .is_some_and(|mark| self.known.as_ref().is_some_and(|known| known.contains(&mark)))
            {
                messages.push(message);
            }
        }
        // Before anything is sent, so that nothing overtakes what is left out.
        if culprits.is_empty() { Ok(messages) } else { Err(Failure::rejected(culprits)) }
    }

    async fn send(&self, message: &PendingMessage) -> Result<DeliveryFuture, Failure> {
        let mut headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: PARTITION_KEY_HEADER, value: Some(&message.partition_key) });
        if let Some(mark) = message.mark {
            headers = headers.insert(Header {
                key: POSITION_HEADER,
                value: Some(&mark.written(&self.consumer)),
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
                Err((error, _)) => return Err(self.cluster.failure(&error, &self.heard)),
            };
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends all, and waits until each is confirmed.
    async fn deliver(&mut self, messages: &[PendingMessage]) -> Result<(), Failure> {
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            deliveries.push(self.send(message).await?);
        }
        for delivery in deliveries {
            let confirmed = tokio::time::timeout(DELIVERY_WAIT_MAX, delivery).await;
            match confirmed {
                Ok(Ok(Ok(_))) => {}
                Ok(Ok(Err((error, _)))) => return Err(self.cluster.failure(&error, &self.heard)),
                Ok(Err(_)) => return Err(Failure::unavailable("the Kafka client ended")),
                Err(_) => {
                    let silent = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
                    return Err(self.cluster.failure(&silent, &self.heard));
                }
            }
        }
        Ok(())
    }

    /// More partitions move keys: what is sent from now on goes by the new number.
    async fn count_partitions(&mut self) -> Result<(), Failure> {
        if self.looked.elapsed() > PARTITIONS_LOOK_INTERVAL {
            self.partitions = partitions(&self.producer, &self.cluster, &self.heard).await?;
            self.looked = Instant::now();
        }
        Ok(())
    }
}

#[async_trait]
impl Destination for Topic {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        self.heard.forget();
        self.count_partitions().await?;
        if self.known.is_none() {
            self.known = Some(match batch.unconfirmed_through {
                Some(_) => {
                    tail::marks(
                        &self.cluster,
                        self.partitions,
                        &self.consumer,
                        batch.after,
                        &self.heard,
                    )
                    .await?
                }
                None => HashSet::new(),
            });
        }
        let messages = self.missing(batch)?;
        self.deliver(&messages).await?;
        self.known = None;
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        // What is still on its way ends with this session: the next one looks what came of it.
        self.producer.purge(PurgeConfig::default().queue().inflight());
        tokio::task::spawn_blocking(move || drop(self))
            .await
            .map_err(|e| Failure::unavailable(e.to_string()))
    }
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
