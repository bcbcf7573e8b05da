//! The states of a worker, and the one table of its transitions. What becomes of each call it has
//! is another table, in `lanes`: the two are independent, but for this: only who is up is given
//! calls.
//!
//! ```text
//!   Launch ─► Starting ──Ready──► Up ──Retire──► Retiring    (Recall leads back)
//!                │                │                 │
//!                └──────Stop──────┴───────Stop──────┘
//!                                 ▼
//!                             Stopping ───Died──► (removed when Gone)
//! ```
//!
//! `Retiring` is a worker that gets no more calls, but may finish those it has. One that retires
//! because it would not give up a call is no worker of its slot any more and is never recalled.
//! A worker leaves `Stopping` only by its death. Death itself is possible in every state.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::StopCause;
use super::lanes::Held;

/// What a worker is doing, whatever calls it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Its process is being started.
    Starting,
    /// It runs calls, or waits for some.
    Up,
    /// It gets no more calls, and goes when those it has have ended and its successor is there.
    Retiring(StopCause),
    /// It was told to go.
    Stopping(StopCause),
    /// Its python ended; its tree is being swept.
    Dead,
}

/// What moves a worker from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It said it is ready.
    Ready,
    /// It gets no more calls.
    Retire(StopCause),
    /// It gets calls again after all.
    Recall,
    /// It was told to go.
    Stop(StopCause),
    /// Its python ended.
    Die,
}

impl WorkerState {
    /// Retiring since it would not give up a call, while others in it may finish.
    pub const CONDEMNED: WorkerState = WorkerState::Retiring(StopCause::Interrupted);

    /// The table: where a move leads from here, or none when it is illegal and changes nothing.
    pub fn after(self, step: Move) -> Option<WorkerState> {
        use WorkerState::{Dead, Retiring, Starting, Stopping, Up};
        match (self, step) {
            (Starting, Move::Ready) => Some(Up),
            (Up, Move::Retire(cause)) => Some(Retiring(cause)),
            (Retiring(_), Move::Retire(StopCause::Interrupted)) if self != Self::CONDEMNED => {
                Some(Self::CONDEMNED)
            }
            (Retiring(_), Move::Recall) if self != Self::CONDEMNED => Some(Up),
            (Starting | Up | Retiring(_), Move::Stop(cause)) => Some(Stopping(cause)),
            (Dead, _) => None,
            (_, Move::Die) => Some(Dead),
            _ => None,
        }
    }

    /// Whether it has become ready and was not told to go.
    pub const fn is_up(self) -> bool {
        matches!(self, WorkerState::Up | WorkerState::Retiring(_))
    }

    /// Whether its slot is seen to, so that its end changes nothing there.
    pub fn has_left(self) -> bool {
        matches!(self, WorkerState::Stopping(_) | WorkerState::Dead) || self == Self::CONDEMNED
    }
}

/// A worker as `status` shows it: read from the state that decides.
#[derive(Clone, Copy, Debug)]
pub struct WorkerView<'a> {
    /// Which.
    pub id: WorkerId,
    /// What it is doing.
    pub state: WorkerState,
    /// Since when it has done what its name says.
    pub since: Instant,
    /// Whether a signal has stopped it, so that it gets no calls.
    pub halted: bool,
    /// How many calls it may have at once.
    pub lanes: u32,
    /// Those it has, the one it has had longest first.
    pub calls: &'a [Held],
}

impl WorkerView<'_> {
    /// Whether it runs a call that somebody waits for.
    pub fn is_busy(&self) -> bool {
        self.state.is_up() && self.calls.iter().any(Held::is_running)
    }

    /// Whether it runs a call, be it that somebody waits for it or not.
    pub fn has_call(&self) -> bool {
        self.state.is_up() && !self.calls.is_empty()
    }

    /// Since when it has had the call that it has had longest, if it runs one.
    pub fn had_since(&self) -> Option<Instant> {
        let up = self.calls.iter().filter(|_| self.state.is_up());
        up.map(|held| held.since).min()
    }

    /// Whether it is up and has no call.
    pub fn is_idle(&self) -> bool {
        self.state == WorkerState::Up && self.calls.is_empty()
    }

    /// The state's name in `status`.
    pub fn name(&self) -> &'static str {
        let is_running = self.calls.iter().any(Held::is_running);
        name(self.state, !self.calls.is_empty(), is_running)
    }

    /// Why it is in this state, in words.
    pub fn reason(&self) -> &'static str {
        match self.name() {
            "interrupting" => "its call was cancelled or timed out",
            _ => reason(self.state),
        }
    }
}

