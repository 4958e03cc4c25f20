//! When something becomes an alert and when it is over: the shipped Prometheus rules
//! (packaging/prometheus), for who has no Prometheus. Pure.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use super::moment::ServerFacts;
use super::verdict::age;
use crate::change::value::rfc3339;
use crate::pipeline::progress::{Phase, Snapshot};

/// So many ends of workers within [`RESTARTS_WITHIN_S`] are no loop.
const RESTARTS_MAX: u64 = 3;
const RESTARTS_WITHIN_S: u64 = 15 * 60;

/// How long something may last before it is an alert, in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlertLimits {
    /// Without a durable batch, or behind.
    progress_s: u64,
    /// A table that cannot be written.
    held_s: u64,
    /// Before credentials expire that nobody renews.
    expiry_s: u64,
    /// The same where HQ renews them.
    renewal_s: u64,
    /// A state that passes by itself.
    short_s: u64,
    /// One that may take a while.
    long_s: u64,
    /// A pause.
    pause_s: u64,
}

impl AlertLimits {
    /// Those of the shipped rules.
    pub const SHIPPED: AlertLimits = AlertLimits {
        progress_s: 300,
        held_s: 900,
        expiry_s: 7 * 86_400,
        renewal_s: 300,
        short_s: 60,
        long_s: 300,
        pause_s: 3_600,
    };

    /// All that lasts may last `seconds`.
    pub fn of(seconds: u64) -> AlertLimits {
        AlertLimits {
            progress_s: seconds,
            held_s: seconds,
            short_s: seconds,
            long_s: seconds,
            pause_s: seconds,
            ..AlertLimits::SHIPPED
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum AlertSeverity {
    Critical,
    Warning,
}

/// Something that is an alert once it has lasted.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Condition {
    /// The name of the alert, as the rules and docs/alerts.md have it.
    alert: &'static str,
    severity: AlertSeverity,
    /// How long it has to last, in seconds.
    lasts_s: u64,
    /// The table that it is about; empty where it is about all.
    table: String,
    /// What is wrong, in a sentence.
    summary: String,
    /// The first line of its reason; may be empty.
    reason: String,
}

/// What somebody is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlertEvent {
    condition: Condition,
    /// It is over.
    pub is_resolved: bool,
    /// Since when it was so, Unix seconds.
    since_unix: u64,
    /// When this became an event, Unix seconds.
    at_unix: u64,
}

/// Whose alerts they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AlertOrigin {
    /// The consumer; empty where it is not known.
    pub consumer: String,
    /// The destination, without its secrets.
    pub destination: String,
    /// This machine.
    pub host: String,
}

impl AlertEvent {
    /// The alert's name.
    pub fn alert(&self) -> &'static str {
        self.condition.alert
    }

    /// The body that is posted; docs/operations.md describes it.
    pub fn body(&self, origin: &AlertOrigin) -> Value {
        let Condition { alert, severity, table, summary, reason, .. } = &self.condition;
        let time = |unix: u64| rfc3339(i64::try_from(unix).unwrap_or(0).saturating_mul(1_000_000));
        let event = if self.is_resolved { "resolved" } else { "fired" };
        let name = if origin.consumer.is_empty() { &origin.host } else { &origin.consumer };
        json!({
            "version": 1,
            "event": event,
            "alert": alert,
            "severity": severity,
            "key": format!("{name}/{alert}/{table}"),
            "table": Some(table).filter(|table| !table.is_empty()),
            "summary": summary,
            "reason": Some(reason).filter(|reason| !reason.is_empty()),
            "text": format!("{event}: {summary} ({name} on {})", origin.host),
            "since": time(self.since_unix),
            "at": time(self.at_unix),
            "runbook": format!("docs/alerts.md#{}", alert.to_lowercase()),
            "eds": {
                "consumer": origin.consumer, "destination": origin.destination,
                "host": origin.host, "version": env!("CARGO_PKG_VERSION"),
            },
        })
    }
}

