//! Decides what is done about a failed try to write. Pure.

use crate::destination::{Failure, FailureKind};

/// What is known of the try that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tried {
    /// The destination can keep changes of tables that cannot be written.
    pub may_hold: bool,
    /// The tables were read again since the piece was first tried.
    pub reshaped: bool,
    /// How many changes the piece has that are not excluded.
    pub changes: usize,
}

/// What is done about a failed try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// Another process has taken over: nothing.
    GiveUp,
    /// The tables are read again, then the piece is tried again.
    ReadTables,
    /// The rejected changes are searched for.
    Narrow,
    /// The table that the failure names is held; the piece is tried again without it.
    Hold,
    /// The connection is made anew, as often as it takes.
    Reconnect,
}

/// What is done about `failure`.
pub fn remedy(failure: &Failure, tried: Tried) -> Remedy {
    let can_hold = tried.may_hold && failure.table.is_some();
    match failure.kind {
        FailureKind::Fenced => Remedy::GiveUp,
        FailureKind::SchemaMismatch if !tried.reshaped => Remedy::ReadTables,
        FailureKind::Rejected if tried.changes > 0 => Remedy::Narrow,
        FailureKind::TableUnavailable
        | FailureKind::SchemaMismatch
        | FailureKind::Misconfigured
            if can_hold =>
        {
            Remedy::Hold
        }
        _ => Remedy::Reconnect,
    }
}

/// Whether a failure of a table's schema at the start concerns that table alone.
pub fn is_of_one_table(failure: &Failure) -> bool {
    let tried = Tried { may_hold: true, reshaped: true, changes: 0 };
    remedy(failure, tried) == Remedy::Hold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_one_table_holds_it_and_others_are_about_the_connection() {
        use FailureKind::*;
        let first = Tried { may_hold: true, reshaped: false, changes: 3 };
        let again = Tried { reshaped: true, ..first };
        let file = Tried { may_hold: false, ..again };
        let empty = Tried { changes: 0, ..first };
        for (kind, is_named, tried, expected) in [
            (Fenced, true, first, Remedy::GiveUp),
            (SchemaMismatch, true, first, Remedy::ReadTables),
            (SchemaMismatch, true, again, Remedy::Hold),
            (SchemaMismatch, false, again, Remedy::Reconnect),
            (Rejected, true, again, Remedy::Narrow),
            (Rejected, true, empty, Remedy::Reconnect),
            (TableUnavailable, true, first, Remedy::Hold),
            (TableUnavailable, false, first, Remedy::Reconnect),
            (TableUnavailable, true, file, Remedy::Reconnect),
            (Misconfigured, true, first, Remedy::Hold),
            (Misconfigured, false, first, Remedy::Reconnect),
            (Unavailable, true, first, Remedy::Reconnect),
        ] {
            let table = is_named.then(|| "t".into());
            let failure = Failure { table, ..Failure::new(kind, "why") };
            assert_eq!(remedy(&failure, tried), expected, "{kind:?} {is_named} {tried:?}");
        }
    }
}
