//! The pace of requests: where the service asks for fewer, all of them wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::{Backoff, Waits};

/// How long no request is made after the service has asked for fewer.
const SLOW_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(500), longest: Duration::from_secs(10) };

/// When the next request may be made.
pub struct Pace(Mutex<PaceState>);

struct PaceState {
    backoff: Backoff,
    not_before: Instant,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace(Mutex::new(PaceState {
            backoff: Backoff::new(SLOW_WAITS),
            not_before: Instant::now(),
        }))
    }
}

impl Pace {
    fn state(&self) -> MutexGuard<'_, PaceState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request may be made.
    pub async fn wait(&self) {
        let until = self.state().not_before;
        if until > Instant::now() {
            sleep_until(until).await;
        }
    }

    /// The service asks for fewer requests: each time that it does so again, the wait is longer.
    pub fn slow_down(&self) {
        let (mut state, now) = (self.state(), Instant::now());
        // Of requests on their way at the same time only one counts.
        if now >= state.not_before {
            let wait = state.backoff.next_exact();
            state.not_before = now + wait;
            tracing::debug!("the service asks for fewer requests: none for {wait:?}");
        }
    }

    /// A request was carried out.
    pub fn went_well(&self) {
        let mut state = self.state();
        if Instant::now() >= state.not_before {
            state.backoff.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_requests_wait_where_one_is_too_many() {
        let pace = Pace::default();
        let started = Instant::now();
        for expected_ms in [500, 1_500, 3_500] {
            // Many that were on their way together are refused together.
            (0..16).for_each(|_| pace.slow_down());
            // One that was on its way, too, says nothing about the next.
            pace.went_well();
            pace.wait().await;
            assert_eq!(started.elapsed(), Duration::from_millis(expected_ms));
        }
        pace.went_well();
        pace.slow_down();
        pace.wait().await;
        assert_eq!(started.elapsed(), Duration::from_millis(4_000));
    }
}
