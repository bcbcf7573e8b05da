//! The states of a worker, and the one table of its transitions.
//!
//! ```text
//!   Launch ─► Starting ──Ready──► Idle ◄──Answered── Busy ──Interrupt──► Interrupting
//!                │                 │ └────Assign────►  │                  │   │
//!                │                 │  ◄───────────────Answered────────────┘   │
//!                │                 └──Retire─► Retiring ◄─Retire─┘ (Recall: back to what it was)
//!                └──────Stop───────┴────────┬──────────┴──────────Stop────────┘
//!                                           ▼
//!                                       Stopping ───Died──► (removed when Gone)
//! ```
//!
//! `Retiring` is a worker that gets no more calls, but may finish the one it has.
//! A worker leaves `Stopping` only by its death. Death itself is possible in every state and is no
//! row of the table: the policy removes the worker then, whatever it was doing.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{CallKey, StopCause};

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Its process is being started.
    Starting,
    /// Ready, without a call.
    Idle,
    /// It runs a call.
    Busy(CallKey),
    /// It runs a call nobody waits for any more, and was told so.
    Interrupting(CallKey),
    /// It gets no more calls, and goes when its call, if it has one, has ended and its successor
    /// is there.
    Retiring(StopCause, Option<CallKey>),
    /// It was told to go. The call is the one it had when a fault of its own made it go.
    Stopping(StopCause, Option<CallKey>),
    /// Its python ended; its tree is being swept.
    Dead,
}

/// What moves a worker from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It said it is ready.
    Ready,
    /// It was handed a call.
    Assign(CallKey),
    /// It answered a call.
    Answered(CallKey),
    /// It was told to interrupt its call.
    Interrupt(CallKey),
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
    /// The table: where a move leads from here, or none when it is illegal and changes nothing.
    pub fn after(self, step: Move) -> Option<WorkerState> {
        use WorkerState::{Busy, Dead, Idle, Interrupting, Retiring, Starting, Stopping};
        match (self, step) {
            (Starting, Move::Ready) => Some(Idle),
            (Idle, Move::Assign(call)) => Some(Busy(call)),
            (Busy(had) | Interrupting(had), Move::Answered(call)) if had == call => Some(Idle),
            (Retiring(cause, Some(had)), Move::Answered(call)) if had == call => {
                Some(Retiring(cause, None))
            }
            (Busy(had) | Retiring(_, Some(had)), Move::Interrupt(call)) if had == call => {
                Some(Interrupting(call))
            }
            (Idle, Move::Retire(cause)) => Some(Retiring(cause, None)),
            (Busy(call), Move::Retire(cause)) => Some(Retiring(cause, Some(call))),
            (Retiring(_, None), Move::Recall) => Some(Idle),
            (Retiring(_, Some(call)), Move::Recall) => Some(Busy(call)),
            (Starting | Idle | Interrupting(_), Move::Stop(cause)) => Some(Stopping(cause, None)),
            (Busy(call), Move::Stop(cause)) => Some(Stopping(cause, Some(call))),
            (Retiring(_, call), Move::Stop(cause)) => Some(Stopping(cause, call)),
            (Dead, _) => None,
            (_, Move::Die) => Some(Dead),
            _ => None,
        }
    }

    /// The call it still owes an answer for.
    pub const fn call(self) -> Option<CallKey> {
        match self {
            WorkerState::Busy(call)
            | WorkerState::Interrupting(call)
            | WorkerState::Retiring(_, Some(call))
            | WorkerState::Stopping(_, Some(call)) => Some(call),
            _ => None,
        }
    }

    /// Whether it runs a call that somebody waits for.
    pub const fn is_busy(self) -> bool {
        matches!(self, WorkerState::Busy(_) | WorkerState::Retiring(_, Some(_)))
    }

    /// Whether it runs a call, be it that somebody waits for it or not.
    pub const fn has_call(self) -> bool {
        self.is_busy() || matches!(self, WorkerState::Interrupting(_))
    }

    /// Whether it has become ready and was not told to go.
    pub const fn is_up(self) -> bool {
        use WorkerState::{Busy, Idle, Interrupting, Retiring};
        matches!(self, Idle | Busy(_) | Interrupting(_) | Retiring(..))
    }

    /// The state's name in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Idle => "ready",
            WorkerState::Busy(_) => "busy",
            WorkerState::Interrupting(_) => "interrupting",
            WorkerState::Retiring(..) => "retiring",
            WorkerState::Stopping(..) => "stopping",
            WorkerState::Dead => "dead",
        }
    }

    /// Why a worker is in this state, in words.
    pub const fn reason(self) -> &'static str {
        match self {
            WorkerState::Interrupting(_) => "its call was cancelled or timed out",
            WorkerState::Stopping(StopCause::StartTimedOut, _) => "its start took too long",
            WorkerState::Stopping(StopCause::Interrupted, _) => "it would not give up a call",
            WorkerState::Stopping(StopCause::Protocol, _) => "it broke the protocol",
            WorkerState::Stopping(StopCause::ChannelLost, _) => "it closed its sockets",
            WorkerState::Stopping(StopCause::Drain, _) => "the daemon is stopping",
            WorkerState::Stopping(StopCause::Memory, _) => "it held too much memory",
            WorkerState::Stopping(StopCause::Stalled, _) => "a signal had stopped it",
            WorkerState::Retiring(StopCause::Surplus, _)
            | WorkerState::Stopping(StopCause::Surplus, _) => "the pool became smaller",
            WorkerState::Retiring(StopCause::Replaced(cause), _)
            | WorkerState::Stopping(StopCause::Replaced(cause), _) => cause.reason(),
            WorkerState::Dead => "its processes are being swept",
            _ => "",
        }
    }
}

