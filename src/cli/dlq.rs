//! `eds dlq`: the dead letters, and what a person does with them.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::DestinationArgs;
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
use crate::change::dead_letter::RejectKind;
use crate::change::value::rfc3339;
use crate::destination::KeptLetter;
use crate::help::HelpCode;
use crate::worker::letters::{LetterAccess, LetterError, LetterFilter, LetterUse, to_json};

#[derive(Args)]
pub struct Dlq {
    #[command(subcommand)]
    what: DlqTask,
}

#[derive(Subcommand)]
enum DlqTask {
    /// List the dead letters
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: JsonFlag,
    },
    /// Show one with its message
    Show {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: JsonFlag,
    },
    /// Apply them again, unless their rows have changed since
    Retry {
        #[command(flatten)]
        which: Which,
        /// Say which would be applied, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Wait at most this long for the running EDS to apply them
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::duration::parse)]
        wait: Duration,
        #[command(flatten)]
        output: JsonFlag,
    },
    /// Delete them for good
    Drop {
        #[command(flatten)]
        which: Which,
        /// Drop all that there are, superseded ones included
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: JsonFlag,
    },
    /// Write them with their messages, one JSON object per line
    Export {
        #[command(flatten)]
        which: Which,
        /// Write to this new file [default: standard output]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Which letters are meant.
#[derive(Args, Clone)]
struct Which {
    /// Only these, by their numbers [default: all but superseded ones]
    #[arg(value_name = "LETTER")]
    letters: Vec<u64>,
    /// Only those of this table
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Only those of this kind: malformed, unknown-schema, invalid-row, refused
    #[arg(long, value_name = "KIND")]
    kind: Option<RejectKind>,
    /// Only those with this text in their reason
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those of this consumer, where several write to the destination
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// Also those whose row a later change has written
    #[arg(long)]
    superseded: bool,
    #[command(flatten)]
    place: DestinationArgs,
}

impl Which {
    async fn open(&self, global: &Global, use_of: LetterUse) -> Result<LetterAccess, Exit> {
        let (settings, driver) = global.destination(&self.place)?;
        Ok(LetterAccess::open(&global.data_dir, &settings, driver, use_of).await?)
    }

    fn filter(&self) -> LetterFilter {
        LetterFilter {
            numbers: self.letters.clone(),
            table: self.table.clone(),
            kind: self.kind,
            reason: self.reason.clone(),
            consumer: self.consumer.clone(),
            with_superseded: self.superseded,
        }
    }

    /// The letters that are meant; it is an error where one that is named is not kept.
    async fn select(&self, access: &mut LetterAccess) -> Result<Vec<KeptLetter>, Exit> {
        let letters = access.select(&self.filter()).await?;
        let has_other = |letter: &KeptLetter| {
            let is_same = |l: &&KeptLetter| l.label.letter == letter.label.letter;
            self.letters.contains(&letter.label.letter)
                && letters.iter().filter(is_same).count() > 1
        };
        if letters.iter().any(has_other) {
            return Err(Exit::Usage(
                "several consumers have a letter of that number: say which with --consumer".into(),
            ));
        }
        let is_missing =
            |number: &&u64| !letters.iter().any(|letter| letter.label.letter == **number);
        match self.letters.iter().find(is_missing) {
            Some(number) => Err(Exit::failed(
                HelpCode::NotThere,
                format!("there is no dead letter {number}; `eds dlq list --superseded` shows all"),
            )),
            None => Ok(letters),
        }
    }
}

impl Dlq {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut printer = match &self.what {
            DlqTask::List { output, .. } => output.printer("dlq list"),
            DlqTask::Show { output, .. } => output.printer("dlq show"),
            DlqTask::Retry { output, .. } => output.printer("dlq retry"),
            DlqTask::Drop { output, .. } => output.printer("dlq drop"),
            // What it writes is one object per line already.
            DlqTask::Export { .. } => JsonFlag::default().printer("dlq export"),
        };
        let done = Box::pin(self.open_and_run(&global, &mut printer)).await;
        printer.end(done)
    }

    async fn open_and_run(self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        let (DlqTask::List { which, .. }
        | DlqTask::Show { which, .. }
        | DlqTask::Retry { which, .. }
        | DlqTask::Drop { which, .. }
        | DlqTask::Export { which, .. }) = &self.what;
        if matches!(self.what, DlqTask::Show { .. }) && which.letters.is_empty() {
            return Err(Exit::Usage("say which: eds dlq show LETTER".into()));
        }
        let use_of = match self.what {
            DlqTask::Retry { dry_run: false, .. } => LetterUse::Order,
            _ => LetterUse::Look,
        };
        let mut access = which.open(global, use_of).await?;
        let done = self.what.run(&mut access, printer).await;
        access.close().await;
        done
    }
}

