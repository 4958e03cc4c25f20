//! Sending messages and waiting until all are confirmed; where that fails, which one it began with.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::{Client, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use xxhash_rust::xxh64::xxh64;

use super::client::{ClientErrors, Cluster, ProducerLimits};
use super::{POSITION_HEADER, PendingMessage};
use crate::destination::Failure;

/// How long a batch may take without any message being confirmed.
const DELIVERY_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the others are waited for once one has failed, to learn what it began with.
const CAUSE_WAIT_MAX: Duration = Duration::from_secs(2);
const QUEUE_POLL_INTERVAL: Duration = Duration::from_millis(5);
const PARTITION_KEY_HEADER: &str = "eds-partitionkey";

/// What failed to be delivered.
pub struct Undelivered {
    /// The message that it began with: of which change in the batch, and its size in bytes. `None`
    /// where nothing is known of any.
    pub message: Option<(u32, usize)>,
    /// Why.
    pub error: KafkaError,
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

/// What a client tells of the messages that it was given, by their numbers in the batch.
#[derive(Clone)]
pub struct DeliveryAnswers {
    errors: ClientErrors,
    shared: Arc<SharedAnswers>,
}

#[derive(Default)]
struct SharedAnswers {
    /// Messages that the client was given and has said nothing of.
    open: AtomicUsize,
    failed: Mutex<Option<FailedMessage>>,
    /// None is open, or one has failed.
    told: Notify,
}

/// The message that a failure began with, as far as it is known.
struct FailedMessage {
    number: usize,
    error: KafkaError,
    is_cause: bool,
}

impl SharedAnswers {
    fn failed(&self) -> MutexGuard<'_, Option<FailedMessage>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a failure, unless more is known already.
    fn fail(&self, number: usize, error: KafkaError) {
        let is_cause = !is_consequence(&error);
        let mut failed = self.failed();
        if failed.as_ref().is_none_or(|known| is_cause && !known.is_cause) {
            *failed = Some(FailedMessage { number, error, is_cause });
        }
    }

    /// Waits until nothing is open any more, or until it is known what a failure began with.
    /// `has_failed`: the client did not take a message.
    async fn answered(&self, has_failed: bool) -> Result<Option<FailedMessage>, Undelivered> {
        let mut cause_known_by = None;
        loop {
            let told = self.told.notified();
            let open = self.open.load(Ordering::Acquire);
            let is_cause = self.failed().as_ref().map(|failed| failed.is_cause);
            if is_cause == Some(true) || open == 0 {
                return Ok(self.failed().take());
            }
            let is_failed = has_failed || is_cause.is_some();
            let until = match is_failed {
                true => *cause_known_by.get_or_insert_with(|| Instant::now() + CAUSE_WAIT_MAX),
                false => Instant::now() + DELIVERY_WAIT_MAX,
            };
            if timeout_at(until, told).await.is_ok() {
                continue;
            }
            let still_open = self.open.load(Ordering::Acquire);
            match self.failed().take() {
                None if !is_failed && still_open < open => {}
                None if !is_failed => return Err(Undelivered::timed_out()),
                failed => return Ok(failed),
            }
        }
    }

    /// One that is open is so no more.
    fn close(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.told.notify_one();
        }
    }
}

impl ClientContext for DeliveryAnswers {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = ClientErrors::ENABLE_REFRESH_OAUTH_TOKEN;

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.errors.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.errors.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.errors.error(error, reason);
    }
}

impl ProducerContext for DeliveryAnswers {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivered: &DeliveryResult<'_>, number: usize) {
        if let Err((error, _)) = delivered {
            self.shared.fail(number, error.clone());
            self.shared.told.notify_one();
        }
        self.shared.close();
    }
}

/// A client that sends, and what it tells.
#[derive(Clone)]
pub struct Outbox {
    producer: Arc<ThreadedProducer<DeliveryAnswers>>,
    answers: Arc<SharedAnswers>,
}

impl Outbox {
    /// A client for this cluster; its complaints go to `errors`. Connects to nothing yet.
    pub fn new(
        cluster: &Cluster,
        errors: &ClientErrors,
        limits: ProducerLimits,
    ) -> Result<Outbox, KafkaError> {
        let answers = DeliveryAnswers { errors: errors.clone(), shared: Arc::default() };
        let shared = answers.shared.clone();
        let producer = cluster.producer_config(limits).create_with_context(answers)?;
        Ok(Outbox { producer: Arc::new(producer), answers: shared })
    }

    /// The client, to be asked.
    pub fn client(&self) -> &Client<DeliveryAnswers> {
        self.producer.client()
    }

    /// Whether it does nothing any more.
    pub fn has_ended(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }

    /// Whether it still sends what it was given, in a call that was given up.
    pub fn has_open(&self) -> bool {
        self.answers.open.load(Ordering::Acquire) > 0
    }

