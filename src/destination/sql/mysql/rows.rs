//! The upsert: many rows by one prepared statement, in a few sizes.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Statement, Value as Wire};

use super::encode::{bind, wire_bytes};
use super::failure::{REPEATED_KEY, failure};
use super::{MySqlConnection, SERVER};
use crate::change::{Batch, Column, TableSchema};
use crate::destination::sql::lent::within;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ANSWER_WAIT_MAX, RowWriter, TableVersion, reject_mismatch};
use crate::destination::{Failure, Holds};

/// Rows of one statement, largest first. Whatever there is to write is cut into these sizes, so
/// that few statements have to be prepared, and few have to be waited for: the server takes one
/// after the other (docs/decisions/0006-mysql-bulk-path.md).
const ROWS: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];
/// Parameters of one statement: the protocol's limit is 65,535, and the server keeps some hundred
/// bytes for each.
const PARAMETERS_MAX: usize = 32_768;
/// Parameters of all statements that a session keeps which writes many tables in turn.
const STREAM_PARAMETERS_MAX: usize = 8 * PARAMETERS_MAX;
/// Bytes of events of one statement; less where the server takes no such packets. The client keeps
/// some twenty buffers of this size for each connection.
const STATEMENT_BYTES_MAX: usize = 512 << 10;
/// Prepared statements that are kept; the least recently used one is closed first.
pub const STATEMENTS_MAX: usize = 128;

/// What a statement does to rows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Deletes the rows of its keys.
    Delete,
    /// Inserts rows, or updates those whose key exists.
    Upsert,
    /// Inserts rows into a table that is loaded whole.
    Insert,
}

/// What a statement is prepared for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct StatementShape {
    table: TableVersion,
    action: Action,
    /// How many rows it writes at once.
    rows: usize,
}

/// A prepared statement.
struct Prepared {
    /// When it was last used, counted in uses.
    used: u64,
    statement: Statement,
}

/// The prepared statements of a session.
pub struct Statements {
    /// The largest packet that the server takes.
    packet_bytes_max: usize,
    /// Parameters of all prepared statements together.
    parameters_max: usize,
    prepared: HashMap<StatementShape, Prepared>,
    uses: u64,
}

impl Statements {
    /// None yet. `packet_bytes_max` is the server's `max_allowed_packet`.
    pub fn new(packet_bytes_max: usize) -> Statements {
        Statements {
            packet_bytes_max,
            parameters_max: STREAM_PARAMETERS_MAX,
            prepared: HashMap::new(),
            uses: 0,
        }
    }

    /// For a session that writes one table after the other: keeps fewer statements.
    pub fn keep_few(&mut self) {
        self.parameters_max = PARAMETERS_MAX;
    }

    /// Closes all of them, or those for the table `only`, because tables may have changed.
    pub async fn clear(&mut self, conn: &mut Conn, only: Option<&str>) {
        let is_meant = |shape: &StatementShape, _: &mut Prepared| {
            only.is_none_or(|only| only == &*shape.table.table)
        };
        for (_, prepared) in self.prepared.extract_if(is_meant) {
            // The server forgets them with the session at the latest.
            let _ = conn.close(prepared.statement).await;
        }
    }