impl DlqTask {
    async fn run(&self, access: &mut LetterAccess, printer: &mut Printer) -> Result<(), Exit> {
        match self {
            DlqTask::List { which, .. } => {
                list(&which.select(access).await?, printer);
                Ok(())
            }
            DlqTask::Show { which, .. } => show(which, access, printer).await,
            DlqTask::Retry { which, dry_run: true, .. } => rehearse(which, access, printer).await,
            DlqTask::Retry { which, wait, .. } => retry(which, access, *wait, printer).await,
            DlqTask::Drop { which, all, .. } => drop_letters(which, access, *all, printer).await,
            DlqTask::Export { which, output } => export(which, access, output.as_ref()).await,
        }
    }
}

fn list(letters: &[KeptLetter], printer: &mut Printer) {
    let Some(first) = letters.first() else {
        printer.line("There are no dead letters.");
        return;
    };
    let has_several = letters.iter().any(|letter| letter.consumer != first.consumer);
    let width = |of: fn(&KeptLetter) -> String, head: &str| {
        letters.iter().map(|l| of(l).chars().count()).max().unwrap_or(0).clamp(head.len(), 40)
    };
    let (table, key) = (width(table_of, "TABLE"), width(key_of, "KEY"));
    printer.line(format!(
        "LETTER  SINCE                 {:table$}  {:key$}  KIND            REASON",
        "TABLE", "KEY"
    ));
    for letter in letters {
        let label = &letter.label;
        let reason = match letter.superseded_by {
            Some(sequence) => format!("superseded by sequence {sequence}; {}", label.reason),
            None => label.reason.clone(),
        };
        let reason = match has_several {
            true => format!("[{}] {reason}", letter.consumer),
            false => reason,
        };
        let line = || {
            format!(
                "{:6}  {:20}  {:table$}  {:key$}  {:14}  {}",
                label.letter,
                since(letter),
                table_of(letter),
                key_of(letter),
                label.kind.as_str(),
                reason
            )
        };
        printer.row(|| to_json(letter, None), line);
    }
}

/// To the second.
fn since(letter: &KeptLetter) -> String {
    let at = rfc3339(letter.label.at_ms.saturating_mul(1000));
    at.chars().take(19).chain(['Z']).collect()
}

fn table_of(letter: &KeptLetter) -> String {
    match letter.label.table.as_str() {
        "" => "?".into(),
        table => table.into(),
    }
}

fn key_of(letter: &KeptLetter) -> String {
    match letter.label.key.as_str() {
        "" => "?".into(),
        key => key.chars().take(40).collect(),
    }
}

async fn show(which: &Which, access: &mut LetterAccess, printer: &mut Printer) -> Result<(), Exit> {
    for letter in which.select(access).await? {
        let payload = access.payload(&letter).await?.unwrap_or_default();
        let shown = to_json(&letter, Some(&payload));
        printer.row(|| shown.clone(), || fields(&shown));
    }
    Ok(())
}

/// A letter and its message, a line for each thing that is known.
fn fields(shown: &Value) -> String {
    let mut text = String::new();
    for (name, value) in shown.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::String(word) => text += &format!("{name:14} {word}\n"),
            value => text += &format!("{name:14} {value}\n"),
        }
    }
    text
}

/// What becomes of a letter that is retried.
fn tell_outcome(letter: u64, outcome: &str, printer: &mut Printer) {
    printer
        .row(|| json!({"letter": letter, "outcome": outcome}), || format!("{letter:6}  {outcome}"));
}

