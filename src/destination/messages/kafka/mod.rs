//! Kafka: each change is a message, in the order of its partition. After a batch whose outcome is
//! unknown, the topic is searched for its messages, and those that are found are not sent again.

mod client;
mod form;
mod tail;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer, PurgeConfig};
use xxhash_rust::xxh64::xxh64;

use super::{ABILITIES, Names};
use crate::change::{Batch, Change};
use crate::destination::settings::{BadUrl, server_url};
use crate::destination::{Destination, Driver, Failure, Settings, Target};
use client::{ClientErrors, Cluster, METADATA_WAIT_MAX, REQUEST_WAIT_MAX};
use tail::PositionHeader;

/// Kafka.
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
    url_of_form: form::url,
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
    read_url: cluster_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// How long a batch may take without any message being confirmed.
const DELIVERY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two questions for a topic that is being created.
const TOPIC_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long the topic's limit is asked for.
const LIMIT_WAIT_MAX: Duration = Duration::from_secs(3);
/// Where the topic's own limit cannot be asked for: a little less than what brokers take unless
/// told otherwise.
const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// The limits that make sense; the larger is the largest that librdkafka takes.
const MESSAGE_BYTES_LIMITS: (usize, usize) = (10_000, 1_000_000_000);
/// What a message costs beside key, value and headers.
const OVERHEAD_BYTES: usize = 512;
/// How often the partitions are counted again.
const PARTITIONS_COUNT_INTERVAL: Duration = Duration::from_secs(300);
const PARTITION_KEY_HEADER: &str = "eds-partitionkey";
const POSITION_HEADER: &str = "eds-position";

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let cluster = Cluster::read(&target.settings)?;
    let errors = ClientErrors::default();
    let configured = configured_limit(&target.settings)?;
    // This producer asks for the topic, even if the topic's limit then takes another one: unlike an
    // admin client it is polled, and so learns why a login or TLS fails.
    let first_limit = configured.unwrap_or(MESSAGE_BYTES_MAX);
    let first = producer(&cluster, &errors, first_limit)?;
    let asking = first.clone();
    let partitions = in_thread(&cluster, &errors, move |cluster, errors| {
        count_partitions(&asking, cluster, errors)
    })
    .await??;
    // Only a topic that exists has a limit.
    let asked = if configured.is_none() { topic_limit(&cluster, &errors).await? } else { None };
    let message_bytes_max = asked.unwrap_or(first_limit);
    let producer = match message_bytes_max == first_limit {
        true => first,
        false => producer(&cluster, &errors, message_bytes_max)?,
    };
    Ok(Box::new(Topic {
        producer,
        cluster,
        errors,
        partitions,
        partitions_counted_at: Instant::now(),
        message_bytes_max,
        consumer: target.consumer.clone(),
        written: None,
    }))
}

fn producer(
    cluster: &Cluster,
    errors: &ClientErrors,
    message_bytes_max: usize,
) -> Result<FutureProducer<ClientErrors>, Failure> {
    cluster
        .producer_config(message_bytes_max)
        .create_with_context(errors.clone())
        .map_err(|e| unusable(&e))
}

/// Reads `kafka://host:port,host:port/topic`.
fn cluster_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    let (text, other_hosts) = first_host(text);
    Ok(Settings { other_hosts, ..server_url(&text, driver)? })
}

/// The URL with only the first of its hosts, `a:1,b:2`, and the others.
fn first_host(text: &str) -> (String, Vec<String>) {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    let start = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let mut hosts = text[start..end].split(',').map(str::trim).filter(|host| !host.is_empty());
    let first = hosts.next().unwrap_or_default();
    (format!("{}{first}{}", &text[..start], &text[end..]), hosts.map(str::to_owned).collect())
}

/// What librdkafka does not take, such as a certificate file that is not there.
fn unusable(error: &KafkaError) -> Failure {
    Failure::misconfigured(format!("the Kafka client cannot be made: {error}"))
}

/// The option `max-message-bytes`.
fn configured_limit(settings: &Settings) -> Result<Option<usize>, Failure> {
    let (min, max) = MESSAGE_BYTES_LIMITS;
    settings.number("max-message-bytes", min..=max)
}

/// Runs calls that block a thread.
async fn in_thread<T: Send + 'static>(
    cluster: &Cluster,
    errors: &ClientErrors,
    work: impl FnOnce(&Cluster, &ClientErrors) -> T + Send + 'static,
) -> Result<T, Failure> {
    let (cluster, errors) = (cluster.clone(), errors.clone());
    let done = tokio::task::spawn_blocking(move || work(&cluster, &errors)).await;
    done.map_err(|e| Failure::unavailable(e.to_string()))
}

/// The topic's `max.message.bytes`, where the broker tells this user.
async fn topic_limit(cluster: &Cluster, errors: &ClientErrors) -> Result<Option<usize>, Failure> {
    let admin: AdminClient<ClientErrors> =
        cluster.config().create_with_context(errors.clone()).map_err(|e| unusable(&e))?;
    let options = AdminOptions::new().request_timeout(Some(LIMIT_WAIT_MAX));
    let topic = ResourceSpecifier::Topic(&cluster.topic);
    let described = admin.describe_configs([&topic], &options).await;
    // Dropping the client waits for its thread to end.
    in_thread(cluster, errors, move |_, _| drop(admin)).await?;
    let limit = |config: rdkafka::admin::ConfigResource| {
        config
            .get("max.message.bytes")
            .and_then(|entry| entry.value.as_ref()?.parse::<usize>().ok())
    };
    // Brokers of other makes may not know the question.
    let found = described.unwrap_or_default().into_iter().flatten().find_map(limit);
    Ok(found.map(|n| n.clamp(MESSAGE_BYTES_LIMITS.0, MESSAGE_BYTES_LIMITS.1)))
}

