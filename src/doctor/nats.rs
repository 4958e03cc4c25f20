//! What can be wrong on the way to NATS, and with the stream there. No consumer is made or changed,
//! unless a deep look was asked for: then one that lives for a moment.

use std::path::Path;

use super::{Doctor, DoctorCheck, DoctorRequest, Finding, OwnPosition, Resource};
use crate::change::Position;
use crate::change::cutover::CLOCKS_APART_MAX_NS;
use crate::change::value::{rfc3339, unix_ns};
use crate::clock::{now_ns, now_s};
use crate::feed::jetstream::STREAM;
use crate::feed::jetstream::api::{Api, ApiError, ConsumerInfo, StreamReport};
use crate::feed::jetstream::connect::Link;
use crate::feed::jetstream::identity::Identity;
use crate::feed::jetstream::look::{StreamFound, StreamLook};
use crate::help::HelpCode;
use crate::state::Lock;
use crate::worker::nats_login::{connection, identity};

/// Clocks that are further apart are worth a word.
const CLOCKS_APART_NS: i64 = 30_000_000_000;
/// Credentials of a file that expire sooner are worth a word.
const EXPIRY_S: u64 = 24 * 60 * 60;

impl DoctorRequest {
    fn creds_file(&self) -> Option<&Path> {
        self.creds.as_deref().or(self.running_creds.as_deref())
    }

    /// Why there are no credentials, though they are needed, where that is nothing to cure.
    fn waits_for_hq(&self) -> Option<&'static str> {
        (self.is_enrolled && self.creds_file().is_none()).then_some(
            "no server runs with this data directory: HQ gives it credentials when it starts; \
             --creds names others",
        )
    }
}

/// The credentials, as far as a file shows.
pub fn credentials(request: &DoctorRequest) -> Vec<Finding> {
    const CHECK: DoctorCheck = DoctorCheck::Credentials;
    if let Some(why) = request.waits_for_hq() {
        return vec![Finding::skipped(CHECK, why)];
    }
    let file = request.creds_file();
    let known = match identity(file, &request.servers) {
        Ok((known, _)) => known,
        Err(e) => {
            return vec![Finding::problem(CHECK, HelpCode::NatsLogin, e.to_string())];
        }
    };
    let Some(file) = file else {
        return vec![Finding::good(CHECK, "none: NATS on this machine may do without")];
    };
    let until = match known.expires {
        None => "never expires".to_owned(),
        Some(at) => format!(
            "expires at {}",
            rfc3339(i64::try_from(at).unwrap_or(i64::MAX).saturating_mul(1_000_000))
        ),
    };
    let text = format!(
        "{}: server {}, companies {}; {until}",
        file.display(),
        known.server_id,
        known.companies.join(", ")
    );
    let is_short = known.expires.is_some_and(|at| at < now_s() + EXPIRY_S);
    let mut found = vec![match is_short && request.creds.is_some() {
        true => Finding::warning(CHECK, text, "get new ones before they expire"),
        false => Finding::good(CHECK, text),
    }];
    found.extend(readers(file));
    found
}

/// Who else can read the file.
#[cfg(unix)]
fn readers(file: &Path) -> Option<Finding> {
    use std::os::unix::fs::MetadataExt;
    let mode = std::fs::metadata(file).ok()?.mode();
    (mode & 0o077 != 0).then(|| {
        let text = format!("other users may read {} (mode {:o})", file.display(), mode & 0o7777);
        let cure = format!("chmod 600 {}", file.display());
        Finding::warning(DoctorCheck::Credentials, text, &cure)
    })
}

#[cfg(not(unix))]
fn readers(_file: &Path) -> Option<Finding> {
    None
}

impl Doctor {
    fn identity(&self) -> Option<Identity> {
        let request = &self.request;
        identity(request.creds_file(), &request.servers).ok().map(|(known, _)| known)
    }

