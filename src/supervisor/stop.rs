//! How the time is shared out that a server may take to end: whoever runs it kills it after that.

use std::time::Duration;

use tokio::time::Instant;

/// How long a worker may take to end that another one follows: it may be writing a batch.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(35);

/// What is done, in this order, while a server ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopStep {
    /// The worker writes what is pending.
    Worker,
    /// HQ is told what is not going to be done.
    LastWords,
    /// HQ is told of the end, and the logs are uploaded.
    Farewell,
}

impl StopStep {
    /// The part of the whole time by which the step is over. A rest is left for the process itself.
    const fn percent(self) -> u32 {
        match self {
            StopStep::Worker => 65,
            StopStep::LastWords => 75,
            StopStep::Farewell => 90,
        }
    }
}

/// The time that a server may take to end, which begins when it is told to.
pub struct StopClock {
    timeout: Duration,
    begun: Option<Instant>,
}

impl StopClock {
    /// It takes `timeout` at most.
    pub fn new(timeout: Duration) -> StopClock {
        StopClock { timeout, begun: None }
    }

    /// The server ends from now on.
    pub fn begin(&mut self) {
        self.begun = self.begun.or_else(|| Some(Instant::now()));
    }

    /// How much of its time is left for `step`.
    pub fn left_for(&self, step: StopStep) -> Duration {
        let spent = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        (self.timeout / 100 * step.percent()).saturating_sub(spent)
    }

    /// How long a worker may take to end that another one follows.
    pub fn restart_wait(&self) -> Duration {
        RESTART_WAIT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_that_takes_long_leaves_the_others_their_time() {
        let mut clock = StopClock::new(Duration::from_secs(10));
        assert_eq!(clock.left_for(StopStep::Worker), Duration::from_millis(6_500));
        clock.begin();
        tokio::time::advance(Duration::from_millis(6_500)).await;
        clock.begin();
        assert_eq!(clock.left_for(StopStep::Worker), Duration::ZERO);
        assert_eq!(clock.left_for(StopStep::LastWords), Duration::from_secs(1));
        assert_eq!(clock.left_for(StopStep::Farewell), Duration::from_millis(2_500));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clock.left_for(StopStep::Farewell), Duration::ZERO);
    }
}
