//! The states of a pool, and the one table of their transitions.
//!
//! ```text
//!              Pause                 Fail
//!      Open ◄────────► Paused        ─────► in a crash loop, whatever the operator wants;
//!        │   Resume      │           ◄───── Mend brings back what was
//!        │ Drain         │ Drain
//!        └──► Closed ◄───┘           End, from everywhere: Ending, for good
//! ```
//!
//! What an operator wants and whether the pool works are two things: a paused pool whose workers
//! do not start is in a crash loop, and paused again when they do.

/// What a pool as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// Taking calls.
    Running,
    /// Taking calls, but handing none to a worker, because an operator says so.
    Paused,
    /// Taking nothing new, because an operator says so; what it has is finished.
    Closed,
    /// Refusing calls, because its workers die; one start at a time is tried, with long waits.
    CrashLoop {
        /// Deaths without a success between them.
        failures: u32,
    },
    /// Taking nothing new, because the daemon stops.
    Draining,
}

/// What is wanted of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// To take calls and run them.
    Open,
    /// To take calls and keep them.
    Paused,
    /// To run what it has and take nothing new.
    Closed,
    /// To end.
    Ending,
}

/// What is wanted of a pool, and whether its workers live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What is wanted.
    pub opening: Opening,
    /// How many deaths made it a crash loop, if it is one.
    pub failures: Option<u32>,
}

/// What moves a pool from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMove {
    /// An operator pauses it.
    Pause,
    /// An operator lets it go on.
    Resume,
    /// An operator drains it.
    Close,
    /// So many of its workers died.
    Fail(u32),
    /// A worker lives, or an operator forgives.
    Mend,
    /// The daemon stops.
    End,
}

impl Standing {
    /// Where every pool starts.
    pub const NEW: Standing = Standing { opening: Opening::Open, failures: None };

    /// The table: where a move leads from here, or none when it is illegal and changes nothing.
    pub fn after(self, step: PoolMove) -> Option<Standing> {
        use Opening::{Closed, Ending, Open, Paused};
        let Standing { opening, failures } = self;
        let opened = |opening| Some(Standing { opening, failures });
        match (opening, failures, step) {
            (Ending, ..) => None,
            (_, _, PoolMove::End) => Some(Standing { opening: Ending, failures: None }),
            (Open | Closed, _, PoolMove::Pause) => opened(Paused),
            (Open | Paused, _, PoolMove::Close) => opened(Closed),
            (Paused | Closed, _, PoolMove::Resume) => opened(Open),
            (_, None, PoolMove::Fail(failures)) => {
                Some(Standing { opening, failures: Some(failures) })
            }
            (_, Some(_), PoolMove::Mend) => Some(Standing { opening, failures: None }),
            _ => None,
        }
    }

    /// What the pool as a whole is doing.
    pub const fn state(self) -> PoolState {
        match (self.opening, self.failures) {
            (Opening::Ending, _) => PoolState::Draining,
            (_, Some(failures)) => PoolState::CrashLoop { failures },
            (Opening::Open, None) => PoolState::Running,
            (Opening::Paused, None) => PoolState::Paused,
            (Opening::Closed, None) => PoolState::Closed,
        }
    }

    /// Whether waiting calls are handed to workers.
    pub const fn assigns(self) -> bool {
        matches!(self.state(), PoolState::Running | PoolState::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legal_moves_of_a_pool_are_these_and_no_others() {
        use Opening::{Closed, Ending, Open, Paused};
        use PoolMove::{Close, End, Fail, Mend, Pause, Resume};
        let at = |opening, failures| Standing { opening, failures };
        let mut legal = Vec::new();
        for failures in [None, Some(7)] {
            for (from, step, to) in [
                (Open, Pause, Paused),
                (Open, Close, Closed),
                (Paused, Resume, Open),
                (Paused, Close, Closed),
                (Closed, Resume, Open),
                (Closed, Pause, Paused),
            ] {
                legal.push((at(from, failures), step, at(to, failures)));
            }
            for from in [Open, Paused, Closed] {
                legal.push((at(from, failures), End, at(Ending, None)));
            }
        }
        for opening in [Open, Paused, Closed] {
            legal.push((at(opening, None), Fail(9), at(opening, Some(9))));
            legal.push((at(opening, Some(7)), Mend, at(opening, None)));
        }
        for opening in [Open, Paused, Closed, Ending] {
            for failures in [None, Some(7)] {
                for step in [Pause, Resume, Close, Fail(9), Mend, End] {
                    let from = at(opening, failures);
                    let wanted = legal.iter().find(|(s, m, _)| (*s, *m) == (from, step));
                    let wanted = wanted.map(|(_, _, to)| *to);
                    assert_eq!(wanted, from.after(step), "{from:?} on {step:?}");
                }
            }
        }
    }

    #[test]
    fn a_crash_loop_hides_what_the_operator_wants_until_it_is_mended() {
        let paused = Standing::NEW.after(PoolMove::Pause).unwrap();
        let broken = paused.after(PoolMove::Fail(5)).unwrap();
        assert_eq!(PoolState::CrashLoop { failures: 5 }, broken.state());
        assert!(!broken.assigns());
        assert_eq!(PoolState::Paused, broken.after(PoolMove::Mend).unwrap().state());
    }
}
