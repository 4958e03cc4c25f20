//! The view `_eds_as_of`: how fresh the tables are, for whoever reads them.

use tracing::info;

use super::connection::Connection;
use super::destination::SqlDestination;
use super::held::HELD;
use super::render::{CHECKPOINT, Renderer};

/// The name of the view.
pub const AS_OF: &str = "_eds_as_of";
/// The row of all tables that are not held.
const ALL_OTHERS: &str = "*";

/// How one database computes what the view shows.
#[derive(Debug)]
pub struct AsOf {
    /// The instant of Unix nanoseconds.
    pub time: fn(&str) -> String,
    /// A field of a column with the text of a JSON object, as text.
    pub field: fn(&str, &str) -> String,
    /// A text of digits as a number of 64 bits.
    pub number: fn(&str) -> String,
}

impl Renderer {
    /// `None` where the database has no such view.
    pub fn create_as_of(&self, name: &str) -> Option<String> {
        let as_of = self.dialect.as_of.as_ref()?;
        let lowest = |column: &str| format!("NULLIF(MIN({column}), 0)");
        let table = (as_of.field)("label", "table");
        let since = (as_of.number)(&(as_of.field)("label", "since_unix"));
        let nothing = (as_of.time)("NULL");
        Some(format!(
            "CREATE VIEW {} AS SELECT consumer, '{ALL_OTHERS}' AS table_name, {} AS \
             applied_through, {} AS source_time, {nothing} AS held_since FROM {} GROUP BY consumer \
             UNION ALL SELECT consumer, {table}, NULL, {nothing}, {} FROM {} GROUP BY consumer, \
             {table}",
            self.table(name),
            lowest("stream_sequence"),
            (as_of.time)(&lowest("stream_time_ns")),
            self.table(CHECKPOINT),
            (as_of.time)(&format!("MIN({since}) * 1000000000")),
            self.table(HELD),
        ))
    }

    /// Answers nothing, where the view is there.
    fn look_for_as_of(&self) -> String {
        format!("SELECT consumer FROM {} WHERE 1 = 0", self.table(AS_OF))
    }
}

impl<C: Connection> SqlDestination<C> {
    /// Creates the view where it is missing and may be created. Nothing depends on it.
    pub(super) async fn make_as_of(&mut self) {
        let Some(create) = self.renderer.create_as_of(AS_OF) else { return };
        let look = self.renderer.look_for_as_of();
        if self.connection.texts(&look, &[]).await.is_ok() {
            return;
        }
        if let Err(failure) = self.connection.execute(&create).await {
            info!("there is no view {AS_OF}, which would show how fresh the tables are: {failure}");
        }
    }
}
