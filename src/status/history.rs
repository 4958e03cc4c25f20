//! How it went during the last hour: sampled by the server itself, so that nobody's reading changes
//! what another one reads.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::pipeline::progress::Snapshot;

/// Between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Samples that the present rate is made of.
const RATE_SAMPLES: usize = 10;
/// Samples that one point is made of.
const POINT_SAMPLES: u64 = 10;
/// Points that are kept: an hour of them.
const POINTS_MAX: usize = 360;

/// What is remembered of a moment.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct HistoryPoint {
    /// When, Unix seconds.
    pub at_unix: u64,
    /// Events that were done with per second, since the point before.
    pub events_per_second: f64,
    /// The age of the oldest event that waited.
    pub lag_seconds: f64,
    /// How long a batch took, since the point before; 0 where there was none.
    pub batch_milliseconds: f64,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    done: u64,
    batches: u64,
    batch_seconds: f64,
}

/// The last hour.
#[derive(Debug, Default)]
pub struct LastHour {
    recent: VecDeque<Reading>,
    points: VecDeque<HistoryPoint>,
    /// The reading at the last point.
    at_point: Option<Reading>,
    samples: u64,
}

impl LastHour {
    /// Takes note of a moment, `unix` seconds after the epoch.
    pub fn sample(&mut self, (at, unix): (Instant, u64), snapshot: &Snapshot) {
        let Snapshot { done, batches, batch_seconds, lag_seconds, .. } = *snapshot;
        let now = Reading { at, done, batches, batch_seconds };
        self.recent.push_back(now);
        if self.recent.len() > RATE_SAMPLES + 1 {
            self.recent.pop_front();
        }
        if self.samples.is_multiple_of(POINT_SAMPLES) {
            if let Some(before) = self.at_point {
                self.points.push_back(HistoryPoint {
                    at_unix: unix,
                    events_per_second: rate(before, now),
                    lag_seconds,
                    batch_milliseconds: batch_milliseconds(before, now),
                });
                if self.points.len() > POINTS_MAX {
                    self.points.pop_front();
                }
            }
            self.at_point = Some(now);
        }
        self.samples += 1;
    }

    /// Events that were done with per second during the last ten seconds.
    pub fn events_per_second(&self) -> f64 {
        match (self.recent.front(), self.recent.back()) {
            (Some(first), Some(last)) => rate(*first, *last),
            _ => 0.0,
        }
    }

    /// The points later than `unix`, oldest first.
    pub fn points_after(&self, unix: u64) -> Vec<HistoryPoint> {
        self.points.iter().filter(|point| point.at_unix > unix).cloned().collect()
    }
}

fn rate(from: Reading, to: Reading) -> f64 {
    let seconds = to.at.duration_since(from.at).as_secs_f64();
    match seconds > 0.0 {
        true => to.done.saturating_sub(from.done) as f64 / seconds,
        false => 0.0,
    }
}

fn batch_milliseconds(from: Reading, to: Reading) -> f64 {
    match to.batches.saturating_sub(from.batches) {
        0 => 0.0,
        batches => (to.batch_seconds - from.batch_seconds).max(0.0) * 1e3 / batches as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_seconds_and_points_of_the_last_hour() {
        let (begin, mut history) = (Instant::now(), LastHour::default());
        let sample = |history: &mut LastHour, second: u64, done: u64| {
            let snapshot = Snapshot {
                done,
                batches: second,
                batch_seconds: second as f64 * 0.004,
                lag_seconds: 2.0,
                ..Snapshot::default()
            };
            history.sample((begin + Duration::from_secs(second), 1_000 + second), &snapshot);
        };
        sample(&mut history, 0, 0);
        assert_eq!(history.events_per_second(), 0.0);
        (1..=20).for_each(|second| sample(&mut history, second, second * 100));
        assert_eq!(history.events_per_second(), 100.0);
        let points = history.points_after(0);
        assert_eq!(points.iter().map(|p| p.at_unix).collect::<Vec<_>>(), [1_010, 1_020]);
        assert_eq!((points[1].events_per_second, points[1].lag_seconds), (100.0, 2.0));
        assert!((points[1].batch_milliseconds - 4.0).abs() < 1e-6);
        // A process before had done more: nothing is negative.
        (21..=31).for_each(|second| sample(&mut history, second, 0));
        assert_eq!(history.events_per_second(), 0.0);
        (32..=7_200).for_each(|second| sample(&mut history, second, second));
        assert_eq!(history.points_after(0).len(), POINTS_MAX);
        assert_eq!(history.points_after(1_000 + 7_190).len(), 1);
    }
}
