//! Why a command ends the program: the one table from errors to exit codes.

use std::process::ExitCode;

use crate::destination::FailureKind;
use crate::feed::FeedError;
use crate::help::HelpCode;
use crate::pipeline::Halt;
use crate::state::{DataDirError, LockError, StateError};
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

    /// Why, for the user, with the code of the page that helps behind it.
    pub fn text(&self) -> String {
        match self {
            Exit::Failed(text) => HelpCode::Failed.tag(text),
            Exit::Fenced(text) => HelpCode::TakenOver.tag(text),
            Exit::Unavailable(text) => HelpCode::DestinationUnavailable.tag(text),
            Exit::Usage(text) => HelpCode::Arguments.tag(text),
            Exit::Disconnected(text) => HelpCode::NatsUnavailable.tag(text),
        }
    }

    /// A failure of this code.
    pub fn failed(help: HelpCode, text: impl AsRef<str>) -> Exit {
        Exit::Failed(help.tag(text.as_ref()))
    }

    /// What the user gave cannot be right, with this code.
    pub fn usage(help: HelpCode, text: impl AsRef<str>) -> Exit {
        Exit::Usage(help.tag(text.as_ref()))
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
                FailureKind::Fenced => Exit::Fenced(failure.to_string()),
                FailureKind::Unavailable | FailureKind::TableUnavailable => {
                    Exit::Unavailable(failure.to_string())
                }
                _ => Exit::Usage(failure.to_string()),
            },
            Halt::Feed(e) => e.into(),
            Halt::Setup(text) => Exit::failed(HelpCode::Machine, text),
        }
    }
}

impl From<FeedError> for Exit {
    fn from(error: FeedError) -> Exit {
        match error {
            FeedError::Unavailable(text) => Exit::Disconnected(text),
            FeedError::Misconfigured(text) => Exit::failed(HelpCode::NatsStream, text),
            FeedError::Taken(text) => Exit::Fenced(HelpCode::ConsumerTaken.tag(&text)),
        }
    }
}

impl From<DataDirError> for Exit {
    fn from(error: DataDirError) -> Exit {
        let help = match &error {
            DataDirError::Lock(LockError::InUse { .. }) => HelpCode::DataDirInUse,
            DataDirError::Lock(LockError::Io { .. }) | DataDirError::State(_) => HelpCode::DataDir,
        };
        Exit::failed(help, error.to_string())
    }
}

impl From<StateError> for Exit {
    fn from(error: StateError) -> Exit {
        DataDirError::State(error).into()
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
            ImportFailure::Refused(text) => Exit::usage(HelpCode::ImportRefused, text),
            ImportFailure::Destination(failure) => Halt::Destination(failure).into(),
            ImportFailure::Failed(text) => Exit::failed(HelpCode::ImportFailed, text),
        }
    }
}

#[cfg(feature = "http")]
impl From<crate::config::ConfigError> for Exit {
    fn from(error: crate::config::ConfigError) -> Exit {
        Exit::failed(HelpCode::ConfigFile, error.to_string())
    }
}

#[cfg(feature = "server")]
impl From<crate::hq::enrolment::EnrolmentError> for Exit {
    fn from(error: crate::hq::enrolment::EnrolmentError) -> Exit {
        use crate::hq::enrolment::EnrolmentError;
        match error {
            EnrolmentError::OddCode => Exit::usage(HelpCode::HqRefused, error.to_string()),
            EnrolmentError::Refused(_) => Exit::failed(HelpCode::HqRefused, error.to_string()),
            EnrolmentError::Config(config) => config.into(),
        }
    }
}
