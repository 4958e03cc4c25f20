//! Pulls messages of a consumer. Pulls never overlap: the next one is sent when the last message of
//! the one before, or its end, has arrived.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::{Client, Message, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::api::AckPolicy;
use crate::change::Position;
use crate::clock::now_ns;
use crate::feed::{Delivery, Encoding, FeedError, Signal};

/// The most bytes of one pull's messages.
const PULL_BYTES_MAX: usize = 8 << 20;
/// The most bytes of a single message: the most that a NATS server can be configured to allow.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// After so long the server ends a pull that has found nothing, which shows that an idle stream is
/// alive. Pulls ask for no idle heartbeat, because with one the server drops a refused pull
/// silently instead of answering 409.
const PULL_EXPIRES: Duration = Duration::from_secs(5);
/// A pull without an answer for so long beyond that is lost.
const ANSWER_GRACE: Duration = Duration::from_secs(2);
/// How long the sending of acknowledgements may wait for the client's buffer.
const ACK_SEND_WAIT_MAX: Duration = Duration::from_secs(2);
/// Pulls that are refused for longer are so because another process reads the consumer: one that is
/// gone has left a pull that ends within [`PULL_EXPIRES`].
const REFUSED_MAX: Duration = Duration::from_secs(10);
/// How long to wait before a refused pull is tried again.
const REFUSED_WAIT: Duration = Duration::from_millis(300);

/// What the reply subject of a delivery says (NATS ADR-15, in both forms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    stream_seq: u64,
    consumer_seq: u64,
    published_ns: i64,
    pending: u64,
}

impl Meta {
    fn parse(reply: &str) -> Option<Meta> {
        let tokens: Vec<&str> = reply.split('.').collect();
        let at = match tokens.len() {
            9 => 4,
            n if n >= 11 => 6,
            _ => return None,
        };
        let number = |i: usize| tokens.get(at + i).and_then(|t| t.parse::<u64>().ok());
        Some(Meta {
            stream_seq: number(1)?,
            consumer_seq: number(2)?,
            published_ns: i64::try_from(number(3)?).ok()?,
            pending: number(4)?,
        })
    }
}

/// A moment by two clocks: the first one stands still while the machine sleeps, the second one may
/// be set.
#[derive(Clone, Copy)]
struct Heard {
    at: Instant,
    unix_ns: i64,
}

impl Heard {
    fn now() -> Heard {
        Heard { at: Instant::now(), unix_ns: now_ns() }
    }

    /// Whether more than `time` has passed, by one of the clocks.
    fn is_older_than(self, time: Duration) -> bool {
        let passed_ns = i128::from(now_ns()) - i128::from(self.unix_ns);
        self.at.elapsed() > time || passed_ns > time.as_nanos() as i128
    }
}

/// How an opened consumer's messages are acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct PullAcks {
    /// Which acknowledgements are sent.
    pub policy: AckPolicy,
    /// The server delivers no more while so many messages are not acknowledged.
    pub pending_max: usize,
}

/// An opened consumer. It has an inbox of its own, so that no message of an earlier opening arrives
/// in it.
pub struct OpenPull {
    client: Client,
    inbox: String,
    messages: Subscriber,
    pull_subject: String,
    batch: usize,
    acks: PullAcks,
    connections: watch::Receiver<u64>,
    /// Messages that may still come of the current pull; 0: there is no current pull.
    left: usize,
    /// Messages that have come of the current pull.
    brought: usize,
    /// During the current pull the server may have kept messages back until others were
    /// acknowledged: that nothing comes does not mean that nothing is pending.
    is_held_back: bool,
    pull_bytes: usize,
    pull_no: u64,
    pull_deadline: Instant,
    /// When the last pull ended, or the current one was sent.
    heard: Heard,
    /// This process may have slept: another one may have made the consumer anew, and read as many
    /// messages of it as this one of the former.
    is_doubted: bool,
    /// A pull of this opening has been answered: none from before is left at the server.
    is_answered: bool,
    /// After a refused pull, when the next may be sent.
    not_before: Instant,
    /// Since when every pull was refused.
    refused_since: Option<Instant>,
    consumer_seq: u64,
    highest: u64,
    /// Messages that the consumer had for us when the server said so last.
    pending: u64,
    /// Delivered and not acknowledged, in stream order.
    outstanding: VecDeque<(u64, Subject)>,
    /// Acknowledgements that the server has not confirmed.
    unconfirmed: u64,
}

