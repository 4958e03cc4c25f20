//! Where changes come from. Whatever its kind, a feed delivers in stream order; what may have been
//! lost on the way is answered by opening it again.

#[cfg(feature = "jetstream")]
pub mod jetstream;
pub mod journal;

use async_trait::async_trait;
use bytes::Bytes;

use crate::change::Position;

/// One message.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub position: Position,
    /// Where it came from, for people: a NATS subject, or file and line.
    pub subject: String,
    pub payload: Bytes,
    pub encoding: Encoding,
    /// How many more there are after it, as far as the feed knows.
    pub pending: u64,
}

/// How the payload is packed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Encoding {
    Json,
    GzipJson,
    Unknown(String),
}

/// What came of waiting for deliveries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Some were added.
    Delivered,
    /// Nothing is there for us now; more may come.
    Idle,
    /// Something may have been lost on the way: open again.
    Lost(String),
    /// There will never be more.
    Ended,
}

/// Where to begin where no position is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    All,
    NewOnly,
}

/// Where a feed is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenAt {
    /// Delivers what follows. `None`: no position is known.
    pub after: Option<Position>,
    /// Where no position is known, from what was published at this time on (Unix nanoseconds): an
    /// import says so.
    pub since_ns: Option<i64>,
    /// The time at which nothing was pending for us, as far as it is known.
    pub idle_ns: Option<i64>,
}

/// What an opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// What the user has to know: a gap, a stream made anew.
    pub warnings: Vec<String>,
    /// How many messages wait, where the feed knows.
    pub pending: Option<u64>,
}

/// Why a feed cannot be opened or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FeedError {
    /// Wait and try again.
    #[error("{0}")]
    Unavailable(String),
    /// A human has to change something.
    #[error("{0}")]
    Misconfigured(String),
    /// Another process reads this feed.
    #[error("{0}")]
    Taken(String),
}

/// Delivers messages in stream order, each opening from one position on.
#[async_trait]
pub trait Feed: Send {
    /// Where the feed itself believes to stand. Asked before anything else: where another process
    /// reads the feed, this fails with `Taken`, and nothing has been touched yet.
    async fn acknowledged_position(&mut self) -> Result<Option<Position>, FeedError>;

    /// Delivers from there on; what an earlier opening had under way is forgotten.
    async fn open(&mut self, at: OpenAt) -> Result<Opened, FeedError>;

    /// Waits for messages and adds them to `into`, at most `max`. May be dropped while it waits;
    /// nothing is lost then.
    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError>;

    /// Everything up to `through` is safe: the source may forget it.
    async fn acknowledge(&mut self, through: Position) -> Result<(), FeedError>;

    /// Waits until the source knows what was acknowledged.
    async fn close(&mut self) -> Result<(), FeedError>;
}