    /// Ends the client. What is still on its way ends with it; whoever goes on searches the topic
    /// for it.
    pub async fn end(self) -> Result<(), Failure> {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        tokio::task::spawn_blocking(move || drop(self))
            .await
            .map_err(|e| Failure::unavailable(e.to_string()))
    }
}

/// What sends messages to a topic.
pub struct Sender<'a> {
    /// The client, of which no message is open.
    pub outbox: &'a Outbox,
    /// Where it sends to.
    pub cluster: &'a Cluster,
    /// How many partitions the topic has.
    pub partitions: u32,
}

impl Sender<'_> {
    /// Sends what `next` fills in, until it has nothing more, and waits until all is confirmed.
    pub async fn deliver(
        &self,
        mut next: impl FnMut(&mut PendingMessage) -> bool,
    ) -> Result<(), Undelivered> {
        let answers = &self.outbox.answers;
        *answers.failed() = None;
        let mut message = PendingMessage::default();
        let mut sent: Vec<(u32, usize)> = Vec::new();
        let mut first = None;
        while next(&mut message) {
            sent.push((message.index, message.size()));
            if let Err(error) = self.send(&message, sent.len() - 1).await {
                first = Some((sent.len() - 1, error));
                break;
            }
        }
        let failed = answers.answered(first.is_some()).await?;
        let began_with = match (failed, first) {
            (Some(failed), None) => (failed.number, failed.error),
            (Some(failed), Some(_)) if failed.is_cause => (failed.number, failed.error),
            (_, Some(first)) => first,
            (None, None) => return Ok(()),
        };
        let (number, error) = began_with;
        Err(Undelivered { message: sent.get(number).copied(), error })
    }

    /// Gives the client the message with this number. Waits while its queue is full.
    async fn send(&self, message: &PendingMessage, number: usize) -> Result<(), KafkaError> {
        let mut headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: PARTITION_KEY_HEADER, value: Some(&message.partition_key) });
        if message.position.is_some() {
            let value = Some(&message.position_text);
            headers = headers.insert(Header { key: POSITION_HEADER, value });
        }
        let mut record = BaseRecord::with_opaque_to(&self.cluster.topic, number)
            .key(&message.key)
            .payload(&message.value)
            .partition(partition(&message.partition_key, self.partitions))
            .headers(headers);
        let Outbox { producer, answers } = self.outbox;
        let mut full_since = None;
        loop {
            answers.open.fetch_add(1, Ordering::AcqRel);
            let Err((error, unsent)) = producer.send(record) else { return Ok(()) };
            answers.close();
            let since = *full_since.get_or_insert_with(Instant::now);
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull)
                || since.elapsed() >= DELIVERY_WAIT_MAX
            {
                return Err(error);
            }
            record = unsent;
            tokio::time::sleep(QUEUE_POLL_INTERVAL).await;
        }
    }
}

impl Undelivered {
    fn timed_out() -> Undelivered {
        let error = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
        Undelivered { message: None, error }
    }
}

/// The partition of a key: `fnv1a-32(hex(xxhash64(key))) mod partitions`, the hexadecimal in 16
/// lower-case digits.
fn partition(key: &str, partitions: u32) -> i32 {
    let hash = xxh64(key.as_bytes(), 0);
    let digits =
        (0..16).rev().map(|place| b"0123456789abcdef"[(hash >> (4 * place)) as usize & 15]);
    (fnv1a(digits) % partitions) as i32
}

fn fnv1a(text: impl Iterator<Item = u8>) -> u32 {
    text.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow broker takes its time; one that takes nothing for a minute does not.
    #[tokio::test(start_paused = true)]
    async fn a_batch_fails_where_nothing_is_confirmed_for_a_minute() {
        let answers = SharedAnswers::default();
        let confirm = async |pause: Duration| {
            for _ in 0..4 {
                tokio::time::sleep(pause).await;
                answers.close();
            }
        };
        answers.open.store(4, Ordering::Release);
        let (slow, ()) = tokio::join!(answers.answered(false), confirm(Duration::from_secs(40)));
        assert!(slow.is_ok_and(|failed| failed.is_none()));
        answers.open.store(4, Ordering::Release);
        let began = Instant::now();
        assert!(answers.answered(false).await.is_err());
        assert_eq!(began.elapsed(), DELIVERY_WAIT_MAX);
    }

    #[test]
    fn partitions_are_those_of_the_contract() {
        assert_eq!(format!("{:016x}", xxh64(b"hello", 0)), "26c7827d889f6da3");
        let of = |text: &str| fnv1a(text.bytes());
        assert_eq!((of("") % 10, of("1") % 3, of("1 2 3 4") % 10), (1, 1, 5));
        assert_eq!(partition("hello", 1_000), (of("26c7827d889f6da3") % 1_000) as i32);
    }
}
