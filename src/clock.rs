//! The time of day: the one place that asks the operating system for it. Durations are measured
//! with `Instant` instead, because the time of day may be set back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// When something expires that may be renewed: never, until somebody says when. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Expiry(Arc<AtomicU64>);

impl Expiry {
    /// Unix seconds; `None`: never.
    pub fn unix(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// It expires at that time; 0: never.
    pub fn set(&self, unix: u64) {
        self.0.store(unix, Ordering::Relaxed);
    }
}

/// The time since the Unix epoch; zero if the clock is set to an earlier time.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix nanoseconds: the unit of positions, versions and metrics.
pub fn now_ns() -> i64 {
    now().as_nanos() as i64
}

/// Unix milliseconds: the unit of log file names and of Snowflake.
pub fn now_ms() -> i64 {
    now().as_millis() as i64
}

/// Unix seconds: the unit in which tokens and credentials expire.
pub fn now_s() -> u64 {
    now().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_units_tell_the_same_time() {
        let (s, ms, ns) = (now_s(), now_ms(), now_ns());
        assert!(s > 1_700_000_000);
        assert!(ms / 1000 - (s as i64) < 60 && ns / 1_000_000 - ms < 60_000);
    }
}
