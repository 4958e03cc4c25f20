//! The waits between tries of something that failed: they double up to a longest one, and may be
//! spread so that many servers that lost the same service do not come back in step.

use std::time::Duration;

/// The bounds of the waits between tries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits {
    /// Whether the first try after a failure follows without a wait.
    pub at_once: bool,
    /// The first wait; each further one is twice as long.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

/// The waits for a destination or a feed that is unavailable, and what [`Backoff::default`] uses: a
/// connection that was merely closed is replaced at once.
pub const RETRY_WAITS: Waits =
    Waits { at_once: true, first: Duration::from_millis(100), longest: Duration::from_secs(15) };

impl Waits {
    /// The wait before try number `number`; the first is 1.
    pub const fn before(&self, number: u32) -> Duration {
        if self.at_once && number <= 1 {
            return Duration::ZERO;
        }
        let doublings = number.saturating_sub(1 + self.at_once as u32);
        let factor = 1u32 << if doublings < 31 { doublings } else { 31 };
        let wait = self.first.saturating_mul(factor);
        if wait.as_nanos() < self.longest.as_nanos() { wait } else { self.longest }
    }
}

/// Counts tries and says how long to wait before each.
#[derive(Clone, Debug)]
pub struct Backoff {
    waits: Waits,
    tries: u32,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new(RETRY_WAITS)
    }
}

impl Backoff {
    /// No try has been made yet.
    pub const fn new(waits: Waits) -> Backoff {
        Backoff { waits, tries: 0 }
    }

    /// Counts a try; the wait before it.
    pub fn next_exact(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        self.waits.before(self.tries)
    }

    /// Counts a try; the wait before it, shortened by up to a quarter. By how much depends on
    /// `name` and the number of the try alone, so that tests repeat: callers with different names
    /// wait differently.
    pub fn next(&mut self, name: &str) -> Duration {
        let wait = self.next_exact();
        let spread = xxhash_rust::xxh3::xxh3_64(format!("{name}{}", self.tries).as_bytes()) % 256;
        wait - wait.mul_f64(spread as f64 / 1024.0)
    }

    /// How many tries were counted since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// A try succeeded: the waits begin with the first again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let exact = Waits {
            at_once: false,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        };
        let mut backoff = Backoff::new(exact);
        let waits: Vec<u64> = (0..8).map(|_| backoff.next_exact().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(exact.before(u32::MAX), exact.longest);
        backoff.reset();
        assert_eq!((backoff.tries(), backoff.next_exact().as_secs()), (0, 1));
    }

    #[test]
    fn the_default_begins_at_once_and_is_spread_by_name() {
        let (mut one, mut other) = (Backoff::default(), Backoff::default());
        assert_eq!((one.next("a"), other.next("b")), (Duration::ZERO, Duration::ZERO));
        let mut differ = false;
        for number in 2..12 {
            let (wait, another) = (one.next("a"), other.next("b"));
            let whole = RETRY_WAITS.before(number);
            assert!(wait <= whole && wait >= whole.mul_f64(0.75), "{wait:?} of {whole:?}");
            differ |= wait != another;
        }
        assert!(differ);
        assert_eq!(one.tries(), 11);
    }
}