/// How many partitions the topic has. Blocks the thread. A topic that does not exist is created by
/// the question, if the broker does such things.
fn count_partitions(
    producer: &FutureProducer<ClientErrors>,
    cluster: &Cluster,
    errors: &ClientErrors,
) -> Result<u32, Failure> {
    let started = Instant::now();
    loop {
        let is_late = started.elapsed() > REQUEST_WAIT_MAX;
        match producer.client().fetch_metadata(Some(&cluster.topic), METADATA_WAIT_MAX) {
            Ok(metadata) => match partitions_of(&metadata, &cluster.topic) {
                Ok(partitions) => return Ok(partitions),
                Err(error) if is_late || !is_being_created(error) => {
                    errors.forget();
                    return Err(cluster.failure(&KafkaError::MetadataFetch(error), errors));
                }
                Err(_) => {}
            },
            Err(e) if is_late || errors.are_final() => return Err(cluster.failure(&e, errors)),
            Err(_) => {}
        }
        std::thread::sleep(TOPIC_POLL_INTERVAL);
    }
}

fn partitions_of(metadata: &Metadata, topic: &str) -> Result<u32, RDKafkaErrorCode> {
    let unknown = RDKafkaErrorCode::UnknownTopicOrPartition;
    let topic = metadata.topics().iter().find(|known| known.name() == topic).ok_or(unknown)?;
    match topic.error() {
        Some(error) => Err(error.into()),
        None if topic.partitions().is_empty() => Err(unknown),
        None => Ok(topic.partitions().len() as u32),
    }
}

/// Whether a topic that is just being created is answered for like that.
fn is_being_created(error: RDKafkaErrorCode) -> bool {
    matches!(
        error,
        RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::UnknownTopic
    )
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
    /// What the client complained of since the batch began.
    errors: ClientErrors,
    partitions: u32,
    partitions_counted_at: Instant,
    /// The largest message that the topic takes.
    message_bytes_max: usize,
    consumer: String,
    /// The messages of the current batch that the topic has already, for all tries of it; found
    /// in the topic where the outcome of an earlier try is unknown. `None` between batches.
    written: Option<HashSet<PositionHeader>>,
}

/// A change as it is sent.
struct PendingMessage {
    key: String,
    partition_key: String,
    value: String,
    /// `None` for a row of an import, which has no place in the stream.
    position: Option<PositionHeader>,
}

impl PendingMessage {
    fn of(change: &Change, is_streamed: bool) -> PendingMessage {
        let names = Names::of(change);
        PendingMessage {
            key: names.subject(&change.event.id()),
            partition_key: names.partition_key(),
            value: change.event.stored(),
            position: is_streamed.then(|| PositionHeader::of(change.position)),
        }
    }

    fn size(&self) -> usize {
        self.key.len() + self.partition_key.len() + self.value.len() + OVERHEAD_BYTES
    }
}

impl Topic {
    fn has(&self, message: &PendingMessage) -> bool {
        let written = self.written.as_ref();
        message.position.is_some_and(|position| written.is_some_and(|w| w.contains(&position)))
    }

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
            } else if !self.has(&message) {
                messages.push(message);
            }
        }
        // Before anything is sent, so that nothing overtakes what is left out.
        if culprits.is_empty() { Ok(messages) } else { Err(Failure::rejected(culprits)) }
    }

    async fn send(&self, message: &PendingMessage) -> Result<DeliveryFuture, Failure> {
        let mut headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: PARTITION_KEY_HEADER, value: Some(&message.partition_key) });
        if let Some(position) = message.position {
            headers = headers.insert(Header {
                key: POSITION_HEADER,
                value: Some(&position.written(&self.consumer)),
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
                Err((error, _)) => return Err(self.cluster.failure(&error, &self.errors)),
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
                Ok(Ok(Err((error, _)))) => return Err(self.cluster.failure(&error, &self.errors)),
                Ok(Err(_)) => return Err(Failure::unavailable("the Kafka client ended")),
                Err(_) => {
                    let silent = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
                    return Err(self.cluster.failure(&silent, &self.errors));
                }
            }
        }
        Ok(())
    }

    /// Counts the partitions again now and then. More partitions move keys: what is sent from now
    /// on goes by the new number.
    async fn refresh_partitions(&mut self) -> Result<(), Failure> {
        if self.partitions_counted_at.elapsed() > PARTITIONS_COUNT_INTERVAL {
            let producer = self.producer.clone();
            let counted = in_thread(&self.cluster, &self.errors, move |cluster, errors| {
                count_partitions(&producer, cluster, errors)
            });
            self.partitions = counted.await??;
            self.partitions_counted_at = Instant::now();
        }
        Ok(())
    }

    /// The messages of `batch` that an earlier try, whose outcome is unknown, may have written.
    async fn find_written(&self, batch: &Batch) -> Result<HashSet<PositionHeader>, Failure> {
        if batch.unconfirmed_through.is_none() {
            return Ok(HashSet::new());
        }
        let (partitions, consumer, after) = (self.partitions, self.consumer.clone(), batch.after);
        in_thread(&self.cluster, &self.errors, move |cluster, errors| {
            tail::positions_beyond(cluster, partitions, &consumer, after, errors)
        })
        .await?
    }
}

#[async_trait]
impl Destination for Topic {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        self.errors.forget();
        self.refresh_partitions().await?;
        if self.written.is_none() {
            self.written = Some(self.find_written(batch).await?);
        }
        let messages = self.missing(batch)?;
        self.deliver(&messages).await?;
        self.written = None;
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        // What is still on its way ends with this session; the next one searches the topic for it.
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
