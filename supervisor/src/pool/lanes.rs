//! The calls that a worker has, and the one table of what becomes of each. A worker may have as
//! many at once as it has lanes; most have one.
//!
//! ```text
//!   Free ──Assign──► Running ──Interrupt──► Interrupting
//!     ▲                 │                        │
//!     └─────Answer──────┴─────────Answer─────────┘
//! ```
//!
//! Lanes have no numbers here: which one a call takes is its worker's business.

use std::time::Instant;

use super::event::CallKey;
use super::state::{self, WorkerState};

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Nothing.
    Free,
    /// It has a call that somebody waits for.
    Running,
    /// It has a call nobody waits for any more, and its worker was told so.
    Interrupting,
}

/// What moves a lane from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneMove {
    /// Its worker was handed a call.
    Assign,
    /// Its worker was told to interrupt the call.
    Interrupt,
    /// Its worker has answered the call, or never got it.
    Answer,
}

impl Lane {
    /// The table: where a move leads from here, or none when it is illegal and changes nothing.
    pub const fn after(self, step: LaneMove) -> Option<Lane> {
        match (self, step) {
            (Lane::Free, LaneMove::Assign) => Some(Lane::Running),
            (Lane::Running, LaneMove::Interrupt) => Some(Lane::Interrupting),
            (Lane::Running | Lane::Interrupting, LaneMove::Answer) => Some(Lane::Free),
            _ => None,
        }
    }
}

/// A call that a worker has.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Which.
    pub call: CallKey,
    /// What its lane is doing.
    pub lane: Lane,
    /// Since when its worker has had it.
    pub since: Instant,
    /// Whether it waits for calls of its own.
    pub(super) waits: bool,
    /// Whether it is late, and its answer waits for its worker's stacks.
    pub(super) dumping: bool,
    /// Whether a timer of its own may be set.
    pub(super) has_timers: bool,
}

impl Held {
    /// Whether somebody waits for it.
    pub fn is_running(&self) -> bool {
        self.lane == Lane::Running
    }
}

/// A worker's lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    count: u32,
    /// The calls in them, the one that came first first. It keeps its room, so that a call costs no
    /// allocation.
    held: Vec<Held>,
    running: u32,
    waiting: u32,
}

impl Lanes {
    pub(super) const fn new(count: u32) -> Lanes {
        assert!(count > 0, "a worker without a lane is none");
        Lanes { count, held: Vec::new(), running: 0, waiting: 0 }
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn held(&self) -> &[Held] {
        &self.held
    }

    pub(super) fn get(&self, call: CallKey) -> Option<&Held> {
        self.held.iter().find(|held| held.call == call)
    }

    /// For flags that no count depends on.
    pub(super) fn get_mut(&mut self, call: CallKey) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.call == call)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many calls there are, whether or not somebody waits for them.
    pub(super) fn load(&self) -> u32 {
        u32::try_from(self.held.len()).expect("no more than lanes")
    }

    /// Those that somebody waits for.
    pub(super) const fn running(&self) -> u32 {
        self.running
    }

    /// Those that wait for calls of their own.
    pub(super) const fn waiting(&self) -> u32 {
        self.waiting
    }

    /// What a worker in this state with these calls is called.
    pub(super) fn name(&self, state: WorkerState) -> &'static str {
        state::name(state, !self.is_empty(), self.running > 0)
    }

    /// Moves a call along the table. False when the move is illegal; then nothing has changed.
    pub(super) fn step(&mut self, now: Instant, call: CallKey, step: LaneMove) -> bool {
        let place = self.held.iter().position(|held| held.call == call);
        let before = place.map_or(Lane::Free, |place| self.held[place].lane);
        let Some(next) = before.after(step) else {
            return false;
        };
        self.running += u32::from(next == Lane::Running);
        self.running -= u32::from(before == Lane::Running);
        match (place, next) {
            (Some(place), Lane::Free) => {
                self.set_waits(place, false);
                self.held.remove(place);
            }
            (Some(place), _) => {
                self.set_waits(place, false);
                self.held[place].lane = next;
            }
            (None, _) => {
                assert!(self.load() < self.count, "no more calls than lanes");
                let (waits, dumping, has_timers) = (false, false, false);
                self.held.push(Held { call, lane: next, since: now, waits, dumping, has_timers });
            }
        }
        true
    }

    /// Says whether a call waits for calls of its own.
    pub(super) fn wait(&mut self, call: CallKey, waits: bool) {
        let place = self.held.iter().position(|held| held.call == call && held.is_running());
        if let Some(place) = place {
            self.set_waits(place, waits);
        }
    }

    /// Forgets all calls: their worker is dead.
    pub(super) fn take(&mut self) -> Vec<Held> {
        (self.running, self.waiting) = (0, 0);
        std::mem::take(&mut self.held)
    }

    fn set_waits(&mut self, place: usize, waits: bool) {
        let before = std::mem::replace(&mut self.held[place].waits, waits);
        self.waiting = self.waiting + u32::from(waits) - u32::from(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legal_moves_of_a_lane_are_these_and_no_others() {
        use Lane::{Free, Interrupting, Running};
        use LaneMove::{Answer, Assign, Interrupt};
        let legal = [
            (Free, Assign, Running),
            (Running, Interrupt, Interrupting),
            (Running, Answer, Free),
            (Interrupting, Answer, Free),
        ];
        for lane in [Free, Running, Interrupting] {
            for step in [Assign, Interrupt, Answer] {
                let wanted = legal.iter().find(|(l, s, _)| (*l, *s) == (lane, step));
                assert_eq!(wanted.map(|(_, _, to)| *to), lane.after(step), "{lane:?} on {step:?}");
            }
        }
    }

    #[test]
    fn a_worker_with_two_lanes_counts_what_is_in_them() {
        let now = Instant::now();
        let counts = |lanes: &Lanes| (lanes.load(), lanes.running(), lanes.waiting());
        let mut lanes = Lanes::new(2);
        let [one, two] = [CallKey(1), CallKey(2)];
        assert!(lanes.step(now, one, LaneMove::Assign) && lanes.step(now, two, LaneMove::Assign));
        assert!(!lanes.step(now, two, LaneMove::Assign), "a call is in one lane");
        lanes.wait(one, true);
        lanes.wait(one, true);
        assert_eq!((2, 2, 1), counts(&lanes));
        assert!(lanes.step(now, one, LaneMove::Interrupt));
        lanes.wait(one, true);
        assert_eq!((2, 1, 0), counts(&lanes), "what is given up waits for nothing");
        assert!(lanes.step(now, two, LaneMove::Answer) && !lanes.step(now, two, LaneMove::Answer));
        assert_eq!((1, 0, 0), counts(&lanes));
        assert!(lanes.step(now, one, LaneMove::Answer) && lanes.is_empty());
    }
}
