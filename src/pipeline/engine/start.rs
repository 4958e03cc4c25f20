//! Decides where a run begins to read the stream. Pure.

use crate::change::cutover::{CLOCKS_APART_MAX_NS, ResumePoint};
use crate::change::{Cutover, Position};
use crate::destination::{Failure, Recorded};
use crate::feed::Acknowledged;
use crate::help::HelpCode;
use crate::pipeline::Adoption;
use crate::state::predecessor::Predecessor;

/// Everything that says something about where to begin.
pub struct StartInputs<'i> {
    /// The user wants the feed from its start, whatever was recorded.
    pub restart: bool,
    /// The consumer of this run.
    pub consumer: &'i str,
    /// The consumer's checkpoint.
    pub recorded: Option<Position>,
    /// What imports contain.
    pub cutover: &'i Cutover,
    /// What the state file has for the consumer.
    pub saved: Option<Position>,
    /// The time with which an earlier start began, Unix nanoseconds, as the state file has it.
    pub saved_since_ns: Option<i64>,
    /// What the feed knows to be acknowledged.
    pub acknowledged: Acknowledged,
    /// What the Go program has left.
    pub predecessor: &'i Predecessor,
    /// The checkpoints of all consumers at the destination.
    pub records: &'i [Recorded],
    /// What becomes of another consumer's checkpoint.
    pub adoption: &'i Adoption,
}

/// Where a run begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartPosition {
    /// After this position.
    After {
        /// The last one that is not read.
        position: Position,
        /// Who says so.
        source: PositionSource,
    },
    /// With what was published from a time on: the snapshot of an import, or when another program's
    /// deliveries began.
    Since {
        /// Unix nanoseconds.
        since_ns: i64,
        /// Where the consumer once began, if an import came before it had applied anything, or
        /// where it stood: tables that were not imported need their changes from there on.
        began: Option<Position>,
        /// Who says so.
        source: TimeSource,
    },
    /// Where the feed chooses: nothing is known.
    FeedDecides,
}

/// Who says where a run begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PositionSource {
    /// The user: at the start of the feed.
    Restart,
    /// The consumer's checkpoint.
    Checkpoint,
    /// An import.
    Import,
    /// The state file.
    StateFile,
    /// The feed, by what was acknowledged.
    Acknowledged,
    /// Another consumer's checkpoint; the consumer's name.
    Adopted(String),
}

/// Who says since when the stream is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeSource {
    /// An import, which has recorded it.
    Import,
    /// The same of one that has also recorded where the consumer stood.
    SetBack,
    /// The feed, or an earlier start that was told so by the feed.
    Feed,
    /// The Go program's state file: its import, of which nothing was applied yet.
    Predecessor,
}

impl StartPosition {
    /// The position that has to be saved in the state file before the feed is opened, as nobody
    /// else records it: what an import or the checkpoint says is recorded where it is from.
    pub fn to_save(&self) -> Option<Position> {
        match self {
            StartPosition::After {
                source: PositionSource::Checkpoint | PositionSource::Import,
                ..
            } => None,
            StartPosition::After { position, .. } => Some(*position),
            StartPosition::Since { source: TimeSource::SetBack, .. } => None,
            StartPosition::Since { began, .. } => *began,
            StartPosition::FeedDecides => None,
        }
    }

    /// The time that has to be saved in the state file before the feed is opened: what the feed
    /// knows of it may be gone by that.
    pub fn since_to_save(&self) -> Option<i64> {
        match self {
            StartPosition::Since { source: TimeSource::Import | TimeSource::SetBack, .. } => None,
            StartPosition::Since { since_ns, .. } => Some(*since_ns),
            StartPosition::After { .. } | StartPosition::FeedDecides => None,
        }
    }
}

