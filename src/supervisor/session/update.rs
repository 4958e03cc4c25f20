//! Self-update: fetch a release, swap the program, and keep it only if its worker streams.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use super::{Ending, SessionLoop, TaskOutcome};
use crate::release::{self, ReleaseSource, Swap};

/// How long a new program's worker may take until it streams.
pub(super) const UPDATE_WAIT_MAX: Duration = Duration::from_secs(60);

/// A new program whose worker has not streamed yet.
pub(super) struct Update {
    swap: Swap,
    version: String,
    pub(super) until: Instant,
}

impl SessionLoop<'_> {
    /// Fetches the release of `version` beside everything else, if this server may update itself.
    pub(super) async fn upgrade(&mut self, version: String) {
        info!("HQ asks for version {version}");
        self.status("upgrade").await;
        let source = match self.update_source() {
            Ok(source) => source,
            Err(why) => return self.not_upgraded(&version, &why).await,
        };
        let staging = Swap::staging(&self.supervisor.program);
        self.tasks.push(Box::pin(async move {
            let outcome = fetch(&source, &version, &staging).await;
            if outcome.is_err() {
                let _ = std::fs::remove_file(&staging);
            }
            TaskOutcome::ReleaseFetched { version, outcome }
        }));
    }

    /// Where releases come from, or why this server cannot update itself now.
    fn update_source(&self) -> Result<ReleaseSource, String> {
        let options = &self.supervisor.options;
        if let Some(why) = &options.no_update {
            return Err(why.clone());
        }
        let source = options.releases.clone()?;
        if self.update.is_some() {
            return Err("an update is under way".into());
        }
        Ok(source)
    }

    pub(super) async fn on_fetched(
        &mut self,
        version: String,
        outcome: Result<(), String>,
    ) -> Option<Ending> {
        match outcome {
            Ok(()) => self.try_out(version).await,
            Err(why) => {
                self.not_upgraded(&version, &why).await;
                None
            }
        }
    }

    /// Puts the new program in the old one's place and starts its worker: once that streams, the
    /// update is kept.
    async fn try_out(&mut self, version: String) -> Option<Ending> {
        let has_worker = self.child.is_some();
        self.end_child().await;
        let swap = match Swap::make(&self.supervisor.program) {
            Ok(swap) => swap,
            Err(e) => {
                let program = self.supervisor.program.display();
                let why = format!("{program} cannot be replaced: {e}");
                self.not_upgraded(&version, &why).await;
                return self.start_child().await.err();
            }
        };
        self.update = Some(Update { swap, version, until: Instant::now() + UPDATE_WAIT_MAX });
        match self.start_child().await {
            Err(Ending::Crashed { how, .. }) => self.roll_back(how).await,
            Err(other) => Some(other),
            // Without a destination there is no worker that could show anything.
            Ok(()) if !has_worker => self.confirm_update().await,
            Ok(()) => None,
        }
    }

    /// The worker works. If it is a new program's, the update is kept, and the supervisor has to
    /// become the new program, too.
    pub(super) async fn confirm_update(&mut self) -> Option<Ending> {
        let Update { swap, version, .. } = self.update.take()?;
        swap.keep();
        info!("updated to {version}");
        self.upgraded(&version, &Ok(None)).await;
        Some(Ending::Replaced)
    }

    /// Returns to the old program and its worker because the new one's does not work.
    pub(super) async fn roll_back(&mut self, why: String) -> Option<Ending> {
        let Update { swap, version, .. } = self.update.take()?;
        if let Some(mut child) = self.child.take() {
            child.kill().await;
        }
        let why = match swap.roll_back() {
            Ok(()) => format!("{why}; the old program was restored"),
            Err(e) => format!("{why}; the old program cannot be restored: {e}"),
        };
        self.not_upgraded(&version, &why).await;
        self.start_child().await.err()
    }

    /// Returns to the old program because the session ends before the new one's worker streamed.
    pub(super) async fn abandon_update(&mut self) {
        let Some(Update { swap, version, .. }) = self.update.take() else { return };
        let early = "the session ended before the new program showed itself; the old one";
        let why = match swap.roll_back() {
            Ok(()) => format!("{early} is in its place again"),
            Err(e) => format!("{early} cannot be put back: {e}"),
        };
        self.not_upgraded(&version, &why).await;
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

/// Brings the genuine program of `version` to `staging`.
async fn fetch(source: &ReleaseSource, version: &str, staging: &Path) -> Result<(), String> {
    source.fetch(version, staging).await?;
    let found = release::version_of(staging).await?;
    if found == version.trim_start_matches('v') {
        Ok(())
    } else {
        Err(format!("the program in the release says that it is version {found:?}"))
    }
}
