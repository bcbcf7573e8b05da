//! What came of chunks and was not given out yet. Pure.

use clutch_protocol::Failure;

/// The results of one chunk that were not given out yet.
pub(super) struct Answers<R> {
    next: u64,
    results: Rest<R>,
}

/// The results of a chunk.
pub(super) enum Rest<R> {
    /// Each item has one.
    All(std::vec::IntoIter<R>),
    /// Some have failed, some were skipped.
    Mixed(std::vec::IntoIter<Option<Result<R, Box<Failure>>>>),
    /// This many items share one failure.
    Failed(u32, Box<Failure>),
}

impl<R> Answers<R> {
    /// Those of the chunk that begins with item `next`.
    pub(super) fn new(next: u64, results: Rest<R>) -> Answers<R> {
        Answers { next, results }
    }
}

impl<R> Iterator for Answers<R> {
    /// An item's index, and its result unless it was skipped.
    type Item = (u64, Option<Result<R, Failure>>);

    fn next(&mut self) -> Option<Self::Item> {
        let result = match &mut self.results {
            Rest::All(results) => Some(Ok(results.next()?)),
            Rest::Mixed(results) => {
                results.next()?.map(|result| result.map_err(|failure| *failure))
            }
            Rest::Failed(0, _) => return None,
            Rest::Failed(items, failure) => {
                *items -= 1;
                Some(Err((**failure).clone()))
            }
        };
        self.next += 1;
        Some((self.next - 1, result))
    }
}
