//! A feed that loses its connection, its deliveries and its consumer, and delivers again what it
//! delivered before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use eds::change::Position;
use eds::feed::jetstream::look::{StreamFound, StreamLook};
use eds::feed::{Acknowledged, Delivery, Encoding, Feed, FeedError, OpenAt, Opened, Signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::world::{Bug, World};

/// How long nothing has come when it says so.
const IDLE_WAIT: Duration = Duration::from_secs(5);

pub struct SimFeed {
    world: Arc<World>,
    opening: u64,
    next: u64,
    /// When it says that nothing comes: a wait for it may be given up and begun again.
    idle_at: Option<Instant>,
}

impl SimFeed {
    /// Whether the stream is another one than that in which `position` was reached. What is missing
    /// after it is reported.
    fn compare(&self, position: Position, idle_ns: Option<i64>) -> bool {
        let end = self.world.total();
        let sequence = position.sequence.max(self.world.stream().removed + 1).max(1);
        let first = (sequence <= end)
            .then(|| Position { sequence, time_ns: self.world.message(sequence).1 });
        let look = StreamLook { end, first };
        if position.sequence > 0 && look.compare(position) != StreamFound::Same {
            return self.world.bug != Bug::StreamNotCompared;
        }
        let is_gap = look.gap(position, idle_ns).is_some();
        if is_gap && self.world.bug != Bug::GapsUnreported {
            self.world.gap_is_reported.store(true, Ordering::Relaxed);
        }
        false
    }

    fn pending(&self, pending: u64) -> Option<u64> {
        match self.world.bug {
            Bug::UnknownPendingIsNone => Some(0),
            _ => self.world.knows_pending.then_some(pending),
        }
    }

    /// By how much the clock of the stream's server is behind, as far as it is told.
    fn behind_ns(&self) -> i64 {
        match self.world.bug {
            Bug::ClockIgnored => 0,
            _ => -self.world.stream().shift_ns.min(0),
        }
    }

    /// The message as it comes, or as the planted bug leaves it.
    fn garbled(&self, text: &str) -> String {
        match self.world.bug {
            Bug::VersionsLost => text.replace("mvccTimestamp", "lost"),
            Bug::BeforeLost => text.replace("before", "lost"),
            _ => text.to_owned(),
        }
    }

    /// It is not open yet.
    pub fn new(world: &Arc<World>) -> SimFeed {
        SimFeed { world: world.clone(), opening: 0, next: 1, idle_at: None }
    }
}

#[async_trait]
impl Feed for SimFeed {
    async fn acknowledged(&mut self) -> Result<Acknowledged, FeedError> {
        self.world.step("feed: asked").await;
        let sequence = self.world.acknowledged.load(Ordering::Relaxed);
        Ok(Acknowledged::Through(Position { sequence, time_ns: 0 }))
    }

    async fn open(&mut self, at: OpenAt) -> Result<Opened, FeedError> {
        let OpenAt { after, durable, since_ns, idle_ns } = at;
        self.world.step("feed: open").await;
        if self.world.chance(10) && self.opening > 0 {
            return Err(FeedError::Unavailable("no NATS".into()));
        }
        self.opening = self.world.opening.fetch_add(1, Ordering::Relaxed) + 1;
        let total = self.world.total();
        let mut recreated = false;
        let after = match (after, since_ns) {
            (None, Some(since)) => {
                let since = since - self.behind_ns();
                let is_since = |sequence: &u64| self.world.message(*sequence).1 >= since;
                (1..=total).find(is_since).unwrap_or(total + 1) - 1
            }
            (Some(position), _) => {
                recreated = self.compare(durable.unwrap_or(position), idle_ns);
                if recreated { 0 } else { position.sequence }
            }
            (None, None) => 0,
        };
        let after = after.max(self.world.stream().removed);
        // The consumer is recreated there.
        self.world.note(|| format!("opens the feed after {after}"));
        self.world.acknowledged.store(after, Ordering::Relaxed);
        // A redelivery: some that came before come again.
        let again = if self.world.chance(3) { self.world.draw(20) } else { 0 };
        self.next = after.saturating_sub(again).max(self.world.stream().removed) + 1;
        self.world.step("feed: opened").await;
        let recreated = recreated && self.world.bug != Bug::FormerTimesDecide;
        let pending = Some((total + 1).saturating_sub(self.next));
        let behind_ns = self.behind_ns();
        Ok(Opened { recreated, pending, behind_ns, ..Opened::default() })
    }

    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError> {
        self.world.step("feed: next").await;
        if self.opening != self.world.opening.load(Ordering::Relaxed) {
            return Ok(Signal::Lost("the consumer was deleted".into()));
        }
        if self.world.chance(25) {
            return Ok(Signal::Lost("reconnected".into()));
        }
        let total = self.world.total();
        if self.next > total {
            let idle_at = *self.idle_at.get_or_insert(Instant::now() + IDLE_WAIT);
            sleep_until(idle_at).await;
            self.idle_at = None;
            return Ok(Signal::Idle);
        }
        self.idle_at = None;
        for _ in 0..=self.world.draw(12).min(max as u64 - 1).min(total - self.next) {
            let sequence = self.next;
            self.next += 1;
            let (text, time_ns) = self.world.message(sequence);
            self.world.note(|| format!("delivers {sequence}: {text}"));
            into.push(Delivery {
                position: Position { sequence, time_ns },
                subject: format!("message {sequence}"),
                payload: self.garbled(text).into(),
                encoding: Encoding::Json,
                pending: self.pending(total - sequence),
            });
        }
        if self.world.chance(40) {
            return Ok(Signal::Lost("a delivery was lost on the way".into()));
        }
        Ok(Signal::Delivered)
    }

    async fn acknowledge(&mut self, through: Position) -> Result<(), FeedError> {
        self.world.step("feed: acknowledge").await;
        if self.opening != self.world.opening.load(Ordering::Relaxed) {
            // To a consumer that is no more.
            return Ok(());
        }
        self.world.note(|| format!("acknowledges {}", through.sequence));
        if !self.world.is_safe(through.sequence) {
            self.world.complain(format!(
                "sequence {} was acknowledged before everything up to it was safe",
                through.sequence
            ));
        }
        match self.world.draw(8) {
            // It is lost on the way.
            0 => {}
            // It comes late.
            1 => {
                let (world, opening) = (self.world.clone(), self.opening);
                let late = Duration::from_millis(world.draw(2_000));
                tokio::spawn(async move {
                    sleep(late).await;
                    if opening == world.opening.load(Ordering::Relaxed) {
                        world.acknowledged.fetch_max(through.sequence, Ordering::Relaxed);
                    }
                });
            }
            _ => drop(self.world.acknowledged.fetch_max(through.sequence, Ordering::Relaxed)),
        }
        self.world.step("feed: acknowledged").await;
        Ok(())
    }

    async fn nothing_pending_at(&mut self) -> Option<i64> {
        self.world.step("feed: anything pending?").await;
        let total = self.world.total();
        let is_idle = self.world.acknowledged.load(Ordering::Relaxed) == total;
        is_idle.then(|| self.world.message(total).1)
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        self.world.step("feed: close").await;
        Ok(())
    }
}
