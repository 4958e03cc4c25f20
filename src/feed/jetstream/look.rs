//! What can be learned of the stream itself: where it ends, and which message it has at a place.
//! Credentials allow no questions about streams, so consumers that live for a moment are asked, one
//! at a time: an account may allow no second consumer beside our own.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::STREAM;
use super::api::{AckPolicy, Api, ApiError, ConsumerConfig, ConsumerInfo, DeliverPolicy};
use super::pull::{OpenPull, PullAcks};
use crate::change::Position;
use crate::change::cutover::CLOCKS_APART_MAX_NS;
use crate::change::value::rfc3339;
use crate::clock::now_ns;
use crate::feed::FeedError;

/// The server removes such a consumer by itself after so long, should its deletion be lost.
const LOOK_GONE_MAX: Duration = Duration::from_secs(10);
/// How long a consumer that a process has left behind may take the place of another.
const PLACE_WAIT_MAX: Duration = LOOK_GONE_MAX.saturating_add(Duration::from_secs(5));
/// Between two tries.
const PLACE_WAIT: Duration = Duration::from_millis(500);
/// How long to wait for the message that is looked at.
const MESSAGE_WAIT_MAX: Duration = Duration::from_secs(3);

/// What the stream has where a position is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamLook {
    /// The last sequence that the stream has given.
    pub end: u64,
    /// The first message at the position or after it, if the stream has any.
    pub first: Option<Position>,
}

/// What the stream still has of some subjects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubjectLook {
    /// How many messages.
    pub messages: u64,
    /// The oldest of them.
    pub first: Option<Position>,
    /// The newest of them.
    pub last: Option<Position>,
}

/// What a look says about the stream in which a position was reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamFound {
    /// As far as can be seen it is the same.
    Same,
    /// It is another one of the same name; how that shows.
    Recreated(String),
}

impl StreamLook {
    /// Whether the stream is the one in which `position` was reached. Times of one stream may go
    /// back by as much as the clocks of its servers differ; the time of a position is the latest of
    /// all messages up to it.
    pub fn compare(&self, position: Position) -> StreamFound {
        let Position { sequence, time_ns } = position;
        if self.end < sequence {
            return StreamFound::Recreated(format!(
                "ends at sequence {}, before our position {sequence}",
                self.end
            ));
        }
        let Some(first) = self.first else { return StreamFound::Same };
        let is_older = first.time_ns < time_ns.saturating_sub(CLOCKS_APART_MAX_NS);
        let is_newer = first.sequence == sequence && first.time_ns > time_ns;
        if time_ns > 0 && (is_older || is_newer) {
            return StreamFound::Recreated(format!(
                "has another message at sequence {} than was read before",
                first.sequence
            ));
        }
        StreamFound::Same
    }

    /// What the stream no longer has after `position`, if some of it may have been for us. None was
    /// if nothing was pending at a time (`idle_ns`) that the stream still covers, because retention
    /// removes the oldest messages first.
    pub fn gap(&self, position: Position, idle_ns: Option<i64>) -> Option<StreamGap> {
        let from = position.sequence + 1;
        let to = self.first.map_or(self.end, |first| first.sequence.saturating_sub(1));
        let since_ns = idle_ns.unwrap_or_default().max(position.time_ns);
        let is_covered =
            self.first.is_some_and(|first| idle_ns.is_some_and(|i| first.time_ns <= i));
        (to >= from && !is_covered).then_some(StreamGap { from, to, since_ns })
    }
}

/// Changes that may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "changes may be missing: the stream {STREAM} no longer has sequences {from} to {to}, published \
     after {}; an import brings the destination up to date",
    rfc3339(since_ns / 1000)
)]
pub struct StreamGap {
    /// The first sequence.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// They were published after this time, Unix nanoseconds.
    pub since_ns: i64,
}

impl Api {
    /// Looks at the stream at `sequence`, while no other consumer of ours exists.
    pub async fn look(&self, sequence: u64) -> Result<StreamLook, ApiError> {
        let end = self.end().await?;
        let first = match end < sequence {
            true => None,
            false => self.first_message(sequence).await?,
        };
        Ok(StreamLook { end, first })
    }

    /// What the stream still has of messages whose subjects match one of `filters`.
    pub async fn look_for(&self, filters: Vec<String>) -> Result<SubjectLook, ApiError> {
        let mut found = SubjectLook { messages: 0, first: None, last: None };
        // Both at a time may be one more than the account allows.
        for (policy, is_first) in [(DeliverPolicy::All, true), (DeliverPolicy::Last, false)] {
            let config = look_config(policy, None);
            let config = match &filters[..] {
                [one] => ConsumerConfig { filter_subject: one.clone(), ..config },
                _ => ConsumerConfig { filter_subjects: filters.clone(), ..config },
            };
            // Whoever asks waits for the answer: only our own first one is sure to go away.
            let info = match is_first {
                true => self.create(&config).await?,
                false => self.create_in_place(&config).await?,
            };
            let position = match info.num_pending {
                0 => Ok(None),
                _ => self.pull_one(&config.name).await.map(Some),
            };
            let _ = self.delete(&config.name).await;
            match is_first {
                true => (found.messages, found.first) = (info.num_pending, position?),
                false => found.last = position?,
            }
        }
        Ok(found)
    }

