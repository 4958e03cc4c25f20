//! What the status page does with dead letters, wherever they are kept.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use secrecy::SecretString;

use super::letters::{LetterAccess, LetterFilter, LetterUse};
use crate::destination::{Driver, Settings};
use crate::status::desk::{Desk, LETTERS_SHOWN_MAX, PageAction, ShownLetter};

/// The dead letters of a destination, the latest first.
pub async fn shown_letters(
    data_dir: &Path,
    settings: &Settings,
    driver: &'static Driver,
) -> Result<Vec<ShownLetter>, String> {
    let mut access = open(data_dir, settings, driver).await?;
    let all = access.select(&LetterFilter::default()).await.map_err(|e| e.to_string());
    access.close().await;
    let mut all = all?;
    all.sort_by_key(|kept| std::cmp::Reverse((kept.label.at_ms, kept.label.letter)));
    all.truncate(LETTERS_SHOWN_MAX);
    let shown = |kept: crate::destination::KeptLetter| ShownLetter {
        consumer: kept.consumer,
        letter: kept.label.letter,
        table: kept.label.table,
        kind: kept.label.kind.as_str(),
        reason: kept.label.reason.lines().next().unwrap_or_default().to_owned(),
        since_unix: u64::try_from(kept.label.at_ms / 1_000).unwrap_or(0),
    };
    Ok(all.into_iter().map(shown).collect())
}

/// Orders the letter to be tried again by the process that streams.
pub async fn order_letter(
    data_dir: &Path,
    settings: &Settings,
    driver: &'static Driver,
    (consumer, letter): (String, u64),
) -> Result<String, String> {
    let mut access = open(data_dir, settings, driver).await?;
    let filter =
        LetterFilter { numbers: vec![letter], consumer: Some(consumer), ..LetterFilter::default() };
    let found = access.select(&filter).await.map_err(|e| e.to_string());
    let ordered = found.and_then(|found| match found.is_empty() {
        true => Err(format!("dead letter {letter} is not there any more")),
        false => access.order(&found).map_err(|e| e.to_string()),
    });
    access.close().await;
    ordered.map(|()| format!("dead letter {letter} is tried again"))
}

async fn open(
    data_dir: &Path,
    settings: &Settings,
    driver: &'static Driver,
) -> Result<LetterAccess, String> {
    let access = LetterAccess::open(data_dir, settings, driver, LetterUse::Serve).await;
    access.map_err(|e| e.to_string())
}

/// The desk of a process that streams by itself: it can retry dead letters.
pub struct StreamDesk {
    /// Where the orders are kept.
    pub data_dir: PathBuf,
    /// The destination.
    pub destination: Settings,
    /// What opens it.
    pub driver: &'static Driver,
    /// Who has it may act.
    pub token: Option<SecretString>,
}

#[async_trait]
impl Desk for StreamDesk {
    async fn letters(&self) -> Result<Vec<ShownLetter>, String> {
        shown_letters(&self.data_dir, &self.destination, self.driver).await
    }

    fn actions(&self) -> &'static [&'static str] {
        &["retry"]
    }

    async fn act(&self, action: PageAction) -> Result<String, String> {
        match action {
            PageAction::Retry { consumer, letter } => {
                let (destination, driver) = (&self.destination, self.driver);
                order_letter(&self.data_dir, destination, driver, (consumer, letter)).await
            }
            PageAction::Pause | PageAction::Unpause | PageAction::Import { .. } => {
                Err("only a server can be paused and import while it runs (eds server)".into())
            }
        }
    }

    fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }
}
