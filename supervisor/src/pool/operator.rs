//! What an operator or a new configuration wants from a pool, while it runs.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{Effect, Order, ReplaceCause};
use super::policy::Pool;
use super::settings::Settings;
use super::standing::PoolMove;
use super::timers::Timer;

impl Pool {
    pub(super) fn obey(&mut self, now: Instant, order: Order, effects: &mut Vec<Effect>) {
        if self.drained || !self.is_started() {
            return;
        }
        match order {
            Order::Pause => self.stand(PoolMove::Pause),
            Order::Resume => self.stand(PoolMove::Resume),
            Order::Drain => self.stand(PoolMove::Close),
            Order::Resize { min, max } => {
                if max == 0 || min > max {
                    return;
                }
                self.settings.size.min = min;
                self.settings.size.max = max;
                self.resize(now, effects);
            }
            Order::Recycle => self.outwear_all(now, ReplaceCause::Operator, effects),
            Order::Reset => self.reset(now, effects),
        }
    }

    /// New settings hold from now on, for what is there as well. Without `replace`, what is there
    /// is what is wanted: replacements that a former configuration wanted are called off.
    pub(super) fn reconfigure(
        &mut self,
        now: Instant,
        settings: Settings,
        replace: bool,
        effects: &mut Vec<Effect>,
    ) {
        let rules_change = settings.replace != self.settings.replace;
        self.settings = settings;
        if !self.is_started() {
            return;
        }
        if rules_change {
            self.plan_replacements();
        }
        if !replace {
            self.forgive_reload(now, effects);
        }
        self.resize(now, effects);
        if replace {
            self.outwear_all(now, ReplaceCause::Reload, effects);
            // What did not start may do so now.
            self.reset(now, effects);
            if self.size == 0 {
                // A make that cannot work is found out now, as at the start, not at the next call.
                self.size = 1;
                self.fit(now, effects);
            }
        }
    }

    /// A move that is illegal changes nothing.
    fn stand(&mut self, step: PoolMove) {
        if let Some(standing) = self.standing.after(step) {
            self.standing = standing;
        }
    }

    fn is_started(&self) -> bool {
        use super::standing::Opening;
        !self.slots.is_empty() && self.standing.opening != Opening::Ending
    }

    /// The bounds of the pool's size have changed.
    fn resize(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let bounds = self.settings.size;
        self.size = self.size.clamp(bounds.min, bounds.max);
        if bounds.min == bounds.max {
            self.timers.clear(Timer::Grow);
            self.timers.clear(Timer::Shrink);
        }
        self.fit(now, effects);
    }

    fn outwear_all(&mut self, now: Instant, cause: ReplaceCause, effects: &mut Vec<Effect>) {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in workers {
            self.outwear(now, worker, cause, effects);
        }
    }
}