/// Decides where to begin: what the user says comes first, then the checkpoint, an import, the
/// state file, the feed; last another consumer's checkpoint, which fails where a person has to
/// choose.
pub fn start_position(inputs: &StartInputs<'_>) -> Result<StartPosition, Failure> {
    let after = |position, source| Ok(StartPosition::After { position, source });
    if inputs.restart {
        return after(Position::default(), PositionSource::Restart);
    }
    if let Some(position) = inputs.recorded {
        return after(position, PositionSource::Checkpoint);
    }
    match inputs.cutover.resume_point() {
        Some(ResumePoint::After(position)) => return after(position, PositionSource::Import),
        Some(ResumePoint::Since { since_ns, after }) => {
            return Ok(since_import(inputs, since_ns, after));
        }
        None => {}
    }
    if let Some(position) = inputs.saved {
        return after(position, PositionSource::StateFile);
    }
    let since = |since_ns, source| Ok(StartPosition::Since { since_ns, began: None, source });
    match (inputs.acknowledged, inputs.saved_since_ns) {
        (Acknowledged::Through(position), _) => {
            return after(position, PositionSource::Acknowledged);
        }
        (_, Some(since_ns)) | (Acknowledged::NothingSince(since_ns), None) => {
            return since(since_ns, TimeSource::Feed);
        }
        (Acknowledged::Nothing, None) => {}
    }
    if let Some((position, name)) = adopted(inputs)? {
        return after(position, PositionSource::Adopted(name));
    }
    match (inputs.predecessor, inputs.predecessor.since_ns()) {
        (_, Some(imported_ns)) => since(imported_ns - CLOCKS_APART_MAX_NS, TimeSource::Predecessor),
        (Predecessor::Unreadable(why), None) => Err(Failure::misconfigured(format!(
            "the state file of the former program cannot be read ({why}), and nothing else says \
             where to begin: --restart streams everything that the stream still has, an import \
             loads everything; once it is removed, only new changes are streamed"
        ))),
        (Predecessor::Nobody | Predecessor::Known { .. }, None) => Ok(StartPosition::FeedDecides),
    }
}

/// After an import that came before anything was applied, tables that it left out still need their
/// changes from where the consumer began, by the state file or the feed.
///
/// One that came later has recorded up to where they were applied: `after`.
fn since_import(inputs: &StartInputs<'_>, since_ns: i64, after: Option<Position>) -> StartPosition {
    if inputs.cutover.had_begun() {
        return StartPosition::Since { since_ns, began: after, source: TimeSource::SetBack };
    }
    let source = TimeSource::Import;
    let began_ns = match inputs.acknowledged {
        Acknowledged::NothingSince(began_ns) => Some(inputs.saved_since_ns.unwrap_or(began_ns)),
        Acknowledged::Nothing => inputs.saved_since_ns,
        Acknowledged::Through(_) => None,
    };
    match (inputs.saved, inputs.acknowledged, began_ns) {
        // As the feed may forget that, it is saved.
        (None, _, Some(began_ns)) if began_ns < since_ns => {
            StartPosition::Since { since_ns: began_ns, began: None, source: TimeSource::Feed }
        }
        (None, Acknowledged::Through(position), _) => {
            StartPosition::Since { since_ns, began: Some(position), source }
        }
        (began, ..) => StartPosition::Since { since_ns, began, source },
    }
}

/// Where another consumer ended, if this one goes on there.
fn adopted(inputs: &StartInputs<'_>) -> Result<Option<(Position, String)>, Failure> {
    let others: Vec<(&str, Position)> = inputs
        .records
        .iter()
        .filter(|record| record.consumer != inputs.consumer)
        .filter_map(|record| Some((&*record.consumer, record.position?)))
        .collect();
    let names = others
        .iter()
        .map(|(name, position)| format!("{name} (stream sequence {})", position.sequence))
        .collect::<Vec<_>>()
        .join(", ");
    match inputs.adoption {
        Adoption::Without => Ok(None),
        Adoption::Ask if others.is_empty() => Ok(None),
        Adoption::Ask => Err(Failure::misconfigured(format!(
            "the destination has the checkpoint of another consumer: {names}. This one, {}, has \
             none (was the server enrolled again?). --adopt-checkpoint NAME resumes from that \
             checkpoint, --adopt-checkpoint none starts with new changes only; an import loads \
             everything",
            inputs.consumer
        ))
        .with_help(HelpCode::OtherCheckpoint)),
        Adoption::Of(name) => match others.iter().find(|(other, _)| other == name) {
            Some((_, position)) => Ok(Some((*position, name.clone()))),
            None => {
                let known = if names.is_empty() { "no other consumer's" } else { &names };
                Err(Failure::misconfigured(format!(
                    "the destination has no checkpoint of {name:?} to adopt; it has {known}"
                )))
            }
        },
    }
}

