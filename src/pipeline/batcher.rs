//! What has been resolved and waits for the destination. Pure: the clock is outside.

use std::time::Duration;

use tokio::time::Instant;

use super::resolve::Moved;
use crate::change::{Change, DeadLetter, Position};

/// A contiguous piece of the stream: what is to be applied, the dead letters, and how far it goes.
#[derive(Debug)]
pub struct PendingBatch {
    /// What is to be applied, oldest first.
    pub changes: Vec<Change>,
    /// What cannot be applied.
    pub dead_letters: Vec<DeadLetter>,
    /// Events that it stands for, those that need nothing done included.
    pub events: usize,
    /// The last position that it contains.
    pub through: Position,
}

impl PendingBatch {
    /// What it contains, to be changed in place.
    pub fn contents(&mut self) -> (&mut Vec<Change>, &mut Vec<DeadLetter>) {
        (&mut self.changes, &mut self.dead_letters)
    }
}

/// Limits of one batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Changes and dead letters.
    pub changes_max: usize,
    /// Their bytes in memory.
    pub bytes_max: usize,
    /// As many events as the feed delivers before it waits to be told of some.
    pub events_max: usize,
    /// How long the first of them is held even if the destination is free.
    pub wait_min: Option<Duration>,
    /// The longest that the first of them is held for that.
    pub wait_max: Option<Duration>,
}

/// Collects what has been resolved until it is due.
pub struct Batcher {
    limits: BatchLimits,
    changes: Vec<Change>,
    dead_letters: Vec<DeadLetter>,
    events: usize,
    bytes: usize,
    /// When the first of them came, and how far they go.
    held: Option<(Instant, Position)>,
    /// Where the next batch ends, whatever the limits: an earlier process has written a part of it.
    replay_boundary: Option<Position>,
}

impl Batcher {
    /// Holds nothing yet.
    pub fn new(limits: BatchLimits) -> Batcher {
        Batcher {
            limits,
            changes: Vec::new(),
            dead_letters: Vec::new(),
            events: 0,
            bytes: 0,
            held: None,
            replay_boundary: None,
        }
    }

    /// The next batch ends at `replay_boundary`, unless nothing of it comes.
    pub fn replay_to(&mut self, replay_boundary: Option<Position>) {
        self.replay_boundary = replay_boundary;
    }

    /// Whether the batch has to go before `next` is taken, which is beyond its end.
    pub fn ends_before(&mut self, next: Position) -> bool {
        if self.replay_boundary.is_none_or(|replay_boundary| replay_boundary.contains(next)) {
            return false;
        }
        self.end_here();
        !self.is_empty()
    }

    /// What is held is all that comes up to the end of the batch.
    pub fn end_here(&mut self) {
        self.replay_boundary = self.replay_boundary.and(self.held).map(|(_, through)| through);
    }

    /// A change that is to be applied, received at `now`.
    pub fn change(&mut self, change: Change, now: Instant) {
        self.bytes += change.size();
        self.passed(change.position, now);
        self.changes.push(change);
    }

    /// An event that is two changes, received at `now`: a row is left, and another written.
    pub fn moved(&mut self, Moved { left, change }: Moved, now: Instant) {
        self.bytes += left.size();
        self.changes.push(left);
        self.change(change, now);
    }

    /// The letters of an event that cannot be applied, received at `now`.
    pub fn dead_letters(&mut self, letters: Vec<DeadLetter>, now: Instant) {
        let Some(position) = letters.first().map(|letter| letter.position) else { return };
        self.bytes += letters.iter().map(|l| l.payload.len() + l.reason.len()).sum::<usize>();
        self.passed(position, now);
        self.dead_letters.extend(letters);
    }

