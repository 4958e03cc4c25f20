//! What is wrong, in words: the same for the page, for `eds top` and for `/status.json`.

use serde::{Deserialize, Serialize};

use super::moment::ServerFacts;
use crate::pipeline::progress::{Phase, Snapshot};

/// A destination that is further behind has a problem, though changes flow.
const LAG_SECONDS_MAX: f64 = 300.0;
/// Credentials that nobody renews are spoken of so long before they expire.
const EXPIRY_NOTICE_S: u64 = 7 * 86_400;
/// The same where HQ renews them, which it does ten minutes before.
const RENEWAL_NOTICE_S: u64 = 300;

/// How bad it is; the worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Changes are not delivered.
    Error,
    /// Changes flow, and something needs a person.
    Warning,
    /// As somebody wanted it, or it passes by itself.
    Note,
}

/// Something that somebody should know now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What, in a few words.
    pub title: String,
    /// The first line of its reason; may be empty.
    pub text: String,
    /// Since when, Unix seconds; 0: not known.
    pub since_unix: u64,
}

impl Problem {
    fn new(severity: Severity, title: impl Into<String>, text: &str) -> Problem {
        let text = text.lines().next().unwrap_or_default().to_owned();
        Problem { severity, title: title.into(), text, since_unix: 0 }
    }

    fn since(self, since_unix: u64) -> Problem {
        Problem { since_unix, ..self }
    }
}

/// How it goes, in one sentence.
pub fn headline(snapshot: &Snapshot) -> String {
    match &snapshot.state {
        Phase::CaughtUp => "All changes are delivered".into(),
        Phase::Streaming => match snapshot.lag_events {
            0 => "Changes are being delivered".into(),
            events => format!("Changes are being delivered; {events} wait"),
        },
        Phase::Starting => "EDS starts".into(),
        Phase::Stopping => "EDS ends: what is pending is written first".into(),
        Phase::Paused => "Paused by somebody".into(),
        Phase::Stopped(None) => "EDS has ended, as it was told".into(),
        Phase::Stopped(Some(_)) => "EDS has ended by itself".into(),
        Phase::Waiting(_) => match snapshot.last_error {
            Some(_) => "Changes are not delivered".into(),
            None => "EDS waits".into(),
        },
    }
}

/// All that somebody should know, the worst first. `now`: Unix seconds.
pub fn problems(snapshot: &Snapshot, facts: &ServerFacts, now: u64) -> Vec<Problem> {
    let mut all = Vec::new();
    all.extend(of_state(snapshot));
    if snapshot.lag_seconds > LAG_SECONDS_MAX && snapshot.state.is_flowing() {
        let text = "The oldest change that waits was published so long ago; is the destination \
                    slow?";
        let title = format!("The destination is {} behind", age(snapshot.lag_seconds as u64));
        all.push(Problem::new(Severity::Warning, title, text));
    }
    for (table, held) in &snapshot.held {
        let title = format!("Table {table} cannot be written; {} changes wait", held.changes);
        let problem = Problem::new(Severity::Warning, title, &held.reason);
        all.push(problem.since(held.since_unix));
    }
    if snapshot.dead_letters_waiting > 0 {
        let title = format!("{} changes could not be applied", snapshot.dead_letters_waiting);
        let text = "eds dlq list shows them; retry or drop them with eds dlq";
        all.push(Problem::new(Severity::Warning, title, text));
    }
    all.extend(of_credentials(facts, now));
    all.sort_by_key(|problem| problem.severity);
    all
}

fn of_state(snapshot: &Snapshot) -> Option<Problem> {
    let error = snapshot.last_error.as_ref();
    Some(match &snapshot.state {
        Phase::Waiting(why) => match error {
            Some(error) => {
                Problem::new(Severity::Error, "Changes are not delivered", why).since(error.at_unix)
            }
            None => Problem::new(Severity::Note, "EDS waits", why),
        },
        Phase::Stopped(Some(why)) => Problem::new(Severity::Error, "EDS has ended by itself", why),
        Phase::Paused => {
            let text = "No changes are fetched until somebody unpauses the server, at HQ or here";
            Problem::new(Severity::Note, "Paused by somebody", text)
        }
        _ => {
            let error = error?;
            Problem::new(Severity::Error, "The last try failed", &error.text).since(error.at_unix)
        }
    })
}