/// Companies (comma list, `*` for all) that the feed is about now and was not about when the
/// consumer's checkpoint was last recorded.
pub fn new_companies<'c>(records: &[Recorded], consumer: &str, companies: &'c str) -> Vec<&'c str> {
    let own =
        records.iter().find(|record| record.consumer == consumer && record.position.is_some());
    let Some(before) = own.map(|record| &*record.companies).filter(|before| *before != "*") else {
        return Vec::new();
    };
    let is_new = |company: &&str| !before.split(',').any(|known| known == *company);
    companies.split(',').filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Version;
    use crate::change::cutover::{Cutovers, TableSnapshot};
    use crate::destination::FailureKind;

    fn at(sequence: u64) -> Position {
        Position { sequence, time_ns: 0 }
    }

    fn record(consumer: &str, position: Option<Position>, companies: &str) -> Recorded {
        Recorded { consumer: consumer.into(), position, companies: companies.into() }
    }

    /// What an import of table `t` with a snapshot at `nanos` leaves to a consumer that stood at
    /// `stood`.
    fn imported(nanos: u64, stood: Option<Position>) -> Cutover {
        let mut cutovers = Cutovers::default();
        let snapshot =
            TableSnapshot { table: "t".into(), at: Version { nanos, logical: 0 }, whole: true };
        cutovers.import(&[snapshot], &[("c".into(), stood)]);
        cutovers.of("c")
    }

    const SNAPSHOT_NS: u64 = 1_720_732_611_000_000_000;

    const SINCE_NS: i64 = SNAPSHOT_NS as i64 - CLOCKS_APART_MAX_NS;
    /// Where the consumer stood when an import set it back: before the snapshot.
    const BEFORE: Position = Position { sequence: 3, time_ns: SINCE_NS - 1 };

    /// What a start may know, apart from what it is asked.
    struct Knowledge {
        none: Cutover,
        set_back: Cutover,
        first_import: Cutover,
        records: [Recorded; 2],
    }

    fn knowledge() -> Knowledge {
        Knowledge {
            none: Cutover::default(),
            set_back: imported(SNAPSHOT_NS, Some(BEFORE)),
            first_import: imported(SNAPSHOT_NS, None),
            records: [record("c", None, "*"), record("old", Some(at(7)), "*")],
        }
    }

    impl Knowledge {
        fn nothing(&self) -> StartInputs<'_> {
            StartInputs {
                restart: false,
                consumer: "c",
                recorded: None,
                cutover: &self.none,
                saved: None,
                saved_since_ns: None,
                acknowledged: Acknowledged::Nothing,
                predecessor: &Predecessor::Nobody,
                records: &[],
                adoption: &Adoption::Ask,
            }
        }

        fn all(&self) -> StartInputs<'_> {
            StartInputs {
                recorded: Some(at(5)),
                cutover: &self.set_back,
                saved: Some(at(4)),
                acknowledged: Acknowledged::Through(at(2)),
                records: &self.records,
                ..self.nothing()
            }
        }
    }

    fn after(position: Position, source: PositionSource) -> StartPosition {
        StartPosition::After { position, source }
    }

    type StartCase<'a> = (&'static str, StartInputs<'a>, StartPosition, Option<Position>);

    /// Each case: what is known, where the run begins, and which position is saved for it.
    fn check(cases: &[StartCase<'_>]) {
        for (case, inputs, expected, saves) in cases {
            assert_eq!(start_position(inputs).as_ref(), Ok(expected), "{case}");
            assert_eq!(expected.to_save(), *saves, "{case}");
        }
    }

    #[test]
    fn the_user_the_checkpoint_and_imports_come_first() {
        let known = knowledge();
        let (all, nothing) = (known.all(), known.nothing());
        let first_import = &known.first_import;
        let since =
            |began| StartPosition::Since { since_ns: SINCE_NS, began, source: TimeSource::Import };
        let set_back = StartInputs { recorded: None, ..known.all() };
        let (began, source) = (Some(BEFORE), TimeSource::SetBack);
        let stood = StartPosition::Since { since_ns: SINCE_NS, began, source };
        let unapplied = StartInputs { cutover: first_import, recorded: None, ..known.all() };
        let unsaved =
            StartInputs { saved: None, recorded: None, cutover: first_import, ..known.all() };
        let fresh = StartInputs { cutover: first_import, ..nothing };
        let restart = StartInputs { restart: true, ..known.all() };
        check(&[
            ("restart", restart, after(at(0), PositionSource::Restart), Some(at(0))),
            ("the checkpoint", all, after(at(5), PositionSource::Checkpoint), None),
            ("an import set it back", set_back, stood, None),
            ("an import before anything was applied", unapplied, since(Some(at(4))), Some(at(4))),
            ("the same where only the feed knows", unsaved, since(Some(at(2))), Some(at(2))),
            ("an import where nobody had streamed", fresh, since(None), None),
        ]);
        assert!(known.set_back.had_begun() && !known.first_import.had_begun());
    }

    #[test]
    fn then_come_the_state_file_the_feed_and_other_consumers() {
        let known = knowledge();
        let of = Adoption::Of("old".to_owned());
        let local = || StartInputs { cutover: &known.none, recorded: None, ..known.all() };
        let acknowledged = StartInputs { saved: None, ..local() };
        let adopted = StartInputs {
            saved: None,
            acknowledged: Acknowledged::Nothing,
            adoption: &of,
            ..local()
        };
        let unwanted = StartInputs {
            adoption: &Adoption::Without,
            records: &known.records,
            ..known.nothing()
        };
        let under_way =
            StartInputs { saved: None, acknowledged: Acknowledged::NothingSince(8), ..local() };
        let told_before = StartInputs {
            saved: None,
            saved_since_ns: Some(6),
            acknowledged: Acknowledged::NothingSince(8),
            ..local()
        };
        let since =
            |since_ns| StartPosition::Since { since_ns, began: None, source: TimeSource::Feed };
        assert_eq!(since(8).since_to_save(), Some(8));
        let adopts = PositionSource::Adopted("old".into());
        check(&[
            ("the state file", local(), after(at(4), PositionSource::StateFile), Some(at(4))),
            (
                "what was acknowledged",
                acknowledged,
                after(at(2), PositionSource::Acknowledged),
                Some(at(2)),
            ),
            ("when another's deliveries began", under_way, since(8), None),
            ("what an earlier start was told of that", told_before, since(6), None),
            ("another's checkpoint", adopted, after(at(7), adopts), Some(at(7))),
            ("another's that is not wanted", unwanted, StartPosition::FeedDecides, None),
            ("nothing", known.nothing(), StartPosition::FeedDecides, None),
        ]);
    }

    #[test]
    fn another_consumers_checkpoint_is_a_persons_choice() {
        let records = [record("old", Some(at(7)), "*"), record("idle", None, "*")];
        let cutover = Cutover::default();
        let failure = |adoption: &Adoption| {
            let inputs = StartInputs {
                restart: false,
                consumer: "c",
                recorded: None,
                cutover: &cutover,
                saved: None,
                saved_since_ns: None,
                acknowledged: Acknowledged::Nothing,
                predecessor: &Predecessor::Nobody,
                records: &records,
                adoption,
            };
            match start_position(&inputs) {
                Err(failure) if failure.kind == FailureKind::Misconfigured => failure.text,
                other => panic!("{other:?}"),
            }
        };
        assert!(failure(&Adoption::Ask).contains("old (stream sequence 7)"));
        let unknown = failure(&Adoption::Of("idle".into()));
        assert!(unknown.contains("no checkpoint of \"idle\"") && unknown.contains("old"));
    }

    #[test]
    fn what_the_predecessor_imported_comes_last_and_what_it_hides_is_asked_about() {
        let known = knowledge();
        let imported =
            vec![("t".to_owned(), SNAPSHOT_NS as i64 + 5), ("u".into(), SNAPSHOT_NS as i64)];
        let predecessor = Predecessor::Known { imported, schemas: Vec::new() };
        let source = TimeSource::Predecessor;
        let since = StartPosition::Since { since_ns: SINCE_NS, began: None, source };
        let alone = StartInputs { predecessor: &predecessor, ..known.nothing() };
        let acknowledged = StartInputs { acknowledged: Acknowledged::Through(at(2)), ..alone };
        assert_eq!(since.since_to_save(), Some(SINCE_NS));
        check(&[
            ("its durable", acknowledged, after(at(2), PositionSource::Acknowledged), Some(at(2))),
            (
                "its import",
                StartInputs { predecessor: &predecessor, ..known.nothing() },
                since,
                None,
            ),
        ]);
        let unreadable = Predecessor::Unreadable("why".into());
        let inputs = StartInputs { predecessor: &unreadable, ..known.nothing() };
        let failure = start_position(&inputs).err().map(|failure| failure.kind);
        assert_eq!(failure, Some(FailureKind::Misconfigured));
    }

    #[test]
    fn companies_are_new_where_the_record_does_not_name_them() {
        let records = [record("c", Some(at(1)), "1,2"), record("other", Some(at(1)), "9")];
        assert_eq!(new_companies(&records, "c", "2,3"), ["3"]);
        assert!(new_companies(&records, "nobody", "2,3").is_empty());
        assert!(new_companies(&[record("c", None, "1")], "c", "2").is_empty());
        assert!(new_companies(&[record("c", Some(at(1)), "*")], "c", "2").is_empty());
    }
}
