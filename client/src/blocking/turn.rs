//! The right to write a frame, which one thread has at a time: a mutex that can be waited for until
//! a deadline, which the standard library's cannot. What is written is `connection`'s.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::desk::lock;

/// Who may write.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Default)]
struct State {
    taken: bool,
    waiting: usize,
}

/// The right to write, until it is dropped.
#[must_use = "a turn that is dropped at once is over"]
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits until no other thread writes; `None` when the deadline comes first.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Option<Turn<'_>> {
        let mut state = lock(&self.state);
        // Looked at before giving up: a thread that was notified and finds the turn free takes it,
        // so no notification is lost on one whose deadline passes at that moment.
        while state.taken {
            let now = Instant::now();
            if deadline.is_some_and(|at| at <= now) {
                return None;
            }
            let rest = deadline.map_or(Duration::MAX, |at| at - now);
            state.waiting += 1;
            let waited = self.over.wait_timeout(state, rest);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.taken = true;
        Some(Turn(self))
    }

    /// Takes the turn, if no other thread has it.
    pub(super) fn try_take(&self) -> Option<Turn<'_>> {
        let mut state = lock(&self.state);
        if state.taken {
            return None;
        }
        state.taken = true;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.taken = false;
        // A notification is a system call, and most of the time nobody waits.
        if state.waiting > 0 {
            self.0.over.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_waited_for_until_the_deadline_and_not_beyond() {
        let turns = Turns::default();
        let soon = || Some(Instant::now() + Duration::from_millis(20));
        let held = turns.wait(soon());
        assert!(held.is_some() && turns.try_take().is_none());
        assert!(turns.wait(soon()).is_none() && turns.wait(Some(Instant::now())).is_none());
        drop(held);
        // A free turn needs no waiting, so a deadline that has passed does not matter.
        drop(turns.wait(Some(Instant::now())).unwrap());
        drop(turns.try_take().unwrap());
    }

    #[test]
    fn everyone_who_waits_gets_a_turn_among_others_who_give_up() {
        let (turns, writing) = (Turns::default(), Mutex::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (turns, writing) = (&turns, &writing);
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        let patience = Duration::from_micros(thread);
                        let deadline = (thread % 2 == 0).then(|| Instant::now() + patience);
                        if let Some(_turn) = turns.wait(deadline) {
                            *writing.try_lock().expect("one thread at a time") += 1;
                        }
                    }
                });
            }
        });
        assert!(*lock(&writing) >= 8_000);
    }
}
