//! A whole batch in one exchange: BEGIN, the rows, the checkpoint and COMMIT are sent at once, and
//! their answers are awaited later. How far away the server is does not count, then, and it is
//! never idle while the next batch is made ready.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all, poll_fn};
use futures::{FutureExt, SinkExt, poll};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::encode::BoundValue;
use super::failure::{failure, failure_of_commit};
use super::rows::{CopiedRows, RowParameters, RowStatement};
use super::{PostgresConnection, StatementKey};
use crate::change::Batch;
use crate::destination::Failure;
use crate::destination::sql::connection::fence_lost;
use crate::destination::sql::render::{Namespace, Renderer};
use crate::destination::sql::{Fence, Parameter};

/// How often the round trip is measured; the shortest counts.
const ROUND_TRIPS: u32 = 3;
/// What the fence raises where the checkpoint is not as this process left it: a division by zero.
const FENCE_RAISED: &str = "22012";

/// A request that was sent.
enum Sent<'f, T> {
    Answered(T),
    Waiting(BoxFuture<'f, T>),
}

impl<'f, T> Sent<'f, T> {
    /// Sends the request: a future of the client does so when it is polled first.
    async fn new(request: impl Future<Output = T> + Send + 'f) -> Sent<'f, T> {
        let mut request: BoxFuture<'f, T> = Box::pin(request);
        match poll!(&mut request) {
            Poll::Ready(answer) => Sent::Answered(answer),
            Poll::Pending => Sent::Waiting(request),
        }
    }

    /// Waits for the answer, and keeps it.
    async fn settle(&mut self) {
        if let Sent::Waiting(request) = self {
            *self = Sent::Answered(request.await);
        }
    }

    async fn answer(self) -> T {
        match self {
            Sent::Answered(answer) => answer,
            Sent::Waiting(request) => request.await,
        }
    }
}

/// The answer to a request that writes rows of a table.
type RowsAnswer = Result<(), Failure>;

/// How long an exchange with the server takes.
pub async fn round_trip(client: &Client) -> Result<Duration, Failure> {
    let mut shortest = Duration::MAX;
    for _ in 0..ROUND_TRIPS {
        let asked = Instant::now();
        client.batch_execute("").await.map_err(|e| failure(&e))?;
        shortest = shortest.min(asked.elapsed());
    }
    Ok(shortest)
}

/// Batches that are under way, the oldest first.
#[derive(Default)]
pub struct Flights(VecDeque<Flight>);

enum Flight {
    Flying(BoxFuture<'static, Result<(), Failure>>),
    Landed(Result<(), Failure>),
}

impl Flight {
    /// Whether the answer is there.
    fn poll_landed(&mut self, context: &mut Context<'_>) -> bool {
        if let Flight::Flying(flying) = self
            && let Poll::Ready(landed) = flying.poll_unpin(context)
        {
            *self = Flight::Landed(landed);
        }
        matches!(self, Flight::Landed(_))
    }
}

impl Flights {
    /// Waits until `flying` has sent everything, which `is_sent` says. Those before it go on
    /// meanwhile: what they have not sent yet comes first.
    async fn launch(
        &mut self,
        flying: BoxFuture<'static, Result<(), Failure>>,
        is_sent: &AtomicBool,
    ) {
        self.0.push_back(Flight::Flying(flying));
        poll_fn(|context| {
            let landed = self.0.iter_mut().fold(true, |_, flight| flight.poll_landed(context));
            match landed || is_sent.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Waits for the answer to the oldest. May be dropped: no answer is lost.
    pub(super) async fn land(&mut self) -> Result<(), Failure> {
        poll_fn(|context| {
            let is_landed = |flight: &mut Flight| flight.poll_landed(context);
            match self.0.front_mut().is_none_or(is_landed) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        match self.0.pop_front() {
            Some(Flight::Landed(landed)) => landed,
            Some(Flight::Flying(_)) | None => Err(Failure::unavailable("no batch is under way")),
        }
    }
}

/// A prepared batch: everything that has to be sent.
struct Cargo {
    client: Arc<Client>,
    renderer: Renderer,
    batch: Arc<Batch>,
    steps: Vec<SendStep>,
    fence: Statement,
    fence_parameters: [Parameter; 5],
}

/// What is sent for rows of one group.
pub(super) enum SendStep {
    /// A statement with parameters, prepared.
    Rows(RowStatement, Statement),
    /// COPY into a temporary table, and the upsert from there, both prepared.
    Copy(CopiedRows, [Statement; 2]),
}

impl PostgresConnection {
    /// Sends the batch, once its statements are prepared.
    pub(super) async fn launch_batch(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        fence: &Fence,
    ) -> Result<(), Failure> {
        let mut steps = Vec::new();
        for group in 0..batch.groups.len() {
            steps.extend(self.steps_of(renderer, batch, group));
        }
        let raising = StatementKey::own(raising(fence), &fence.parameters);
        let steps = self.all_prepared(batch, steps, Some(&raising)).await?;
        let cargo = Cargo {
            client: self.client.clone(),
            renderer: renderer.clone(),
            batch: batch.clone(),
            steps,
            fence: self.prepared(raising).await?,
            fence_parameters: fence.parameters.clone(),
        };
        let is_sent = Arc::new(AtomicBool::new(false));
        let flying = cargo.fly(is_sent.clone());
        self.flights.launch(Box::pin(flying), &is_sent).await;
        Ok(())
    }

    /// Writes the group within a transaction, in one exchange once its statements are prepared.
    pub(super) async fn write_group(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: usize,
    ) -> Result<(), Failure> {
        let steps = self.steps_of(renderer, batch, group);
        let steps = self.all_prepared(batch, steps, None).await?;
        let encoded = encoded_of(renderer, batch, &steps)?;
        let answers = send_all(&self.client, encoded).await;
        all_answered(answers).await
    }

    /// The statements of `steps`; those that are not prepared yet are, and the fence with them, in
    /// one exchange.
    async fn all_prepared(
        &mut self,
        batch: &Batch,
        steps: Vec<UnpreparedStep>,
        fence: Option<&StatementKey>,
    ) -> Result<Vec<SendStep>, Failure> {
        let mut missing: Vec<(&StatementKey, Option<&str>)> = Vec::new();
        let keys =
            steps.iter().flat_map(|step| step.keys().map(|key| (key, Some(step.table(batch)))));
        for (key, table) in keys.chain(fence.map(|key| (key, None))) {
            if !self.statements.contains(key) && missing.iter().all(|(known, _)| *known != key) {
                missing.push((key, table));
            }
        }
        let client = &self.client;
        let prepared =
            join_all(missing.iter().map(|(k, _)| client.prepare_typed(&k.sql, &k.types)));
        for ((key, table), statement) in missing.iter().zip(prepared.await) {
            let statement = statement.map_err(|e| match table {
                Some(table) => failure(&e).of_table(table),
                None => failure(&e),
            })?;
            self.statements.put((*key).clone(), statement);
        }
        let mut all = Vec::with_capacity(steps.len());
        for step in steps {
            // One that was dropped because there are so many is prepared once more.
            all.push(match step {
                UnpreparedStep::Rows(rows) => {
                    let statement = self.prepared(rows.key.clone()).await?;
                    SendStep::Rows(rows, statement)
                }
                UnpreparedStep::Copy(rows) => {
                    let copy = self.prepared(rows.copy.clone()).await?;
                    let upsert = self.prepared(rows.upsert.clone()).await?;
                    SendStep::Copy(rows, [copy, upsert])
                }
            });
        }
        Ok(all)
    }
}

/// The same as [`SendStep`], before its statements are prepared.
pub(super) enum UnpreparedStep {
    Rows(RowStatement),
    Copy(CopiedRows),
}

impl UnpreparedStep {
    fn keys(&self) -> impl Iterator<Item = &StatementKey> {
        let (first, second) = match self {
            UnpreparedStep::Rows(rows) => (&rows.key, None),
            UnpreparedStep::Copy(rows) => (&rows.copy, Some(&rows.upsert)),
        };
        std::iter::once(first).chain(second)
    }

    fn table<'b>(&self, batch: &'b Batch) -> &'b str {
        let group = match self {
            UnpreparedStep::Rows(rows) => rows.group,
            UnpreparedStep::Copy(rows) => rows.group,
        };
        &batch.groups[group].schema.table
    }
}

impl Cargo {
    /// Sends everything, says so, and waits for the answers.
    async fn fly(self, is_sent: Arc<AtomicBool>) -> Result<(), Failure> {
        let Cargo { client, renderer, batch, steps, fence, fence_parameters } = &self;
        let encoded = encoded_of(renderer, batch, steps)?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            fence_parameters.iter().map(Parameter::to_wire).collect();
        let begin = marked(renderer.dialect.begin);
        let begun = Sent::new(client.batch_execute(&begin)).await;
        let written = send_all(client, encoded).await;
        let advanced = Sent::new(client.query(fence, &parameters)).await;
        // What could not be sent must not be left out.
        let is_whole = !matches!(advanced, Sent::Answered(Err(_)))
            && written.iter().all(|sent| !matches!(sent, Sent::Answered(Err(_))));
        let end = if is_whole { "COMMIT" } else { "ROLLBACK" };
        let ended = Sent::new(client.batch_execute(end)).await;
        is_sent.store(true, Ordering::Release);
        // COMMIT rolls back where a statement before it failed. Only the rows are the table's: a
        // lock on the checkpoint is none of its own.
        begun.answer().await.map_err(|e| failure(&e))?;
        all_answered(written).await?;
        match advanced.answer().await {
            Err(e) if e.code().is_some_and(|code| code.code() == FENCE_RAISED) => {
                return Err(fence_lost());
            }
            done => done.map_err(|e| failure(&e))?,
        };
        let namespace: &Namespace = &renderer.namespace;
        ended.answer().await.map_err(|e| failure_of_commit(&e, namespace))
    }
}

/// What a step sends.
struct EncodedStep<'f> {
    table: &'f Arc<str>,
    contents: EncodedRows<'f>,
}

enum EncodedRows<'f> {
    Rows(&'f Statement, RowParameters<'f>),
    Copy(&'f [Statement; 2], Vec<Bytes>),
}

/// Encodes the rows. Nothing is sent where one of them cannot be.
fn encoded_of<'f>(
    renderer: &Renderer,
    batch: &'f Batch,
    steps: &'f [SendStep],
) -> Result<Vec<EncodedStep<'f>>, Failure> {
    let encode = |step: &'f SendStep| {
        let (group, contents) = match step {
            SendStep::Rows(rows, statement) => {
                let parameters = rows.parameters(renderer, batch)?;
                (rows.group, EncodedRows::Rows(statement, parameters))
            }
            SendStep::Copy(rows, statements) => {
                (rows.group, EncodedRows::Copy(statements, rows.encoded(renderer, batch)?))
            }
        };
        Ok(EncodedStep { table: &batch.groups[group].schema.table, contents })
    };
    steps.iter().map(encode).collect()
}

/// Sends the rows, in order.
async fn send_all<'f>(
    client: &'f Client,
    encoded: Vec<EncodedStep<'f>>,
) -> Vec<Sent<'f, RowsAnswer>> {
    let mut sent = Vec::new();
    for EncodedStep { table, contents } in encoded {
        let of_table = |e: tokio_postgres::Error| failure(&e).of_table(table);
        match contents {
            EncodedRows::Rows(statement, parameters) => {
                for request in requests(client, statement, parameters) {
                    let request = request.map(move |done| done.map(drop).map_err(of_table));
                    sent.push(Sent::new(request).await);
                }
            }
            EncodedRows::Copy([copy, upsert], chunks) => {
                // COPY waits for what comes before it anyway. In a transaction that has failed it
                // must not be asked for: the client would take answers for those of others.
                for request in &mut sent {
                    request.settle().await;
                }
                if sent.iter().any(|sent| matches!(sent, Sent::Answered(Err(_)))) {
                    return sent;
                }
                match copy_in(client, copy, chunks).await {
                    Ok(finished) => {
                        let finished = finished.map(move |done| done.map_err(of_table));
                        sent.push(Sent::new(finished).await);
                    }
                    // No row is the reason, and answers may be mixed up: the connection is given
                    // up.
                    Err(e) => {
                        let failure = Failure::unavailable(of_table(e).text);
                        sent.push(Sent::Answered(Err(failure)));
                        return sent;
                    }
                }
                let upserted = async move { client.execute(upsert, &[]).await };
                let upserted = upserted.map(move |done| done.map(drop).map_err(of_table));
                sent.push(Sent::new(upserted).await);
            }
        }
    }
    sent
}

