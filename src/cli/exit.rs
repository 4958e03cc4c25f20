//! Why a command ends the program: the one table from errors to exit codes.

use std::process::ExitCode;

use crate::destination::FailureKind;
use crate::feed::FeedError;
use crate::pipeline::Halt;
use crate::state::DataDirError;
use crate::worker::exit_codes;
use crate::worker::run::RunError;

/// Why the program ends, with the text for the user.
#[derive(Debug)]
pub enum Exit {
    /// It failed.
    Failed(String),
    /// Another process took over; whoever supervises must not start this one again beside it.
    Fenced(String),
    /// The destination cannot be reached; that may change.
    Unavailable(String),
    /// What the user gave cannot be right, or the destination did not pass its test.
    Usage(String),
    /// NATS cannot be reached.
    Disconnected(String),
}

impl Exit {
    /// What the program ends with.
    pub fn code(&self) -> u8 {
        match self {
            Exit::Failed(_) | Exit::Fenced(_) => exit_codes::FAILED,
            Exit::Unavailable(_) | Exit::Usage(_) => exit_codes::UNUSABLE,
            Exit::Disconnected(_) => exit_codes::DISCONNECTED,
        }
    }

    /// Why, for the user.
    pub fn text(&self) -> &str {
        match self {
            Exit::Failed(text)
            | Exit::Fenced(text)
            | Exit::Unavailable(text)
            | Exit::Usage(text)
            | Exit::Disconnected(text) => text,
        }
    }

    /// Says why on standard error.
    pub fn report(&self) -> ExitCode {
        eprintln!("eds: {}", self.text());
        ExitCode::from(self.code())
    }
}

impl From<Halt> for Exit {
    fn from(halt: Halt) -> Exit {
        match halt {
            Halt::Destination(failure) => match failure.kind {
                FailureKind::Fenced => Exit::Fenced(failure.text),
                FailureKind::Unavailable | FailureKind::TableUnavailable => {
                    Exit::Unavailable(failure.text)
                }
                _ => Exit::Usage(failure.text),
            },
            Halt::Feed(e) => e.into(),
            Halt::Setup(text) => Exit::Failed(text),
        }
    }
}

impl From<FeedError> for Exit {
    fn from(error: FeedError) -> Exit {
        match error {
            FeedError::Unavailable(text) => Exit::Disconnected(text),
            FeedError::Misconfigured(text) => Exit::Failed(text),
            FeedError::Taken(text) => Exit::Fenced(text),
        }
    }
}

impl From<DataDirError> for Exit {
    fn from(error: DataDirError) -> Exit {
        Exit::Failed(error.to_string())
    }
}

impl From<RunError> for Exit {
    fn from(error: RunError) -> Exit {
        match error {
            RunError::Halted(halt) => halt.into(),
            RunError::Refused(text) => Exit::Usage(text),
            RunError::DataDir(e) => e.into(),
        }
    }
}

#[cfg(feature = "http")]
impl From<crate::import::ImportFailure> for Exit {
    fn from(failure: crate::import::ImportFailure) -> Exit {
        use crate::import::ImportFailure;
        match failure {
            ImportFailure::Refused(text) => Exit::Usage(text),
            ImportFailure::Destination(failure) => Halt::Destination(failure).into(),
            ImportFailure::Failed(text) => Exit::Failed(text),
        }
    }
}

#[cfg(feature = "http")]
impl From<crate::config::ConfigError> for Exit {
    fn from(error: crate::config::ConfigError) -> Exit {
        Exit::Failed(error.to_string())
    }
}

#[cfg(feature = "server")]
impl From<crate::hq::enrolment::EnrolmentError> for Exit {
    fn from(error: crate::hq::enrolment::EnrolmentError) -> Exit {
        use crate::hq::enrolment::EnrolmentError;
        match error {
            EnrolmentError::OddCode { .. } => Exit::Usage(error.to_string()),
            EnrolmentError::Refused(_) | EnrolmentError::Config(_) => {
                Exit::Failed(error.to_string())
            }
        }
    }
}
