//! A feed that loses its connection, its deliveries and its consumer, and delivers again what it
//! delivered before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use eds::change::Position;
use eds::feed::{Acknowledged, Delivery, Encoding, Feed, FeedError, OpenAt, Opened, Signal};
use tokio::time::sleep;

use super::history::time;
use super::world::World;

pub struct SimFeed {
    world: Arc<World>,
    opening: u64,
    next: u64,
}

impl SimFeed {
    /// It is not open yet.
    pub fn new(world: &Arc<World>) -> SimFeed {
        SimFeed { world: world.clone(), opening: 0, next: 1 }
    }
}

#[async_trait]
impl Feed for SimFeed {
    async fn acknowledged(&mut self) -> Result<Acknowledged, FeedError> {
        self.world.step("feed: asked").await;
        let sequence = self.world.acknowledged.load(Ordering::Relaxed);
        Ok(Acknowledged::Through(Position { sequence, time_ns: 0 }))
    }

    async fn open(&mut self, OpenAt { after, since_ns, .. }: OpenAt) -> Result<Opened, FeedError> {
        self.world.step("feed: open").await;
        if self.world.chance(10) && self.opening > 0 {
            return Err(FeedError::Unavailable("no NATS".into()));
        }
        self.opening = self.world.opening.fetch_add(1, Ordering::Relaxed) + 1;
        let after = match (after, since_ns) {
            (None, Some(since)) => {
                (1..=self.world.total())
                    .find(|sequence| time(*sequence) >= since)
                    .unwrap_or(self.world.total() + 1)
                    - 1
            }
            (after, _) => after.map_or(0, |p| p.sequence),
        };
        // The consumer is recreated there.
        self.world.note(|| format!("opens the feed after {after}"));
        self.world.acknowledged.store(after, Ordering::Relaxed);
        // A redelivery: some that came before come again.
        let again = if self.world.chance(3) { self.world.draw(20) } else { 0 };
        self.next = after.saturating_sub(again) + 1;
        self.world.step("feed: opened").await;
        Ok(Opened { pending: Some(self.world.total() + 1 - self.next), ..Opened::default() })
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
            sleep(Duration::from_secs(5)).await;
            return Ok(Signal::Idle);
        }
        for _ in 0..=self.world.draw(12).min(max as u64 - 1).min(total - self.next) {
            let sequence = self.next;
            self.next += 1;
            into.push(Delivery {
                position: Position { sequence, time_ns: time(sequence) },
                subject: format!("message {sequence}"),
                payload: self.world.history.messages[sequence as usize - 1].clone().into(),
                encoding: Encoding::Json,
                pending: Some(total - sequence),
            });
        }
        if self.world.chance(40) {
            return Ok(Signal::Lost("a delivery was lost on the way".into()));
        }
        Ok(Signal::Delivered)
    }

    async fn acknowledge(&mut self, through: Position) -> Result<(), FeedError> {
        self.world.step("feed: acknowledge").await;
        self.world.note(|| format!("acknowledges {}", through.sequence));
        if !self.world.is_safe(through.sequence) {
            self.world.complain(format!(
                "sequence {} was acknowledged before everything up to it was safe",
                through.sequence
            ));
        }
        self.world.acknowledged.fetch_max(through.sequence, Ordering::Relaxed);
        self.world.step("feed: acknowledged").await;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        self.world.step("feed: close").await;
        Ok(())
    }
}