    /// The durable consumer's name.
    pub(super) fn durable(&self) -> Option<String> {
        let suffix = self.request.consumer_suffix.as_deref();
        self.identity().map(|known| known.consumer(suffix))
    }

    /// What NATS is asked through; an error says for `check` why there is nothing.
    async fn api(&mut self, check: DoctorCheck) -> Result<Api, Finding> {
        match &self.api {
            Resource::Ready(api) => return Ok(api.clone()),
            Resource::Failed(by) => return Err(Finding::skipped(check, unknown_as(*by))),
            Resource::NotTried => {}
        }
        let request = &self.request;
        if let Some(why) = request.waits_for_hq() {
            self.api = Resource::Failed(DoctorCheck::Credentials);
            return Err(Finding::skipped(check, why));
        }
        // Also where this is given up in the middle.
        self.api = Resource::Failed(DoctorCheck::Nats);
        let (known, creds) = identity(request.creds_file(), &request.servers)
            .map_err(|e| Finding::problem(check, HelpCode::NatsLogin, e.to_string()))?;
        let nats_ca = request.nats_ca.as_deref();
        let servers = connection(&request.servers, creds, nats_ca, &known.server_id);
        let link = Link::connect(&servers)
            .await
            .map_err(|e| Finding::problem(check, HelpCode::NatsUnavailable, e.to_string()))?;
        let api = Api { link, stream: STREAM.into() };
        self.api = Resource::Ready(api.clone());
        Ok(api)
    }

    /// Whether NATS takes us.
    pub(super) async fn connects(&mut self) -> Finding {
        match self.api(DoctorCheck::Nats).await {
            Err(found) => found,
            Ok(api) => Finding::good(
                DoctorCheck::Nats,
                format!(
                    "{} takes the login (NATS {})",
                    crate::secret::mask_urls(&self.request.servers),
                    api.link.client.server_info().version
                ),
            ),
        }
    }

    /// The durable consumer, without which nothing is streamed.
    pub(super) async fn consumer(&mut self) -> Finding {
        const CHECK: DoctorCheck = DoctorCheck::Consumer;
        let api = match self.api(CHECK).await {
            Ok(api) => api,
            Err(found) => return found,
        };
        let durable = self.durable().unwrap_or_default();
        match api.info(&durable).await {
            Ok(info) => self.standing(&info),
            Err(ApiError::NoConsumer) => vacancy(&durable, api.stream_report().await.ok()),
            Err(e) => {
                let what = format!("consumer {durable} on stream {STREAM}");
                Finding::problem(CHECK, HelpCode::NatsStream, e.at_start(&what).to_string())
            }
        }
    }

    /// What the server says about our consumer.
    fn standing(&self, info: &ConsumerInfo) -> Finding {
        const CHECK: DoctorCheck = DoctorCheck::Consumer;
        let is_ours = matches!(Lock::holder(&self.request.data_dir), Ok(Some(_)));
        if info.num_waiting > 0 && !is_ours {
            let text = format!(
                "another process reads consumer {}: it uses another data directory, maybe on \
                 another machine",
                info.name
            );
            let cure = "stop it, or give this one a consumer of its own with --consumer-suffix";
            return Finding::problem(CHECK, HelpCode::ConsumerTaken, text).cured_by(cure);
        }
        let floor = info.floor().map_or_else(String::new, |s| format!(" through sequence {s}"));
        Finding::good(
            CHECK,
            format!(
                "{} has acknowledged{floor}; {} messages wait",
                info.name,
                info.num_pending.saturating_add(info.num_ack_pending)
            ),
        )
    }

