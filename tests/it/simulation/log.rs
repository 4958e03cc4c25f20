//! A destination that keeps changes, and whatever part of a batch was written: objects whose names
//! say which piece of which batch they hold, like files in a folder.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use eds::change::Batch;
use eds::destination::memory;
use eds::destination::{Abilities, CheckpointIn, Destination, Failure, SchemaMode, WriteMode};
use tokio::time::sleep;

use super::rows::broken;
use super::world::{Bug, CONSUMER, World, locked};

/// Changes in one object.
const OBJECT_CHANGES_MAX: usize = 4;

pub const ABILITIES: Abilities = Abilities {
    write_mode: WriteMode::Append,
    checkpoint_in: CheckpointIn::StateFile,
    schema_mode: SchemaMode::Typed,
    ..memory::ABILITIES
};

/// What an object is called: where its batch begins and ends, and which of its objects it is. In
/// order of the stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectName {
    pub after: u64,
    pub through: u64,
    pub part: usize,
}

/// A change in an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptChange {
    pub sequence: u64,
    pub payload: String,
}

/// What was written.
pub type Objects = BTreeMap<ObjectName, Vec<KeptChange>>;

/// One connection.
pub struct FaultyLog {
    world: Arc<World>,
    /// What the planted bug holds back.
    held: Option<Arc<Batch>>,
}

impl FaultyLog {
    pub fn open(world: &Arc<World>) -> FaultyLog {
        FaultyLog { world: world.clone(), held: None }
    }

    /// Writes the batch, one object after the other.
    async fn write(&self, batch: &Batch) -> Result<(), Failure> {
        for (name, changes) in objects_of(batch) {
            self.world.step("log: write an object").await;
            if self.world.chance(20) {
                return Err(broken());
            }
            put(&self.world, name, changes);
        }
        Ok(())
    }
}

/// The objects of a batch.
fn objects_of(batch: &Batch) -> Vec<(ObjectName, Vec<KeptChange>)> {
    let changes: Vec<KeptChange> = batch
        .ordered()
        .map(|(_, change)| KeptChange {
            sequence: change.position.sequence,
            payload: change.event.payload().to_owned(),
        })
        .collect();
    let (after, through) = (batch.after.map_or(0, |p| p.sequence), batch.through.sequence);
    let parts = changes.chunks(OBJECT_CHANGES_MAX).enumerate();
    parts.map(|(part, some)| (ObjectName { after, through, part }, some.to_vec())).collect()
}

/// Writes an object. One that is there already must have the same content: a repeat.
fn put(world: &World, name: ObjectName, changes: Vec<KeptChange>) {
    world.note(|| format!("writes {name:?}"));
    let mut objects = locked(&world.objects);
    let there = objects.entry(name).or_insert_with(|| changes.clone());
    if *there != changes {
        world.complain(format!("{name:?} was written twice, with different contents"));
    }
}

#[async_trait]
impl Destination for FaultyLog {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        self.world.step("log: apply").await;
        // Refused before the work.
        if self.world.chance(12) {
            return Err(broken());
        }
        let mismatches = batch.type_mismatches();
        if !mismatches.is_empty() {
            return Err(Failure::rejected(mismatches));
        }
        // Reported as failed, and done later, while the next try may be under way.
        if self.world.chance(30) {
            let (world, batch) = (self.world.clone(), batch.clone());
            let late = Duration::from_millis(world.draw(400));
            tokio::spawn(async move {
                sleep(late).await;
                for (name, changes) in objects_of(&batch) {
                    put(&world, name, changes);
                }
            });
            return Err(broken());
        }
        let batch = match self.world.bug {
            Bug::AcknowledgesBeforeApply => self.held.replace(batch.clone()),
            Bug::PositionBeforeWrite => {
                let saved = self.world.state.save_position(CONSUMER, batch.through);
                saved.map_err(|e| Failure::unavailable(e.to_string()))?;
                Some(batch.clone())
            }
            _ => Some(batch.clone()),
        };
        if let Some(batch) = batch {
            self.write(&batch).await?;
        }
        self.world.step("log: applied").await;
        // Done, and then reported as failed.
        if self.world.chance(12) { Err(broken()) } else { Ok(()) }
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.world.step("log: close").await;
        Ok(())
    }
}
