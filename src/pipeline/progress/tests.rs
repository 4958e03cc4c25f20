//! What is told of a run, told to and read back from its progress.

use std::time::Duration;

use super::*;

fn progress() -> Progress {
    Progress::new().unwrap_or_else(|e| panic!("{e}"))
}

fn at(sequence: u64, age_s: i64) -> Position {
    Position { sequence, time_ns: now_ns() - age_s * 1_000_000_000 }
}

/// Within half a minute: the machine may be busy.
fn assert_lag(progress: &Progress, expected_s: f64) {
    let lag = progress.snapshot().lag_seconds;
    assert!((expected_s..expected_s + 30.0).contains(&lag), "{lag} is not {expected_s}");
}

fn applied(progress: &Progress, through: Position) {
    progress.applied(1, through, Duration::from_millis(2), std::iter::once(through.time_ns));
}

#[test]
fn the_lag_is_right_from_the_start_through_an_outage_to_its_end() {
    let progress = progress();
    // The destination is away at the start: what NATS says counts, and the last time at which
    // nothing waited.
    progress.stands_at(at(9, 9_000), now_ns() - 600 * 1_000_000_000);
    progress.waiting("start", "the database is away");
    progress.unacknowledged(3, now_ns());
    assert_eq!(progress.snapshot().lag_events, 3);
    assert_lag(&progress, 600.0);
    // The first event tells how old it is.
    progress.streaming();
    progress.opened(3);
    progress.received((at(10, 300), at(10, 300)), 1, 2);
    assert_lag(&progress, 300.0);
    progress.received((at(11, 200), at(12, 100)), 2, 0);
    applied(&progress, at(10, 300));
    assert_lag(&progress, 200.0);
    // What NATS said a moment ago is older than what the events say.
    progress.unacknowledged(99, now_ns());
    assert_eq!(progress.snapshot().lag_events, 2);
    // A lost feed makes nothing younger.
    progress.reopens("NATS was disconnected for a moment");
    progress.opened(2);
    assert_lag(&progress, 200.0);
    progress.received((at(11, 200), at(12, 100)), 2, 0);
    applied(&progress, at(12, 100));
    progress.caught_up();
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.lag_events, snapshot.lag_seconds), (0, 0.0));
    assert!(snapshot.last_success_unix > 0);
}

#[test]
fn an_error_goes_when_it_works_again_and_its_time_stays() {
    let progress = progress();
    let away = || Failure::unavailable("PostgreSQL cannot be reached").with_code("57P01");
    progress.received((at(1, 5), at(1, 5)), 1, 0);
    progress.failed(&away());
    progress.retries(&away());
    let failing = progress.snapshot();
    let error = failing.last_error.clone().unwrap_or_default();
    assert_eq!(error.text, "PostgreSQL cannot be reached [EDS-301]");
    assert_eq!(failing.last_error_unix, error.at_unix);
    applied(&progress, at(1, 5));
    let works = progress.snapshot();
    assert_eq!((works.last_error.clone(), works.last_error_unix), (None, error.at_unix));
    // What is no error has a place of its own.
    progress.warn("changes may be missing");
    progress.dead_letter("order", RejectKind::Refused, "it does not fit");
    progress.asks("asking for a schema");
    let warned = progress.snapshot();
    assert_eq!(warned.last_error, None);
    let texts: Vec<&str> = warned.warnings.iter().map(|w| &*w.text).collect();
    assert_eq!(texts, ["changes may be missing", "dead letter: it does not fit"]);
    let metrics = progress.metrics();
    for line in [
        "eds_errors_total{cause=\"unavailable\",code=\"57P01\"} 1",
        "eds_retries_total{cause=\"unavailable\"} 1",
        "eds_dead_letters_total{kind=\"refused\",table=\"order\"} 1",
        "eds_event_latency_seconds_count 1",
        "eds_batch_seconds_bucket{le=\"0.001\"} 0",
        "eds_batch_seconds_bucket{le=\"0.0025\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn what_is_passed_over_is_counted_by_table_and_told_once() {
    let progress = progress();
    let mut passed = PassedEvents { seen: 2, ..PassedEvents::default() };
    passed.count("order", |of| of.filtered += 1);
    passed.count("order", |of| of.filtered += 1);
    passed.count("customer", |of| of.stale += 1);
    progress.passed(&mut passed);
    assert!(passed.is_empty());
    progress.passed(&mut passed);
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.seen_before, snapshot.filtered, snapshot.stale), (2, 2, 1));
    assert_eq!(snapshot.tables["order"].filtered, 2);
    let metrics = progress.metrics();
    assert!(metrics.contains("eds_events_filtered_total{table=\"order\"} 2"), "{metrics}");
    assert!(metrics.contains("eds_events_seen_before_total 2"), "{metrics}");
    assert!(!metrics.contains("eds_events_stale_total{table=\"order\"}"), "{metrics}");
}
