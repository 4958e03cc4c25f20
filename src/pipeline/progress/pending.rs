//! Since when the oldest event waits that is not durable yet.

use std::collections::VecDeque;

use crate::change::Position;

/// Events that came and are not durable, by what came at once; and what is known of those that
/// still are at the source.
#[derive(Debug, Default)]
pub struct PendingTimes {
    /// The first publication and the last sequence of each arrival, oldest first.
    arrivals: VecDeque<(i64, u64)>,
    /// Whatever waits at the source was published at this time or later, Unix nanoseconds; 0: not
    /// known.
    floor_ns: i64,
}

impl PendingTimes {
    /// These came at once; in the order of the stream.
    pub fn arrived(&mut self, first: Position, last: Position) {
        self.arrivals.push_back((first.time_ns, last.sequence));
    }

    /// Everything up to here is durable.
    pub fn durable(&mut self, through: Position) {
        while self.arrivals.front().is_some_and(|(_, last)| *last <= through.sequence) {
            self.arrivals.pop_front();
        }
        self.settled_at(through.time_ns);
    }

    /// Nothing that was published before waits any more.
    pub fn settled_at(&mut self, time_ns: i64) {
        self.floor_ns = self.floor_ns.max(time_ns);
    }

    /// What came comes again, from the source.
    pub fn dropped(&mut self) {
        self.settled_at(self.oldest_ns());
        self.arrivals.clear();
    }

    /// When the oldest event that waits was published, or no earlier than that; `now_ns` where
    /// nothing is known of it but that it waits.
    pub fn since_ns(&mut self, now_ns: i64) -> i64 {
        match self.oldest_ns() {
            0 => {
                self.floor_ns = now_ns;
                now_ns
            }
            known => known.min(now_ns),
        }
    }

    fn oldest_ns(&self) -> i64 {
        self.arrivals.front().map_or(self.floor_ns, |(first, _)| (*first).max(self.floor_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64, time_ns: i64) -> Position {
        Position { sequence, time_ns }
    }

    #[test]
    fn the_oldest_is_the_first_that_is_not_durable() {
        let mut pending = PendingTimes::default();
        // What waits is not known yet: it counts from when that was seen first.
        assert_eq!((pending.since_ns(50), pending.since_ns(90)), (50, 50));
        pending.arrived(at(1, 100), at(5, 104));
        pending.arrived(at(6, 200), at(9, 209));
        assert_eq!(pending.since_ns(1_000), 100);
        pending.durable(at(3, 102));
        assert_eq!(pending.since_ns(1_000), 102);
        pending.durable(at(5, 104));
        assert_eq!(pending.since_ns(1_000), 200);
        // It comes again, and does not become younger by that.
        pending.dropped();
        assert_eq!(pending.since_ns(1_000), 200);
        pending.durable(at(9, 209));
        pending.settled_at(900);
        assert_eq!(pending.since_ns(1_000), 900);
        // A clock that is behind the server's makes nothing negative.
        assert_eq!(pending.since_ns(10), 10);
    }
}
