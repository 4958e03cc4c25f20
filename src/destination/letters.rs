//! Where dead letters are kept: what a worker has to know of them, and what a person does with
//! them.

use async_trait::async_trait;
use bytes::Bytes;

use super::Failure;
use crate::change::dead_letter::{LetterEntry, LetterLabel, RejectKind};

/// A letter as a person sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptLetter {
    /// Whose it is: the durable consumer's name, or the journal's.
    pub consumer: String,
    /// The sequence of the later change that superseded it.
    pub superseded_by: Option<u64>,
    /// All but its payload.
    pub label: LetterLabel,
}

/// Keeps dead letters. They are added, superseded and taken away in the transactions that move the
/// checkpoint; this is for everything else.
#[async_trait]
pub trait LetterBox: Send {
    /// What has to be known of all letters of `consumer`, by number.
    async fn entries(&mut self, consumer: &str) -> Result<Vec<LetterEntry>, Failure>;

    /// All letters, by consumer and number; none where nothing was ever kept.
    async fn letters(&mut self) -> Result<Vec<KeptLetter>, Failure>;

    /// The letters of this kind that are of use, by number.
    async fn of_kind(
        &mut self,
        consumer: &str,
        kind: RejectKind,
    ) -> Result<Vec<LetterLabel>, Failure>;

    /// A letter with its payload; `None` where it is not kept any more. Fails as misconfigured
    /// where it cannot be read.
    async fn letter(
        &mut self,
        consumer: &str,
        number: u64,
    ) -> Result<Option<(KeptLetter, Bytes)>, Failure>;

    /// Removes letters. Those that are not kept any more do not count.
    async fn drop_letters(&mut self, consumer: &str, numbers: &[u64]) -> Result<(), Failure>;
}
