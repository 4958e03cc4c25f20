//! What a person does with dead letters, wherever they are kept: look, retry, drop, export.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::change::dead_letter::{LetterLabel, RejectKind};
use crate::change::value::rfc3339;
use crate::destination::{
    Access, CheckpointIn, Destination, Driver, Failure, KeptLetter, LetterBox, Settings, Target,
};
use crate::pipeline::state_letters::StateLetters;
use crate::state::letters::LetterOrder;
use crate::state::{Lock, LockError, State, StateError};

/// Between two looks for what came of orders.
const OUTCOME_INTERVAL: Duration = Duration::from_millis(100);
/// A process that streams has carried out the first orders after so long.
const PICK_UP_WAIT: Duration = Duration::from_millis(1_500);

/// Which letters are meant. What is empty or `None` chooses none away.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter {
    /// These numbers.
    pub numbers: Vec<u64>,
    /// Of this table.
    pub table: Option<String>,
    /// Of this kind.
    pub kind: Option<RejectKind>,
    /// With this text in the reason.
    pub reason: Option<String>,
    /// Of this consumer.
    pub consumer: Option<String>,
    /// Also those that a later change has superseded.
    pub with_superseded: bool,
}

impl LetterFilter {
    /// Whether every letter is meant that is of use.
    pub fn is_everything(&self) -> bool {
        self.numbers.is_empty()
            && self.table.is_none()
            && self.kind.is_none()
            && self.reason.is_none()
            && self.consumer.is_none()
    }

    fn takes(&self, kept: &KeptLetter) -> bool {
        let label = &kept.label;
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
        let is_named = self.numbers.contains(&label.letter);
        (self.numbers.is_empty() || is_named)
            && is(&self.table, &label.table)
            && is(&self.consumer, &kept.consumer)
            && self.kind.is_none_or(|kind| kind == label.kind)
            && self.reason.as_deref().is_none_or(|part| label.reason.contains(part))
            && (self.with_superseded || is_named || kept.superseded_by.is_none())
    }
}

/// Why letters cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// The destination does not let them be read or changed.
    #[error(transparent)]
    Destination(#[from] Failure),
    /// The state file does not.
    #[error(transparent)]
    State(#[from] StateError),
}

enum LetterKeeper {
    Destination(Box<dyn Destination>),
    State(StateLetters),
}

/// Who wants to have the letters, and so what may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LetterUse {
    /// A person who looks: nothing is made, and a destination that is not there is an error.
    Look,
    /// A person who orders them to be tried again, which the state file keeps: it is made.
    Order,
    /// A server of whose destination there may be nothing yet.
    Serve,
}

/// The dead letters of a destination, and the orders of a data directory.
pub struct LetterAccess {
    keeper: LetterKeeper,
    state: State,
    data_dir: PathBuf,
}

impl LetterAccess {
    /// Opens the state file, and the destination where that keeps letters.
    pub async fn open(
        data_dir: &Path,
        settings: &Settings,
        driver: &'static Driver,
        use_of: LetterUse,
    ) -> Result<LetterAccess, LetterError> {
        let (file, access) = match use_of {
            LetterUse::Look => (State::open_if_there(data_dir)?, Access::AsItIs),
            LetterUse::Order => (State::open(data_dir)?, Access::AsItIs),
            LetterUse::Serve => (State::open(data_dir)?, Access::Rehearse),
        };
        let (place, kept_in) = (settings.place(), (driver.abilities)(settings).checkpoint_in);
        // A URL with other brokers may lead to a destination that is known; only that can say so.
        let is_new = kept_in == CheckpointIn::StateFile && !file.has_met(&place)?;
        let identity = if is_new { driver.identity(settings, access).await? } else { None };
        let state = file.of_destination(&place, identity.as_deref())?;
        let keeper = match kept_in {
            CheckpointIn::StateFile => LetterKeeper::State(StateLetters::new(state.clone())),
            CheckpointIn::Destination => {
                let target = Target { access, ..Target::unclaimed(settings) };
                LetterKeeper::Destination((driver.open)(&target).await?)
            }
        };
        Ok(LetterAccess { keeper, state, data_dir: data_dir.to_owned() })
    }

    fn letter_box(&mut self) -> Result<&mut dyn LetterBox, Failure> {
        match &mut self.keeper {
            LetterKeeper::State(letters) => Ok(letters),
            LetterKeeper::Destination(destination) => destination
                .letter_box()
                .ok_or_else(|| Failure::misconfigured("this destination keeps no dead letters")),
        }
    }

