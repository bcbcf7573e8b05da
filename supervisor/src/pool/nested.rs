//! Workers whose calls wait for calls of their own.
//!
//! Such a worker does nothing, so it does not count against the pool's size: its place is free for
//! a nested call, for which a worker is started beyond the size if none is idle. Only for nested
//! ones: other calls would bring nobody nearer to an end, and may themselves come to wait.
//!
//! ```text
//!   size 1, nested.extra 1     worker 0.1   f ── waits ────────────────► goes on
//!                              worker 1.1      (started)  g ── answers ─┘   goes when idle for
//!                                                                           scale.down_after
//! ```
//!
//! A nested call waits in the line as any call does; besides, a free place of this kind goes to the
//! nested call that came first. A pool has at most `size + nested.extra` busy workers. When all of
//! them wait, `nesting` tells whether one will go on, and the newest nested call is refused if not.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{CallKey, Effect};
use super::policy::Pool;
use super::standing::PoolState;
use super::timers::Timer;

impl Pool {
    /// Whether every worker that this pool may have for nested calls waits for such calls itself.
    pub const fn is_full_of_waiting(&self) -> bool {
        self.waiting >= self.settings.size.max + self.settings.nested.extra
    }

    /// A call waits for calls of its own from now on, or does not any more. Late news of a worker
    /// that has got on to something else mean nothing.
    pub(super) fn set_waits(&mut self, worker: WorkerId, call: CallKey, waits: bool) {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        let runs_it = entry.state.is_busy() && entry.state.call() == Some(call);
        if !runs_it || entry.waits == waits {
            return;
        }
        entry.waits = waits;
        self.waiting = if waits { self.waiting + 1 } else { self.waiting - 1 };
        assert!(self.waiting <= self.busy, "only who is busy waits");
    }

    /// Hands nested calls to the workers that free places allow, and has as many workers as that
    /// takes.
    pub(super) fn serve_nested(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.calls.nested_waiting() > 0
            && self.free_places() > 0
            && let Some(worker) = self.idle.last().copied()
        {
            let call = self.calls.pop_nested_for(worker).expect("one was just counted");
            self.hand_over(now, worker, call, effects);
        }
        let waiting = u32::try_from(self.calls.nested_waiting()).unwrap_or(u32::MAX);
        let wanted = waiting.min(self.free_places());
        let coming = self.starting + (self.active_slots() - self.filled);
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
        let at_work = self.busy - self.waiting;
        let most = self.size + self.settings.nested.extra;
        self.size.saturating_sub(at_work).min(most.saturating_sub(self.busy))
    }

    /// When a worker for nested calls will have been of no use for long.
    fn dismiss_extra_at(&self) -> Option<Instant> {
        let used = self.busy.saturating_sub(self.size);
        if self.extra <= used || self.state() != PoolState::Running {
            return None;
        }
        let judged = self.idle.get(self.settings.size.spares as usize)?;
        Some(self.workers[judged].since + self.settings.scale.down_after)
    }

    /// One worker less for nested calls.
    pub(super) fn dismiss_extra(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.dismiss_extra_at().is_some_and(|at| at <= now) {
            self.extra -= 1;
            let slot = self.idle.first().expect("one was judged to be idle").slot;
            self.vacate(now, slot, effects);
        }
    }
}
