//! Self-update: fetch a release, run its worker from beside this program, and put it in this
//! program's place only if that worker streams.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use super::{Ending, SessionLoop, TaskOutcome};
use crate::release::{self, ReleaseSource, Swap, next_arguments};
use crate::state::{Lock, LockError};
use crate::supervisor::Supervisor;

/// How long a new program's worker may take until it streams.
pub(super) const UPDATE_WAIT_MAX: Duration = Duration::from_secs(60);

/// A release that is being fetched.
pub(super) struct Fetching {
    version: String,
    /// Keeps other servers that run the same program file from replacing it.
    lock: Lock,
}

/// A new program whose worker has not streamed yet. It is not in this one's place: whatever cuts
/// the trial short, the next start has the program that works.
pub(super) struct Update {
    version: String,
    /// The new program's file.
    pub(super) staged: PathBuf,
    pub(super) until: Instant,
    _lock: Lock,
}

impl SessionLoop<'_> {
    /// Fetches the release of `version` beside everything else, if this server may update itself.
    pub(super) async fn upgrade(&mut self, version: String) {
        info!("HQ asks for version {version}");
        self.status("upgrade").await;
        let (source, lock) = match self.update_source(&version) {
            Ok(source) => source,
            Err(why) => return self.not_upgraded(&version, &why).await,
        };
        self.fetching = Some(Fetching { version: version.clone(), lock });
        let staging = Swap::staging(&self.supervisor.program);
        let words = next_arguments(self.supervisor.paused_since.is_some());
        self.tasks.push(Box::pin(async move {
            let mut outcome = source.fetch(&version, &staging).await;
            if outcome.is_ok() {
                outcome = release::takes_arguments(&staging, &words).await;
                if outcome.is_err() {
                    let _ = std::fs::remove_file(&staging);
                }
            }
            TaskOutcome::ReleaseFetched { version, outcome }
        }));
    }

    /// Where releases come from, and the right to replace the program; or why this server cannot
    /// update itself to `version` now.
    fn update_source(&self, version: &str) -> Result<(ReleaseSource, Lock), String> {
        let options = &self.supervisor.options;
        if let Some(why) = &options.no_update {
            return Err(why.clone());
        }
        let source = options.releases.clone()?;
        // A second release would be written over the first. That this program has not shown itself
        // yet is no reason: the next one may do better, and what is gone back to stays the same.
        let fetching = self.fetching.as_ref().map(|fetching| &fetching.version);
        let trial = self.update.as_ref().map(|update| &update.version);
        if let Some(version) = fetching.or(trial) {
            return Err(format!("an update to {version} is under way"));
        }
        let own = env!("CARGO_PKG_VERSION");
        if !options.allow_downgrade && release::is_older(version, own) {
            return Err(format!(
                "it is older than {own}, which may have written what it cannot read; the server's \
                 owner can allow that with --allow-downgrade"
            ));
        }
        let program = &self.supervisor.program;
        let lock = self.supervisor.update_lock().map_err(|e| match e {
            LockError::InUse { .. } => {
                "another server of this machine is updating the program".to_owned()
            }
            LockError::Io { source, .. } => {
                format!("{} cannot be replaced: {source}", program.display())
            }
        })?;
        Ok((source, lock))
    }

    pub(super) async fn on_fetched(
        &mut self,
        version: String,
        outcome: Result<(), String>,
    ) -> Option<Ending> {
        let Fetching { lock, .. } = self.fetching.take()?;
        match outcome {
            Ok(()) => self.try_out(version, lock).await,
            Err(why) => {
                self.not_upgraded(&version, &why).await;
                None
            }
        }
    }

    /// Starts the new program's worker: once that streams, the program takes the old one's place.
    async fn try_out(&mut self, version: String, lock: Lock) -> Option<Ending> {
        let has_destination = self.supervisor.options.url.is_some();
        self.replace_child().await;
        let staged = Swap::staging(&self.supervisor.program);
        let until = Instant::now() + UPDATE_WAIT_MAX;
        self.update = Some(Update { version, staged, until, _lock: lock });
        let ended = self.start_child().await;
        // Without a destination there is no worker that could show anything.
        if ended.is_none() && !has_destination { self.confirm_update().await } else { ended }
    }

    /// The worker works. If it is a new program's, that program takes this one's place, and the
    /// supervisor has to become it, too.
    pub(super) async fn confirm_update(&mut self) -> Option<Ending> {
        let Some(Update { version, staged, _lock, .. }) = self.update.take() else {
            self.supervisor.keep_program();
            return None;
        };
        let Supervisor { program, began, options, .. } = &*self.supervisor;
        let unproven = options.unproven.as_ref();
        if let Err(e) = Swap::make(program, &version, &options.data_dir, unproven, *began) {
            let _ = std::fs::remove_file(staged);
            let why = format!("{} cannot be replaced: {e}", program.display());
            self.not_upgraded(&version, &why).await;
            return Box::pin(self.restart_child()).await;
        }
        info!("updated to {version}");
        self.upgraded(&version, &Ok(None)).await;
        Some(Ending::Replaced)
    }

    /// Returns to the old program's worker because the new one's does not work.
    pub(super) async fn roll_back(&mut self, why: String) -> Option<Ending> {
        let Update { version, staged, _lock, .. } = self.update.take()?;
        if let Some(mut child) = self.child.take() {
            child.kill().await;
        }
        self.leave_commands("the worker was replaced").await;
        let _ = std::fs::remove_file(staged);
        self.not_upgraded(&version, &format!("{why}; the old program goes on")).await;
        self.start_child().await
    }

    /// The session ends before the new program's worker streamed.
    pub(super) async fn abandon_update(&mut self) {
        let Some(Update { version, staged, _lock, .. }) = self.update.take() else { return };
        let _ = std::fs::remove_file(staged);
        let why = "the server ends before the new program showed itself; the old one stays";
        self.not_upgraded(&version, why).await;
    }

    async fn not_upgraded(&self, version: &str, why: &str) {
        error!("no update to {version}: {why}");
        self.upgraded(version, &Err(why.to_owned())).await;
    }

    async fn upgraded(&self, version: &str, outcome: &Result<Option<String>, String>) {
        let more = [("version".to_owned(), version.into())].into_iter().collect();
        self.connection.answer("upgrade", "response", outcome, more).await;
    }
}
