//! Makes the durable consumer stand where it is wanted. Whoever calls has recorded the position
//! elsewhere: for a moment there is no consumer at all, because an account may allow only one.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use super::api::{ApiError, ConsumerConfig, ConsumerInfo, DeliverPolicy};
use super::look::{StreamFound, StreamLook};
use super::{JetStream, STREAM};
use crate::change::Position;
use crate::change::cutover::CLOCKS_APART_MAX_NS;
use crate::change::value::rfc3339;
use crate::feed::{FeedError, OpenAt, Start};

/// How long a stream that ends before our position, and is the same, may take to catch up.
const LAG_WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at it.
const LAG_LOOK: Duration = Duration::from_secs(1);

/// The durable consumer, and what was found on the way.
pub struct Standing {
    /// As the server reports it.
    pub info: ConsumerInfo,
    /// For the user.
    pub warnings: Vec<String>,
    /// The wanted position belonged to another stream.
    pub recreated: bool,
}

impl JetStream {
    /// The consumer at `at.after`, where it is recreated.
    pub(super) async fn stand_at(
        &self,
        at: OpenAt,
        existing: Option<ConsumerInfo>,
    ) -> Result<Standing, FeedError> {
        let OpenAt { after, durable, idle_ns, since_ns, .. } = at;
        let Some(position) = after else { return self.first_start(existing).await };
        self.clear(existing.is_some()).await?;
        // What was published before the snapshot of an import is in the import.
        let known_ns = idle_ns.max(since_ns.map(|since_ns| since_ns + CLOCKS_APART_MAX_NS));
        let (warnings, recreated) =
            self.compare_stream(durable.unwrap_or(position), known_ns).await?;
        let after = if recreated { 0 } else { position.sequence };
        let info = self.make(&self.wanted_after(after)).await?;
        info!(
            consumer = self.settings.durable,
            after,
            pending = info.num_pending,
            "the consumer was recreated at our position"
        );
        Ok(Standing { info, warnings, recreated })
    }

    /// Recreates the consumer so that it begins with what was published at `since_ns`: after an
    /// import.
    pub(super) async fn stand_since(
        &self,
        since_ns: i64,
        existing: bool,
    ) -> Result<Standing, FeedError> {
        self.clear(existing).await?;
        let mut warnings = Vec::new();
        let seen = match self.api.behind_ns().await {
            Ok(behind_ns) => self.api.look(1).await.map(|look| (look, behind_ns)),
            Err(e) => Err(e),
        };
        let since_ns = match &seen {
            Ok((_, behind_ns)) => by_clock_behind(since_ns, *behind_ns),
            Err(_) => since_ns,
        };
        match seen.map(|(look, _)| look) {
            // The stream has lost its beginning, and its oldest message is younger than the
            // snapshot.
            Ok(StreamLook { first: Some(oldest), .. })
                if oldest.sequence > 1 && oldest.time_ns > since_ns + CLOCKS_APART_MAX_NS =>
            {
                warnings.push(format!(
                    "changes may be missing: the import shows the source as of {}, and the stream \
                     {STREAM} begins only at {}; another import cures it",
                    rfc3339((since_ns + CLOCKS_APART_MAX_NS) / 1000),
                    rfc3339(oldest.time_ns / 1000)
                ));
            }
            Ok(StreamLook { first: None, end }) if end > 0 => warnings.push(format!(
                "changes may be missing: the stream {STREAM} had {end} messages and is empty now; \
                 another import cures it"
            )),
            Ok(_) => {}
            Err(e) => warnings.push(self.unseen(e, "whether it still has its beginning").await?),
        }
        let since = rfc3339(since_ns / 1000);
        let info = self.make(&self.wanted_since(&since)).await?;
        info!(
            consumer = self.settings.durable,
            since,
            pending = info.num_pending,
            "the consumer starts where the import or its predecessor began"
        );
        Ok(Standing { info, warnings, recreated: false })
    }

    /// The consumer where nothing is known of an earlier run. One that has appeared meanwhile is
    /// used as it is.
    async fn first_start(&self, existing: Option<ConsumerInfo>) -> Result<Standing, FeedError> {
        let wanted = self.wanted();
        let fits =
            |info: &ConsumerInfo| info.config.behaves_as(&wanted) && info.num_ack_pending == 0;
        self.clear(existing.as_ref().is_some_and(|info| !fits(info))).await?;
        if let Some(info) = existing.filter(fits) {
            return Ok(Standing { info, warnings: Vec::new(), recreated: false });
        }
        let (deliver_policy, warnings) = match self.settings.start {
            Start::All => (DeliverPolicy::All, Vec::new()),
            Start::NewOnly => {
                let warning = "there is no checkpoint of an earlier run: only new changes are \
                               streamed. --restart streams everything that the stream still has";
                (DeliverPolicy::New, vec![warning.to_owned()])
            }
        };
        let info = self.make(&ConsumerConfig { deliver_policy, ..wanted }).await?;
        Ok(Standing { info, warnings, recreated: false })
    }