/// What lasts now, and what is known of it.
struct LastingAlert {
    condition: Condition,
    since_unix: u64,
    is_fired: bool,
}

/// What lasts, and what was told of it.
pub struct AlertBook {
    limits: AlertLimits,
    lasting: BTreeMap<(&'static str, String), LastingAlert>,
    /// How many workers had failed, and when that was looked at.
    failures: VecDeque<(u64, u64)>,
}

impl AlertBook {
    /// Nothing is known yet.
    pub fn new(limits: AlertLimits) -> AlertBook {
        AlertBook { limits, lasting: BTreeMap::new(), failures: VecDeque::new() }
    }

    /// Looks at a moment, `now` Unix seconds: what somebody is to be told because of it.
    pub fn look(&mut self, snapshot: &Snapshot, facts: &ServerFacts, now: u64) -> Vec<AlertEvent> {
        let mut now_true = conditions(snapshot, facts, now, &self.limits);
        now_true.extend(self.restart_loop(facts, now));
        let is_true: Vec<(&'static str, String)> =
            now_true.iter().map(|one| (one.alert, one.table.clone())).collect();
        for condition in now_true {
            let key = (condition.alert, condition.table.clone());
            let fresh =
                LastingAlert { condition: condition.clone(), since_unix: now, is_fired: false };
            self.lasting.entry(key).or_insert(fresh).condition = condition;
        }
        let mut events = Vec::new();
        for lasting in self.lasting.values_mut() {
            let has_lasted = now.saturating_sub(lasting.since_unix) >= lasting.condition.lasts_s;
            let key = (lasting.condition.alert, lasting.condition.table.clone());
            if has_lasted && !lasting.is_fired && is_true.contains(&key) {
                lasting.is_fired = true;
                events.push(lasting.event(false, now));
            }
        }
        self.lasting.retain(|key, lasting| {
            let is_over = !is_true.contains(key);
            if is_over && lasting.is_fired {
                events.push(lasting.event(true, now));
            }
            !is_over
        });
        events
    }

    fn restart_loop(&mut self, facts: &ServerFacts, now: u64) -> Option<Condition> {
        self.failures.push_back((now, facts.workers?.failed));
        // What it was just before the time that counts is what it has grown from.
        while self.failures.get(1).is_some_and(|(at, _)| at + RESTARTS_WITHIN_S < now) {
            self.failures.pop_front();
        }
        let (first, last) = (self.failures.front()?.1, self.failures.back()?.1);
        let failed = last.saturating_sub(first);
        (failed > RESTARTS_MAX).then(|| Condition {
            alert: "EdsRestartLoop",
            severity: AlertSeverity::Critical,
            lasts_s: 0,
            table: String::new(),
            summary: format!("EDS starts again and again: {failed} times within 15 minutes"),
            reason: String::new(),
        })
    }
}

impl LastingAlert {
    fn event(&self, is_resolved: bool, now: u64) -> AlertEvent {
        let (condition, since_unix) = (self.condition.clone(), self.since_unix);
        AlertEvent { condition, is_resolved, since_unix, at_unix: now }
    }
}

/// What is so at this moment.
fn conditions(
    snapshot: &Snapshot,
    facts: &ServerFacts,
    now: u64,
    limits: &AlertLimits,
) -> Vec<Condition> {
    let mut all = of_flow(snapshot, now, limits);
    if snapshot.dead_letters_waiting > 0 {
        let summary = format!("{} changes could not be applied", snapshot.dead_letters_waiting);
        all.push(Condition::new("EdsDeadLetters", limits.short_s, summary, ""));
    }
    for (table, held) in &snapshot.held {
        if now.saturating_sub(held.since_unix) > limits.held_s {
            let summary = format!("Table {table} cannot be written: {} changes wait", held.changes);
            let condition = Condition::new("EdsTableHeld", limits.short_s, summary, &held.reason);
            all.push(Condition { table: table.clone(), ..condition });
        }
    }
    let left = facts.credentials_expire_unix.map(|at| at.saturating_sub(now));
    match (left, facts.session_renewal_unix) {
        (Some(left), None) if left < limits.expiry_s => {
            let summary = format!("The NATS credentials expire in {}", age(left));
            all.push(Condition::new("EdsCredentialsExpire", limits.short_s, summary, ""));
        }
        (Some(left), Some(_)) if left < limits.renewal_s => {
            let summary = "HQ has not renewed the session".to_owned();
            let condition = Condition::new("EdsSessionNotRenewed", limits.short_s, summary, "");
            all.push(condition.critical());
        }
        _ => {}
    }
    all
}

fn of_flow(snapshot: &Snapshot, now: u64, limits: &AlertLimits) -> Vec<Condition> {
    if snapshot.state == Phase::Paused {
        let summary = "EDS is paused".to_owned();
        return vec![Condition::new("EdsPaused", limits.pause_s, summary, "")];
    }
    let why = match (&snapshot.state, &snapshot.last_error) {
        (Phase::Waiting(why), _) => why.clone(),
        (_, Some(error)) => error.text.clone(),
        _ => String::new(),
    };
    let mut all = Vec::new();
    if !snapshot.state.is_flowing() {
        let summary = "EDS delivers no changes".to_owned();
        all.push(Condition::new("EdsNotStreaming", limits.long_s, summary, &why).critical());
    }
    let idle = now.saturating_sub(snapshot.last_success_unix);
    if snapshot.last_success_unix > 0 && idle > limits.progress_s {
        let summary = format!("EDS has made no progress for {}", age(idle));
        all.push(Condition::new("EdsNoProgress", limits.short_s, summary, &why).critical());
    }
    if snapshot.lag_seconds > limits.progress_s as f64 {
        let summary = format!("The destination is {} behind", age(snapshot.lag_seconds as u64));
        all.push(Condition::new("EdsLagging", limits.long_s, summary, &why));
    }
    all
}

impl Condition {
    fn new(alert: &'static str, lasts_s: u64, summary: String, reason: &str) -> Condition {
        Condition {
            alert,
            severity: AlertSeverity::Warning,
            lasts_s,
            table: String::new(),
            summary,
            reason: reason.lines().next().unwrap_or_default().to_owned(),
        }
    }

