//! `eds dlq`: the dead letters, and what a person does with them.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::DestinationArgs;
use super::exit::Exit;
use super::{Global, logging};
use crate::change::dead_letter::RejectKind;
use crate::change::value::rfc3339;
#[cfg(feature = "http")]
use crate::config::Config;
use crate::destination::KeptLetter;
use crate::worker::letters::{LetterAccess, LetterError, LetterFilter, to_json};

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
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show one with its message
    Show {
        #[command(flatten)]
        which: Which,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
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
    },
    /// Delete them for good
    Drop {
        #[command(flatten)]
        which: Which,
        /// Drop all that there are, superseded ones included
        #[arg(long)]
        all: bool,
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
    async fn open(&self, global: &Global) -> Result<LetterAccess, Exit> {
        #[cfg(feature = "http")]
        let config = Config::read(&global.data_dir)?;
        #[cfg(feature = "http")]
        let configured = config.url();
        #[cfg(not(feature = "http"))]
        let configured = None;
        let (settings, driver) = self.place.destination(configured)?;
        Ok(LetterAccess::open(&global.data_dir, &settings, driver).await?)
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
            Some(number) => Err(Exit::Failed(format!(
                "there is no dead letter {number}; `eds dlq list --superseded` shows all"
            ))),
            None => Ok(letters),
        }
    }
}

impl Dlq {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let (DlqTask::List { which, .. }
        | DlqTask::Show { which, .. }
        | DlqTask::Retry { which, .. }
        | DlqTask::Drop { which, .. }
        | DlqTask::Export { which, .. }) = &self.what;
        let mut access = which.open(&global).await?;
        let done = self.what.run(&mut access).await;
        access.close().await;
        done
    }
}

impl DlqTask {
    async fn run(&self, access: &mut LetterAccess) -> Result<(), Exit> {
        match self {
            DlqTask::List { which, json } => {
                let letters = which.select(access).await?;
                match json {
                    true => letters.iter().for_each(|letter| println!("{}", to_json(letter, None))),
                    false => list(&letters),
                }
                Ok(())
            }
            DlqTask::Show { which, json } => show(which, access, *json).await,
            DlqTask::Retry { which, dry_run, wait } => retry(which, access, *dry_run, *wait).await,
            DlqTask::Drop { which, all } => drop_letters(which, access, *all).await,
            DlqTask::Export { which, output } => export(which, access, output.as_ref()).await,
        }
    }
}

fn list(letters: &[KeptLetter]) {
    let Some(first) = letters.first() else {
        println!("There are no dead letters.");
        return;
    };
    let has_several = letters.iter().any(|letter| letter.consumer != first.consumer);
    let width = |of: fn(&KeptLetter) -> String, head: &str| {
        letters.iter().map(|l| of(l).chars().count()).max().unwrap_or(0).clamp(head.len(), 40)
    };
    let (table, key) = (width(table_of, "TABLE"), width(key_of, "KEY"));
    println!(
        "LETTER  SINCE                 {:table$}  {:key$}  KIND            REASON",
        "TABLE", "KEY"
    );
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
        println!(
            "{:6}  {:20}  {:table$}  {:key$}  {:14}  {}",
            label.letter,
            since(letter),
            table_of(letter),
            key_of(letter),
            label.kind.as_str(),
            reason
        );
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

async fn show(which: &Which, access: &mut LetterAccess, json: bool) -> Result<(), Exit> {
    if which.letters.is_empty() {
        return Err(Exit::Usage("say which: eds dlq show LETTER".into()));
    }
    for letter in which.select(access).await? {
        let payload = access.payload(&letter).await?.unwrap_or_default();
        let shown = to_json(&letter, Some(&payload));
        if json {
            println!("{shown}");
            continue;
        }
        for (name, value) in shown.as_object().into_iter().flatten() {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::String(text) => println!("{name:14} {text}"),
                value => println!("{name:14} {value}"),
            }
        }
        println!();
    }
    Ok(())
}

async fn retry(
    which: &Which,
    access: &mut LetterAccess,
    dry_run: bool,
    wait_max: Duration,
) -> Result<(), Exit> {
    let letters = which.select(access).await?;
    let (usable, useless): (Vec<_>, Vec<_>) =
        letters.into_iter().partition(|letter| letter.superseded_by.is_none());
    for letter in &useless {
        println!(
            "{:6}  not tried: a later change of its row was applied (sequence {})",
            letter.label.letter,
            letter.superseded_by.unwrap_or_default()
        );
    }
    if dry_run {
        for letter in &usable {
            let would = if letter.label.may_be_tried() { "would" } else { "would not" };
            println!("{:6}  {would} be tried: {}", letter.label.letter, letter.label.reason);
        }
        return Ok(());
    }
    access.order(&usable)?;
    if usable.is_empty() {
        println!("There is nothing to retry.");
        return Ok(());
    }
    let Some(orders) = access.outcomes(&usable, wait_max).await? else {
        println!("EDS does not run; to be tried when it streams next: {}", usable.len());
        return Ok(());
    };
    let mut applied = 0;
    for order in orders {
        let outcome = order.outcome.as_deref().unwrap_or("not tried yet; it stays ordered");
        applied += usize::from(outcome == "applied");
        println!("{:6}  {outcome}", order.letter);
    }
    match usable.len().saturating_sub(applied) {
        0 => Ok(()),
        left => Err(Exit::Failed(format!("{left} of {} letters were not applied", usable.len()))),
    }
}

async fn drop_letters(which: &Which, access: &mut LetterAccess, all: bool) -> Result<(), Exit> {
    if which.filter().is_everything() && !all {
        return Err(Exit::Usage(
            "say which letters are to be dropped, or --all: they are gone for good".into(),
        ));
    }
    let which = Which { superseded: which.superseded || all, ..which.clone() };
    let letters = which.select(access).await?;
    access.drop_letters(&letters).await?;
    println!("Dropped: {}", letters.len());
    Ok(())
}

async fn export(
    which: &Which,
    access: &mut LetterAccess,
    output: Option<&PathBuf>,
) -> Result<(), Exit> {
    let failed = |e: std::io::Error| Exit::Failed(format!("the export cannot be written: {e}"));
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
            LetterError::State(error) => Exit::Failed(error.to_string()),
        }
    }
}
