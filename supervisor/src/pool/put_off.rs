//! Starts that take longer than a start may, since what the worker is made of is not there yet: its
//! environment is being built. Such a worker is a starting one in all else: calls wait for it, and
//! no second start is tried in its place.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::policy::Pool;
use super::state::WorkerState;
use super::timers::Timer;

impl Pool {
    /// A start may take until then, whatever was said before. Of a worker that is not being started
    /// (any more), nothing changes.
    pub(super) fn put_off(&mut self, worker: WorkerId, until: Instant) {
        if self.worker_state(worker) == Some(WorkerState::Starting) {
            self.timers.set(Timer::Start(worker), until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config;
    use crate::pool::{Effect, Event, PoolState};
    use crate::prepare;

    #[test]
    fn a_start_that_is_put_off_has_until_then_and_its_own_time_after_that() {
        let config = config::parse("[pools.a]\nworkers = 1\n", None, Path::new("/")).unwrap();
        let mut pool = Pool::new(prepare::settings(&config.pools["a"]));
        let budget = pool.settings().budgets.start;
        let begun = Instant::now();
        let mut effects = Vec::new();
        pool.handle(begun, Event::Start, &mut effects);
        let Some(Effect::Launch { worker }) = effects.pop() else { panic!("it is started") };
        let until = begun + 100 * budget;
        pool.handle(begun, Event::PutOff { worker, until }, &mut effects);
        pool.handle(begun + 99 * budget, Event::Tick, &mut effects);
        assert_eq!((PoolState::Running, 0), (pool.state(), effects.len()));
        let there = begun + 99 * budget;
        let event = Event::PutOff { worker, until: there + budget };
        pool.handle(there, event.clone(), &mut effects);
        pool.handle(there + budget, Event::Tick, &mut effects);
        assert!(effects.contains(&Effect::Kill { worker }), "{effects:?}");
        let wake = pool.next_wake();
        pool.handle(there + budget + Duration::from_millis(1), event, &mut effects);
        assert_eq!(wake, pool.next_wake(), "it is going");
    }
}
