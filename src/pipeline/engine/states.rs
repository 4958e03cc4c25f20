//! The states of a run, and what follows from them. Pure: the clock and the world are outside.

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::End;
use crate::destination::Failure;
use crate::pipeline::apply::ApplyOutcome;

/// What the feed is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FeedState {
    /// It delivers. `caught_up`: nothing waited for us when it was last heard.
    Open {
        /// Whether nothing waited.
        caught_up: bool,
    },
    /// It has to be opened again; why.
    Lost(String),
    /// It will never deliver more.
    Ended,
}

impl FeedState {
    /// Whether nothing more is expected for now.
    pub fn is_caught_up(&self) -> bool {
        matches!(self, FeedState::Open { caught_up: true } | FeedState::Ended)
    }
}

/// What the destination's side is doing; `A` is the applier.
pub enum ApplyState<A> {
    /// It is free.
    Idle(Box<A>),
    /// It is applying a set of pending changes.
    Running(BoxFuture<'static, (Box<A>, Result<ApplyOutcome, Failure>)>),
    /// A batch is under way: the next one may be sent behind it.
    UnderWay(Box<A>),
    /// The destination is not where it was left. Nothing can be applied from here: the feed has to
    /// be opened at the new position first.
    Rewound(Box<A>),
}

impl<A> ApplyState<A> {
    /// Whether the next set of pending changes can be given to it.
    pub fn is_idle(&self) -> bool {
        matches!(self, ApplyState::Idle(_))
    }

    /// The applier, while nothing is on its way.
    pub fn applier(&mut self) -> Option<&mut A> {
        match self {
            ApplyState::Idle(applier) | ApplyState::Rewound(applier) => Some(applier),
            ApplyState::Running(_) | ApplyState::UnderWay(_) => None,
        }
    }

    /// The feed was opened where the destination is.
    pub fn reopened(self) -> ApplyState<A> {
        match self {
            ApplyState::Rewound(applier) => ApplyState::Idle(applier),
            other => other,
        }
    }
}

/// How far the run's life is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifecycle {
    /// It goes on until nothing is left to do.
    Running,
    /// It ends as soon as what is pending is written; at the deadline without that.
    Stopping {
        /// When it ends in any case.
        deadline: Instant,
    },
}

impl Lifecycle {
    /// When it ends in any case.
    pub fn deadline(self) -> Option<Instant> {
        match self {
            Lifecycle::Running => None,
            Lifecycle::Stopping { deadline } => Some(deadline),
        }
    }
}

/// When tables that are held may be tried, if nothing is to be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryHeld {
    /// Not any more.
    No,
    /// Each in its time.
    WhenDue,
    /// Each once more, whatever its time, as nothing else is left to do.
    Once,
}

/// What a run does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NextStep {
    /// Wait for the feed, the destination, the clock.
    Wait,
    /// Open the feed again, where the destination is; why.
    Reopen(String),
    /// End in order: nothing is left to do.
    Finish(End),
    /// End although the destination has not answered.
    GiveUp,
}

/// What follows from the states. `is_pending`: changes wait for the destination, which would have
/// been given to it if it were time. While the run stops they are given to it whatever the time, so
/// an idle destination means that none are left.
pub fn next_step<A>(
    (lifecycle, now): (Lifecycle, Instant),
    apply: &ApplyState<A>,
    feed: &FeedState,
    is_pending: bool,
    until_caught_up: bool,
) -> NextStep {
    match (apply, lifecycle, feed) {
        (ApplyState::Running(_) | ApplyState::UnderWay(_), Lifecycle::Stopping { deadline }, _)
            if now >= deadline =>
        {
            NextStep::GiveUp
        }
        (ApplyState::Running(_) | ApplyState::UnderWay(_), ..) => NextStep::Wait,
        (ApplyState::Idle(_) | ApplyState::Rewound(_), Lifecycle::Stopping { .. }, _) => {
            NextStep::Finish(End::Stopped)
        }
        (ApplyState::Rewound(_), Lifecycle::Running, _) => {
            NextStep::Reopen("the destination moved".into())
        }
        (ApplyState::Idle(_), Lifecycle::Running, FeedState::Lost(why)) => {
            NextStep::Reopen(why.clone())
        }
        (ApplyState::Idle(_), Lifecycle::Running, _) if is_pending => NextStep::Wait,
        (ApplyState::Idle(_), Lifecycle::Running, FeedState::Ended) => {
            NextStep::Finish(End::CaughtUp)
        }
        (ApplyState::Idle(_), Lifecycle::Running, FeedState::Open { caught_up }) => {
            match *caught_up && until_caught_up {
                true => NextStep::Finish(End::CaughtUp),
                false => NextStep::Wait,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_next_follows_from_the_states() {
        let now = Instant::now();
        let idle = || ApplyState::Idle(Box::new(()));
        let rewound = || ApplyState::Rewound(Box::new(()));
        let applying = || ApplyState::Running(Box::pin(std::future::pending()));
        let under_way = || ApplyState::UnderWay(Box::new(()));
        let running = Lifecycle::Running;
        let stopping = Lifecycle::Stopping { deadline: now + Duration::from_secs(1) };
        let overdue = Lifecycle::Stopping { deadline: now };
        let open = |caught_up| FeedState::Open { caught_up };
        let lost = || FeedState::Lost("why".into());
        let ended = || FeedState::Ended;
        let stopped = NextStep::Finish(End::Stopped);
        let caught_up = NextStep::Finish(End::CaughtUp);
        let reopen = |why: &str| NextStep::Reopen(why.into());
        let moved = || reopen("the destination moved");
        for (lifecycle, apply, feed, is_pending, until_caught_up, expected) in [
            (running, idle(), open(false), false, true, NextStep::Wait),
            (running, idle(), open(true), false, false, NextStep::Wait),
            (running, idle(), open(true), true, true, NextStep::Wait),
            (running, idle(), open(true), false, true, caught_up.clone()),
            (running, idle(), ended(), true, false, NextStep::Wait),
            (running, idle(), ended(), false, false, caught_up),
            (running, idle(), lost(), false, true, reopen("why")),
            (running, applying(), lost(), false, true, NextStep::Wait),
            (running, applying(), ended(), false, false, NextStep::Wait),
            (running, under_way(), ended(), false, true, NextStep::Wait),
            (running, under_way(), lost(), false, true, NextStep::Wait),
            // A destination that moved needs the feed again, even one that had ended.
            (running, rewound(), open(true), true, true, moved()),
            (running, rewound(), ended(), false, false, moved()),
            (stopping, applying(), open(true), true, true, NextStep::Wait),
            (overdue, applying(), lost(), false, true, NextStep::GiveUp),
            (stopping, under_way(), open(true), false, true, NextStep::Wait),
            (overdue, under_way(), open(true), false, true, NextStep::GiveUp),
            (stopping, idle(), lost(), false, false, stopped.clone()),
            (overdue, idle(), open(true), false, true, stopped.clone()),
            // Whatever is pending does not follow what the destination has.
            (stopping, rewound(), open(false), true, false, stopped),
        ] {
            let what = format!("{lifecycle:?} {feed:?} {is_pending} {until_caught_up}");
            let step = next_step((lifecycle, now), &apply, &feed, is_pending, until_caught_up);
            assert_eq!(step, expected, "{what}");
        }
    }
}
