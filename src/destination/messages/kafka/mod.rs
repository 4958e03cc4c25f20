//! Kafka: each change is a message, in the order of its partition. After a batch whose outcome is
//! unknown, the topic is searched for its messages, and those that are found are not sent again.

mod client;
mod deliver;
mod form;
mod tail;
mod token;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use super::{ABILITIES, Names};
use crate::change::{Batch, Change};
use crate::destination::options::first_host;
use crate::destination::settings::{BadUrl, server_url};
use crate::destination::{Destination, Driver, Failure, Settings, Target};
use client::{
    ClientErrors, Cluster, METADATA_WAIT_MAX, ProducerLimits, REQUEST_WAIT_MAX, TOPIC_WAIT_MAX,
};
use deliver::{Outbox, Sender, Undelivered};
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
        ("cert", "a file with this client's certificate, in PEM form"),
        ("key", "a file with the certificate's key, in PEM form"),
        ("key-password", "the password of the key, if it has one"),
        ("sasl", "how to log in: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"),
        ("token-file", "a file with the token for OAUTHBEARER; read again before the token ends"),
        ("compression", "none, gzip, snappy, lz4 (default), zstd"),
        (
            "max-message-bytes",
            "the topic's max.message.bytes, if the user may not read it (1000000)",
        ),
    ],
    accepted: &[],
    secrets: &["key-password"],
    read_url: cluster_url,
    abilities: |_| ABILITIES,
    open: |target| Box::pin(open(target)),
};

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
/// A part of an event is in its message three times at most: in value, key and partition key.
const PARTS_TIMES: usize = 3;
/// The most that a message has beside parts of its event.
const FIXED_BYTES_MAX: usize = 2 * OVERHEAD_BYTES;
/// How often the partitions are counted again.
const PARTITIONS_COUNT_INTERVAL: Duration = Duration::from_secs(300);
const POSITION_HEADER: &str = "eds-position";

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let cluster = Cluster::read(&target.settings)?;
    let errors = ClientErrors::of(&cluster);
    let configured = configured_limit(&target.settings)?;
    // This producer asks for the topic, even if the topic's limit then takes another one: unlike an
    // admin client it is polled, and so learns why a login or TLS fails.
    let first_limit = configured.unwrap_or(MESSAGE_BYTES_MAX);
    let limits = |message_bytes| ProducerLimits { message_bytes, alone: false };
    let first = outbox(&cluster, &errors, limits(first_limit))?;
    let asking = first.clone();
    let (partitions, cluster_id) = in_thread(&cluster, &errors, move |cluster, errors| {
        let partitions = count_partitions(&asking, cluster, errors)?;
        // Known by now where brokers tell it: they do so in the same answer.
        let id = asking.client().fetch_cluster_id(Duration::ZERO);
        Ok::<_, Failure>((partitions, id.filter(|id| !WELL_KNOWN_CLUSTERS.contains(&&**id))))
    })
    .await??;
    // Only a topic that exists has a limit.
    let asked = match configured {
        None if cluster.tells_limits() => topic_limit(&cluster, &errors).await?,
        _ => None,
    };
    let message_bytes_max = asked.unwrap_or(first_limit);
    let outbox = match message_bytes_max == first_limit {
        true => first,
        false => outbox(&cluster, &errors, limits(message_bytes_max))?,
    };
    Ok(Box::new(Topic {
        outbox,
        cluster,
        cluster_id,
        errors,
        partitions,
        partitions_counted_at: Instant::now(),
        message_bytes_max,
        consumer: target.consumer.clone(),
        written: None,
        is_unsure: false,
        alone: false,
    }))
}

/// Ids that images and their documentation give to every cluster: they tell none apart.
const WELL_KNOWN_CLUSTERS: [&str; 2] = ["5L6g3nShT-eMCtK--X86sw", "MkU3OEVBNTcwNTJENDM2Qk"];

fn outbox(
    cluster: &Cluster,
    errors: &ClientErrors,
    limits: ProducerLimits,
) -> Result<Outbox, Failure> {
    Outbox::new(cluster, errors, limits).map_err(|e| unusable(&e))
}

