//! Placing objects under their names: nothing is overwritten unseen, whatever has the name already.

use bytes::Bytes;
use object_store::PutMode;

use super::S3Objects;
use crate::change::{Batch, Change};
use crate::destination::Failure;
use crate::destination::objects::name::Name;
use crate::destination::objects::parts::Part;
use crate::destination::objects::placing::{Conflict, PartPlacement};

/// How often an object that somebody else changes meanwhile is read again.
const READS_MAX: u32 = 5;

impl S3Objects {
    /// Stores changes one after the other.
    pub async fn place_in_order(
        &self,
        batch: &Batch,
        queue: Vec<(Name, u32)>,
    ) -> Result<(), Failure> {
        for (name, index) in &queue {
            self.place(name, batch.change(*index)).await?;
        }
        Ok(())
    }

    /// Stores a change under its name; of two under one name the older gets a name of its own.
    async fn place(&self, name: &Name, change: &Change) -> Result<(), Failure> {
        let named = |file: String| {
            self.client.path(&if name.folder.is_empty() {
                file
            } else {
                format!("{}/{file}", name.folder)
            })
        };
        let (wanted, content) = (named(name.file())?, Bytes::from(change.event.stored()));
        for _ in 0..READS_MAX {
            if self.client.create(&wanted, &content).await? {
                return Ok(());
            }
            let Some(existing) = self.client.find(&wanted).await? else { continue };
            let Some(conflict) = Conflict::of(name, &change.event, &content, &existing.content)
            else {
                return Ok(());
            };
            let existing_is_older = conflict.existing_is_older;
            let older = if existing_is_older { &existing.content } else { &content };
            let kept = named(conflict.kept)?;
            if !self.client.create(&kept, older).await?
                && self.client.find(&kept).await?.is_some_and(|found| found.content != *older)
            {
                self.client.create(&named(conflict.kept_beside)?, older).await?;
            }
            let mode = self.client.replacing(existing.version);
            if !existing_is_older || self.client.write(&wanted, &content, mode).await? {
                return Ok(());
            }
        }
        Err(Failure::unavailable(format!(
            "an object in bucket {:?} is changed by somebody else all the time; two processes must \
             not write to one folder",
            self.client.bucket()
        )))
    }

    /// Stores a file of many changes: an object of an earlier try of the batch is replaced, any
    /// other is kept.
    pub async fn place_part(&self, part: Part, is_repeat: bool) -> Result<(), Failure> {
        let (folder, content) = (&part.name.folder, Bytes::from(part.content));
        let wanted = self.client.path(&format!("{folder}/{}", part.name.file()))?;
        if self.client.create(&wanted, &content).await? {
            return Ok(());
        }
        // What has gone meanwhile is of no more use than other content.
        let existing = self.client.find(&wanted).await?.map(|found| found.content);
        match PartPlacement::of(&part.name, &content, &existing.unwrap_or_default(), is_repeat) {
            PartPlacement::Stored => Ok(()),
            PartPlacement::Replace => {
                self.client.write(&wanted, &content, PutMode::Overwrite).await.map(drop)
            }
            PartPlacement::Beside(other) => {
                let other = self.client.path(&format!("{folder}/{other}"))?;
                self.client.create(&other, &content).await.map(drop)
            }
        }
    }
}