/// The name of a state with calls or without, some of which somebody waits for or not.
pub(super) const fn name(state: WorkerState, has_calls: bool, is_running: bool) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Up | WorkerState::Retiring(_) if has_calls && !is_running => "interrupting",
        WorkerState::Up if has_calls => "busy",
        WorkerState::Up => "ready",
        WorkerState::Retiring(_) => "retiring",
        WorkerState::Stopping(_) => "stopping",
        WorkerState::Dead => "dead",
    }
}

/// Why a worker is in this state, in words.
pub const fn reason(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Retiring(StopCause::Interrupted) => {
            "it would not give up a call; its other calls may finish"
        }
        WorkerState::Stopping(StopCause::StartTimedOut) => "its start took too long",
        WorkerState::Stopping(StopCause::Interrupted) => "it would not give up a call",
        WorkerState::Stopping(StopCause::Protocol) => "it broke the protocol",
        WorkerState::Stopping(StopCause::ChannelLost) => "it closed its sockets",
        WorkerState::Stopping(StopCause::Drain) => "the daemon is stopping",
        WorkerState::Stopping(StopCause::Memory) => "it held too much memory",
        WorkerState::Stopping(StopCause::Stalled) => "a signal had stopped it",
        WorkerState::Retiring(StopCause::Surplus) | WorkerState::Stopping(StopCause::Surplus) => {
            "the pool became smaller"
        }
        WorkerState::Retiring(StopCause::Replaced(cause))
        | WorkerState::Stopping(StopCause::Replaced(cause)) => cause.reason(),
        WorkerState::Dead => "its processes are being swept",
        _ => "",
    }
}

/// A slot that waits to be started again, as `status` shows it.
#[derive(Clone, Copy, Debug)]
pub struct EmptySlot {
    /// Which, with the generation it held last.
    pub id: WorkerId,
    /// Failed starts in a row.
    pub failures: u32,
    /// Since when it has waited.
    pub since: Option<Instant>,
    /// When it is started again.
    pub until: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSE: StopCause = StopCause::Protocol;
    const OTHER: StopCause = StopCause::Surplus;
    const HUNG: StopCause = StopCause::Interrupted;

    #[test]
    fn the_legal_moves_are_these_and_no_others() {
        use WorkerState::{Dead, Retiring, Starting, Stopping, Up};
        let states = [Starting, Up, Retiring(OTHER), Retiring(HUNG), Stopping(CAUSE), Dead];
        let retire = [Move::Retire(OTHER), Move::Retire(HUNG)];
        let moves = [Move::Ready, retire[0], retire[1], Move::Recall, Move::Stop(CAUSE), Move::Die];
        let mut legal = vec![
            (Starting, Move::Ready, Up),
            (Up, Move::Retire(OTHER), Retiring(OTHER)),
            (Up, Move::Retire(HUNG), Retiring(HUNG)),
            (Retiring(OTHER), Move::Retire(HUNG), Retiring(HUNG)),
            (Retiring(OTHER), Move::Recall, Up),
        ];
        for state in [Starting, Up, Retiring(OTHER), Retiring(HUNG)] {
            legal.push((state, Move::Stop(CAUSE), Stopping(CAUSE)));
        }
        let living = states.into_iter().filter(|state| *state != Dead);
        legal.extend(living.map(|state| (state, Move::Die, Dead)));
        for state in states {
            for step in moves {
                let wanted =
                    legal.iter().find(|(s, m, _)| (*s, *m) == (state, step)).map(|(_, _, to)| *to);
                assert_eq!(wanted, state.after(step), "{state:?} on {step:?}");
            }
        }
    }

    #[test]
    fn a_state_is_named_by_its_calls_too() {
        let up = |has, running| name(WorkerState::Up, has, running);
        assert_eq!(
            ["ready", "busy", "interrupting"],
            [up(false, false), up(true, true), up(true, false)]
        );
        let retiring = WorkerState::Retiring(OTHER);
        let names = [name(retiring, true, false), name(retiring, true, true)];
        assert_eq!(["interrupting", "retiring"], names);
        assert_eq!("stopping", name(WorkerState::Stopping(OTHER), true, false));
    }
}
