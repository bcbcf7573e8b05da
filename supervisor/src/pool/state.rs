//! The states of a worker, and the one table of its transitions.
//!
//! ```text
//!   Launch ─► Starting ──Ready──► Idle ◄──Answered── Busy ──Interrupt──► Interrupting
//!                │                 │ └────Assign────►  │                  │   │
//!                │                 │  ◄───────────────Answered────────────┘   │
//!                └──────Stop───────┴────────┬──────────┴──────────Stop────────┘
//!                                           ▼
//!                                       Stopping ───Died──► (removed when Gone)
//! ```
//!
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
    /// It was told to go.
    Stop(StopCause),
    /// Its python ended.
    Die,
}

impl WorkerState {
    /// The table: where a move leads from here, or none when it is illegal and changes nothing.
    pub fn after(self, step: Move) -> Option<WorkerState> {
        use WorkerState::{Busy, Dead, Idle, Interrupting, Starting, Stopping};
        match (self, step) {
            (Starting, Move::Ready) => Some(Idle),
            (Idle, Move::Assign(call)) => Some(Busy(call)),
            (Busy(had) | Interrupting(had), Move::Answered(call)) if had == call => Some(Idle),
            (Busy(had), Move::Interrupt(call)) if had == call => Some(Interrupting(call)),
            (Starting | Idle, Move::Stop(cause)) => Some(Stopping(cause, None)),
            (Busy(call), Move::Stop(cause)) => Some(Stopping(cause, Some(call))),
            (Interrupting(_), Move::Stop(cause)) => Some(Stopping(cause, None)),
            (Starting | Idle | Busy(_) | Interrupting(_) | Stopping(..), Move::Die) => Some(Dead),
            _ => None,
        }
    }

    /// The call it still owes an answer for.
    pub const fn call(self) -> Option<CallKey> {
        match self {
            WorkerState::Busy(call)
            | WorkerState::Interrupting(call)
            | WorkerState::Stopping(_, Some(call)) => Some(call),
            _ => None,
        }
    }

    /// The state's name in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Idle => "ready",
            WorkerState::Busy(_) => "busy",
            WorkerState::Interrupting(_) => "interrupting",
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
            WorkerState::Stopping(StopCause::Replaced(_), _) => "it was replaced",
            WorkerState::Stopping(StopCause::Surplus, _) => "the pool became smaller",
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

    fn states() -> Vec<WorkerState> {
        use WorkerState::{Busy, Dead, Idle, Interrupting, Starting, Stopping};
        vec![Starting, Idle, Busy(ONE), Interrupting(ONE), Stopping(CAUSE, Some(ONE)), Dead]
    }

    fn moves() -> Vec<Move> {
        let calls = [ONE, TWO];
        let mut moves = vec![Move::Ready, Move::Stop(CAUSE), Move::Die];
        moves.extend(calls.map(Move::Assign));
        moves.extend(calls.map(Move::Answered));
        moves.extend(calls.map(Move::Interrupt));
        moves
    }

    #[test]
    fn the_legal_moves_are_these_and_no_others() {
        use WorkerState::{Busy, Dead, Idle, Interrupting, Starting, Stopping};
        let legal = [
            (Starting, Move::Ready, Idle),
            (Idle, Move::Assign(ONE), Busy(ONE)),
            (Idle, Move::Assign(TWO), Busy(TWO)),
            (Busy(ONE), Move::Answered(ONE), Idle),
            (Interrupting(ONE), Move::Answered(ONE), Idle),
            (Busy(ONE), Move::Interrupt(ONE), Interrupting(ONE)),
            (Starting, Move::Stop(CAUSE), Stopping(CAUSE, None)),
            (Idle, Move::Stop(CAUSE), Stopping(CAUSE, None)),
            (Busy(ONE), Move::Stop(CAUSE), Stopping(CAUSE, Some(ONE))),
            (Interrupting(ONE), Move::Stop(CAUSE), Stopping(CAUSE, None)),
            (Starting, Move::Die, Dead),
            (Idle, Move::Die, Dead),
            (Busy(ONE), Move::Die, Dead),
            (Interrupting(ONE), Move::Die, Dead),
            (Stopping(CAUSE, Some(ONE)), Move::Die, Dead),
        ];
        for state in states() {
            for step in moves() {
                let wanted =
                    legal.iter().find(|(s, m, _)| (*s, *m) == (state, step)).map(|(_, _, to)| *to);
                assert_eq!(wanted, state.after(step), "{state:?} on {step:?}");
            }
        }
    }
}
