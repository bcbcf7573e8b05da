//! Workers that a signal has stopped, as their guardians report it: nobody looks for it, and
//! nothing wakes up for it. What a debugger holds is not reported so, and is found by looking.

use std::time::Instant;

use clutch_protocol::message::{Signal, WorkerId};

use super::core::Core;
use super::dispatcher::Dispatcher;
use crate::config::Stopped;
use crate::limits::HALT_SAID_EVERY;
use crate::pool::{Event, StopCause, WorkerState};
use crate::watch::activity::Activity;
use crate::worker::spawner::PoolIndex;

/// How many processes a sentence names.
const NAMED_MAX: usize = 8;

impl Core {
    /// A signal has stopped a worker's python, or it goes on.
    pub(super) fn worker_halted(&self, pool: PoolIndex, worker: WorkerId, stopped: bool) {
        let event = if stopped { Event::Halted { worker } } else { Event::Resumed { worker } };
        self.tell(pool, event);
        let follows = self.with(|dispatcher| dispatcher.note_halt(pool, worker, stopped));
        if let Some(event) = follows {
            self.tell(pool, event);
        }
    }

    /// A pool is made differently by now: what is wanted of stopped workers is done to those that
    /// were stopped before, too.
    pub(super) fn deal_with_all_stopped(&self, pool: PoolIndex) {
        let follows = self.with(|dispatcher| {
            let views = dispatcher.pools[pool.0].policy.workers();
            let stays =
                |does_what: WorkerState| does_what.is_up() || does_what == WorkerState::Starting;
            let halted = views.filter(|view| view.halted && stays(view.state));
            let halted: Vec<_> = halted.map(|view| view.id).collect();
            let deal = |worker| dispatcher.deal_with_stopped(pool, worker);
            halted.into_iter().filter_map(deal).collect::<Vec<_>>()
        });
        for event in follows {
            self.tell(pool, event);
        }
    }
}

impl Dispatcher {
    fn note_halt(&mut self, pool: PoolIndex, worker: WorkerId, stopped: bool) -> Option<Event> {
        let state = &mut self.pools[pool.0];
        let view = state.policy.worker(worker)?;
        let (does_what, called) = (view.state, view.name());
        let entry = state.workers.get_mut(&worker).filter(|entry| !entry.dead)?;
        entry.watched.activity = stopped.then_some(Activity::Stopped);
        let (pid, name) = (entry.pid, &state.config.name);
        // One on its way out is woken, or killed, by whoever wants it gone.
        if !(does_what.is_up() || does_what == WorkerState::Starting) {
            return None;
        }
        let watched = &mut entry.watched;
        if !stopped {
            if std::mem::take(&mut watched.halt_was_said) {
                tracing::info!(pool = name, %worker, pid, "a stopped worker goes on");
            }
            return None;
        }
        let now = Instant::now();
        // Code that stops itself again and again fills no log.
        if watched.said_halted.is_none_or(|at| now.duration_since(at) >= HALT_SAID_EVERY) {
            (watched.said_halted, watched.halt_was_said) = (Some(now), true);
            tracing::warn!(pool = name, %worker, pid, state = called,
                "a signal has stopped a worker; it gets no calls until it goes on");
        }
        state.counters.one("stops");
        self.deal_with_stopped(pool, worker)
    }

    /// Does what the configuration wants done about a stopped worker.
    pub(super) fn deal_with_stopped(&mut self, pool: PoolIndex, worker: WorkerId) -> Option<Event> {
        match self.pools[pool.0].config.liveness.stopped {
            Stopped::Report => None,
            Stopped::Continue => {
                self.pool(pool).counters.one("stopped_continued");
                let link = self.worker(pool, worker)?.link.as_ref()?;
                // A guardian that is gone is told by its pidfd.
                let _ = link.signal(Signal::Continue);
                None
            }
            // The pool has it killed, once, and waits for its end.
            Stopped::Replace => {
                let entry = self.worker(pool, worker).filter(|entry| !entry.dead)?;
                entry.detail = "liveness.stopped says replace".to_owned();
                self.pool(pool).counters.one("stopped_replaced");
                Some(Event::Doomed { worker, cause: StopCause::Stalled })
            }
        }
    }

    /// The processes that keep a call from its end by standing still: its worker's, or those of all
    /// workers that could have taken it. None when it is not that.
    pub(super) fn stopped(&self, pool: PoolIndex, worker: Option<WorkerId>) -> Option<Vec<u32>> {
        let state = &self.pools[pool.0];
        let ids: Vec<_> = match worker {
            Some(worker) if state.policy.is_halted(worker) => vec![worker],
            None if state.policy.is_halted_whole() => {
                let views = state.policy.workers();
                let halted = views.filter(|view| view.halted && view.state.is_up());
                halted.map(|view| view.id).take(NAMED_MAX).collect()
            }
            _ => return None,
        };
        Some(ids.iter().filter_map(|id| Some(state.workers.get(id)?.pid)).collect())
    }
}