/// Why a pull ended before it had brought what it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Silence {
    /// Nothing is pending.
    Idle,
    /// The server waits for acknowledgements.
    HeldBack,
    /// Messages are pending, as far as it is known: the server is too busy to deliver them, or they
    /// were removed from the stream.
    Unexplained,
}

impl Silence {
    fn of(is_held_back: bool, pending: u64) -> Silence {
        match (is_held_back, pending) {
            (true, _) => Silence::HeldBack,
            (false, 0) => Silence::Idle,
            (false, _) => Silence::Unexplained,
        }
    }
}

/// What one message of the inbox means.
enum PullMessage {
    Delivery(Delivery),
    Nothing,
    Signal(Signal),
}

impl OpenPull {
    /// Subscribes an inbox; nothing is pulled yet. `subject`: where pulls are sent to. `batch`:
    /// messages per pull. `connections`: as [`Link`](super::connect::Link) counts them.
    /// `stand`: the consumer's last delivery so far, and how many messages follow it.
    pub async fn new(
        client: &Client,
        subject: String,
        batch: usize,
        acks: PullAcks,
        mut connections: watch::Receiver<u64>,
        (consumer_seq, pending): (u64, u64),
    ) -> Result<OpenPull, FeedError> {
        connections.mark_unchanged();
        let inbox = client.new_inbox();
        let messages = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|e| FeedError::Unavailable(format!("no inbox: {e}")))?;
        Ok(OpenPull {
            client: client.clone(),
            inbox,
            messages,
            pull_subject: subject,
            batch,
            acks,
            connections,
            left: 0,
            brought: 0,
            is_held_back: false,
            refused_since: None,
            pull_bytes: PULL_BYTES_MAX,
            pull_no: 0,
            pull_deadline: Instant::now(),
            heard: Heard::now(),
            is_doubted: false,
            is_answered: false,
            not_before: Instant::now(),
            consumer_seq,
            highest: 0,
            pending,
            outstanding: VecDeque::new(),
            unconfirmed: 0,
        })
    }

    async fn pull(&mut self) -> Result<(), FeedError> {
        let body = format!(
            r#"{{"batch":{},"max_bytes":{},"expires":{}}}"#,
            self.batch,
            self.pull_bytes,
            PULL_EXPIRES.as_nanos()
        );
        let inbox = format!("{}.{}", self.inbox, self.pull_no + 1);
        let sent =
            self.client.publish_with_reply(self.pull_subject.clone(), inbox, body.into()).await;
        sent.map_err(|e| FeedError::Unavailable(format!("the pull could not be sent: {e}")))?;
        self.pull_no += 1;
        self.left = self.batch;
        self.brought = 0;
        self.is_held_back = self.outstanding.len() >= self.acks.pending_max;
        self.pull_bytes = PULL_BYTES_MAX;
        self.pull_deadline = Instant::now() + PULL_EXPIRES + ANSWER_GRACE;
        self.heard = Heard::now();
        Ok(())
    }

    /// As [`crate::feed::Feed::next`]; `None`: it has to be asked whether the consumer is still
    /// this process's and what it has, and told to [`trust`](OpenPull::trust).
    pub async fn next(
        &mut self,
        into: &mut Vec<Delivery>,
        max: usize,
    ) -> Result<Option<Signal>, FeedError> {
        loop {
            if self.left == 0 {
                tokio::time::sleep_until(self.not_before).await;
                if self.is_doubted || self.heard.is_older_than(PULL_EXPIRES) {
                    return Ok(None);
                }
                self.pull().await?;
            }
            let message = tokio::select! {
                biased;
                _ = self.connections.changed() => {
                    return Ok(Some(Signal::Lost("NATS was disconnected for a moment".into())));
                }
                message = timeout_at(self.pull_deadline, self.messages.next()) => message,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => {
                    return Err(FeedError::Unavailable("the connection to NATS was closed".into()));
                }
                Err(_) => return Ok(Some(Signal::Lost("a pull was not answered".into()))),
            };
            match self.on_message(message)? {
                PullMessage::Delivery(delivery) => into.push(delivery),
                PullMessage::Nothing => continue,
                PullMessage::Signal(signal) => return Ok(Some(signal)),
            }
            return self.drain(into, max).map(Some);
        }
    }

    /// The consumer is this process's, and has so many messages for it.
    pub fn trust(&mut self, pending: u64) {
        self.is_doubted = false;
        self.pending = pending;
        self.heard = Heard::now();
    }

    /// The current pull is at its end.
    fn end_pull(&mut self) {
        self.left = 0;
        self.is_doubted |= self.heard.is_older_than(PULL_EXPIRES + ANSWER_GRACE);
        self.heard = Heard::now();
    }

    /// Adds messages that have already arrived, without waiting.
    fn drain(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError> {
        while into.len() < max && self.left > 0 {
            let Some(Some(message)) = self.messages.next().now_or_never() else { break };
            match self.on_message(message)? {
                PullMessage::Delivery(delivery) => into.push(delivery),
                PullMessage::Nothing | PullMessage::Signal(Signal::Idle) => {}
                // The caller opens again and gets the messages before it again, too.
                PullMessage::Signal(signal) => return Ok(signal),
            }
        }
        Ok(Signal::Delivered)
    }

    fn on_message(&mut self, message: Message) -> Result<PullMessage, FeedError> {
        if let Some(status) = message.status {
            return self.on_status(status.as_u16(), &message);
        }
        self.refused_since = None;
        if message.subject.as_str().starts_with(&self.inbox) {
            // An empty message without status confirms an acknowledgement.
            self.unconfirmed = self.unconfirmed.saturating_sub(1);
            return Ok(PullMessage::Nothing);
        }
        self.is_answered = true;
        self.brought += 1;
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.end_pull();
        }
        let Some((meta, reply)) =
            message.reply.as_ref().and_then(|r| Some((Meta::parse(r)?, r.clone())))
        else {
            return Ok(PullMessage::Nothing);
        };
        if meta.consumer_seq != self.consumer_seq + 1 {
            return Ok(PullMessage::Signal(Signal::Lost(format!(
                "{} deliveries were lost on the way",
                meta.consumer_seq.saturating_sub(self.consumer_seq + 1)
            ))));
        }
        self.consumer_seq = meta.consumer_seq;
        self.pending = meta.pending;
        if meta.stream_seq <= self.highest {
            let is_waiting =
                self.outstanding.iter().any(|(sequence, _)| *sequence == meta.stream_seq);
            return Ok(match is_waiting {
                // A long outage delays its acknowledgement.
                true => PullMessage::Nothing,
                false => PullMessage::Signal(Signal::Lost("an acknowledgement was lost".into())),
            });
        }
        self.highest = meta.stream_seq;
        self.outstanding.push_back((meta.stream_seq, reply));
        self.is_held_back |= self.outstanding.len() >= self.acks.pending_max;
        let encoding = match message
            .headers
            .as_ref()
            .and_then(|h| h.get("content-encoding"))
            .map(async_nats::HeaderValue::as_str)
        {
            None | Some("" | "json") => Encoding::Json,
            Some("gzip/json") => Encoding::GzipJson,
            Some(other) => Encoding::Unknown(other.to_owned()),
        };
        Ok(PullMessage::Delivery(Delivery {
            position: Position { sequence: meta.stream_seq, time_ns: meta.published_ns },
            subject: message.subject.to_string(),
            payload: message.payload,
            encoding,
            pending: Some(meta.pending),
        }))
    }

    /// The subject of a status names its pull; only the current pull's counts.
    fn on_status(&mut self, status: u16, message: &Message) -> Result<PullMessage, FeedError> {
        if status == 503 && message.subject.ends_with(".ack") {
            let why = "nobody took an acknowledgement".to_owned();
            return Ok(PullMessage::Signal(Signal::Lost(why)));
        }
        if message.subject.rsplit('.').next().and_then(|n| n.parse().ok()) != Some(self.pull_no) {
            return Ok(PullMessage::Nothing);
        }
        let text = message.description.as_deref().unwrap_or_default();
        match (status, text) {
            (404 | 408, _) => {
                self.end_pull();
                self.is_answered = true;
                self.refused_since = None;
                let silence = Silence::of(self.is_held_back, self.pending);
                self.is_doubted |= silence == Silence::Unexplained;
                Ok(match silence {
                    Silence::Idle => PullMessage::Signal(Signal::Idle),
                    Silence::HeldBack | Silence::Unexplained => PullMessage::Nothing,
                })
            }
            (409, "Message Size Exceeds MaxBytes") => {
                if self.brought == 0 {
                    self.pull_bytes = MESSAGE_BYTES_MAX;
                }
                self.end_pull();
                Ok(PullMessage::Nothing)
            }
            (409, "Batch Completed") => {
                self.end_pull();
                Ok(PullMessage::Nothing)
            }
            (409, "Consumer Deleted") => {
                Ok(PullMessage::Signal(Signal::Lost("the consumer was deleted".into())))
            }
            // The server allows one waiting pull, and this opening's have ended.
            (409, "Exceeded MaxWaiting") if self.is_answered => {
                Ok(PullMessage::Signal(Signal::Lost("another process reads the consumer".into())))
            }
            // A pull from before a reconnect, or of another process, still waits at the server: it
            // ends within 5 seconds.
            (409, "Exceeded MaxWaiting" | "Leadership Change" | "Server Shutdown") => {
                self.end_pull();
                let now = Instant::now();
                self.not_before = now + REFUSED_WAIT;
                let since = *self.refused_since.get_or_insert(now);
                Ok(match now - since > REFUSED_MAX {
                    true => PullMessage::Signal(Signal::Lost(format!("pulls are refused: {text}"))),
                    false => PullMessage::Nothing,
                })
            }
            (503, _) => {
                Ok(PullMessage::Signal(Signal::Lost("the consumer or JetStream is gone".into())))
            }
            _ => Ok(PullMessage::Signal(Signal::Lost(format!(
                "the pull was refused: {status} {text}"
            )))),
        }
    }

    /// Sends the acknowledgement; its confirmation is counted by `next` and `close`.
    pub async fn acknowledge(&mut self, through: Position) -> Result<(), FeedError> {
        let mut replies = Vec::new();
        while self.outstanding.front().is_some_and(|(sequence, _)| *sequence <= through.sequence) {
            replies.extend(self.outstanding.pop_front().map(|(_, reply)| reply));
        }
        let Some(last) = replies.pop() else { return Ok(()) };
        let ack = Bytes::from_static(b"+ACK");
        let send = async {
            if self.acks.policy == AckPolicy::Explicit {
                for reply in replies {
                    self.client.publish(reply, ack.clone()).await?;
                }
            }
            self.client.publish_with_reply(last, format!("{}.ack", self.inbox), ack.clone()).await
        };
        // While NATS is away, the client takes a few thousand messages and then waits.
        match timeout(ACK_SEND_WAIT_MAX, send).await {
            Ok(sent) => sent.map_err(|e| FeedError::Unavailable(e.to_string()))?,
            Err(_) => return Err(FeedError::Unavailable("NATS takes no messages".into())),
        }
        self.unconfirmed += 1;
        Ok(())
    }

    /// Waits until the server has confirmed all acknowledgements, `patience` long at most.
    pub async fn close(&mut self, patience: Duration) -> Result<(), FeedError> {
        let deadline = Instant::now() + patience;
        while self.unconfirmed > 0 {
            match timeout_at(deadline, self.messages.next()).await {
                Ok(Some(message))
                    if message.status.is_none()
                        && message.subject.as_str().starts_with(&self.inbox) =>
                {
                    self.unconfirmed -= 1;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    return Err(FeedError::Unavailable("NATS did not confirm it in time".into()));
                }
            }
        }
        let _ = self.messages.unsubscribe().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_busy_to_deliver_has_not_delivered_everything() {
        assert_eq!(Silence::of(false, 0), Silence::Idle);
        assert_eq!(Silence::of(false, 7), Silence::Unexplained);
        assert_eq!(Silence::of(true, 0), Silence::HeldBack);
    }

    #[test]
    fn reads_both_forms_of_a_reply_subject() {
        let meta = Meta {
            stream_seq: 20,
            consumer_seq: 10,
            published_ns: 1_720_732_611_708_587_506,
            pending: 5,
        };
        assert_eq!(
            Meta::parse("$JS.ACK.dbchange.eds-dev.1.20.10.1720732611708587506.5"),
            Some(meta)
        );
        assert_eq!(
            Meta::parse("$JS.ACK.hub.ACCHASH.dbchange.eds-dev.1.20.10.1720732611708587506.5.token"),
            Some(meta)
        );
        assert_eq!(Meta::parse("_INBOX.x"), None);
    }
}