    /// Does `action` to the rows of the group; the failure names the table.
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
            let now;
            (now, rest) = rest.split_at(rows_at_once(batch, rest, action, columns, bytes_max));
            let contents = renderer.contents(schema, columns);
            let mut values = self.values(batch, schema, columns, &contents, now)?;
            let rows = match action {
                Action::Delete => repeat_last(&mut values, now.len(), columns.len()),
                Action::Upsert | Action::Insert => now.len(),
            };
            let mut done = self.execute(conn, renderer, schema, action, rows, values).await;
            // The export has two rows of one key. The INSERT did nothing, so its rows are upserted
            // instead and the later one stays.
            if action == Action::Insert
                && done.as_ref().is_err_and(|failure| failure.has_code(REPEATED_KEY))
            {
                let values = self.values(batch, schema, columns, &contents, now)?;
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
        contents: &[Holds],
        indices: &[u32],
    ) -> Result<Vec<Wire>, Failure> {
        let mut values = Vec::with_capacity(indices.len() * columns.len());
        for index in indices {
            bind(batch.change(*index), columns, contents, &mut values)
                .map_err(|why| reject_mismatch(batch, &schema.table, *index, &why))?;
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
        let shape = StatementShape { table: TableVersion::of(schema), action, rows };
        if !self.prepared.contains_key(&shape) {
            self.make_room(conn, rows * schema.columns.len()).await;
            let statement =
                conn.prep(sql(renderer, schema, action, rows)).await.map_err(|e| failure(&e))?;
            self.prepared.insert(shape.clone(), Prepared { used: 0, statement });
        }
        self.uses += 1;
        let Some(prepared) = self.prepared.get_mut(&shape) else {
            return Err(Failure::unavailable("a statement is gone"));
        };
        prepared.used = self.uses;
        Ok(&prepared.statement)
    }

    /// The client keeps some 200 bytes for each parameter of a prepared statement.
    async fn make_room(&mut self, conn: &mut Conn, parameters: usize) {
        let kept = |statements: &HashMap<StatementShape, Prepared>| {
            statements.values().map(|p| usize::from(p.statement.num_params())).sum::<usize>()
        };
        while self.prepared.len() >= STATEMENTS_MAX
            || (!self.prepared.is_empty()
                && kept(&self.prepared) + parameters > self.parameters_max)
        {
            let oldest = self
                .prepared
                .iter()
                .min_by_key(|(_, prepared)| prepared.used)
                .map(|(shape, _)| shape.clone());
            if let Some(removed) = oldest.and_then(|shape| self.prepared.remove(&shape)) {
                let _ = conn.close(removed.statement).await;
            }
        }
    }
}

impl MySqlConnection {
    /// Does `action` to the rows of the group, by as few statements as fit.
    pub(super) async fn act(
        &mut self,
        action: Action,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let mut conn = self.conn.take()?;
        let written = self.statements.run(&mut conn, action, renderer, batch, group);
        let done = within(ANSWER_WAIT_MAX, SERVER, written).await?;
        self.conn.give_back(conn);
        done
    }
}

#[async_trait]
impl RowWriter for MySqlConnection {
    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.act(Action::Delete, renderer, batch, group).await?;
        self.act(Action::Upsert, renderer, batch, group).await
    }
}

/// How many of the rows one statement takes: the largest of [`ROWS`] that there are rows for and
/// that stays within the limits. Keys to delete may be fewer than the statement has room for.
fn rows_at_once(
    batch: &Batch,
    indices: &[u32],
    action: Action,
    columns: &[Column],
    bytes_max: usize,
) -> usize {
    let bytes = |rows: &[u32]| {
        rows.iter().map(|index| batch.change(*index).event.payload().len()).sum::<usize>()
    };
    let fits = |rows: usize| {
        rows * columns.len() <= PARAMETERS_MAX && bytes(&indices[..rows]) <= bytes_max
    };
    match action {
        Action::Delete => ROWS[0].min(indices.len()),
        Action::Upsert | Action::Insert => {
            ROWS.into_iter().find(|rows| *rows <= indices.len() && fits(*rows)).unwrap_or(1)
        }
    }
}

/// Repeats the last of the `rows` keys up to the next of [`ROWS`]: deleting a row twice does
/// nothing. Answers how many there are then.
fn repeat_last(values: &mut Vec<Wire>, rows: usize, columns: usize) -> usize {
    let room = ROWS.into_iter().rev().find(|room| *room >= rows).unwrap_or(rows);
    let last = values[values.len() - columns..].to_vec();
    values.extend(last.iter().cycle().take((room - rows) * columns).cloned());
    room
}

/// The statement that does `action` to so many rows.
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