    /// An event that needs nothing done, but must not be seen again.
    pub fn passed(&mut self, position: Position, now: Instant) {
        let (since, through) =
            self.held.map_or((now, position), |(since, p)| (since, p.advanced_to(position)));
        self.held = Some((since, through));
        self.events += 1;
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    /// Whether no more fits into the batch.
    pub fn is_full(&self) -> bool {
        if let Some(replay_boundary) = self.replay_boundary {
            // The feed may deliver less at once than it did then.
            return self.events >= self.limits.events_max
                || self.held.is_some_and(|(_, through)| {
                    through.contains(replay_boundary) || !replay_boundary.contains(through)
                });
        }
        let BatchLimits { changes_max, bytes_max, events_max, .. } = self.limits;
        self.changes.len() + self.dead_letters.len() >= changes_max
            || self.bytes >= bytes_max
            || self.events >= events_max
    }

    /// When the free destination may take it; `None` while there is nothing to take, or a batch
    /// that has to end at its replay boundary has not come that far.
    pub fn due(&self) -> Option<Instant> {
        let (since, _) = self.held?;
        if self.is_full() {
            return Some(since);
        }
        if self.replay_boundary.is_some() {
            return None;
        }
        let wait = self.limits.wait_min.unwrap_or_default();
        Some(since + self.limits.wait_max.map_or(wait, |max| wait.min(max)))
    }

    /// What is held, to be changed in place.
    pub fn contents(&mut self) -> (&mut Vec<Change>, &mut Vec<DeadLetter>) {
        (&mut self.changes, &mut self.dead_letters)
    }

    /// Everything that is held; `None` where there is nothing.
    pub fn take(&mut self) -> Option<PendingBatch> {
        let (_, through) = self.held.take()?;
        (self.bytes, self.replay_boundary) = (0, None);
        Some(PendingBatch {
            changes: std::mem::take(&mut self.changes),
            dead_letters: std::mem::take(&mut self.dead_letters),
            events: std::mem::take(&mut self.events),
            through,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batcher(wait_min: Option<u64>, wait_max: Option<u64>) -> Batcher {
        let ms = |n: Option<u64>| n.map(Duration::from_millis);
        Batcher::new(BatchLimits {
            changes_max: 2,
            bytes_max: 1000,
            events_max: 3,
            wait_min: ms(wait_min),
            wait_max: ms(wait_max),
        })
    }

    #[test]
    fn is_due_at_once_unless_the_user_asked_to_wait() {
        let now = Instant::now();
        let at = |sequence| Position { sequence, time_ns: 0 };
        let dead_letter = |sequence| {
            let place = ("s", Position { sequence, time_ns: 0 });
            DeadLetter::of_message("r".into(), place, bytes::Bytes::from_static(b"p"))
        };
        let mut free = batcher(None, None);
        assert_eq!(free.due(), None);
        free.passed(at(1), now);
        assert_eq!(free.due(), Some(now));
        let mut held = batcher(Some(50), None);
        held.passed(at(1), now);
        assert_eq!(held.due(), Some(now + Duration::from_millis(50)));
        held.dead_letters(vec![dead_letter(2)], now);
        held.dead_letters(vec![dead_letter(3)], now);
        assert_eq!(held.due(), Some(now));
        assert_eq!(held.take().map(|g| (g.events, g.through)), Some((3, at(3))));
        assert!(held.is_empty());
        // Events that need nothing done keep the feed waiting, too.
        (1..=3).for_each(|sequence| held.passed(at(sequence), now));
        assert_eq!(held.due(), Some(now));
        // A batch that was begun before ends where it ended, or where nothing more comes.
        free.take();
        free.replay_to(Some(at(9)));
        (1..=2).for_each(|sequence| free.passed(at(sequence), now));
        assert_eq!(
            (free.due(), free.ends_before(at(9)), free.ends_before(at(10))),
            (None, false, true)
        );
        assert_eq!((free.due(), free.take().map(|g| g.through)), (Some(now), Some(at(2))));
        free.replay_to(Some(at(9)));
        assert!(!free.ends_before(at(10)) && !free.is_full());
        free.replay_to(Some(at(12)));
        free.passed(at(11), now);
        assert_eq!(free.due(), None);
        free.end_here();
        assert_eq!(free.due(), Some(now));
        // Nothing more comes either where the feed waits to be told of some.
        free.take();
        free.replay_to(Some(at(9)));
        (1..=3).for_each(|sequence| free.passed(at(sequence), now));
        assert_eq!(free.due(), Some(now));
        let mut both = batcher(Some(50), Some(10));
        both.passed(at(1), now);
        assert_eq!(both.due(), Some(now + Duration::from_millis(10)));
    }
}
