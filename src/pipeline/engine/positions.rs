//! How far everything is: the destination, the memory of rows, the acknowledgements. Pure.

use super::start::StartPosition;
use crate::change::Position;
use crate::feed::OpenAt;

/// The positions of one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// How far the destination is, as this engine knows it; `None` until that is known.
    durable: Option<Position>,
    /// What is delivered is of another stream than `durable`.
    is_other_stream: bool,
    /// Up to where the memory of rows has seen the stream; behind `durable` while a start catches
    /// up on it.
    recent_through: Option<Position>,
    /// Delivered although the destination has it already, and not yet acknowledged.
    seen: Option<Position>,
    /// From when on the stream is read, Unix nanoseconds, where an import says so and no position
    /// is known yet.
    since_ns: Option<i64>,
    /// When nothing was pending for us last, by the source's clock, and how far we were.
    idle: Option<Position>,
}

impl Positions {
    /// Where a run starts.
    pub fn new(start: &StartPosition, idle: Option<Position>) -> Positions {
        let (durable, since_ns) = match start {
            StartPosition::After { position, .. } => (Some(*position), None),
            StartPosition::Since { since_ns, .. } => (None, Some(*since_ns)),
            StartPosition::FeedDecides => (None, None),
        };
        Positions { durable, recent_through: durable, since_ns, idle, ..Positions::default() }
    }

    /// How far the destination is.
    pub fn durable(&self) -> Option<Position> {
        self.durable
    }

    /// Where the feed has to be opened: the memory of rows has to see what it has not seen yet.
    pub fn open_at(&self) -> OpenAt {
        // A destination that was restored to an earlier state has missed what it had by then.
        let is_behind =
            |idle: &Position| self.durable.is_some_and(|durable| durable.sequence < idle.sequence);
        OpenAt {
            after: self.recent_through,
            durable: self.durable,
            since_ns: self.since_ns,
            idle_ns: self.idle.filter(|idle| !is_behind(idle)).map(|idle| idle.time_ns),
        }
    }

    /// Nothing was pending at this time, Unix nanoseconds; the place that it counts for.
    pub fn idle_at(&mut self, time_ns: i64) -> Position {
        let sequence = self.durable.map_or(0, |durable| durable.sequence);
        *self.idle.insert(Position { sequence, time_ns })
    }

    /// Everything up to here is durable: a batch was applied, or the feed began there.
    pub fn reached(&mut self, position: Position) {
        self.durable = Some(position);
        self.is_other_stream = false;
    }

    /// What is delivered from now on is of another stream than what is durable.
    pub fn begin_other_stream(&mut self) {
        self.is_other_stream = true;
    }

    /// The destination turned out to be at `position`, before or after what was known. What was
    /// seen is not its any more.
    pub fn rewind(&mut self, position: Position) {
        (self.durable, self.seen) = (Some(position), None);
    }

    /// The memory of rows has seen the stream up to here.
    pub fn recent_reached(&mut self, position: Option<Position>) {
        self.recent_through = position;
    }

    /// Whether the memory of rows has not yet seen everything that the destination has. What it
    /// has of a former stream is all of that.
    pub fn is_recent_behind(&self) -> bool {
        let sequence = |position: Option<Position>| position.map_or(0, |at| at.sequence);
        !self.is_other_stream && sequence(self.recent_through) < sequence(self.durable)
    }

    /// A delivery came that the destination has already.
    pub fn saw(&mut self, position: Position) {
        self.seen = Some(position);
    }

    /// Takes what the destination had already, for it to be acknowledged or forgotten.
    pub fn take_seen(&mut self) -> Option<Position> {
        self.seen.take()
    }

    /// What is durable and seen by the memory of rows; `None` while the two are of different
    /// streams: a place in the new one must not be known before a checkpoint in it is.
    pub fn savable_through(&self) -> Option<Position> {
        if self.is_other_stream {
            return None;
        }
        match (self.durable, self.recent_through) {
            (Some(durable), Some(recent)) if recent.sequence < durable.sequence => Some(recent),
            (durable, _) => durable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::engine::start::{PositionSource, TimeSource};

    #[test]
    fn a_rewind_leaves_nothing_to_acknowledge_and_nothing_to_save_beyond() {
        let at = |sequence| Position { sequence, time_ns: 0 };
        let start = StartPosition::After { position: at(9), source: PositionSource::Checkpoint };
        let mut positions = Positions::new(&start, None);
        assert_eq!(positions.open_at().after, Some(at(9)));
        positions.recent_reached(Some(at(4)));
        assert_eq!((positions.savable_through(), positions.open_at().after), {
            (Some(at(4)), Some(at(4)))
        });
        assert!(positions.is_recent_behind());
        positions.recent_reached(Some(at(9)));
        assert!(!positions.is_recent_behind());
        positions.recent_reached(Some(at(4)));
        positions.begin_other_stream();
        assert_eq!((positions.savable_through(), positions.is_recent_behind()), (None, false));
        positions.saw(at(8));
        positions.recent_reached(Some(at(12)));
        positions.reached(at(11));
        assert_eq!(positions.savable_through(), Some(at(11)));
        positions.idle_at(50);
        assert_eq!(positions.open_at().idle_ns, Some(50));
        positions.rewind(at(6));
        assert_eq!(positions.open_at().idle_ns, None);
        assert_eq!((positions.durable(), positions.take_seen()), (Some(at(6)), None));
        assert_eq!(positions.savable_through(), Some(at(6)));
    }

    #[test]
    fn an_import_gives_a_time_instead_of_a_position() {
        let start = StartPosition::Since { since_ns: 5, began: None, source: TimeSource::Import };
        let positions = Positions::new(&start, Some(Position { sequence: 3, time_ns: 7 }));
        let expected = OpenAt { after: None, durable: None, since_ns: Some(5), idle_ns: Some(7) };
        assert_eq!((positions.open_at(), positions.durable()), (expected, None));
        assert_eq!(Positions::new(&StartPosition::FeedDecides, None), Positions::default());
    }
}
