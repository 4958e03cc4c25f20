//! Looks for what would keep a start from going well, with the code that starts. Nothing is left
//! behind: no lock, no checkpoint, no consumer, no row.

mod destination;
#[cfg(feature = "http")]
mod hq;
mod machine;
mod nats;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::change::Position;
use crate::destination::Destination;
use crate::feed::jetstream::api::Api;
use crate::help::{HelpCode, taken_apart};
use crate::state::State;
use crate::worker::run::ApplyRequest;

/// How long one check may take.
pub const CHECK_WAIT_MAX: Duration = Duration::from_secs(10);

/// What is looked at.
pub struct DoctorRequest {
    /// The data directory.
    pub data_dir: PathBuf,
    /// What the configuration file says, in a few words, or why it cannot be used.
    pub config: Result<String, String>,
    /// Whether HQ gives the credentials of NATS.
    pub is_enrolled: bool,
    /// The NATS servers, as a comma list of URLs.
    pub servers: String,
    /// The credentials file of NATS, where one was named.
    pub creds: Option<PathBuf>,
    /// The credentials of a server that runs with the data directory.
    pub running_creds: Option<PathBuf>,
    /// Certificate authorities to trust for NATS, beside the machine's.
    pub nats_ca: Option<PathBuf>,
    /// Put behind the name of the consumer.
    pub consumer_suffix: Option<String>,
    /// Where changes go, and how; or why that is not known.
    pub apply: Result<ApplyRequest, String>,
    /// HQ, where its address is known.
    #[cfg(feature = "http")]
    pub hq: Option<crate::hq::Hq>,
    /// The key to HQ.
    #[cfg(feature = "http")]
    pub token: Option<secrecy::SecretString>,
    /// Where releases are, or why that is not known.
    #[cfg(feature = "server")]
    pub releases: Result<crate::release::ReleaseSource, String>,
    /// Also what writes for a moment: a consumer that looks at the stream, an empty object.
    pub deep: bool,
}

/// Defines the checks, in the order in which they are made.
macro_rules! checks {
    ($($variant:ident: $name:literal, $what:literal;)*) => {
        /// One thing that is looked at.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum DoctorCheck {
            $(#[doc = $what] $variant,)*
        }

        impl DoctorCheck {
            /// All of them.
            pub const ALL: &[DoctorCheck] = &[$(DoctorCheck::$variant,)*];

            /// Its name on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(DoctorCheck::$variant => $name,)*
                }
            }

            /// What it looks at.
            pub fn looks_at(self) -> &'static str {
                match self {
                    $(DoctorCheck::$variant => $what,)*
                }
            }
        }
    };
}

checks! {
    Config: "config", "config.toml of the data directory";
    DataDir: "data-dir", "the data directory: its kind, owner, rights and lock";
    State: "state", "the state file and its version";
    Disk: "disk", "free space for the data directory, and for a destination on this machine";
    Hq: "hq", "HQ: whether it answers, and takes the token";
    Credentials: "credentials", "the credentials of NATS: readable, private, not expired";
    Nats: "nats", "the connection to NATS, and the login";
    Consumer: "consumer", "the stream, the durable consumer, and the right to ask for it";
    Clock: "clock", "this machine's clock against those of NATS and HQ";
    Schemas: "schemas", "the tables' schemas";
    Destination: "destination", "the destination: whether it opens";
    Tables: "tables", "the destination's tables against their schemas";
    Retention: "retention", "the stream's oldest message against our position";
    Letters: "letters", "dead letters, and tables that are held";
    Releases: "releases", "the place of releases, which a server updates itself from";
}

impl DoctorCheck {
    /// The check of this name.
    pub fn named(name: &str) -> Option<DoctorCheck> {
        DoctorCheck::ALL.iter().find(|check| check.as_str() == name).copied()
    }
}

/// What came of a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is as it should be.
    Good,
    /// A start goes well; something wants to be known.
    Warning,
    /// A start fails, or changes are not applied.
    Problem,
    /// It could not be looked at, or there is nothing to look at.
    NotChecked,
}

impl Outcome {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Good => "ok",
            Outcome::Warning => "warning",
            Outcome::Problem => "problem",
            Outcome::NotChecked => "not checked",
        }
    }
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// By which check.
    pub check: DoctorCheck,
    /// How it is.
    pub outcome: Outcome,
    /// What was found; of a problem, its cause.
    pub cause: String,
    /// What to do about it, where that is more than the cause says.
    pub cure: Option<String>,
    /// The page that helps.
    pub help: Option<HelpCode>,
}

impl Finding {
    fn new(check: DoctorCheck, outcome: Outcome, cause: impl AsRef<str>) -> Finding {
        let (cause, help) = taken_apart(cause.as_ref());
        Finding { check, outcome, cause: cause.to_owned(), cure: None, help }
    }

    fn good(check: DoctorCheck, cause: impl AsRef<str>) -> Finding {
        Finding::new(check, Outcome::Good, cause)
    }

    fn skipped(check: DoctorCheck, why: impl AsRef<str>) -> Finding {
        Finding::new(check, Outcome::NotChecked, why)
    }

    fn warning(check: DoctorCheck, cause: impl AsRef<str>, cure: &str) -> Finding {
        let cure = Some(cure.to_owned());
        Finding { cure, ..Finding::new(check, Outcome::Warning, cause) }
    }

