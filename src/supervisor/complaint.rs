//! Something that goes on being wrong: said when it begins and when its reason changes, at growing
//! distance while it lasts, and once more when it is over.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{Backoff, Waits};

/// Between two mentions of the same.
const MENTION_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(60), longest: Duration::from_secs(60 * 60) };

/// What is wrong, if anything is.
pub struct Complaint(Option<Lasting>);

struct Lasting {
    why: String,
    began: Instant,
    /// When it is said again.
    next: Instant,
    waits: Backoff,
}

impl Complaint {
    /// Nothing is wrong.
    pub const NONE: Complaint = Complaint(None);

    /// Whether to say now that this is wrong.
    pub fn is_due(&mut self, why: &str) -> bool {
        let now = Instant::now();
        match &mut self.0 {
            Some(lasting) if lasting.why == why => {
                let is_due = now >= lasting.next;
                if is_due {
                    lasting.next = now + lasting.waits.next_exact();
                }
                is_due
            }
            other => {
                let began = other.as_ref().map_or(now, |lasting| lasting.began);
                let mut waits = Backoff::new(MENTION_WAITS);
                let next = now + waits.next_exact();
                *other = Some(Lasting { why: why.to_owned(), began, next, waits });
                true
            }
        }
    }

    /// It is over: how long it lasted, if anything was wrong.
    pub fn over(&mut self) -> Option<Duration> {
        self.0.take().map(|lasting| lasting.began.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_said_at_growing_distance() {
        let mut complaint = Complaint::NONE;
        assert_eq!(complaint.over(), None);
        let mut said = Vec::new();
        for second in (0..1_000).step_by(5) {
            if complaint.is_due("HQ answered 409") {
                said.push(second);
            }
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        assert_eq!(said, [0, 60, 180, 420, 900]);
        assert!(complaint.is_due("HQ answered 503") && !complaint.is_due("HQ answered 503"));
        assert_eq!(complaint.over(), Some(Duration::from_secs(1_000)));
        assert!(complaint.over().is_none() && complaint.is_due("HQ answered 503"));
    }
}
