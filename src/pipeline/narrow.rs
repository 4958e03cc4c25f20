//! Finds the changes that a destination rejects: those that it names, or by halving what it
//! rejected until a change stands alone. Pure: whoever writes says what came of each piece.

use std::collections::BTreeMap;

/// Neighbouring changes by their index in the batch, `to` exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The first of them.
    pub from: usize,
    /// The index after the last of them.
    pub to: usize,
}

/// What is still to be written of one batch, and what of it cannot be written. Everything is an
/// index into the original changes, so that a valid change that a rejected one of the same row
/// replaced is written once the rejected one is excluded.
#[derive(Debug)]
pub struct Narrowing {
    /// A stack: the piece that comes first in the stream is on top.
    todo: Vec<Piece>,
    /// Sorted.
    excluded: Vec<usize>,
    /// Changes that stay with the one before them. Sorted.
    joined: Vec<usize>,
}

impl Narrowing {
    /// All of a batch of `len` changes is to be written. A batch without changes is one piece, too:
    /// it moves the checkpoint. No piece begins with one of `joined` (sorted), which belongs to the
    /// same event as the change before it.
    pub fn new(len: usize, joined: Vec<usize>) -> Narrowing {
        Narrowing { todo: vec![Piece { from: 0, to: len }], excluded: Vec::new(), joined }
    }

    /// Takes the piece that is to be written next; `None` once all are written.
    pub fn take(&mut self) -> Option<Piece> {
        self.todo.pop()
    }

    /// `piece` is to be written next, again or for the first time.
    pub fn put_back(&mut self, piece: Piece) {
        self.todo.push(piece);
    }

    /// The changes that are not to be written, sorted.
    pub fn excluded(&self) -> &[usize] {
        &self.excluded
    }

    /// How many changes of `piece` are not excluded.
    pub fn remaining(&self, piece: Piece) -> usize {
        self.remaining_in(piece).count()
    }

    /// The changes of `piece` that are not excluded.
    pub fn remaining_in(&self, piece: Piece) -> impl Iterator<Item = usize> {
        (piece.from..piece.to).filter(|index| !self.is_excluded(*index))
    }

    fn is_excluded(&self, index: usize) -> bool {
        self.excluded.binary_search(&index).is_ok()
    }

    /// The change is not to be written.
    pub fn exclude(&mut self, index: usize) {
        if let Err(at) = self.excluded.binary_search(&index) {
            self.excluded.insert(at, index);
        }
    }

    /// Nothing from the change at `index` on is to be written, nor what belongs to the same event.
    /// Returns where that begins.
    pub fn end_before(&mut self, index: usize) -> usize {
        let is_joined = self.joined.binary_search(&index).is_ok();
        let end = if is_joined { index.saturating_sub(1) } else { index };
        self.todo.retain(|piece| piece.from < end);
        self.todo.iter_mut().for_each(|piece| piece.to = piece.to.min(end));
        end
    }

    /// Nothing was taken yet: about `len` changes are to be written first, the others after them.
    pub fn begin_with(&mut self, len: usize) {
        let Some(whole) = self.todo.pop() else { return };
        let may_begin = |at: &usize| self.joined.binary_search(at).is_err();
        let cut = (whole.from.saturating_add(len.max(1))..whole.to).find(may_begin);
        self.todo.extend(cut.map(|cut| Piece { from: cut, ..whole }));
        self.todo.push(Piece { to: cut.unwrap_or(whole.to), ..whole });
    }

    /// Where to cut the changes that are left; `None` where they belong together.
    fn middle(&self, left: &[usize]) -> Option<usize> {
        let half = left.len() / 2;
        let may_begin = |at: &&usize| **at > left[0] && self.joined.binary_search(at).is_err();
        let behind = left.get(half..).and_then(|rest| rest.iter().find(may_begin));
        behind.or_else(|| left.iter().take(half).rev().find(may_begin)).copied()
    }

