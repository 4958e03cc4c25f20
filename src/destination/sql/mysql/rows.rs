//! Many rows by one prepared statement: how many at once, and their values as parameters.

use std::collections::HashMap;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Statement, Value as Wire};

use super::failure::failure;
use crate::change::value::{self, Value};
use crate::change::{Batch, Change, Column, TableSchema, json};
use crate::destination::Failure;
use crate::destination::sql::refused;
use crate::destination::sql::render::Renderer;

/// Rows of one statement, largest first: whatever there is to write is cut into these, so that few
/// statements have to be prepared (docs/decisions/0006-mysql-bulk-path.md).
const ROWS: [usize; 4] = [256, 64, 16, 1];
/// Parameters of one statement: the protocol's limit is 65,535, and the server keeps some hundred
/// bytes for each.
const PARAMETERS_MAX: usize = 32_768;
/// Parameters of all statements that a session keeps which writes many tables in turn.
const STREAM_PARAMETERS_MAX: usize = 8 * PARAMETERS_MAX;
/// Bytes of events of one statement; less where the server takes no such packets. The client keeps
/// some twenty buffers of this size for each connection.
const STATEMENT_BYTES_MAX: usize = 512 << 10;
/// By what a failure is known that is about a key which is there already.
const REPEATED_KEY: &str = "(1062,";
/// Prepared statements that are kept; the one that was not used for the longest time makes room.
pub const STATEMENTS_MAX: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    Delete,
    Upsert,
    /// Into a table that is loaded whole.
    Insert,
}

/// Table, version, action, rows.
type Shape = (Arc<str>, Arc<str>, Action, usize);

/// The statements of a session.
pub struct Statements {
    /// The largest packet that the server takes.
    packet_bytes_max: usize,
    /// Parameters of all prepared statements together.
    parameters_max: usize,
    /// Each with when it was last used, counted in uses.
    prepared: HashMap<Shape, (u64, Statement)>,
    uses: u64,
}

impl Statements {
    pub fn new(packet_bytes_max: usize) -> Statements {
        Statements {
            packet_bytes_max,
            parameters_max: STREAM_PARAMETERS_MAX,
            prepared: HashMap::new(),
            uses: 0,
        }
    }

    /// For a session that writes one table after the other.
    pub fn keep_few(&mut self) {
        self.parameters_max = PARAMETERS_MAX;
    }

    pub async fn clear(&mut self, conn: &mut Conn) {
        for (_, (_, statement)) in self.prepared.drain() {
            // The server forgets them with the session at the latest.
            let _ = conn.close(statement).await;
        }
    }

    /// Deletes or upserts the rows of the group.
    pub async fn run(
        &mut self,
        conn: &mut Conn,
        action: Action,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        let schema = &group.schema;
        let (indices, columns) = match action {
            Action::Delete => (&group.deletes, schema.key_columns()),
            Action::Upsert | Action::Insert => (&group.upserts, &schema.columns[..]),
        };
        let mut rest = &indices[..];
        while !rest.is_empty() {
            // Values may be a little longer than in their event.
            let bytes_max = STATEMENT_BYTES_MAX.min(self.packet_bytes_max / 2);
            let (now, later) = rest.split_at(rows_at_once(batch, rest, columns.len(), bytes_max));
            rest = later;
            let values = self.values(batch, schema, columns, now)?;
            let mut done = self.execute(conn, renderer, schema, action, now.len(), values).await;
            // A row of the export came twice: the statement did nothing, and the later row is to
            // stay.
            if action == Action::Insert
                && done.as_ref().is_err_and(|failure| failure.text.contains(REPEATED_KEY))
            {
                let values = self.values(batch, schema, columns, now)?;
                done =
                    self.execute(conn, renderer, schema, Action::Upsert, now.len(), values).await;
            }
            done.map_err(|failure| failure.of_table(&schema.table))?;
        }
        Ok(())
    }

    fn values(
        &self,
        batch: &Batch,
        schema: &TableSchema,
        columns: &[Column],
        indices: &[u32],
    ) -> Result<Vec<Wire>, Failure> {
        let mut values = Vec::with_capacity(indices.len() * columns.len());
        for index in indices {
            bind(batch.change(*index), columns, &mut values)
                .map_err(|why| refused(batch, &schema.table, *index, &why))?;
        }
        // A packet that is too large would cost the connection, again and again.
        if let [index] = indices
            && values.iter().map(wire_bytes).sum::<usize>() > self.packet_bytes_max
        {
            let why = format!(
                "table {:?}: the row is larger than the server's max_allowed_packet of {} \
                 bytes; raise it",
                schema.table, self.packet_bytes_max
            );
            return Err(Failure::rejected(vec![(*index, why)]));
        }
        Ok(values)
    }

    async fn execute(
        &mut self,
        conn: &mut Conn,
        renderer: &Renderer,
        schema: &TableSchema,
        action: Action,
        rows: usize,
        values: Vec<Wire>,
    ) -> Result<(), Failure> {
        let statement = self.prepared(conn, renderer, schema, action, rows).await?;
        conn.exec_drop(statement, values).await.map_err(|e| failure(&e))
    }

