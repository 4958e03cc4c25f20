//! What can happen in a storm, how often it does, and how often it did.

use std::collections::BTreeMap;

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StormFault {
    /// EDS ends at once.
    Killed,
    /// EDS is told to end.
    Stopped,
    /// EDS stands still for a while.
    Suspended,
    NatsCrashed,
    StreamLeaderStepsDown,
    ConsumerLeaderStepsDown,
    ClusterLeaderStepsDown,
    ConsumerDeleted,
    /// The stream forgets what is applied, as retention makes it.
    StreamPurged,
    DestinationCrashed,
    DestinationSuspended,
    /// It refuses, ends sessions and loses answers, as such a service does at times.
    DestinationDisturbed,
    DestinationDiskFull,
    /// A copy that was made earlier is put in the place of the destination's data.
    DestinationRestored,
    /// The disk of EDS's data directory is full.
    DataDiskFull,
    ConnectionsCut,
    ConnectionsStalled,
    /// A table has one more column, or a wider one.
    SchemaChanged,
    /// HQ does not answer.
    SchemasAway,
    /// A message comes that is no event, or an event that is no row.
    Poison,
}

/// Of so many faults, how many are of each kind, where it can happen.
const WEIGHTS: [(StormFault, u32); 20] = [
    (StormFault::Killed, 6),
    (StormFault::Stopped, 2),
    (StormFault::Suspended, 2),
    (StormFault::NatsCrashed, 2),
    (StormFault::StreamLeaderStepsDown, 2),
    (StormFault::ConsumerLeaderStepsDown, 2),
    (StormFault::ClusterLeaderStepsDown, 2),
    (StormFault::ConsumerDeleted, 2),
    (StormFault::StreamPurged, 3),
    (StormFault::DestinationCrashed, 2),
    (StormFault::DestinationSuspended, 1),
    (StormFault::DestinationDisturbed, 3),
    (StormFault::DestinationDiskFull, 2),
    (StormFault::DestinationRestored, 2),
    (StormFault::DataDiskFull, 2),
    (StormFault::ConnectionsCut, 3),
    (StormFault::ConnectionsStalled, 2),
    (StormFault::SchemaChanged, 2),
    (StormFault::SchemasAway, 1),
    (StormFault::Poison, 3),
];

/// How often each fault happened.
#[derive(Default, Debug)]
pub struct StormFaults(BTreeMap<StormFault, u32>);

impl StormFaults {
    pub fn count(&mut self, fault: StormFault) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub fn of(&self, fault: StormFault) -> u32 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u32 {
        self.0.values().sum()
    }
}

/// So much more often copies are made and put back where the stream forgets.
const FORGETFUL: u32 = 4;

/// One of those that can happen.
pub fn draw(
    rng: &mut fastrand::Rng,
    forgets: bool,
    mut can_happen: impl FnMut(StormFault) -> bool,
) -> StormFault {
    let weighs = |(fault, weight)| match fault {
        StormFault::StreamPurged | StormFault::DestinationRestored if forgets => {
            (fault, weight * FORGETFUL)
        }
        _ => (fault, weight),
    };
    let all: Vec<_> =
        WEIGHTS.into_iter().map(weighs).filter(|(fault, _)| can_happen(*fault)).collect();
    let sum: u32 = all.iter().map(|(_, weight)| *weight).sum();
    let mut at = rng.u32(..sum);
    for (fault, weight) in all {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return fault,
        }
    }
    StormFault::Killed
}