    /// The letters that are meant, by consumer and number.
    pub async fn select(&mut self, filter: &LetterFilter) -> Result<Vec<KeptLetter>, LetterError> {
        let all = self.letter_box()?.letters().await?;
        Ok(all.into_iter().filter(|letter| filter.takes(letter)).collect())
    }

    /// The message of a letter; `None` where it is not kept any more.
    pub async fn payload(&mut self, letter: &KeptLetter) -> Result<Option<Bytes>, LetterError> {
        let found = self.letter_box()?.letter(&letter.consumer, letter.label.letter).await?;
        Ok(found.map(|(_, payload)| payload))
    }

    /// Removes letters for good.
    pub async fn drop_letters(&mut self, letters: &[KeptLetter]) -> Result<(), LetterError> {
        let kept = self.letter_box()?;
        for letter in letters {
            kept.drop_letters(&letter.consumer, &[letter.label.letter]).await?;
        }
        Ok(())
    }

    /// The letters are to be tried again by the process that streams.
    pub fn order(&self, letters: &[KeptLetter]) -> Result<(), LetterError> {
        for letter in letters {
            let LetterLabel { letter: number, sequence, .. } = letter.label;
            self.state.order_letters(&letter.consumer, &[(number, sequence)])?;
        }
        Ok(())
    }

    /// Whether a process streams with this data directory now.
    fn is_streaming(&self) -> bool {
        matches!(Lock::take(&self.data_dir), Err(LockError::InUse { .. }))
    }

    /// What came of the orders of these letters, once something came of each or `wait_max` is over.
    /// `None` where no process is there to carry them out.
    pub async fn outcomes(
        &self,
        letters: &[KeptLetter],
        wait_max: Duration,
    ) -> Result<Option<Vec<LetterOrder>>, LetterError> {
        let begun = Instant::now();
        let mut is_there = false;
        loop {
            let mut orders = self.state.letter_orders()?;
            orders.retain(|order| {
                letters.iter().any(|letter| {
                    (letter.label.letter, &letter.consumer) == (order.letter, &order.consumer)
                })
            });
            let is_over = orders.iter().all(|order| order.outcome.is_some());
            if is_over || begun.elapsed() >= wait_max {
                for order in orders.iter().filter(|order| order.outcome.is_some()) {
                    self.state.forget_letter_order(&order.consumer, order.letter)?;
                }
                return Ok(Some(orders));
            }
            // Looking takes the lock for a moment, which must not get in the way of a start.
            if !is_there && begun.elapsed() >= PICK_UP_WAIT {
                is_there =
                    orders.iter().any(|order| order.outcome.is_some()) || self.is_streaming();
                if !is_there {
                    return Ok(None);
                }
            }
            sleep(OUTCOME_INTERVAL).await;
        }
    }

    /// Ends the connection.
    pub async fn close(self) {
        if let LetterKeeper::Destination(destination) = self.keeper {
            // Nothing is left to be lost.
            let _ = destination.close().await;
        }
    }
}

/// A letter as JSON; with its message, where that is given.
pub fn to_json(letter: &KeptLetter, payload: Option<&[u8]>) -> Value {
    let LetterLabel { table, key, kind, reason, subject, .. } = &letter.label;
    let label = &letter.label;
    let mut shown = json!({
        "letter": label.letter,
        "consumer": letter.consumer,
        "table": known(table),
        "key": known(key).map(|key| {
            serde_json::from_str(key).unwrap_or_else(|_| Value::String(key.to_owned()))
        }),
        "model_version": known(&label.model_version),
        "kind": kind.as_str(),
        "reason": reason,
        "subject": subject,
        "sequence": label.sequence,
        "published_at": published_at(label),
        "dead_since": rfc3339(label.at_ms.saturating_mul(1000)),
        "bytes": label.bytes,
        "superseded_by": letter.superseded_by,
    });
    match payload.map(std::str::from_utf8) {
        Some(Ok(text)) => shown["payload"] = text.into(),
        Some(Err(_)) => {
            shown["payload_base64"] = BASE64.encode(payload.unwrap_or_default()).into();
        }
        None => {}
    }
    shown
}

/// What the message tells; `None` where it does not.
fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// When the event was published; `None` where the feed does not tell.
fn published_at(label: &LetterLabel) -> Option<String> {
    (label.time_ns > 0).then(|| rfc3339(label.time_ns / 1000))
}