/// Sends the chunks; what is returned ends the COPY and waits for its answer.
async fn copy_in(
    client: &Client,
    copy: &Statement,
    chunks: Vec<Bytes>,
) -> Result<BoxFuture<'static, Result<(), tokio_postgres::Error>>, tokio_postgres::Error> {
    let mut sink = Box::pin(client.copy_in::<_, Bytes>(copy).await?);
    for chunk in chunks {
        sink.feed(chunk).await?;
    }
    // All of it is on its way before the end is: that goes then when it is asked for once.
    sink.flush().await?;
    Ok(Box::pin(async move { sink.as_mut().finish().await.map(drop) }))
}

/// Awaits the answers, all of them: a COPY goes on only while it is waited for. What follows the
/// statement that failed fails, too, and says nothing.
async fn all_answered(sent: Vec<Sent<'_, RowsAnswer>>) -> Result<(), Failure> {
    join_all(sent.into_iter().map(Sent::answer)).await.into_iter().collect()
}

/// A request that answers how many rows were written.
type RowsRequest<'f> = BoxFuture<'f, Result<u64, tokio_postgres::Error>>;

/// The requests of a statement, none of them sent yet.
fn requests<'f>(
    client: &'f Client,
    statement: &'f Statement,
    parameters: RowParameters<'f>,
) -> Vec<RowsRequest<'f>> {
    match parameters {
        RowParameters::Each(rows) => {
            let of_row = |row: Vec<BoundValue<'f>>| -> RowsRequest<'f> {
                Box::pin(async move { client.execute_raw(statement, row).await })
            };
            rows.into_iter().map(of_row).collect()
        }
        RowParameters::Arrays(columns) => {
            vec![Box::pin(async move { client.execute_raw(statement, columns).await })]
        }
    }
}

/// What begins the transaction, and marks it: where BEGIN fails, what was sent behind it would be
/// committed statement by statement.
fn marked(begin: &str) -> String {
    format!("{begin}; SELECT set_config('eds.flight', 'begun', true)")
}

/// The fence as a statement that fails where it changes nothing or the transaction is not
/// [`marked`], and the transaction with it.
fn raising(fence: &Fence) -> String {
    format!(
        "WITH moved AS ({} AND current_setting('eds.flight', true) = 'begun' RETURNING 1) \
         SELECT 1 / count(*) FROM moved",
        fence.sql
    )
}