    /// Whether the stream is the one in which `position` was reached, and what it lacks since, as
    /// warnings. Where it cannot be looked at, it is taken for the same, and a warning says so.
    async fn compare_stream(
        &self,
        position: Position,
        idle_ns: Option<i64>,
    ) -> Result<(Vec<String>, bool), FeedError> {
        // Whoever asks for all that the stream still has, misses nothing of it.
        if position.sequence == 0 && self.settings.start == Start::All {
            return Ok((Vec::new(), false));
        }
        let looked = match position.sequence {
            // A destination that has nothing of it is before its first message.
            0 => self.api.look(1).await,
            _ => self.settled_look(position).await,
        };
        let look = match looked {
            Ok(look) => look,
            Err(e) => {
                let unknown = "whether it was recreated, or has lost changes after our position";
                return Ok((vec![self.unseen(e, unknown).await?], false));
            }
        };
        Ok(match look.compare(position) {
            StreamFound::Recreated(how) => {
                let warning = format!(
                    "the stream {STREAM} {how}: it was recreated and is read from its beginning; \
                     changes in between need an import"
                );
                (vec![warning], true)
            }
            StreamFound::Same => (
                look.gap(position, idle_ns).map(|gap| gap.to_string()).into_iter().collect(),
                false,
            ),
        })
    }

    /// Looks at the stream at `position`. A server that lags behind the others may answer that the
    /// stream ends before it, though the last message there is no later one; that passes.
    async fn settled_look(&self, position: Position) -> Result<StreamLook, ApiError> {
        let deadline = Instant::now() + LAG_WAIT_MAX;
        loop {
            let look = self.api.look(position.sequence).await?;
            if look.end == 0 || look.end >= position.sequence || Instant::now() >= deadline {
                return Ok(look);
            }
            match self.api.first_message(look.end).await? {
                Some(last) if last.time_ns <= position.time_ns => sleep(LAG_LOOK).await,
                _ => return Ok(look),
            }
        }
    }

    /// A look at the stream that failed: a warning where that is no reason not to go on.
    async fn unseen(&self, error: ApiError, unknown: &str) -> Result<String, FeedError> {
        match error {
            // Then there is no place for our own consumer either.
            error if error.is_limit() => Err(self.no_place(error).await),
            ApiError::Refused { code, description, err_code } if code < 500 => Ok(format!(
                "it is not known {unknown}: the stream {STREAM} cannot be looked at ({description}, \
                 {err_code})"
            )),
            other => Err(self.failed(other, &format!("stream {STREAM}"))),
        }
    }

    /// Why our consumer could not be made: another process may have made it at the same moment.
    async fn no_place(&self, error: ApiError) -> FeedError {
        let is_refused = matches!(error, ApiError::Refused { code, .. } if code < 500);
        match self.existing().await {
            Ok(Some(_)) if is_refused => FeedError::Taken(format!(
                "another EDS has made {} at the same moment: this one ends",
                self.about()
            )),
            _ => self.failed(error, &self.about()),
        }
    }

    /// Removes the durable consumer, where there is one.
    pub(super) async fn clear(&self, existing: bool) -> Result<(), FeedError> {
        let version = self.api.link.client.server_info().version;
        if self.wanted().filter_subjects.len() > 1 && is_before_2_10(&version) {
            return Err(FeedError::Misconfigured(format!(
                "the NATS server is of version {version}; several companies in one credential need \
                 2.10 or later (an older one would send the changes of all companies)"
            )));
        }
        if existing {
            let deleted = self.api.delete(&self.settings.durable).await;
            deleted.map_err(|e| self.failed(e, &self.about()))?;
        }
        Ok(())
    }

    /// Creates the durable consumer as `config` says.
    pub(super) async fn make(&self, config: &ConsumerConfig) -> Result<ConsumerInfo, FeedError> {
        let info = match self.api.create_in_place(config).await {
            Ok(info) => info,
            Err(e) => return Err(self.no_place(e).await),
        };
        if !info.config.same_filter(config) {
            let _ = self.api.delete(&self.settings.durable).await;
            return Err(FeedError::Misconfigured(format!(
                "the NATS server (version {}) ignored the filter of {}: it is too old for several \
                 companies",
                self.api.link.client.server_info().version,
                self.about()
            )));
        }
        Ok(info)
    }
}

/// When that was by a clock that is so far behind. Times that are sought for in the stream are
/// early by [`CLOCKS_APART_MAX_NS`] as they are: a smaller difference changes nothing.
fn by_clock_behind(time_ns: i64, behind_ns: i64) -> i64 {
    match behind_ns > CLOCKS_APART_MAX_NS / 2 {
        true => time_ns.saturating_sub(behind_ns),
        false => time_ns,
    }
}

/// Whether a server of this version takes one filter only.
pub fn is_before_2_10(version: &str) -> bool {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(u32::MAX));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (2, 10)
}

#[cfg(test)]
mod tests {
    use super::{by_clock_behind, is_before_2_10};

    #[test]
    fn a_stream_of_a_clock_far_behind_is_read_from_earlier() {
        const MINUTE_NS: i64 = 60_000_000_000;
        assert_eq!(by_clock_behind(90 * MINUTE_NS, 60 * MINUTE_NS), 30 * MINUTE_NS);
        assert_eq!(by_clock_behind(90 * MINUTE_NS, MINUTE_NS), 90 * MINUTE_NS);
    }

    #[test]
    fn an_old_server_is_known_by_its_version() {
        for (version, old) in [
            ("2.9.25", true),
            ("2.10.0", false),
            ("2.12.2", false),
            ("1.4.1", true),
            ("3.0.0-beta", false),
        ] {
            assert_eq!(is_before_2_10(version), old, "{version}");
        }
    }
}