    async fn prepared(
        &mut self,
        conn: &mut Conn,
        renderer: &Renderer,
        schema: &TableSchema,
        action: Action,
        rows: usize,
    ) -> Result<&Statement, Failure> {
        let shape = (schema.table.clone(), schema.version.clone(), action, rows);
        if !self.prepared.contains_key(&shape) {
            self.make_room(conn, rows * schema.columns.len()).await;
            let statement =
                conn.prep(sql(renderer, schema, action, rows)).await.map_err(|e| failure(&e))?;
            self.prepared.insert(shape.clone(), (0, statement));
        }
        self.uses += 1;
        let Some((used, statement)) = self.prepared.get_mut(&shape) else {
            return Err(Failure::unavailable("a statement is gone"));
        };
        *used = self.uses;
        Ok(statement)
    }

    /// The client keeps some 200 bytes for each parameter of a prepared statement.
    async fn make_room(&mut self, conn: &mut Conn, parameters: usize) {
        let kept = |statements: &HashMap<Shape, (u64, Statement)>| {
            statements.values().map(|(_, s)| usize::from(s.num_params())).sum::<usize>()
        };
        while self.prepared.len() >= STATEMENTS_MAX
            || (!self.prepared.is_empty()
                && kept(&self.prepared) + parameters > self.parameters_max)
        {
            let oldest = self
                .prepared
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(shape, _)| shape.clone());
            if let Some((_, statement)) = oldest.and_then(|shape| self.prepared.remove(&shape)) {
                let _ = conn.close(statement).await;
            }
        }
    }
}

/// The largest of [`ROWS`] that there are rows for and that stays within the limits.
fn rows_at_once(batch: &Batch, indices: &[u32], columns: usize, bytes_max: usize) -> usize {
    let fits = |rows: usize| {
        let bytes = || {
            indices[..rows]
                .iter()
                .map(|index| batch.change(*index).event.payload().len())
                .sum::<usize>()
        };
        rows <= indices.len() && rows * columns <= PARAMETERS_MAX && bytes() <= bytes_max
    };
    ROWS.into_iter().find(|rows| fits(*rows)).unwrap_or(1)
}

pub fn sql(renderer: &Renderer, schema: &TableSchema, action: Action, rows: usize) -> String {
    let row = |columns: usize| format!("({})", vec!["?"; columns].join(","));
    match action {
        Action::Insert => renderer
            .insert(schema, &format!("VALUES {}", vec![row(schema.columns.len()); rows].join(","))),
        Action::Upsert => renderer
            .upsert(schema, &format!("VALUES {}", vec![row(schema.columns.len()); rows].join(","))),
        Action::Delete => {
            let keys: Vec<String> =
                schema.key_columns().iter().map(|c| renderer.quoted(&c.name)).collect();
            format!(
                "DELETE FROM {} WHERE ({}) IN ({})",
                renderer.table(&schema.table),
                keys.join(", "),
                vec![row(keys.len()); rows].join(",")
            )
        }
    }
}

/// The values of a row, in the form of the wire.
pub fn bind(
    change: &Change,
    columns: &[Column],
    out: &mut Vec<Wire>,
) -> Result<(), value::TypeMismatch> {
    for (i, column) in columns.iter().enumerate() {
        out.push(match value::read(change.token(i), column)? {
            Value::Null => Wire::NULL,
            Value::Boolean(b) => Wire::Int(i64::from(b)),
            Value::Integer(n) => Wire::Int(n),
            Value::Number(n) => Wire::Double(n),
            Value::Text(text) => Wire::Bytes(text.into_owned().into_bytes()),
            Value::Time(micros) => {
                time(micros).ok_or_else(|| value::TypeMismatch::of(column, value::Wanted::Time))?
            }
            Value::Json(token) => Wire::Bytes(json::well_formed(token).into_owned().into_bytes()),
        });
    }
    Ok(())
}

/// The most that a parameter takes on the wire, with its type and length.
fn wire_bytes(value: &Wire) -> usize {
    match value {
        Wire::Bytes(bytes) => bytes.len() + 12,
        _ => 16,
    }
}

fn time(micros: i64) -> Option<Wire> {
    let at = value::utc(micros)?;
    let small = |n: i8| u8::try_from(n).ok();
    let micros = u32::try_from(at.subsec_nanosecond() / 1000).ok()?;
    Some(Wire::Date(
        u16::try_from(at.year()).ok()?,
        small(at.month())?,
        small(at.day())?,
        small(at.hour())?,
        small(at.minute())?,
        small(at.second())?,
        micros,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_travel_as_their_parts() {
        assert_eq!(time(0), Some(Wire::Date(1970, 1, 1, 0, 0, 0, 0)));
        assert_eq!(time(-1), Some(Wire::Date(1969, 12, 31, 23, 59, 59, 999_999)));
        assert_eq!(time(4_102_444_800_000_001), Some(Wire::Date(2100, 1, 1, 0, 0, 0, 1)));
        assert_eq!(time(i64::MIN), None);
    }
}
