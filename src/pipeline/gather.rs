//! What has been resolved and waits for the destination. Pure: the clock is outside.

use std::time::Duration;

use tokio::time::Instant;

use super::aside::Aside;
use crate::change::{Change, Position};

/// A contiguous piece of the stream: what is to be applied, what was set aside, and how far it goes.
pub struct Gathered {
    pub changes: Vec<Change>,
    pub asides: Vec<Aside>,
    /// Events that it stands for, those that need nothing done included.
    pub events: usize,
    /// The last position that it contains.
    pub through: Position,
}

/// Limits of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub changes_max: usize,
    pub bytes_max: usize,
    /// As many events as the feed delivers before it waits to be told of some.
    pub events_max: usize,
    pub wait_min: Option<Duration>,
    pub wait_max: Option<Duration>,
}

pub struct Gather {
    limits: Limits,
    changes: Vec<Change>,
    asides: Vec<Aside>,
    events: usize,
    bytes: usize,
    /// When the first of them came, and how far they go.
    held: Option<(Instant, Position)>,
    /// Where the next batch ends, whatever the limits: an earlier process has written a part of it.
    cut: Option<Position>,
}

impl Gather {
    pub fn new(limits: Limits) -> Gather {
        Gather { limits, changes: Vec::new(), asides: Vec::new(), events: 0, bytes: 0, held: None, cut: None }
    }

    /// The next batch ends at `cut`, unless nothing of it comes.
    pub fn cut_at(&mut self, cut: Option<Position>) {
        self.cut = cut;
    }

    /// Whether the batch has to go before `next` is gathered, which is beyond its end.
    pub fn ends_before(&mut self, next: Position) -> bool {
        if self.cut.is_none_or(|cut| cut.contains(next)) {
            return false;
        }
        self.end_here();
        !self.is_empty()
    }

    /// What is held is all that comes up to the end of the batch.
    pub fn end_here(&mut self) {
        self.cut = self.cut.and(self.held).map(|(_, through)| through);
    }

    pub fn change(&mut self, change: Change, now: Instant) {
        self.bytes += change.size();
        self.passed(change.position, now);
        self.changes.push(change);
    }

    pub fn aside(&mut self, aside: Aside, now: Instant) {
        self.bytes += aside.payload.len() + aside.reason.len();
        self.passed(aside.position, now);
        self.asides.push(aside);
    }

    /// An event that needs nothing done, but must not be seen again.
    pub fn passed(&mut self, position: Position, now: Instant) {
        let (since, through) = self.held.map_or((now, position), |(since, p)| (since, p.advanced_to(position)));
        self.held = Some((since, through));
        self.events += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    pub fn is_full(&self) -> bool {
        if let Some(cut) = self.cut {
            // The feed may deliver less at once than it did then.
            return self.events >= self.limits.events_max || self.held.is_some_and(|(_, through)| through.contains(cut) || !cut.contains(through));
        }
        let Limits { changes_max, bytes_max, events_max, .. } = self.limits;
        self.changes.len() + self.asides.len() >= changes_max || self.bytes >= bytes_max || self.events >= events_max
    }

    /// When the free destination may take it; `None` while there is nothing to take.
    pub fn due(&self) -> Option<Instant> {
        let (since, _) = self.held?;
        if self.is_full() {
            return Some(since);
        }
        if self.cut.is_some() {
            return None;
        }
        let wait = self.limits.wait_min.unwrap_or_default();
        Some(since + self.limits.wait_max.map_or(wait, |max| wait.min(max)))
    }

    /// Everything that is held; `None` where there is nothing.
    pub fn take(&mut self) -> Option<Gathered> {
        let (_, through) = self.held.take()?;
        (self.bytes, self.cut) = (0, None);
        Some(Gathered { changes: std::mem::take(&mut self.changes), asides: std::mem::take(&mut self.asides), events: std::mem::take(&mut self.events), through })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(wait_min: Option<u64>, wait_max: Option<u64>) -> Gather {
        let ms = |n: Option<u64>| n.map(Duration::from_millis);
        Gather::new(Limits { changes_max: 2, bytes_max: 1000, events_max: 3, wait_min: ms(wait_min), wait_max: ms(wait_max) })
    }

    #[test]
    fn is_due_at_once_unless_the_user_asked_to_wait() {
        let now = Instant::now();
        let at = |sequence| Position { sequence, time_ns: 0 };
        let aside = |sequence| Aside { position: at(sequence), subject: String::new(), reason: String::new(), payload: bytes::Bytes::new() };
        let mut free = gather(None, None);
        assert_eq!(free.due(), None);
        free.passed(at(1), now);
        assert_eq!(free.due(), Some(now));
        let mut held = gather(Some(50), None);
        held.passed(at(1), now);
        assert_eq!(held.due(), Some(now + Duration::from_millis(50)));
        held.aside(aside(2), now);
        held.aside(aside(3), now);
        assert_eq!(held.due(), Some(now));
        assert_eq!(held.take().map(|g| (g.events, g.through)), Some((3, at(3))));
        assert!(held.is_empty());
        // Events that need nothing done keep the feed waiting, too.
        (1..=3).for_each(|sequence| held.passed(at(sequence), now));
        assert_eq!(held.due(), Some(now));
        // A batch that was begun before ends where it ended, or where nothing more comes.
        free.take();
        free.cut_at(Some(at(9)));
        (1..=2).for_each(|sequence| free.passed(at(sequence), now));
        assert_eq!((free.due(), free.ends_before(at(9)), free.ends_before(at(10))), (None, false, true));
        assert_eq!((free.due(), free.take().map(|g| g.through)), (Some(now), Some(at(2))));
        free.cut_at(Some(at(9)));
        assert!(!free.ends_before(at(10)) && !free.is_full());
        free.cut_at(Some(at(12)));
        free.passed(at(11), now);
        assert_eq!(free.due(), None);
        free.end_here();
        assert_eq!(free.due(), Some(now));
        // Nothing more comes either where the feed waits to be told of some.
        free.take();
        free.cut_at(Some(at(9)));
        (1..=3).for_each(|sequence| free.passed(at(sequence), now));
        assert_eq!(free.due(), Some(now));
        let mut both = gather(Some(50), Some(10));
        both.passed(at(1), now);
        assert_eq!(both.due(), Some(now + Duration::from_millis(10)));
    }
}
