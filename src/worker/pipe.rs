//! The pipe between supervisor and worker: JSON lines, commands on the worker's standard input,
//! events on its standard output. Secrets travel here, and in no argument. A worker of the next
//! version has to understand the commands of this one, and the other way round: fields are added,
//! never changed.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::hq::nats::Metrics;
use crate::status::board::WorkerReport;

/// What the supervisor wants; each but the first and the last is answered by `WorkerEvent::Done`
/// with its number.
#[derive(Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum WorkerCommand {
    /// First of all: what must not be in an argument.
    Begin {
        /// The destination, unless the worker's arguments or its environment name one.
        #[serde(serialize_with = "shown")]
        url: SecretString,
        /// Who we are to HQ, for imports.
        #[serde(serialize_with = "shown_if_any")]
        token: Option<SecretString>,
        /// HQ's address.
        api_url: Option<String>,
        /// The servers of NATS, where their URLs hold a login.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        servers: Option<String>,
        /// Where the schemas are published, where that is a URL: it may hold a token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schema: Option<String>,
    },
    /// Stop fetching; done once all that was fetched is applied.
    Pause {
        /// The number that the answer names.
        id: u64,
    },
    /// Done once changes are fetched again.
    Unpause {
        /// The number that the answer names.
        id: u64,
    },
    /// Pause, import, go on; done once the import is.
    Import {
        /// The number that the answer names.
        id: u64,
        /// Only the tables are created; no rows are loaded.
        schema_only: bool,
        /// Only these tables; none means all that are streamed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tables: Vec<String>,
    },
    /// Close the log file and begin another; done with the new one.
    RotateLog {
        /// The number that the answer names.
        id: u64,
    },
    /// A session follows another: done once the log goes into its directory and the next login
    /// at NATS is with its credentials.
    Session {
        /// The number that the answer names.
        id: u64,
        /// The text of its credentials file; `None` where NATS asks for none.
        #[serde(serialize_with = "shown_if_any")]
        creds: Option<SecretString>,
        /// Where its logs go.
        logs_dir: PathBuf,
    },
    /// End in order. The end of the pipe means the same.
    Stop,
}

/// The pipe is private to the two.
fn shown<S: Serializer>(secret: &SecretString, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose_secret())
}

fn shown_if_any<S: Serializer>(secret: &Option<SecretString>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(ExposeSecret::expose_secret).serialize(to)
}

/// What the worker has to tell.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub enum WorkerEvent {
    /// The destination is open, and the feed: changes flow.
    Ready,
    /// It lives; every minute.
    Beat {
        /// Its counts since it began.
        metrics: Metrics,
    },
    /// The answer to the command of this number.
    Done {
        /// The command's number.
        id: u64,
        /// Why it failed, if it did.
        error: Option<String>,
        /// The new log, where a rotation was asked for.
        log: Option<PathBuf>,
    },
    /// How it goes; every second.
    Status(Box<WorkerReport>),
    /// It ends, for a reason that a restart does not cure.
    GivesUp {
        /// The reason, with its cure.
        why: String,
    },
    /// It ends in order because it cannot work now; a later start may be able to.
    Failed {
        /// The reason, with its cure.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An older supervisor speaks to a newer worker during an update: what it says must be
    /// understood for ever.
    #[test]
    fn the_language_of_the_pipe_stays() -> Result<(), serde_json::Error> {
        let begin = WorkerCommand::Begin {
            url: "sqlite://x".to_owned().into(),
            token: Some("t".to_owned().into()),
            api_url: None,
            servers: None,
            schema: None,
        };
        let orders = [
            begin,
            WorkerCommand::Pause { id: 1 },
            WorkerCommand::Unpause { id: 2 },
            WorkerCommand::Import { id: 3, schema_only: true, tables: Vec::new() },
            WorkerCommand::RotateLog { id: 4 },
            WorkerCommand::Session { id: 5, creds: None, logs_dir: "s/logs".into() },
            WorkerCommand::Stop,
        ];
        let said: Vec<String> =
            orders.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let expected = [
            r#"{"order":"begin","url":"sqlite://x","token":"t","api_url":null}"#,
            r#"{"order":"pause","id":1}"#,
            r#"{"order":"unpause","id":2}"#,
            r#"{"order":"import","id":3,"schema_only":true}"#,
            r#"{"order":"rotate_log","id":4}"#,
            r#"{"order":"session","id":5,"creds":null,"logs_dir":"s/logs"}"#,
            r#"{"order":"stop"}"#,
        ];
        assert_eq!(said, expected);
        let metrics = r#"{"flushCount":1.0,"flushDuration":1.0,"processingDuration":1.0,"pendingEvents":0.0,"totalEvents":2.0}"#;
        for news in [
            r#"{"news":"ready"}"#.to_owned(),
            format!(r#"{{"news":"beat","metrics":{metrics}}}"#),
            r#"{"news":"done","id":1,"error":null,"log":null}"#.to_owned(),
            r#"{"news":"gives_up","why":"x"}"#.to_owned(),
            r#"{"news":"failed","why":"x"}"#.to_owned(),
        ] {
            assert_eq!(serde_json::to_string(&serde_json::from_str::<WorkerEvent>(&news)?)?, news);
        }
        // A worker of another version knows other counts.
        let status = r#"{"news":"status","snapshot":{"state":{"name":"paused"},"done":7,"new":1}}"#;
        let WorkerEvent::Status(report) = serde_json::from_str(status)? else {
            panic!("{status} is no status");
        };
        assert_eq!((report.snapshot.done, report.flushing_ms), (7, None));
        Ok(())
    }
}
