//! The changes of tables that cannot be written, in a table of EDS's own: kept and released in the
//! transactions that move the checkpoint.

use super::checkpoint::void_commit;
use super::connection::{Connection, Parameter};
use super::destination::SqlDestination;
use super::dialect::Dialect;
use super::render::{FORMAT, Renderer};
use crate::change::{Batch, HeldChunk, Release};
use crate::destination::{Failure, FailureKind, KeptChunk};

/// The name of the table that keeps them.
pub const HELD: &str = "_eds_held";

impl Renderer {
    /// Creates a table of kept changes under this name: one row for each chunk.
    pub fn create_held(&self, name: &str) -> String {
        let Dialect { consumer, types, integer, .. } = self.dialect;
        let [chunk, applied, format] =
            ["chunk", "applied", "format"].map(|name| format!("{name} {integer} NOT NULL"));
        let text = types[0];
        let columns = format!(
            "consumer {consumer} NOT NULL, {chunk}, {applied}, label {text} NOT NULL, \
             body {text} NOT NULL, {format}, PRIMARY KEY (consumer, chunk)"
        );
        self.create(&self.table(name), &columns)
    }

    /// Parameters: consumer, chunk, label, body.
    pub fn insert_held(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "INSERT INTO {} (consumer, chunk, applied, label, body, format) VALUES ({}, {}, 0, {}, \
             {}, {FORMAT})",
            self.table(HELD),
            p(1),
            p(2),
            p(3),
            p(4)
        )
    }

    /// Columns: chunk, how many of its changes are applied. Parameter: consumer.
    pub fn read_held(&self) -> String {
        self.select_held("chunk, applied")
    }

    /// Columns: label. Parameter: consumer.
    pub fn read_held_labels(&self) -> String {
        self.select_held("label")
    }

    fn select_held(&self, columns: &str) -> String {
        let consumer = (self.dialect.parameter)(1);
        format!(
            "SELECT {columns} FROM {} WHERE consumer = {consumer} ORDER BY chunk",
            self.table(HELD)
        )
    }

    /// Columns: body. Parameters: consumer, chunk.
    pub fn read_held_body(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "SELECT body FROM {} WHERE consumer = {} AND chunk = {}",
            self.table(HELD),
            p(1),
            p(2)
        )
    }

    /// Parameters: how many changes are applied now, consumer, chunk, how many were before.
    pub fn advance_held(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "UPDATE {} SET applied = {} WHERE consumer = {} AND chunk = {} AND applied = {}",
            self.table(HELD),
            p(1),
            p(2),
            p(3),
            p(4)
        )
    }

    /// Parameters: consumer, chunk, how many of its changes were applied before.
    pub fn delete_held(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "DELETE FROM {} WHERE consumer = {} AND chunk = {} AND applied = {}",
            self.table(HELD),
            p(1),
            p(2),
            p(3)
        )
    }

    /// Parameters: the new consumer, the former one.
    pub fn adopt_held(&self) -> String {
        let p = self.dialect.parameter;
        format!("UPDATE {} SET consumer = {} WHERE consumer = {}", self.table(HELD), p(1), p(2))
    }
}

/// The codes of two rows with one key: another process has written the chunk.
const TAKEN_CODES: [&str; 6] = ["23505", "1062", "2627", "2601", "1555", "2067"];

/// A failure of a statement about EDS's own table says nothing about any other table, and about a
/// change only where what is kept of it cannot be stored: it is too large.
fn of_own_table(failure: Failure) -> Failure {
    let is_taken = failure.code.as_deref().is_some_and(|code| TAKEN_CODES.contains(&code));
    let kind = match failure.kind {
        FailureKind::Fenced => FailureKind::Fenced,
        FailureKind::Rejected if !is_taken => FailureKind::Rejected,
        _ => FailureKind::Unavailable,
    };
    Failure { kind, table: None, text: format!("{HELD}: {}", failure.text), ..failure }
}

impl<C: Connection> SqlDestination<C> {
    /// Within the batch's transaction: keeps what it holds, and takes note of what it releases.
    pub(super) async fn write_held(&mut self, batch: &Batch) -> Result<(), Failure> {
        for HeldChunk { number, label, body } in &batch.held {
            let label = serde_json::to_string(label).map_err(|e| {
                Failure::unavailable(format!("changes that wait cannot be labelled: {e}"))
            })?;
            let parameters = [
                self.consumer.as_str().into(),
                Parameter::Integer(*number as i64),
                Parameter::Text(label),
                Parameter::Text(body.clone()),
            ];
            let insert = self.renderer.insert_held();
            self.connection.change(&insert, &parameters).await.map_err(of_own_table)?;
        }
        let Some(release) = batch.release else { return Ok(()) };
        let (sql, parameters) = self.release_sql(release);
        match self.connection.change(&sql, &parameters).await.map_err(of_own_table)? {
            1 => Ok(()),
            // An earlier try has done the same, and its answer was lost.
            _ => {
                Err(Failure::unavailable("the changes that wait are not as this process left them"))
            }
        }
    }

    fn release_sql(&self, release: Release) -> (String, Vec<Parameter>) {
        let Release { chunk, from, to, is_last } = release;
        let [chunk, from, to] = [chunk, from, to].map(|n| Parameter::Integer(n as i64));
        let consumer = Parameter::from(self.consumer.as_str());
        match is_last {
            true => (self.renderer.delete_held(), vec![consumer, chunk, from]),
            false => (self.renderer.advance_held(), vec![to, consumer, chunk, from]),
        }
    }

    /// All chunks of this consumer.
    pub(super) async fn kept_chunks(&mut self) -> Result<Vec<KeptChunk>, Failure> {
        let consumer = [self.consumer.as_str().into()];
        let read = self.renderer.read_held();
        let numbers = match self.connection.integers(&read, &consumer).await {
            Err(failure) if failure.kind == FailureKind::SchemaMismatch => {
                // Somebody has dropped it.
                self.make_own_tables().await?;
                self.connection.integers(&read, &consumer).await?
            }
            numbers => numbers?,
        };
        let labels = self.connection.texts(&self.renderer.read_held_labels(), &consumer).await?;
        let chunks = numbers.iter().zip(&labels).map(|(numbers, label)| {
            let label = serde_json::from_str(label.first()?).ok()?;
            let [number, applied] = numbers[..] else { return None };
            Some(KeptChunk { number: number as u64, applied: applied as u64, label })
        });
        match chunks.collect() {
            Some(chunks) if numbers.len() == labels.len() => Ok(chunks),
            _ => Err(Failure::misconfigured(format!(
                "the table {HELD} in the destination was written by another version of EDS, which \
                 has to be installed again"
            ))),
        }
    }

    /// After a COMMIT that may be void: whether the chunk is as the release left it.
    pub(super) async fn confirm_release(&mut self, release: Release) -> Result<(), Failure> {
        let kept = self.kept_chunks().await?;
        let found = kept.iter().find(|chunk| chunk.number == release.chunk);
        match found.map(|chunk| chunk.applied) {
            None if release.is_last => Ok(()),
            Some(applied) if !release.is_last && applied == release.to => Ok(()),
            _ => Err(void_commit()),
        }
    }

    /// The body of one of them.
    pub(super) async fn kept_chunk_body(&mut self, number: u64) -> Result<Option<String>, Failure> {
        let parameters = [self.consumer.as_str().into(), Parameter::Integer(number as i64)];
        let rows = self.connection.texts(&self.renderer.read_held_body(), &parameters).await?;
        Ok(rows.into_iter().flatten().next())
    }
}