/// The letters that can be tried; of the others it is told why not.
async fn usable(
    which: &Which,
    access: &mut LetterAccess,
    printer: &mut Printer,
) -> Result<Vec<KeptLetter>, Exit> {
    let letters = which.select(access).await?;
    let (usable, useless): (Vec<_>, Vec<_>) =
        letters.into_iter().partition(|letter| letter.superseded_by.is_none());
    for letter in &useless {
        let by = letter.superseded_by.unwrap_or_default();
        let why = format!("not tried: a later change of its row was applied (sequence {by})");
        tell_outcome(letter.label.letter, &why, printer);
    }
    Ok(usable)
}

/// Says which would be tried.
async fn rehearse(
    which: &Which,
    access: &mut LetterAccess,
    printer: &mut Printer,
) -> Result<(), Exit> {
    for letter in usable(which, access, printer).await? {
        let would = if letter.label.may_be_tried() { "would" } else { "would not" };
        let outcome = format!("{would} be tried: {}", letter.label.reason);
        tell_outcome(letter.label.letter, &outcome, printer);
    }
    Ok(())
}

async fn retry(
    which: &Which,
    access: &mut LetterAccess,
    wait_max: Duration,
    printer: &mut Printer,
) -> Result<(), Exit> {
    let usable = usable(which, access, printer).await?;
    access.order(&usable)?;
    if usable.is_empty() {
        printer.line("There is nothing to retry.");
        return Ok(());
    }
    let Some(orders) = access.outcomes(&usable, wait_max).await? else {
        for letter in &usable {
            let number = letter.label.letter;
            printer.data(|| json!({"letter": number, "outcome": "ordered: EDS does not run"}));
        }
        let count = usable.len();
        printer.line(format!("EDS does not run; to be tried when it streams next: {count}"));
        return Ok(());
    };
    let mut applied = 0;
    for order in orders {
        let outcome = order.outcome.as_deref().unwrap_or("not tried yet; it stays ordered");
        applied += usize::from(outcome == "applied");
        tell_outcome(order.letter, outcome, printer);
    }
    match usable.len().saturating_sub(applied) {
        0 => Ok(()),
        left => Err(Exit::failed(
            HelpCode::LettersNotApplied,
            format!("{left} of {} letters were not applied", usable.len()),
        )),
    }
}

async fn drop_letters(
    which: &Which,
    access: &mut LetterAccess,
    all: bool,
    printer: &mut Printer,
) -> Result<(), Exit> {
    if which.filter().is_everything() && !all {
        return Err(Exit::Usage(
            "say which letters are to be dropped, or --all: they are gone for good".into(),
        ));
    }
    let which = Which { superseded: which.superseded || all, ..which.clone() };
    let letters = which.select(access).await?;
    access.drop_letters(&letters).await?;
    for letter in &letters {
        printer.data(|| json!({"letter": letter.label.letter, "outcome": "dropped"}));
    }
    printer.line(format!("Dropped: {}", letters.len()));
    Ok(())
}

async fn export(
    which: &Which,
    access: &mut LetterAccess,
    output: Option<&PathBuf>,
) -> Result<(), Exit> {
    let failed = |e: std::io::Error| {
        Exit::failed(HelpCode::FileUnwritable, format!("the export cannot be written: {e}"))
    };
    let mut out: Box<dyn Write> = match output {
        Some(path) => Box::new(
            crate::private::options().write(true).create_new(true).open(path).map_err(failed)?,
        ),
        None => Box::new(std::io::stdout().lock()),
    };
    let letters = which.select(access).await?;
    for letter in &letters {
        let Some(payload) = access.payload(letter).await? else { continue };
        writeln!(out, "{}", to_json(letter, Some(&payload))).map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    if std::io::stderr().is_terminal() || output.is_some() {
        eprintln!("Exported: {}", letters.len());
    }
    Ok(())
}

impl From<LetterError> for Exit {
    fn from(error: LetterError) -> Exit {
        match error {
            LetterError::Destination(failure) => Exit::from(crate::pipeline::Halt::from(failure)),
            LetterError::State(error) => error.into(),
        }
    }
}
