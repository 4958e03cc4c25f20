//! `eds why`: what EDS knows of one row.

#[cfg(feature = "jetstream")]
use std::path::PathBuf;

use clap::Args;

#[cfg(feature = "jetstream")]
use super::args::named_servers;
use super::args::{DestinationArgs, schemas_of};
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
use crate::help::HelpCode;
use crate::registry::Registry;
use crate::state::State;
#[cfg(feature = "jetstream")]
use crate::worker::nats_login::servers;
#[cfg(feature = "jetstream")]
use crate::worker::why::StreamQuestion;
use crate::worker::why::{
    RowQuestion, RowStory, StreamShare, StreamView, WhyError, is_applied, since_text, to_json,
    version, why,
};

#[derive(Args)]
pub struct Why {
    /// The row's table, as the source calls it
    table: String,
    /// The value of its primary key; of each column, where the key has several
    #[arg(required = true)]
    key: Vec<String>,
    #[command(flatten)]
    place: DestinationArgs,
    /// Read the tables' schemas from this file or URL [default: those that EDS has seen]
    #[arg(long, value_name = "FILE|URL")]
    schema: Option<String>,
    #[cfg(feature = "jetstream")]
    #[command(flatten)]
    nats: NatsArgs,
    /// Also show the row's values at the destination
    #[arg(long)]
    show_values: bool,
    #[command(flatten)]
    output: JsonFlag,
}

/// How NATS is asked what the stream still has.
#[cfg(feature = "jetstream")]
#[derive(Args)]
struct NatsArgs {
    /// Also ask these NATS servers what the stream still has of the row
    #[arg(long, value_name = "URL,…")]
    server: Option<String>,
    /// NATS credentials file; not needed for a server on this machine without logins
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// Trust these certificate authorities for NATS, in PEM form [default: the system's]
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
}

#[cfg(feature = "jetstream")]
impl NatsArgs {
    /// Nobody is asked unless somebody names the servers, or credentials for them.
    fn question(&self) -> Result<Option<StreamQuestion>, Exit> {
        let named = named_servers(self.server.as_deref())?;
        let is_asked = named.is_some() || self.creds.is_some();
        Ok(is_asked.then(|| StreamQuestion {
            servers: servers(named.as_deref(), None),
            creds: self.creds.clone(),
            nats_ca: self.nats_ca.clone(),
        }))
    }
}

impl Why {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut printer = self.output.printer("why");
        let done = Box::pin(self.answer(&global, &mut printer)).await;
        printer.end(done)
    }

    async fn answer(&self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        let (settings, driver) = global.destination(&self.place)?;
        let question = self.question().await?;
        let story = why(&global.data_dir, &settings, driver, &question).await?;
        #[cfg(feature = "jetstream")]
        let story = match self.nats.question()? {
            Some(stream) => RowStory { in_stream: Some(stream.ask(&question).await), ..story },
            None => story,
        };
        printer.data(|| to_json(&question, &story, self.show_values));
        self.tell(&story, printer);
        Ok(())
    }

    async fn question(&self) -> Result<RowQuestion, Exit> {
        let mut schema = None;
        if let Some(place) = &self.schema {
            let mut registry = Registry::new(schemas_of(place)?, State::in_memory()?);
            let all = registry.current().await.map_err(Exit::Failed)?;
            schema = all.into_iter().find(|schema| *schema.table == *self.table);
            if schema.is_none() {
                let text = format!("{place} has no schema of table {:?}", self.table);
                return Err(Exit::usage(HelpCode::NotThere, text));
            }
        }
        Ok(RowQuestion { table: self.table.clone(), key: self.key.clone(), schema })
    }

    fn tell(&self, story: &RowStory, printer: &mut Printer) {
        match (&story.not_read, &story.row) {
            (Some(why), _) => printer.line(format!("destination    {why}")),
            (None, None) => printer.line("destination    it is not there"),
            (None, Some(row)) => {
                printer.line("destination    it is there");
                for (name, value) in row.iter().filter(|_| self.show_values) {
                    printer.line(format!("  {name} = {}", value.as_deref().unwrap_or("NULL")));
                }
            }
        }
        if story.streams.is_empty() {
            printer.line("stream         nothing has streamed into the destination yet");
        }
        story.streams.iter().for_each(|view| tell_stream(view, printer));
        match &story.in_stream {
            None => {}
            Some(Ok(StreamShare { messages: 0, .. })) => {
                printer.line("in the stream  no message of the row any more");
            }
            Some(Ok(StreamShare { messages, first, last })) => printer.line(format!(
                "in the stream  {messages} messages of the row, from sequence {first} to {last}"
            )),
            Some(Err(why)) => printer.line(format!("in the stream  not known: {why}")),
        }
        if story.letters.is_empty() {
            printer.line("dead letters   none");
        }
        for letter in &story.letters {
            let label = &letter.label;
            let state = match letter.superseded_by {
                Some(sequence) => format!(", superseded by sequence {sequence}"),
                None => String::new(),
            };
            printer.line(format!(
                "dead letter    {} (sequence {}{state}): {}",
                label.letter,
                label.sequence,
                label.kind.help().tag(&label.reason)
            ));
        }
    }
}

fn tell_stream(view: &StreamView, printer: &mut Printer) {
    let consumer = &view.stream.consumer;
    match view.stream.position {
        Some(position) => {
            printer.line(format!("stream         {consumer}: sequence {}", position.sequence));
        }
        None => printer.line(format!("stream         {consumer}: nothing applied yet")),
    }
    let last = match view.last {
        None => format!("not among the {} changes that EDS remembers", view.remembered),
        Some(last) => format!(
            "{} at sequence {}{}, {}",
            if last.is_delete { "deleted" } else { "written" },
            last.sequence,
            version(last).map(|at| format!(", source time {at}")).unwrap_or_default(),
            if is_applied(view, last) { "applied" } else { "not applied yet" }
        ),
    };
    printer.line(format!("last change    {last}"));
    if let Some((since, reason, waiting)) = &view.held {
        printer.line(format!(
            "held           the table waits since {}: {waiting} changes of the row; {reason}",
            since_text(*since)
        ));
    }
}

impl From<WhyError> for Exit {
    fn from(error: WhyError) -> Exit {
        match error {
            WhyError::Refused(text) => Exit::Usage(text),
            WhyError::Access(error) => error.into(),
        }
    }
}
