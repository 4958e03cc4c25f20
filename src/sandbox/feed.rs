//! The shop as a feed, without a NATS server: the demo's shortest way into the pipeline.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::shop::{Shop, ShopOptions};
use crate::change::Position;
use crate::clock;
use crate::feed::{Acknowledged, Delivery, Encoding, Feed, FeedError, OpenAt, Opened, Signal};

/// Events of one delivery, at most.
const BURST_MAX: usize = 512;

/// Delivers the shop's events as fast as they are due. An event's sequence is its number.
pub struct ShopFeed {
    seed: u64,
    options: ShopOptions,
    shop: Shop,
    made: u64,
    /// How many events the shop has had by now.
    due: watch::Receiver<u64>,
}

impl ShopFeed {
    /// The feed of a shop of this seed; `due` holds how many events there are by now, as [`pace`]
    /// counts them. The feed ends when its sender is dropped.
    pub fn new(seed: u64, options: ShopOptions, due: watch::Receiver<u64>) -> ShopFeed {
        ShopFeed { seed, options, shop: Shop::new(seed, options), made: 0, due }
    }
}

#[async_trait]
impl Feed for ShopFeed {
    async fn acknowledged(&mut self) -> Result<Acknowledged, FeedError> {
        Ok(Acknowledged::Through(Position::default()))
    }

    async fn open(&mut self, OpenAt { after, .. }: OpenAt) -> Result<Opened, FeedError> {
        self.shop = Shop::new(self.seed, self.options);
        self.made = after.map_or(0, |p| p.sequence);
        (0..self.made).for_each(|_| drop(self.shop.next_event()));
        Ok(Opened::default())
    }

    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError> {
        let made = self.made;
        let Ok(due) = self.due.wait_for(|due| *due > made).await.map(|due| *due) else {
            return Ok(Signal::Ended);
        };
        for _ in 0..max.min(BURST_MAX).min((due - made) as usize) {
            self.made += 1;
            let event = self.shop.next_event();
            let position = Position { sequence: self.made, time_ns: clock::now_ns() };
            into.push(Delivery {
                position,
                subject: event.subject,
                payload: event.payload.into(),
                encoding: Encoding::Json,
                pending: Some(due - self.made),
            });
        }
        Ok(Signal::Delivered)
    }

    async fn acknowledge(&mut self, _through: Position) -> Result<(), FeedError> {
        Ok(())
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        Ok(())
    }
}

/// Counts events up from `begin` at `rate` per second until `total` or until dropped.
pub async fn pace(rate: f64, begin: u64, total: u64, due: watch::Sender<u64>) {
    let started = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        let now = begin.saturating_add((started.elapsed().as_secs_f64() * rate) as u64).min(total);
        due.send_replace(now);
        if now == total {
            return;
        }
    }
}
