//! The partial results of a map that is reduced, until they are one. Pure.
//!
//! Each chunk of items comes back as one piece. Pieces that lie beside each other are sent to be
//! folded in their turn, always in the order of their items, so a fold need only be associative.
//!
//! ```text
//!   items   0..8   8..16  16..24  24..32      32..40
//!   pieces   a       b       c     (under way)   e       two runs: [a b c], [e]
//!            └── fold ───────┘
//! ```

use std::collections::BTreeMap;

use crate::codec::Piece;
use crate::limits::FOLD_PIECES;

/// Pieces of neighbouring items.
#[derive(Debug)]
pub(super) struct Run {
    /// The first item, and the first behind the last.
    pub(super) first: u64,
    pub(super) end: u64,
    /// What came of them; fewer than chunks, since all items of one may have been skipped.
    pub(super) pieces: Vec<Piece>,
}

/// The pieces there are. Runs that touch are one.
#[derive(Debug, Default)]
pub(super) struct Folder(BTreeMap<u64, Run>);

impl Folder {
    /// Takes in what came of some items. Gives the run that it completes, if that is long enough
    /// to be folded already.
    pub(super) fn insert(&mut self, first: u64, end: u64, piece: Option<Piece>) -> Option<Run> {
        assert!(first < end, "a piece is of some items");
        let mut run = Run { first, end, pieces: piece.into_iter().collect() };
        let before = self.0.range(..first).next_back().filter(|(_, left)| left.end == first);
        if let Some(mut left) = before.map(|(first, _)| *first).and_then(|at| self.0.remove(&at)) {
            left.pieces.append(&mut run.pieces);
            run = Run { end, ..left };
        }
        if let Some(mut right) = self.0.remove(&end) {
            run.pieces.append(&mut right.pieces);
            run.end = right.end;
        }
        if run.pieces.len() >= FOLD_PIECES {
            return Some(run);
        }
        self.0.insert(run.first, run);
        None
    }

    /// What there is when every item has been told of, and nothing is under way: one run, or none
    /// if there were no items.
    pub(super) fn last(&mut self) -> Option<Run> {
        assert!(self.0.len() <= 1, "there are no gaps when nothing is under way");
        self.0.pop_first().map(|(_, run)| run)
    }
}

#[cfg(test)]
mod tests {
    use clutch_protocol::value::Value;

    use super::*;

    fn piece(text: &str) -> Option<Piece> {
        Some(Piece::Plain(Value::Str(text.into())))
    }

    fn texts(run: &Run) -> String {
        let text = |piece: &Piece| piece.decode::<String>().unwrap();
        run.pieces.iter().map(text).collect::<Vec<_>>().concat()
    }

    #[test]
    fn pieces_that_come_in_any_order_lie_in_that_of_their_items() {
        let mut folder = Folder::default();
        for (first, text) in [(4, "c"), (0, "a"), (8, "e"), (6, "d"), (2, "b")] {
            assert!(folder.insert(first, first + 2, piece(text)).is_none());
        }
        let run = folder.last().unwrap();
        assert_eq!((0, 10, "abcde"), (run.first, run.end, &*texts(&run)));
        assert!(folder.last().is_none());
    }

    #[test]
    fn items_that_were_skipped_are_no_gap() {
        let mut folder = Folder::default();
        folder.insert(0, 1, piece("a"));
        folder.insert(2, 3, piece("b"));
        folder.insert(1, 2, None);
        let run = folder.last().unwrap();
        assert_eq!("ab", texts(&run));
    }

    #[test]
    fn a_long_run_is_folded_at_once_and_its_result_takes_its_place() {
        let mut folder = Folder::default();
        let mut runs = Vec::new();
        for first in 0..FOLD_PIECES as u64 * 2 {
            runs.extend(folder.insert(first, first + 1, piece("x")));
        }
        assert_eq!(2, runs.len());
        for run in runs.iter().rev() {
            assert_eq!(FOLD_PIECES, run.pieces.len());
            assert!(folder.insert(run.first, run.end, piece(&run.first.to_string())).is_none());
        }
        assert_eq!(format!("0{FOLD_PIECES}"), texts(&folder.last().unwrap()));
    }
}
