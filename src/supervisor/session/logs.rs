//! The session's logs on their way to HQ.

use std::path::PathBuf;
use std::time::Duration;

use tracing::warn;

use super::worker::OnDone;
use super::{SessionLoop, TaskOutcome};
use crate::hq::session as hq;
use crate::supervisor::uploads;
use crate::worker::pipe::WorkerCommand;

/// How long the worker may take to rotate its log.
const ROTATION_WAIT_MAX: Duration = Duration::from_secs(10);

impl SessionLoop<'_> {
    /// Uploads the log so far, once the worker has rotated its own.
    pub(super) async fn send_logs(&mut self) {
        if let Err(e) = self.supervisor.options.logs.rotate() {
            warn!("the log cannot be rotated: {e}");
        }
        let rotate = |id| WorkerCommand::RotateLog { id };
        if !self.command_within(OnDone::Upload, ROTATION_WAIT_MAX, rotate).await {
            self.upload(None);
        }
    }

    /// Uploads the files that are closed; `open` is the one that the worker writes to.
    pub(super) fn upload(&mut self, open: Option<PathBuf>) {
        let options = &self.supervisor.options;
        let worker_told = open.is_some();
        let open: Vec<PathBuf> = options.logs.path().into_iter().chain(open).collect();
        let mut files = uploads::closed(&self.opened.dir.logs(), &open);
        if self.child.is_some() && !worker_told {
            // The worker writes to one of them; most likely to the newest.
            files.pop();
        }
        let (hq, http) = (self.supervisor.hq.clone(), self.supervisor.http.clone());
        let (id, keep) = (self.opened.id.clone(), options.keep_logs);
        self.tasks.push(Box::pin(async move {
            let (path, outcome) = match hq::log_url(&hq, &id).await {
                Ok(url) => (uploads::path_of(&url), uploads::send(&http, &url, files, keep).await),
                Err(e) => (String::new(), Err(e.to_string())),
            };
            TaskOutcome::LogsUploaded { path, outcome }
        }));
    }

    /// HQ is told of every upload, asked for or not. Logs that were not uploaded stay, and are
    /// uploaded with the next.
    pub(super) async fn on_uploaded(&mut self, path: String, outcome: Result<(), String>) {
        if let Err(why) = &outcome {
            warn!("{why}; they are uploaded later");
        }
        let more = [("path".to_owned(), path.into())].into_iter().collect();
        self.connection.answer("sendlogs", "response", &outcome.map(|()| None), more).await;
    }
}