/// Reads `kafka://host:port,host:port/topic`.
fn cluster_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    let (text, other_hosts) = first_host(text);
    Ok(Settings { other_hosts, ..server_url(&text, driver)? })
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
    outbox: &Outbox,
    cluster: &Cluster,
    errors: &ClientErrors,
) -> Result<u32, Failure> {
    let started = Instant::now();
    loop {
        let waited = started.elapsed();
        let is_late = waited > REQUEST_WAIT_MAX;
        match outbox.client().fetch_metadata(Some(&cluster.topic), METADATA_WAIT_MAX) {
            Ok(metadata) => match partitions_of(&metadata, &cluster.topic) {
                Ok(partitions) => return Ok(partitions),
                Err(error) if waited > TOPIC_WAIT_MAX || !is_being_created(error) => {
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

struct Topic {
    outbox: Outbox,
    cluster: Cluster,
    /// The name that the brokers give their cluster; `None` where they give none.
    cluster_id: Option<String>,
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
    /// An earlier try of the batch through this connection may have written something.
    is_unsure: bool,
    /// Each message travels in a request of its own.
    alone: bool,
}

/// A change as it is sent. One is filled with the next change once it was sent.
#[derive(Default)]
struct PendingMessage {
    /// The change's index in the batch.
    index: u32,
    key: String,
    partition_key: String,
    value: String,
    /// `None` for a row of an import, which has no place in the stream.
    position: Option<PositionHeader>,
    position_text: String,
}

impl PendingMessage {
    /// Makes it that of a change; `position`: none, where it has no place in the stream.
    fn fill(
        &mut self,
        (index, change): (u32, &Change),
        position: Option<PositionHeader>,
        consumer: &str,
    ) {
        let PendingMessage { key, partition_key, value, position_text, .. } = self;
        [&mut *key, partition_key, value, position_text].into_iter().for_each(String::clear);
        let names = Names::of_event(change);
        names.write_subject(&change.event.id(), key);
        names.write_partition_key(partition_key);
        change.event.store_into(value);
        if let Some(position) = position {
            position.write(consumer, position_text);
        }
        (self.index, self.position) = (index, position);
    }

    fn size(&self) -> usize {
        self.key.len() + self.partition_key.len() + self.value.len() + OVERHEAD_BYTES
    }
}

impl Topic {
    /// Fails with the changes whose messages the topic does not take: before anything is sent, so
    /// that nothing overtakes what is left out. Of nearly all changes their own size tells enough.
    fn check_sizes(&self, batch: &Batch) -> Result<(), Failure> {
        let max = self.message_bytes_max;
        let may_be_larger =
            |change: &Change| PARTS_TIMES * change.event.payload().len() + FIXED_BYTES_MAX > max;
        let large = batch.ordered().filter(|(_, change)| may_be_larger(change));
        let mut message = PendingMessage::default();
        let sizes = large.map(|(index, change)| {
            message.fill((index, change), None, &self.consumer);
            (index, message.size())
        });
        let culprits: Vec<(u32, String)> = sizes
            .filter(|(_, size)| *size > max)
            .map(|(index, size)| {
                (index, format!("the message would have {size} bytes, and the topic takes {max}"))
            })
            .collect();
        if culprits.is_empty() { Ok(()) } else { Err(Failure::rejected(culprits)) }
    }

    /// Counts the partitions again now and then. More partitions move keys: what is sent from now
    /// on goes by the new number.
    async fn refresh_partitions(&mut self) -> Result<(), Failure> {
        if self.partitions_counted_at.elapsed() > PARTITIONS_COUNT_INTERVAL {
            let outbox = self.outbox.clone();
            let counted = in_thread(&self.cluster, &self.errors, move |cluster, errors| {
                count_partitions(&outbox, cluster, errors)
            });
            self.partitions = counted.await??;
            self.partitions_counted_at = Instant::now();
        }
        Ok(())
    }

    /// The messages of `batch` that an earlier try, whose outcome is unknown, may have written.
    async fn find_written(&self, batch: &Batch) -> Result<HashSet<PositionHeader>, Failure> {
        if batch.is_import() || (batch.unconfirmed_through.is_none() && !self.is_unsure) {
            return Ok(HashSet::new());
        }
        let (partitions, consumer, after) = (self.partitions, self.consumer.clone(), batch.after);
        in_thread(&self.cluster, &self.errors, move |cluster, errors| {
            tail::positions_beyond(cluster, partitions, &consumer, after, errors)
        })
        .await?
    }

    /// A client that has met a fatal error does nothing any more, and one that has failed may still
    /// send: another one takes its place.
    async fn renew_client(&mut self) -> Result<(), Failure> {
        if self.outbox.has_open() {
            (self.written, self.is_unsure) = (None, true);
        }
        if !self.is_unsure && !self.outbox.has_ended() {
            return Ok(());
        }
        tracing::debug!("the Kafka client is made anew");
        let limits = ProducerLimits { message_bytes: self.message_bytes_max, alone: self.alone };
        let new = outbox(&self.cluster, &self.errors, limits)?;
        std::mem::replace(&mut self.outbox, new).end().await
    }

    /// What becomes of a failed delivery. The topic may take a request of one message where it
    /// refused one of many: each then travels alone, until the next connection. A message that is
    /// too large alone is the one that cannot be stored.
    fn judge(&mut self, batch: &Batch, undelivered: Undelivered) -> Failure {
        let Undelivered { message, error } = undelivered;
        let Some((index, size)) = message else {
            return self.cluster.failure(&error, &self.errors);
        };
        let event = &batch.change(index).event;
        let event = format!("event {:?} of table {:?}", event.id(), event.table());
        let topic = &self.cluster.topic;
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::MessageSizeTooLarge) {
            let failure = self.cluster.failure(&error, &self.errors);
            return Failure { text: format!("{event}: {}", failure.text), ..failure };
        }
        if self.alone {
            let why = format!("the message has {size} bytes, and topic {topic:?} takes fewer");
            return Failure::rejected(vec![(index, why)]);
        }
        self.alone = true;
        let text = format!(
            "topic {topic:?} takes smaller requests than EDS was told: each message is sent alone, \
             which is slow. Set ?max-message-bytes= to the topic's max.message.bytes, or allow \
             DESCRIBE_CONFIGS on it"
        );
        tracing::warn!("{text}");
        Failure::unavailable(format!("{event}: {text}"))
    }

    /// Sends what the topic does not have of the batch.
    async fn deliver_missing(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.renew_client().await?;
        if self.written.is_none() {
            self.written = Some(self.find_written(batch).await?);
        }
        self.check_sizes(batch)?;
        // One after the other: the client sends the first while the next are made.
        // The position of a letter that is retried is an old one: among the last messages it would
        // say that an unfinished batch is wholly behind it, and a consumer that skips what it has
        // seen would skip it.
        let is_streamed = !batch.is_import() && batch.letters.retried.is_none();
        let position = |change: &Change| is_streamed.then(|| PositionHeader::of(change.position));
        // Should this call be given up, only the topic knows what arrived.
        let written = self.written.take().unwrap_or_default();
        self.is_unsure = true;
        let has = |position: Option<PositionHeader>| position.is_some_and(|p| written.contains(&p));
        let mut missing = batch.ordered().filter(|(_, change)| !has(position(change)));
        let next = |message: &mut PendingMessage| {
            let next = missing.next();
            next.is_some_and(|(index, change)| {
                message.fill((index, change), position(change), &self.consumer);
                true
            })
        };
        let sender =
            Sender { outbox: &self.outbox, cluster: &self.cluster, partitions: self.partitions };
        let Err(undelivered) = sender.deliver(next).await else { return Ok(()) };
        Err(self.judge(batch, undelivered))
    }
}

#[async_trait]
impl Destination for Topic {
    /// The brokers that a URL names may change, and each may be named in several ways.
    fn identity(&self) -> Option<String> {
        let cluster = self.cluster_id.as_deref().filter(|id| !id.is_empty())?;
        Some(format!("kafka {cluster} {}", self.cluster.topic))
    }

    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        self.errors.forget();
        self.refresh_partitions().await?;
        let was_alone = self.alone;
        let mut delivered = self.deliver_missing(batch).await;
        if self.alone && !was_alone {
            delivered = self.deliver_missing(batch).await;
        }
        delivered?;
        (self.written, self.is_unsure) = (None, false);
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.outbox.end().await
    }
}