fn of_credentials(facts: &ServerFacts, now: u64) -> Option<Problem> {
    let left = facts.credentials_expire_unix?.saturating_sub(now);
    let (notice, text) = match facts.session_renewal_unix {
        Some(_) => (RENEWAL_NOTICE_S, "HQ should have renewed them; is it reached from here?"),
        None => (EXPIRY_NOTICE_S, "Nobody renews them by itself: put a new file in their place"),
    };
    let title = format!("The credentials of NATS expire in {}", age(left));
    (left < notice).then(|| Problem::new(Severity::Warning, title, text))
}

/// A duration for people, in its two largest units.
pub fn age(seconds: u64) -> String {
    match seconds {
        s if s >= 86_400 => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
        s if s >= 3_600 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        s if s >= 60 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::progress::{HeldCounts, StatusNotice};

    fn said(snapshot: &Snapshot, facts: &ServerFacts) -> Vec<String> {
        let all = problems(snapshot, facts, 1_000_000);
        all.iter().map(|p| format!("{:?}: {}: {}", p.severity, p.title, p.text)).collect()
    }

    #[test]
    fn a_person_who_pauses_is_told_apart_from_what_fails() {
        let none = ServerFacts::default();
        let in_state = |state| Snapshot::default().in_state(state);
        assert!(said(&in_state(Phase::CaughtUp), &none).is_empty());
        assert!(said(&in_state(Phase::Stopped(None)), &none).is_empty());
        let paused = said(&in_state(Phase::Paused), &none);
        assert!(paused[0].starts_with("Note: Paused by somebody"), "{paused:?}");
        let waiting = || in_state(Phase::Waiting("the database is away\nand a detail".into()));
        assert_eq!(said(&waiting(), &none), ["Note: EDS waits: the database is away"]);
        let error =
            Some(StatusNotice { at_unix: 7, text: "the database is away".into(), times: 1 });
        let failing = Snapshot { last_error: error, ..waiting() };
        assert_eq!(
            said(&failing, &none),
            ["Error: Changes are not delivered: the database is away"]
        );
        assert_eq!(problems(&failing, &none, 9)[0].since_unix, 7);
        assert_eq!(headline(&failing), "Changes are not delivered");
    }

    #[test]
    fn what_needs_a_person_is_said_though_changes_flow_the_worst_first() {
        let mut snapshot = Snapshot {
            lag_seconds: 4_000.0,
            dead_letters_waiting: 3,
            ..Snapshot::default().in_state(Phase::Streaming)
        };
        let held = HeldCounts { reason: "no right".into(), changes: 5, ..HeldCounts::default() };
        snapshot.held.insert("order".into(), held);
        snapshot.last_error = Some(StatusNotice::now("x"));
        let facts = ServerFacts {
            credentials_expire_unix: Some(1_000_000 + 200),
            session_renewal_unix: Some(1),
            ..ServerFacts::default()
        };
        let titles: Vec<String> = problems(&snapshot, &facts, 1_000_000)
            .into_iter()
            .map(|problem| problem.title)
            .collect();
        assert_eq!(
            titles,
            [
                "The last try failed",
                "The destination is 1 h 6 min behind",
                "Table order cannot be written; 5 changes wait",
                "3 changes could not be applied",
                "The credentials of NATS expire in 3 min 20 s",
            ]
        );
        let renewed = ServerFacts { credentials_expire_unix: Some(1_000_600), ..facts };
        assert!(of_credentials(&renewed, 1_000_000).is_none());
        let by_hand = ServerFacts { session_renewal_unix: None, ..renewed };
        assert!(of_credentials(&by_hand, 1_000_000).is_some());
    }
}