    /// The first message that the stream has at `sequence` or after it.
    pub async fn first_message(&self, sequence: u64) -> Result<Option<Position>, ApiError> {
        let config = look_config(DeliverPolicy::ByStartSequence, Some(sequence));
        let info = self.create_in_place(&config).await?;
        let found = match info.num_pending {
            0 => Ok(None),
            _ => self.pull_one(&config.name).await.map(Some),
        };
        let _ = self.delete(&config.name).await;
        found
    }

    /// Creates a consumer; where no more are allowed, waits for one that a process has left behind
    /// to be removed.
    pub async fn create_in_place(&self, config: &ConsumerConfig) -> Result<ConsumerInfo, ApiError> {
        let deadline = Instant::now() + PLACE_WAIT_MAX;
        loop {
            match self.create(config).await {
                Err(e) if e.is_limit() && Instant::now() < deadline => sleep(PLACE_WAIT).await,
                created => return created,
            }
        }
    }

    /// The last sequence that the stream has given: a consumer of what is new begins after it.
    async fn end(&self) -> Result<u64, ApiError> {
        let config = look_config(DeliverPolicy::New, None);
        let info = self.create_in_place(&config).await?;
        let _ = self.delete(&config.name).await;
        Ok(info.delivered.stream_seq)
    }

    /// By how much the server's clock is behind this machine's, nanoseconds; 0 where it is not.
    pub async fn behind_ns(&self) -> Result<i64, ApiError> {
        let config = look_config(DeliverPolicy::New, None);
        let info = self.create_in_place(&config).await?;
        let behind_ns = info.behind_ns(now_ns());
        let _ = self.delete(&config.name).await;
        Ok(behind_ns)
    }

    async fn pull_one(&self, consumer: &str) -> Result<Position, ApiError> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}");
        let (client, connections) = (&self.link.client, self.link.connections.clone());
        let failed = |e: FeedError| ApiError::NoAnswer(e.to_string());
        let acks = PullAcks { policy: AckPolicy::None, pending_max: usize::MAX };
        let mut opening =
            OpenPull::new(client, subject, 1, acks, connections, (0, 1)).await.map_err(failed)?;
        let mut found = Vec::new();
        let pulled = tokio::time::timeout(MESSAGE_WAIT_MAX, opening.next(&mut found, 1)).await;
        match (found.first(), pulled) {
            (Some(delivery), _) => Ok(delivery.position),
            (None, Ok(Err(e))) => Err(failed(e)),
            (None, _) => Err(ApiError::NoAnswer("a message of the stream did not come".into())),
        }
    }
}

fn look_config(policy: DeliverPolicy, sequence: Option<u64>) -> ConsumerConfig {
    ConsumerConfig {
        name: format!("eds-probe-{}", uuid::Uuid::new_v4().simple()),
        deliver_policy: policy,
        opt_start_seq: sequence,
        ack_policy: AckPolicy::None,
        inactive_threshold: Some(LOOK_GONE_MAX.as_nanos() as u64),
        headers_only: true,
        ..ConsumerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_stream_is_known_by_its_end_or_by_the_time_of_its_messages() {
        const MINUTE_NS: i64 = 60_000_000_000;
        let at = |sequence, minute: i64| Position { sequence, time_ns: minute * MINUTE_NS };
        let position = at(1_000, 100);
        let same = Some(StreamFound::Same);
        for (end, first, expected) in [
            (999, None, None),
            (1_000, Some(at(1_000, 100)), same.clone()),
            // Of a broker whose clock was behind.
            (1_000, Some(at(1_000, 95)), same.clone()),
            (2_000, Some(at(1_000, 101)), None),
            (2_000, Some(at(1_000, 89)), None),
            // Retention has removed our message: what follows has to be later, give or take.
            (2_000, Some(at(1_001, 120)), same.clone()),
            (2_000, Some(at(1_401, 120)), same.clone()),
            (2_000, Some(at(1_401, 20)), None),
            (2_000, None, same.clone()),
        ] {
            let found = StreamLook { end, first }.compare(position);
            let is_other = matches!(found, StreamFound::Recreated(_));
            assert_eq!((!is_other).then_some(found), expected, "{end} {first:?}");
        }
        let untimed = Position { sequence: 1_000, time_ns: 0 };
        let look = StreamLook { end: 2_000, first: Some(at(1_000, 101)) };
        assert_eq!(Some(look.compare(untimed)), same);
    }

    #[test]
    fn what_was_removed_is_missing_unless_nothing_was_pending_by_then() {
        let at = |sequence, time_ns| Position { sequence, time_ns };
        let gap = |first, idle_ns| {
            let gap = StreamLook { end: 99, first: Some(first) }.gap(at(10, 100), idle_ns);
            gap.map(|gap| (gap.from, gap.to, gap.since_ns))
        };
        assert_eq!(gap(at(10, 100), None), None);
        assert_eq!(gap(at(11, 110), None), None);
        assert_eq!(gap(at(15, 150), None), Some((11, 14, 100)));
        assert_eq!(gap(at(15, 150), Some(120)), Some((11, 14, 120)));
        assert_eq!(gap(at(15, 150), Some(150)), None);
        // A destination that has nothing of the stream lacks what that had first.
        let of_nothing = |first| StreamLook { end: 99, first: Some(at(first, 150)) };
        let missing = |first| of_nothing(first).gap(Position::default(), None).map(|gap| gap.to);
        assert_eq!((missing(1), missing(15)), (None, Some(14)));
        // Of an empty stream nobody knows what was in it.
        let empty = |end| StreamLook { end, first: None }.gap(at(10, 100), Some(150)).map(|g| g.to);
        assert_eq!((empty(10), empty(14)), (None, Some(14)));
    }
}
