//! How often the worker failed in a row, and how long to wait before it is started again.

use std::time::Duration;

use crate::backoff::{Backoff, Waits};

/// Failures of the worker in a row after which the server ends, too.
pub const FAILURES_MAX: u32 = 5;
/// A worker that ran for so long before it failed begins the count again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60 * 60);
/// Before a worker is started again.
const RESTART_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// Unexpected ends of the worker, in a row.
pub struct Failures(Backoff);

impl Default for Failures {
    fn default() -> Failures {
        Failures(Backoff::new(RESTART_WAITS))
    }
}

impl Failures {
    /// Counts a failure of a worker that streamed for `healthy_for` before, if it streamed at all.
    /// Returns the wait before the next start, `None` at the failure that is one too many.
    pub fn count(&mut self, healthy_for: Option<Duration>) -> Option<Duration> {
        if healthy_for.is_some_and(|time| time >= HEALTHY_AFTER) {
            self.0.reset();
        }
        let wait = self.0.next_exact();
        (self.in_a_row() < FAILURES_MAX).then_some(wait)
    }

    /// The failures that are counted.
    pub fn in_a_row(&self) -> u32 {
        self.0.tries()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_failure_is_the_last_unless_an_hour_was_well() {
        let (mut failures, minute, hour) =
            (Failures::default(), Some(Duration::from_secs(60)), Some(Duration::from_secs(3600)));
        let mut count = |healthy_for| failures.count(healthy_for).map(|wait| wait.as_secs());
        assert_eq!(
            [count(None), count(minute), count(None), count(minute)],
            [Some(1), Some(2), Some(4), Some(8)]
        );
        assert_eq!([count(hour), count(None)], [Some(1), Some(2)]);
        assert_eq!([count(None), count(None), count(minute)], [Some(4), Some(8), None]);
    }
}
