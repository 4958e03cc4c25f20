//! Placing objects under their names: nothing is overwritten unseen, whatever has the name already.

use bytes::Bytes;
use object_store::PutMode;
use object_store::path::Path;

use super::{Naming, S3Objects};
use crate::change::{Batch, Change, Position};
use crate::destination::objects::name::Name;
use crate::destination::objects::parts::Part;
use crate::destination::objects::placing::{Conflict, PartPlacement};
use crate::destination::{Failure, FailureKind};

/// How often an object that somebody else changes meanwhile is read again.
const READS_MAX: u32 = 5;

impl S3Objects {
    /// Stores changes one after the other. Returns those that the service does not take, by their
    /// index in the batch, each with the reason; all others are stored.
    pub async fn place_in_order(
        &self,
        batch: &Batch,
        queue: Vec<(Name, u32)>,
    ) -> Result<Vec<(u32, String)>, Failure> {
        let mut refused = Vec::new();
        for (name, index) in &queue {
            let change = batch.change(*index);
            let placed = match self.names {
                Naming::Row => self.place(name, change).await,
                Naming::Position => {
                    let position = (!batch.is_import()).then_some(change.position);
                    self.place_apart(name, change, position).await
                }
            };
            match placed {
                Err(failure) if failure.kind == FailureKind::Rejected => {
                    refused.push((*index, failure.text));
                }
                placed => placed?,
            }
        }
        Ok(refused)
    }

    /// The path of an object `file` in the folder that `name` has.
    fn path(&self, name: &Name, file: &str) -> Result<Path, Failure> {
        match name.folder.as_str() {
            "" => self.client.path(file),
            folder => self.client.path(&format!("{folder}/{file}")),
        }
    }

    /// Stores a change under a name that no other change has: whatever is there is the same.
    async fn place_apart(
        &self,
        name: &Name,
        change: &Change,
        position: Option<Position>,
    ) -> Result<(), Failure> {
        let content = Bytes::from(change.event.stored());
        let path = self.path(name, &name.unique(position, &content).file())?;
        self.client.write(&path, &content, PutMode::Overwrite).await.map(drop)
    }

    /// Stores a change under its name; of two under one name the older gets a name of its own.
    async fn place(&self, name: &Name, change: &Change) -> Result<(), Failure> {
        let named = |file: String| self.path(name, &file);
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
    /// other is kept. Where each has a name of its own, what is there is the same.
    pub async fn place_part(&self, part: Part, is_repeat: bool) -> Result<(), Failure> {
        let (folder, content) = (&part.name.folder, Bytes::from(part.content));
        if self.names == Naming::Position {
            let path = self.client.path(&format!("{folder}/{}", part.name.of_content(&content)))?;
            return self.client.write(&path, &content, PutMode::Overwrite).await.map(drop);
        }
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
