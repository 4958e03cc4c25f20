//! Where changes come from. Every feed delivers in stream order; if messages may have been lost on
//! the way, the engine opens it again at the last position that it knows.

#[cfg(feature = "jetstream")]
pub mod jetstream;
pub mod journal;

use async_trait::async_trait;
use bytes::Bytes;

use crate::change::Position;

/// One message.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its place in the stream.
    pub position: Position,
    /// Where it came from, for people: a NATS subject, or file and line.
    pub subject: String,
    /// The event, in `encoding`.
    pub payload: Bytes,
    /// How to read the payload.
    pub encoding: Encoding,
    /// How many messages of the feed follow it; `None` if the feed does not know.
    pub pending: Option<u64>,
}

impl Delivery {
    /// An event as JSON, from where nobody knows how many follow.
    pub fn of_event(position: Position, subject: String, payload: Bytes) -> Delivery {
        Delivery { position, subject, payload, encoding: Encoding::Json, pending: None }
    }
}

/// The encoding of a payload: the header `content-encoding`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// JSON as UTF-8; also without a header.
    Json,
    /// JSON compressed by gzip.
    GzipJson,
    /// Another value of the header; the message becomes a dead letter.
    Unknown(String),
}

/// What ended a wait for messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Signal {
    /// At least one message was appended.
    Delivered,
    /// Nothing is pending now; more may come.
    Idle,
    /// Messages may have been lost on the way, for this reason: the feed has to be opened again.
    Lost(String),
    /// The feed has delivered everything and ends.
    Ended,
}

/// Where a feed begins that nothing is known of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the oldest message that the source still has.
    All,
    /// With the next message that is published.
    NewOnly,
}

/// Where a feed is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenAt {
    /// The last message that is not wanted; `None` if no position is known.
    pub after: Option<Position>,
    /// The last message that is durable at the destination, at `after` or behind it: what tells the
    /// stream from another one of its name, and from where on nothing may be missing.
    pub durable: Option<Position>,
    /// Without a position, begin with what was published at this time, Unix nanoseconds; an import
    /// sets it.
    pub since_ns: Option<i64>,
    /// The last time by the source's clock at which nothing was pending, Unix nanoseconds, if it is
    /// known: messages before it are not missing, even if the source has removed them.
    pub idle_ns: Option<i64>,
}

/// What the source itself knows of how far this consumer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Acknowledged {
    /// Nothing.
    #[default]
    Nothing,
    /// Everything up to here was acknowledged.
    Through(Position),
    /// Deliveries began with what was published at this time, Unix nanoseconds, and none is known
    /// to be acknowledged.
    NothingSince(i64),
}

/// What a feed found when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The position belongs to a stream that is no more; another one is read from its beginning.
    /// Sequences and times of the former say nothing about it.
    pub recreated: bool,
    /// What the user has to know: changes that are missing, a stream that was recreated, or that
    /// neither could be found out.
    pub warnings: Vec<String>,
    /// How many messages are pending; `None` if the feed does not know.
    pub pending: Option<u64>,
    /// By how much the source's clock is behind this machine's, nanoseconds; 0 where it is not, or
    /// nobody knows.
    pub behind_ns: i64,
}

/// Why a feed cannot be opened or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FeedError {
    /// The source is unreachable: try again later.
    #[error("{0}")]
    Unavailable(String),
    /// A person has to change something; the text says what.
    #[error("{0}")]
    Misconfigured(String),
    /// Another process reads this feed. Said by [`Feed::open`] once of each: the next call takes it
    /// away from the other.
    #[error("{0}")]
    Taken(String),
}

/// A source of changes in stream order. The engine owns one feed and makes one call at a time, from
/// one task, in this order: [`acknowledged`](Feed::acknowledged), then
/// [`open`](Feed::open), then [`next`](Feed::next) and [`acknowledge`](Feed::acknowledge) in any
/// order, then [`close`](Feed::close). After [`Signal::Lost`] or [`FeedError::Unavailable`] it
/// opens the feed again; any other error ends the engine. A batch may be written to the destination
/// in parallel with `next`, and with no other call.
#[async_trait]
pub trait Feed: Send {
    /// How far this consumer came, as far as the source itself knows. Called once before the first
    /// `open`, and again after an `open` without a position, to learn where the feed begins.
    /// Changes nothing at the source. The start waits for it.
    ///
    /// # Errors
    /// [`FeedError::Taken`] if another process reads the feed.
    async fn acknowledged(&mut self) -> Result<Acknowledged, FeedError>;

    /// What has to be known of the source at the next start, so that positions mean the same by
    /// then; `None` where they do anyway. `kept`: what an earlier start gave, if this one goes on
    /// from a position. Called once, before the first `open`, and saved by then.
    ///
    /// # Errors
    /// [`FeedError::Misconfigured`] if the source has changed so that positions mean nothing.
    fn layout(&mut self, _kept: Option<&str>) -> Result<Option<String>, FeedError> {
        Ok(None)
    }

    /// Delivers from `at` on; deliveries of an earlier opening are forgotten. Called at the start
    /// and after each interruption, once no batch is being written, with the engine's backoff in
    /// between. Everything else waits for it; it is dropped when the engine is told to stop.
    async fn open(&mut self, at: OpenAt) -> Result<Opened, FeedError>;

    /// Waits until there are messages and appends them to `into`: `max` at most, in stream order,
    /// each after the one before. Called all the time, except while the engine is paused or holds
    /// as many changes as it may. Cancel safe: the engine drops the call whenever something else is
    /// due, and a message that is not in `into` by then comes with the next call, which also goes
    /// on with whatever the dropped one waited for.
    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError>;

    /// A time of the source's own clock at which nothing was pending, Unix nanoseconds; `None`
    /// where something is, or it is not known. Asked once a minute and at the end, while nothing
    /// waits in the engine. Everything else waits for it, for a bounded time.
    async fn nothing_pending_at(&mut self) -> Option<i64> {
        None
    }

    /// The source may forget everything up to `through`, which is durable at the destination.
    /// Called after each batch, and when nothing of what was delivered has to be written; positions
    /// increase. Everything else waits for it, so that it must not wait for an answer: if the
    /// acknowledgement is lost, messages are delivered again, which is harmless. An error leads to
    /// another `open`.
    async fn acknowledge(&mut self, through: Position) -> Result<(), FeedError>;

    /// Stops reading and waits, for a bounded time, until the source has confirmed the
    /// acknowledgements. Called once, at the end; the shutdown waits for it. An error is logged.
    async fn close(&mut self) -> Result<(), FeedError>;
}
