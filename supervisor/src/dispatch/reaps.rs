//! Ended guardians, until the spawner knows of them. Whoever is not reaped stays in the system's
//! table of processes as long as the daemon lives, so an order to reap is not lost when the spawner
//! takes none at the moment: it is kept, and given again with the next event, or soon without one.

use std::collections::VecDeque;
use std::time::Instant;

use super::dispatcher::Dispatcher;
use crate::limits::{REAPS_POSTPONED_MAX, REAPS_RETRY};
use crate::worker::spawner::Order;

/// A guardian that has ended, and whether it left its tree behind.
type Ended = (u32, bool);

/// The orders to reap that could not be given.
#[derive(Debug, Default)]
pub(super) struct Reaps {
    ended: VecDeque<Ended>,
    /// Whether the strays are to be reaped, too. Once is enough, however many there are.
    strays: bool,
    /// When they are given again, if nothing happens before that.
    due: Option<Instant>,
}

/// What has become of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// The spawner has it.
    Now,
    /// It is kept.
    Later,
    /// It is nowhere.
    Never,
}

impl Reaps {
    /// Gives an order, after those that were kept; keeps it if it is not taken.
    fn order(&mut self, order: impl Fn() -> Order, give: impl Fn(Order) -> bool) -> Given {
        self.give(&give);
        if self.is_empty() && give(order()) {
            Given::Now
        } else if self.postpone(&order()) {
            Given::Later
        } else {
            Given::Never
        }
    }

    /// Keeps an order. False when there are too many.
    fn postpone(&mut self, order: &Order) -> bool {
        match *order {
            Order::Reap { guardian, orphans } if self.ended.len() < REAPS_POSTPONED_MAX => {
                self.ended.push_back((guardian, orphans));
            }
            Order::ReapStrays => self.strays = true,
            _ => return false,
        }
        true
    }

    /// Gives what was kept, until `give` says that no more is taken.
    fn give(&mut self, give: impl Fn(Order) -> bool) {
        while let Some(&(guardian, orphans)) = self.ended.front() {
            if !give(Order::Reap { guardian, orphans }) {
                return;
            }
            self.ended.pop_front();
        }
        self.strays = self.strays && !give(Order::ReapStrays);
    }

    /// When it is time to try again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Plans the next try, if one is needed.
    fn plan(&mut self, now: Instant) {
        self.due = (!self.is_empty()).then_some(now + REAPS_RETRY);
    }

    fn is_empty(&self) -> bool {
        self.ended.is_empty() && !self.strays
    }
}

impl Dispatcher {
    /// A guardian has ended.
    pub(super) fn reap(&mut self, guardian: u32, orphans: bool) {
        self.order_reap(|| Order::Reap { guardian, orphans });
    }

    /// Children have ended that nobody here has started.
    pub(super) fn reap_strays(&mut self) {
        self.order_reap(|| Order::ReapStrays);
    }

    fn order_reap(&mut self, order: impl Fn() -> Order) {
        let Dispatcher { reaps, spawner, counters, .. } = self;
        let given = reaps.order(order, |order| spawner.order(order).is_ok());
        reaps.plan(Instant::now());
        match given {
            Given::Now => {}
            Given::Later => counters.one("reaps_postponed"),
            Given::Never => {
                counters.one("reaps_lost");
                tracing::error!("too many processes have ended at once; one stays a zombie");
            }
        }
    }

    /// Gives the spawner what it could not take before.
    pub(super) fn catch_up_with_reaps(&mut self) {
        if !self.reaps.is_empty() {
            let Dispatcher { reaps, spawner, .. } = self;
            reaps.give(|order| spawner.order(order).is_ok());
            reaps.plan(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn what_the_spawner_could_not_take_is_given_again_in_order() {
        let (orders, inbox) = sync_channel(2);
        let give = |order| orders.try_send(order).is_ok();
        let mut reaps = Reaps::default();
        let mut became = Vec::new();
        for guardian in 1..=4 {
            let order = || Order::Reap { guardian, orphans: guardian == 3 };
            became.push(reaps.order(order, give));
        }
        assert_eq!([Given::Now, Given::Now, Given::Later, Given::Later], became[..]);
        for _ in 0..2 {
            assert_eq!(Given::Later, reaps.order(|| Order::ReapStrays, give));
        }
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.extend(inbox.try_iter().map(|order| match order {
                Order::Reap { guardian, orphans } => (guardian, orphans),
                _ => (0, false),
            }));
            reaps.give(give);
        }
        let all = vec![(1, false), (2, false), (3, true), (4, false), (0, false)];
        assert_eq!(all, taken);
        assert!(reaps.is_empty());
    }

    #[test]
    fn a_time_is_set_for_as_long_as_one_is_kept() {
        let mut reaps = Reaps::default();
        let (now, order) = (Instant::now(), || Order::Reap { guardian: 1, orphans: false });
        assert_eq!(Given::Now, reaps.order(order, |_| true));
        reaps.plan(now);
        assert_eq!(None, reaps.due());
        assert_eq!(Given::Later, reaps.order(order, |_| false));
        reaps.plan(now);
        assert_eq!(Some(now + REAPS_RETRY), reaps.due());
        reaps.give(|_| true);
        reaps.plan(now);
        assert_eq!(None, reaps.due());
    }

    #[test]
    fn they_are_bounded() {
        let mut reaps = Reaps::default();
        let order = Order::Reap { guardian: 1, orphans: false };
        let kept = (0..2 * REAPS_POSTPONED_MAX).filter(|_| reaps.postpone(&order)).count();
        assert_eq!(REAPS_POSTPONED_MAX, kept);
    }
}