/// A worker as `status` shows it: read from the state that decides.
#[derive(Clone, Copy, Debug)]
pub struct WorkerView {
    /// Which.
    pub id: WorkerId,
    /// What it is doing.
    pub state: WorkerState,
    /// Since when.
    pub since: Instant,
    /// Whether a signal has stopped it, so that it gets no calls.
    pub halted: bool,
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

    const ONE: CallKey = CallKey(1);
    const TWO: CallKey = CallKey(2);
    const CAUSE: StopCause = StopCause::Protocol;

    const OTHER: StopCause = StopCause::Surplus;

    fn states() -> Vec<WorkerState> {
        use WorkerState::{Busy, Dead, Idle, Interrupting, Retiring, Starting, Stopping};
        let (retiring, stopping) = (Retiring(OTHER, None), Stopping(CAUSE, None));
        let with_call = [Retiring(OTHER, Some(ONE)), Stopping(CAUSE, Some(ONE))];
        let mut states = vec![Starting, Idle, Busy(ONE), Interrupting(ONE), Dead];
        states.extend([retiring, stopping]);
        states.extend(with_call);
        states
    }

    fn moves() -> Vec<Move> {
        let calls = [ONE, TWO];
        let mut moves = vec![Move::Ready, Move::Stop(CAUSE), Move::Die, Move::Retire(OTHER)];
        moves.push(Move::Recall);
        moves.extend(calls.map(Move::Assign));
        moves.extend(calls.map(Move::Answered));
        moves.extend(calls.map(Move::Interrupt));
        moves
    }

    #[test]
    fn those_have_a_call_that_run_one() {
        use WorkerState::{Busy, Interrupting, Retiring};
        let has = states().into_iter().filter(|state| state.has_call()).collect::<Vec<_>>();
        assert_eq!(vec![Busy(ONE), Interrupting(ONE), Retiring(OTHER, Some(ONE))], has);
    }

    #[test]
    fn the_legal_moves_are_these_and_no_others() {
        use WorkerState::{Busy, Dead, Idle, Interrupting, Retiring, Starting, Stopping};
        let mut legal = vec![
            (Starting, Move::Ready, Idle),
            (Idle, Move::Assign(ONE), Busy(ONE)),
            (Idle, Move::Assign(TWO), Busy(TWO)),
            (Busy(ONE), Move::Answered(ONE), Idle),
            (Interrupting(ONE), Move::Answered(ONE), Idle),
            (Retiring(OTHER, Some(ONE)), Move::Answered(ONE), Retiring(OTHER, None)),
            (Busy(ONE), Move::Interrupt(ONE), Interrupting(ONE)),
            (Retiring(OTHER, Some(ONE)), Move::Interrupt(ONE), Interrupting(ONE)),
            (Idle, Move::Retire(OTHER), Retiring(OTHER, None)),
            (Busy(ONE), Move::Retire(OTHER), Retiring(OTHER, Some(ONE))),
            (Retiring(OTHER, None), Move::Recall, Idle),
            (Retiring(OTHER, Some(ONE)), Move::Recall, Busy(ONE)),
            (Starting, Move::Stop(CAUSE), Stopping(CAUSE, None)),
            (Idle, Move::Stop(CAUSE), Stopping(CAUSE, None)),
            (Busy(ONE), Move::Stop(CAUSE), Stopping(CAUSE, Some(ONE))),
            (Interrupting(ONE), Move::Stop(CAUSE), Stopping(CAUSE, None)),
            (Retiring(OTHER, None), Move::Stop(CAUSE), Stopping(CAUSE, None)),
            (Retiring(OTHER, Some(ONE)), Move::Stop(CAUSE), Stopping(CAUSE, Some(ONE))),
        ];
        let living = states().into_iter().filter(|state| *state != Dead);
        legal.extend(living.map(|state| (state, Move::Die, Dead)));
        for state in states() {
            for step in moves() {
                let wanted =
                    legal.iter().find(|(s, m, _)| (*s, *m) == (state, step)).map(|(_, _, to)| *to);
                assert_eq!(wanted, state.after(step), "{state:?} on {step:?}");
            }
        }
    }
}