    /// `piece` was rejected because of `culprits`, as far as the destination names them, else
    /// because of `reason`. Returns the changes that are known to be at fault, for the caller to
    /// exclude before the piece comes again; none where the piece has to be halved first. The piece
    /// must have a change that is not excluded.
    pub fn reject(
        &mut self,
        piece: Piece,
        culprits: Vec<(u32, String)>,
        reason: &str,
    ) -> BTreeMap<usize, String> {
        let left: Vec<usize> = self.remaining_in(piece).collect();
        let mut known: BTreeMap<usize, String> = culprits
            .into_iter()
            .map(|(index, why)| (index as usize, why))
            // What was not part of the piece is no reason for its rejection.
            .filter(|(index, _)| left.binary_search(index).is_ok())
            .collect();
        if known.is_empty()
            && let Some(middle) = self.middle(&left)
        {
            self.todo.push(Piece { from: middle, ..piece });
            self.todo.push(Piece { to: middle, ..piece });
            return known;
        }
        if known.is_empty() {
            // Of two changes of one event the second writes the row.
            known.extend(left.last().map(|index| (*index, reason.to_owned())));
        }
        self.todo.push(piece);
        known
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A destination that stores the last change of each row, and rejects some values.
    struct Picky {
        rows: Vec<usize>,
        bad: BTreeSet<usize>,
        /// How many culprits it names at once.
        names_max: usize,
        /// The changes that it accepted, and those that a later one of the row replaced.
        accepted: Vec<usize>,
        tries: usize,
    }

    impl Picky {
        fn new(len: usize, bad: &BTreeSet<usize>, names_max: usize) -> Picky {
            Picky {
                rows: (0..len).collect(),
                bad: bad.iter().copied().filter(|i| *i < len).collect(),
                names_max,
                accepted: Vec::new(),
                tries: 0,
            }
        }

        /// Whether a later one of the offered changes is of the same row.
        fn is_replaced(&self, offered: &[usize], index: usize) -> bool {
            offered.iter().any(|later| *later > index && self.rows[*later] == self.rows[index])
        }

        fn write(&mut self, offered: &[usize]) -> Result<(), Vec<(u32, String)>> {
            self.tries += 1;
            let rejected: Vec<usize> = offered
                .iter()
                .copied()
                .filter(|i| self.bad.contains(i) && !self.is_replaced(offered, *i))
                .collect();
            if rejected.is_empty() {
                self.accepted.extend_from_slice(offered);
                return Ok(());
            }
            let named = rejected.into_iter().take(self.names_max);
            Err(named.map(|i| (i as u32, format!("{i} is bad"))).collect())
        }

        /// Writes everything that can be written; what was excluded.
        fn write_all(&mut self) -> Vec<usize> {
            let mut narrowing = Narrowing::new(self.rows.len(), Vec::new());
            while let Some(piece) = narrowing.take() {
                let offered: Vec<usize> = narrowing.remaining_in(piece).collect();
                if let Err(culprits) = self.write(&offered) {
                    for index in narrowing.reject(piece, culprits, "bad").into_keys() {
                        narrowing.exclude(index);
                    }
                }
            }
            narrowing.excluded().to_vec()
        }
    }

    proptest! {
        #[test]
        fn finds_exactly_what_is_rejected_in_few_tries(
            len in 0_usize..400,
            bad in proptest::collection::btree_set(0_usize..400, 0..6),
            names_max in 0_usize..3,
        ) {
            let mut picky = Picky::new(len, &bad, names_max);
            let excluded = picky.write_all();
            prop_assert_eq!(&excluded, &picky.bad.iter().copied().collect::<Vec<_>>());
            let good: Vec<usize> = (0..len).filter(|i| !picky.bad.contains(i)).collect();
            prop_assert_eq!(&picky.accepted, &good, "each good one once, in order");
            // Each bad one costs at most two pieces a level, and one more try of its own piece.
            let levels = len.max(1).next_power_of_two().trailing_zeros() as usize;
            prop_assert!(picky.tries <= 1 + picky.bad.len() * (2 * levels + 1));
        }

        #[test]
        fn excludes_no_good_change_where_later_changes_of_a_row_hide_earlier_ones(
            rows in proptest::collection::vec(0_usize..4, 0..60),
            bad in proptest::collection::btree_set(0_usize..60, 0..20),
            names_max in 0_usize..3,
        ) {
            let mut picky = Picky { rows: rows.clone(), ..Picky::new(rows.len(), &bad, names_max) };
            let excluded = picky.write_all();
            prop_assert!(excluded.iter().all(|i| picky.bad.contains(i)));
            let kept: Vec<usize> = (0..rows.len()).filter(|i| !excluded.contains(i)).collect();
            prop_assert_eq!(&picky.accepted, &kept, "the rest is written once, in order");
        }
    }

    #[test]
    fn what_is_named_without_having_been_offered_does_not_stop_the_search() {
        let mut narrowing = Narrowing::new(2, Vec::new());
        let Some(all) = narrowing.take() else { panic!("there is one piece") };
        assert!(narrowing.reject(all, vec![(7, "elsewhere".into())], "bad").is_empty());
        let halves = [narrowing.take(), narrowing.take(), narrowing.take()];
        assert_eq!(halves, [Some(Piece { from: 0, to: 1 }), Some(Piece { from: 1, to: 2 }), None]);
        let found = narrowing.reject(Piece { from: 0, to: 1 }, Vec::new(), "bad");
        assert_eq!(found, BTreeMap::from([(0, "bad".to_owned())]));
    }

    #[test]
    fn the_first_may_be_written_before_the_others() {
        let mut narrowing = Narrowing::new(5, vec![2]);
        narrowing.begin_with(2);
        let pieces = [narrowing.take(), narrowing.take(), narrowing.take()];
        let expected = [Some(Piece { from: 0, to: 3 }), Some(Piece { from: 3, to: 5 }), None];
        assert_eq!(pieces, expected);
        let mut narrowing = Narrowing::new(2, Vec::new());
        narrowing.begin_with(9);
        assert_eq!([narrowing.take(), narrowing.take()], [Some(Piece { from: 0, to: 2 }), None]);
    }

    #[test]
    fn changes_of_one_event_are_never_apart() {
        let mut narrowing = Narrowing::new(4, vec![1, 3]);
        let whole = narrowing.take().unwrap_or(Piece { from: 9, to: 9 });
        assert!(narrowing.reject(whole, Vec::new(), "why").is_empty());
        let first = Piece { from: 0, to: 2 };
        assert_eq!(narrowing.take(), Some(first));
        let known = narrowing.reject(first, Vec::new(), "why");
        assert_eq!(known, [(1, "why".to_owned())].into());
    }
}