    /// This machine's clock against those of others.
    pub(super) async fn clock(&mut self) -> Vec<Finding> {
        const CHECK: DoctorCheck = DoctorCheck::Clock;
        let mut found = Vec::new();
        match self.api(CHECK).await {
            Err(why) => found.push(Finding::skipped(CHECK, format!("NATS: {}", why.cause))),
            Ok(api) => {
                let durable = self.durable().unwrap_or_default();
                let before = now_ns();
                let reported = match api.info(&durable).await {
                    Ok(info) => info.reported,
                    Err(_) => api.stream_report().await.ok().and_then(|stream| stream.reported),
                };
                found.push(match reported.as_deref().and_then(unix_ns) {
                    Some(theirs) => apart("NATS", (theirs, theirs), (before, now_ns())),
                    None => Finding::skipped(CHECK, "NATS tells its time with a consumer only"),
                });
            }
        }
        #[cfg(feature = "http")]
        if let Some(hq) = &self.request.hq {
            let before = now_ns();
            if let Some(at_s) = super::hq::date(hq).await {
                let theirs = i64::try_from(at_s).unwrap_or(0).saturating_mul(1_000_000_000);
                // The header counts whole seconds.
                let theirs = (theirs, theirs.saturating_add(1_000_000_000));
                found.push(apart("HQ", theirs, (before, now_ns())));
            }
        }
        found
    }

    /// Whether the stream still has what comes after our position.
    pub(super) async fn retention(&mut self) -> Finding {
        const CHECK: DoctorCheck = DoctorCheck::Retention;
        let api = match self.api(CHECK).await {
            Ok(api) => api,
            Err(found) => return found,
        };
        let own = match self.own_position().await {
            Ok(own) => own,
            Err(found) => return found,
        };
        let Some(position) = own.durable else {
            let text = "nothing is streamed yet: a start begins with new changes, or with what \
                        the stream has by --restart";
            return Finding::good(CHECK, text);
        };
        match api.stream_report().await {
            Ok(report) => judged(looked(&report, position), position, own),
            Err(_) if self.request.deep => match api.look(position.sequence).await {
                Ok(look) => judged(look, position, own),
                Err(e) => {
                    let what = format!("the stream {STREAM} cannot be looked at");
                    Finding::skipped(CHECK, e.once_open(&what).to_string())
                }
            },
            Err(_) => Finding::skipped(
                CHECK,
                "the credentials allow no questions about the stream; --deep looks at it with a \
                 consumer that lives for a moment, where the stream allows one more",
            ),
        }
    }
}

/// Where another check says why.
pub(super) fn unknown_as(by: DoctorCheck) -> String {
    format!("see the check {}", by.as_str())
}

/// There is no consumer of ours: whether one can be made.
fn vacancy(durable: &str, stream: Option<StreamReport>) -> Finding {
    const CHECK: DoctorCheck = DoctorCheck::Consumer;
    let full = stream.filter(|stream| {
        let max = stream.config.max_consumers;
        max > 0 && stream.state.consumer_count >= max
    });
    match full {
        Some(stream) => {
            let text = format!(
                "the stream {STREAM} has all the consumers that it may have ({}), and {durable} \
                 is not among them",
                stream.config.max_consumers
            );
            let cure = "delete the consumer that has the place, or allow one more";
            Finding::problem(CHECK, HelpCode::NatsStream, text).cured_by(cure)
        }
        None => {
            Finding::good(CHECK, format!("there is no consumer {durable} yet: a start makes it"))
        }
    }
}

/// How far a clock that says a time within `theirs` is from ours, which said `ours` before and
/// after it was asked.
fn apart(name: &str, theirs: (i64, i64), ours: (i64, i64)) -> Finding {
    const CHECK: DoctorCheck = DoctorCheck::Clock;
    let ahead_ns = theirs.0.saturating_sub(ours.1).max(0);
    let behind_ns = ours.0.saturating_sub(theirs.1).max(0);
    let cure = "let a time service (chrony, systemd-timesyncd) set this machine's clock";
    let (apart_ns, way) = if ahead_ns > 0 { (ahead_ns, "behind") } else { (behind_ns, "ahead of") };
    let text =
        format!("this machine's clock is {} s {way} that of {name}", apart_ns / 1_000_000_000);
    match apart_ns {
        CLOCKS_APART_MAX_NS.. => Finding::problem(CHECK, HelpCode::Machine, text).cured_by(cure),
        CLOCKS_APART_NS.. => Finding::warning(CHECK, text, cure),
        _ => Finding::good(CHECK, format!("this machine's clock goes with that of {name}")),
    }
}