    /// A problem whose text may end with a code; `help` where it does not.
    fn problem(check: DoctorCheck, help: HelpCode, cause: impl AsRef<str>) -> Finding {
        let found = Finding::new(check, Outcome::Problem, help.tag(cause.as_ref()));
        Finding {
            cure: found.help.map(|code| format!("`eds explain {}` says more", code.as_str())),
            ..found
        }
    }

    fn cured_by(self, cure: &str) -> Finding {
        Finding { cure: Some(cure.to_owned()), ..self }
    }

    /// For programs.
    pub fn to_json(&self) -> Json {
        json!({
            "check": self.check.as_str(), "looks_at": self.check.looks_at(),
            "result": self.outcome.as_str(), "cause": self.cause, "cure": self.cure,
            "code": self.help.map(HelpCode::as_str),
        })
    }
}

/// What several checks look at, once it was opened.
enum Resource<T> {
    NotTried,
    /// Which check says why.
    Failed(DoctorCheck),
    Ready(T),
}

/// Where our stream stands.
#[derive(Clone, Copy)]
struct OwnPosition {
    /// The last change that is durable.
    durable: Option<Position>,
    /// When nothing was pending last.
    idle_ns: Option<i64>,
}

/// The examination: the checks of one run share its connections.
pub struct Doctor {
    request: DoctorRequest,
    api: Resource<Api>,
    destination: Resource<Box<dyn Destination>>,
}

impl Doctor {
    /// Nothing is looked at yet.
    pub fn new(request: DoctorRequest) -> Doctor {
        Doctor { request, api: Resource::NotTried, destination: Resource::NotTried }
    }

    /// Makes one check, for which it takes [`CHECK_WAIT_MAX`] at most.
    pub async fn check(&mut self, check: DoctorCheck) -> Vec<Finding> {
        let made = tokio::time::timeout(CHECK_WAIT_MAX, self.findings(check)).await;
        made.unwrap_or_else(|_| {
            let help = match check {
                DoctorCheck::Destination | DoctorCheck::Tables | DoctorCheck::Letters => {
                    HelpCode::DestinationUnavailable
                }
                DoctorCheck::Nats
                | DoctorCheck::Consumer
                | DoctorCheck::Retention
                | DoctorCheck::Clock => HelpCode::NatsUnavailable,
                DoctorCheck::Schemas => HelpCode::SchemasMissing,
                DoctorCheck::Hq => HelpCode::HqRefused,
                _ => HelpCode::Machine,
            };
            let text = format!("no answer within {CHECK_WAIT_MAX:?}");
            vec![Finding::problem(check, help, text)]
        })
    }

    async fn findings(&mut self, check: DoctorCheck) -> Vec<Finding> {
        let request = &self.request;
        match check {
            DoctorCheck::Config => vec![machine::config(request)],
            DoctorCheck::DataDir => machine::data_dir(request),
            DoctorCheck::State => vec![machine::state(request)],
            DoctorCheck::Disk => machine::disk(request),
            #[cfg(feature = "http")]
            DoctorCheck::Hq => vec![hq::answers(request).await],
            #[cfg(not(feature = "http"))]
            DoctorCheck::Hq => vec![Finding::skipped(check, "this build does not know HQ")],
            DoctorCheck::Credentials => nats::credentials(request),
            DoctorCheck::Nats => vec![self.connects().await],
            DoctorCheck::Consumer => vec![self.consumer().await],
            DoctorCheck::Clock => self.clock().await,
            DoctorCheck::Schemas => vec![destination::schemas(request).await.0],
            DoctorCheck::Destination => vec![self.opens().await],
            DoctorCheck::Tables => self.tables().await,
            DoctorCheck::Retention => vec![self.retention().await],
            DoctorCheck::Letters => self.letters().await,
            #[cfg(feature = "server")]
            DoctorCheck::Releases => vec![hq::releases(request).await],
            #[cfg(not(feature = "server"))]
            DoctorCheck::Releases => vec![Finding::skipped(check, "this build has no updates")],
        }
    }

    /// What the state file has about the destination; `None` where there is none, or not for this
    /// version. The check of the state file says why.
    fn state(&self) -> Option<State> {
        let apply = self.request.apply.as_ref().ok()?;
        let state = State::look(&self.request.data_dir).ok()??;
        state.of_destination(&apply.destination.place(), None).ok()
    }

    /// Says goodbye.
    pub async fn close(self) {
        if let Resource::Ready(destination) = self.destination {
            // Nothing is left to be lost.
            let _ = tokio::time::timeout(CHECK_WAIT_MAX, destination.close()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        for check in DoctorCheck::ALL {
            assert_eq!(DoctorCheck::named(check.as_str()), Some(*check));
        }
        assert_eq!(DoctorCheck::named("nothing"), None);
    }

    #[test]
    fn a_code_in_a_text_becomes_the_page() {
        let found = Finding::problem(DoctorCheck::Nats, HelpCode::NatsUnavailable, "x [EDS-602]");
        assert_eq!((&*found.cause, found.help), ("x", Some(HelpCode::NatsLogin)));
        assert_eq!(found.to_json()["code"], "EDS-602");
        let plain = Finding::problem(DoctorCheck::Nats, HelpCode::NatsUnavailable, "x");
        assert_eq!(plain.help, Some(HelpCode::NatsUnavailable));
    }
}
