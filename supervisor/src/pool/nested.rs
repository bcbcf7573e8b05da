//! Calls that run and wait for calls of their own.
//!
//! Such a call does nothing, so it does not count against the pool's size: its place is free for a
//! nested call, for which a worker is started beyond the size if none has a lane free. Only for
//! nested ones: other calls would bring nobody nearer to an end, and may themselves come to wait.
//!
//! ```text
//!   size 1, nested.extra 1     worker 0.1   f ── waits ────────────────► goes on
//!                              worker 1.1      (started)  g ── answers ─┘   goes when idle for
//!                                                                           scale.down_after
//! ```
//!
//! The lane itself is not free, of course: its worker may not have more calls than lanes. So there
//! are `size` places for calls that do not wait, times the lanes of a worker, and at most `size +
//! nested.extra`, times that, for all of them.
//!
//! A nested call waits in the line as any call does; besides, a free place of this kind goes to the
//! nested call that came first. When all lanes that the pool may have wait, `nesting` tells whether
//! one will go on, and the newest nested call is refused if not.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{CallKey, Effect};
use super::policy::Pool;
use super::standing::PoolState;
use super::timers::Timer;

impl Pool {
    /// How many of its waiting calls have to end before a lane is free for a nested one; 0 when
    /// there is one, or will be by what does not wait.
    pub const fn waiting_too_many(&self) -> u32 {
        let workers = self.settings.size.max + self.settings.nested.extra;
        (self.tally.waiting + 1).saturating_sub(workers * self.settings.lanes)
    }

    /// Whether every lane that this pool may have for nested calls waits for such calls itself.
    pub const fn is_full_of_waiting(&self) -> bool {
        self.waiting_too_many() > 0
    }

    /// A call waits for calls of its own from now on, or does not any more. Late news of a worker
    /// that has got on to something else mean nothing.
    pub(super) fn set_waits(&mut self, worker: WorkerId, call: CallKey, waits: bool) {
        self.change(worker, |entry| entry.lanes.wait(call, waits));
    }

    /// Hands nested calls to the workers that free places allow, and has as many workers as that
    /// takes.
    pub(super) fn serve_nested(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.calls.nested_waiting() > 0
            && self.free_places() > 0
            && let Some(worker) = self.next_of(self.size + self.settings.nested.extra)
        {
            let call = self.calls.pop_nested_for(worker).expect("one was just counted");
            self.hand_over(now, worker, call, effects);
        }
        let waiting = u32::try_from(self.calls.nested_waiting()).unwrap_or(u32::MAX);
        let wanted = waiting.min(self.free_places());
        let (wanted, coming) = (wanted.div_ceil(self.settings.lanes), self.workers_coming());
        if wanted > coming {
            let extra = self.extra + (wanted - coming);
            self.extra = extra.min(self.settings.nested.extra);
            self.fit(now, effects);
        }
        let at = self.dismiss_extra_at();
        self.timers.plan(Timer::Extra, at);
    }

    /// How many nested calls more may run now.
    fn free_places(&self) -> u32 {
        if !self.standing.assigns() {
            return 0;
        }
        let at_work = self.tally.running - self.tally.waiting;
        let places = self.size * self.settings.lanes;
        let most = (self.size + self.settings.nested.extra) * self.settings.lanes;
        places.saturating_sub(at_work).min(most.saturating_sub(self.tally.running))
    }

    /// When a worker for nested calls will have been of no use for long.
    fn dismiss_extra_at(&self) -> Option<Instant> {
        let used = self.busy_workers().saturating_sub(self.size);
        if self.extra <= used || self.state() != PoolState::Running {
            return None;
        }
        let judged = self.room.idle().get(self.settings.size.spares as usize)?;
        Some(self.workers[judged].since + self.settings.scale.down_after)
    }

    /// One worker less for nested calls.
    pub(super) fn dismiss_extra(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.dismiss_extra_at().is_some_and(|at| at <= now) {
            self.extra -= 1;
            let slot = self.room.idle().first().expect("one was judged to be idle").slot;
            self.vacate(now, slot, effects);
        }
    }
}