/// What a report says about the stream at a position.
fn looked(report: &StreamReport, position: Position) -> StreamLook {
    let state = &report.state;
    let oldest = Position {
        sequence: state.first_seq,
        time_ns: unix_ns(&state.first_ts).unwrap_or(position.time_ns),
    };
    // Of the message at the position itself a report tells nothing but that it is there.
    let first = match state.first_seq <= position.sequence {
        true => position,
        false => oldest,
    };
    StreamLook { end: state.last_seq, first: (state.messages > 0).then_some(first) }
}

fn judged(look: StreamLook, position: Position, own: OwnPosition) -> Finding {
    const CHECK: DoctorCheck = DoctorCheck::Retention;
    let cure = "an import brings the destination up to date: `eds import`";
    if let StreamFound::Recreated(how) = look.compare(position) {
        let text = format!("the stream {STREAM} is another one than was read before: it {how}");
        return Finding::problem(CHECK, HelpCode::NatsStream, text).cured_by(cure);
    }
    match look.gap(position, own.idle_ns) {
        Some(gap) => Finding::problem(CHECK, HelpCode::NatsStream, gap.to_string()).cured_by(cure),
        None => Finding::good(
            CHECK,
            format!("the stream has everything after our position, sequence {}", position.sequence),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;
    use crate::feed::jetstream::api::{StreamBounds, StreamContent};

    const SECOND_NS: i64 = 1_000_000_000;

    #[test]
    fn clocks_are_compared_by_what_is_certain() {
        let outcome = |theirs: i64, grain: i64| {
            apart("x", (theirs, theirs + grain), (100 * SECOND_NS, 101 * SECOND_NS)).outcome
        };
        assert_eq!(outcome(100 * SECOND_NS, 0), Outcome::Good);
        assert_eq!(outcome(69 * SECOND_NS, SECOND_NS), Outcome::Warning);
        assert_eq!(outcome(71 * SECOND_NS, SECOND_NS), Outcome::Good);
        assert_eq!(outcome(132 * SECOND_NS, 0), Outcome::Warning);
        assert_eq!(outcome(800 * SECOND_NS, 0), Outcome::Problem);
    }

    fn report(first_seq: u64, last_seq: u64, consumers: i64) -> StreamReport {
        let state = StreamContent {
            messages: last_seq + 1 - first_seq,
            first_seq,
            first_ts: "2026-01-01T00:00:00Z".into(),
            last_seq,
            consumer_count: consumers,
        };
        StreamReport { config: StreamBounds { max_consumers: 1 }, state, reported: None }
    }

    #[test]
    fn what_the_stream_lost_after_our_position_is_a_problem() {
        let position = Position { sequence: 10, time_ns: 5 };
        let own = OwnPosition { durable: Some(position), idle_ns: None };
        let outcome =
            |first, last| judged(looked(&report(first, last, 1), position), position, own).outcome;
        assert_eq!(outcome(1, 20), Outcome::Good);
        assert_eq!(outcome(11, 20), Outcome::Good);
        assert_eq!(outcome(12, 20), Outcome::Problem);
        assert_eq!(outcome(1, 9), Outcome::Problem);
        // An empty stream.
        assert_eq!(outcome(11, 10), Outcome::Good);
        assert_eq!(outcome(21, 20), Outcome::Problem);
    }

    #[test]
    fn a_stream_whose_places_are_taken_has_none_for_us() {
        assert_eq!(vacancy("c", Some(report(1, 2, 1))).outcome, Outcome::Problem);
        assert_eq!(vacancy("c", Some(report(1, 2, 0))).outcome, Outcome::Good);
        assert_eq!(vacancy("c", None).outcome, Outcome::Good);
    }
}