    fn critical(self) -> Condition {
        Condition { severity: AlertSeverity::Critical, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::progress::HeldCounts;
    use crate::status::moment::WorkerCounts;

    fn told(book: &mut AlertBook, snapshot: &Snapshot, facts: &ServerFacts, now: u64) -> String {
        let word = |event: &AlertEvent| {
            let mark = if event.is_resolved { "-" } else { "+" };
            format!("{mark}{} {}", event.alert(), event.condition.table)
        };
        let events = book.look(snapshot, facts, now);
        events.iter().map(word).collect::<Vec<_>>().join(",").replace(" ,", ",").trim().to_owned()
    }

    fn streaming(now: u64) -> Snapshot {
        let snapshot = Snapshot { last_success_unix: now, ..Snapshot::default() };
        snapshot.in_state(Phase::Streaming)
    }

    #[test]
    fn what_lasts_fires_once_and_its_end_resolves_it() {
        let (mut book, none) = (AlertBook::new(AlertLimits::SHIPPED), ServerFacts::default());
        let broken = streaming(1_000).in_state(Phase::Waiting("refused\nand more".into()));
        assert_eq!(told(&mut book, &streaming(1_000), &none, 1_000), "");
        assert_eq!(told(&mut book, &broken, &none, 1_010), "");
        assert_eq!(told(&mut book, &broken, &none, 1_309), "");
        assert_eq!(told(&mut book, &broken, &none, 1_310), "+EdsNotStreaming");
        assert_eq!(told(&mut book, &broken, &none, 1_372), "+EdsNoProgress");
        assert_eq!(told(&mut book, &broken, &none, 1_400), "");
        let ended = told(&mut book, &streaming(1_410), &none, 1_410);
        assert_eq!(ended, "-EdsNoProgress,-EdsNotStreaming");
        // What passes before it has lasted is nobody's business.
        assert_eq!(told(&mut book, &broken, &none, 1_500), "");
        assert_eq!(told(&mut book, &streaming(1_510), &none, 1_510), "");
    }

    #[test]
    fn each_table_is_an_alert_of_its_own() {
        let (mut book, none) = (AlertBook::new(AlertLimits::SHIPPED), ServerFacts::default());
        let held = |tables: &[&str]| {
            let mut snapshot = streaming(2_000);
            for table in tables {
                let counts = HeldCounts { since_unix: 1_000, ..HeldCounts::default() };
                snapshot.held.insert((*table).into(), counts);
            }
            snapshot
        };
        assert_eq!(told(&mut book, &held(&["a"]), &none, 2_000), "");
        assert_eq!(told(&mut book, &held(&["a", "b"]), &none, 2_060), "+EdsTableHeld a");
        assert_eq!(told(&mut book, &held(&["a", "b"]), &none, 2_120), "+EdsTableHeld b");
        assert_eq!(told(&mut book, &held(&["b"]), &none, 2_130), "-EdsTableHeld a");
    }

    #[test]
    fn workers_that_fail_again_and_again_are_a_loop() {
        let mut book = AlertBook::new(AlertLimits::SHIPPED);
        let facts = |failed| ServerFacts {
            workers: Some(WorkerCounts { started: failed, failed }),
            ..ServerFacts::default()
        };
        let mut at = |now: u64, failed| told(&mut book, &streaming(now), &facts(failed), now);
        assert_eq!(at(1_000, 7), "");
        assert_eq!(at(1_100, 10), "");
        assert_eq!(at(1_200, 11), "+EdsRestartLoop");
        assert_eq!(at(1_900, 11), "");
        assert_eq!(at(2_101, 11), "-EdsRestartLoop");
    }

    #[test]
    fn a_pause_is_no_outage_and_credentials_expire() {
        let mut book = AlertBook::new(AlertLimits::SHIPPED);
        let paused = streaming(1_000).in_state(Phase::Paused);
        let facts = ServerFacts { credentials_expire_unix: Some(9_000), ..ServerFacts::default() };
        assert_eq!(told(&mut book, &paused, &facts, 1_000), "");
        assert_eq!(told(&mut book, &paused, &facts, 1_060), "+EdsCredentialsExpire");
        assert_eq!(told(&mut book, &paused, &facts, 4_600), "+EdsPaused");
        let renewed = ServerFacts { session_renewal_unix: Some(1), ..facts };
        assert_eq!(told(&mut book, &paused, &renewed, 8_701), "-EdsCredentialsExpire");
        assert_eq!(told(&mut book, &paused, &renewed, 8_770), "+EdsSessionNotRenewed");
    }

    #[test]
    fn the_body_says_what_whose_and_since_when() {
        let mut book = AlertBook::new(AlertLimits::of(0));
        let broken = Snapshot::default().in_state(Phase::Waiting("refused\nand more".into()));
        let events = book.look(&broken, &ServerFacts::default(), 86_400);
        let origin = AlertOrigin {
            consumer: "eds-a".into(),
            destination: "postgres://u*:****@db/sh**".into(),
            host: "one".into(),
        };
        let body = events.first().map(|event| event.body(&origin)).unwrap_or_default();
        let expected = json!({
            "version": 1, "event": "fired", "alert": "EdsNotStreaming", "severity": "critical",
            "key": "eds-a/EdsNotStreaming/", "table": null, "summary": "EDS delivers no changes",
            "reason": "refused", "text": "fired: EDS delivers no changes (eds-a on one)",
            "since": "1970-01-02T00:00:00.000000Z", "at": "1970-01-02T00:00:00.000000Z",
            "runbook": "docs/alerts.md#edsnotstreaming",
            "eds": {"consumer": "eds-a", "destination": "postgres://u*:****@db/sh**",
                "host": "one", "version": env!("CARGO_PKG_VERSION")},
        });
        assert_eq!(body, expected);
    }
}
