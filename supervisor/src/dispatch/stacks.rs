//! Stacks of Python: which worker is meant by an operator, asking a worker for its stacks, noticing
//! when they are there, and a bounded wait for them.

use std::rc::Rc;

use clutch_protocol::message::{Signal, WorkerId};
use clutch_protocol::operate::{Denial, Stack};
use thiserror::Error;
use tokio::sync::oneshot;

use super::core::Core;
use super::dispatcher::{Dispatcher, Worker};
use super::operate::Denied;
use crate::limits::{DUMP_PATIENCE, DUMP_PATIENCE_OF_SEVERAL, STACK_TIMEOUT};
use crate::pool::{Begun, CallKey, Event, WorkerState};
use crate::worker::link::Link;
use crate::worker::output::Asker;
use crate::worker::spawner::PoolIndex;
use crate::worker::stack;

/// Why a worker's stacks are not there.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum StackFault {
    /// It is only just being started, or it is gone.
    #[error("it is being started, or is gone; `clutch workers` says which")]
    Unreachable,
}

/// Where a dumped stack goes, once.
pub(super) type StackReply = oneshot::Sender<Result<String, StackFault>>;

impl Core {
    /// Has a worker write the stacks of its threads now; `reply` is given the text when it is
    /// there. Dropping `reply` says that the worker is gone.
    pub(super) fn dump_stack(&self, pool: PoolIndex, worker: WorkerId, reply: StackReply) {
        self.with(|dispatcher| dispatcher.show_stack(self, pool, worker, reply));
    }

    /// The stacks of the worker in a slot.
    ///
    /// # Errors
    ///
    /// When there is no such slot, it holds no running python, or that does not answer in time.
    pub(crate) async fn request_stack(&self, pool: &str, slot: u32) -> Result<Stack, Denied> {
        let (index, mut stack) = self.with(|dispatcher| dispatcher.stack_of(pool, slot))?;
        let name = format!("worker {pool}/{} (pid {})", stack.worker, stack.pid);
        let (reply, dumped) = oneshot::channel();
        self.dump_stack(index, stack.worker, reply);
        match tokio::time::timeout(STACK_TIMEOUT, dumped).await {
            Ok(Ok(Ok(text))) => {
                stack.text = text;
                Ok(stack)
            }
            Ok(Ok(Err(fault))) => {
                Err(Denied::new(Denial::Unavailable, format!("no stack of {name}: {fault}")))
            }
            Ok(Err(_)) => Err(Denied::new(Denial::Unavailable, format!("{name} has just ended"))),
            Err(_) => {
                let sentence = format!(
                    "{name} did not write its stacks within {} s: it is stopped, or blocked in \
                     the system",
                    STACK_TIMEOUT.as_secs()
                );
                Err(Denied::new(Denial::TimedOut, sentence))
            }
        }
    }

    /// A worker's pipe for stacks has something to read, or has ended.
    pub(crate) fn worker_stack(&self, link: &Link) {
        link.stack().borrow_mut().read(Asker::Task);
        let done = self.with(|dispatcher| dispatcher.dump_is_done(link));
        if done {
            self.tell(link.pool, Event::StackDumped { worker: link.worker });
            // Whoever waited for it has it now; what comes later is not told by it.
            self.with(|dispatcher| {
                if let Some(entry) = dispatcher.worker(link.pool, link.worker) {
                    entry.forget_stack();
                }
            });
        }
    }
}

impl Worker {
    /// Forgets a text that was told, or that is of a call before. One that was asked for and is
    /// not whole yet has readers who wait for it.
    fn forget_stack(&self) {
        if let Some(link) = self.link.as_ref().filter(|_| !self.dumping) {
            link.stack().borrow_mut().forget();
        }
    }

    /// It is about to begin a call: what was told of those before is not that call's.
    pub(super) fn begin_stack(&mut self) {
        self.last_stack.clear();
        self.forget_stack();
    }
}

impl Dispatcher {
    /// The newest running python of a slot, and what is known of it before it is asked.
    fn stack_of(&self, name: &str, slot: u32) -> Result<(PoolIndex, Stack), Denied> {
        let pool = self.find_pool(name)?;
        let state = &self.pools[pool.0];
        let mut of_slot = state.policy.workers().filter(|view| view.id.slot == slot).peekable();
        let is_empty = state.policy.empty_slots().any(|empty| empty.id.slot == slot);
        if of_slot.peek().is_none() && !is_empty {
            let sentence = format!(
                "pool '{name}' has no slot {slot}; `clutch workers --pool {name}` lists its workers"
            );
            return Err(Denied::new(Denial::NoSuchSlot, sentence));
        }
        let running = of_slot.filter(|view| view.state != WorkerState::Dead).filter_map(|view| {
            let entry = state.workers.get(&view.id)?;
            (entry.pid != 0 && !entry.dead).then_some((view, entry))
        });
        let Some((view, entry)) = running.max_by_key(|(view, _)| view.id.generation) else {
            let sentence = format!("no python runs in slot {slot} of pool '{name}' now");
            return Err(Denied::new(Denial::Unavailable, sentence));
        };
        let given = entry.given.first();
        let stack = Stack {
            pool: name.to_owned(),
            worker: view.id,
            pid: entry.pid,
            call: given.map(|given| given.call.0),
            function: given.map(|given| given.function.to_string()),
            text: String::new(),
        };
        Ok((pool, stack))
    }

    /// Has a worker write its stacks, because a call is late. What cannot answer is answered for:
    /// a worker that has not begun its calls does nothing that could be told.
    pub(super) fn dump_stack(&mut self, core: &Core, pool: PoolIndex, worker: WorkerId) {
        let has_begun = self.begun_in(pool, worker) != Begun::NONE;
        let asked = has_begun && self.ask_for_stack(core, pool, worker);
        if !asked {
            self.follow_up(pool, Event::StackDumped { worker });
        }
    }

    /// Has a worker write its stacks: by its control thread, or by a signal where that cannot run.
    /// False when it cannot be told to.
    fn ask_for_stack(&mut self, core: &Core, pool: PoolIndex, worker: WorkerId) -> bool {
        let Some(link) = self.link(pool, worker) else {
            return false;
        };
        let view = self.pools[pool.0].policy.worker(worker);
        let has_several = view.is_some_and(|view| view.lanes > 1);
        let patience = if has_several { DUMP_PATIENCE_OF_SEVERAL } else { DUMP_PATIENCE };
        let Some(entry) = self.worker(pool, worker) else {
            return false;
        };
        if !entry.dumping {
            link.stack().borrow_mut().clear();
        }
        entry.dumping = link.ask_for_stack().is_ok();
        entry.dumps += 1;
        let (core, ask) = (core.clone(), entry.dumps);
        // Those that have ended would be kept otherwise.
        while entry.tasks.try_join_next().is_some() {}
        entry.tasks.spawn_local(async move {
            tokio::time::sleep_until(tokio::time::Instant::now() + patience).await;
            core.with(|dispatcher| dispatcher.insist_on_stack(pool, worker, ask));
        });
        entry.dumping
    }

    /// The control thread has not written the stacks that were asked for as number `ask`.
    fn insist_on_stack(&mut self, pool: PoolIndex, worker: WorkerId, ask: u64) {
        let Some(entry) = self.worker(pool, worker).filter(|it| it.dumping && it.dumps == ask)
        else {
            return;
        };
        let told = entry.link.as_ref().map(|link| link.signal(Signal::DumpStack));
        if !matches!(told, Some(Ok(()))) {
            self.pool(pool).counters.one("orders_undeliverable");
        }
    }

    /// Has a worker write its stacks, because somebody wants to see them.
    pub(super) fn show_stack(
        &mut self,
        core: &Core,
        pool: PoolIndex,
        worker: WorkerId,
        reply: StackReply,
    ) {
        if !self.ask_for_stack(core, pool, worker) {
            // Whoever asked may be gone by now, and then nobody misses the answer.
            let _ = reply.send(Err(StackFault::Unreachable));
        } else if let Some(entry) = self.worker(pool, worker) {
            entry.stack_readers.retain(|reader| !reader.is_closed());
            entry.stack_readers.push(reply);
        }
    }

    /// What user code does in a call that a worker has, as far as it was told.
    pub(super) fn stack_of_call(
        &mut self,
        pool: PoolIndex,
        worker: WorkerId,
        call: CallKey,
    ) -> String {
        if !self.has_begun(pool, worker, call) {
            return String::new();
        }
        let recipe = self.pools[pool.0].recipe.as_ref();
        let package = recipe.map_or("", |recipe| recipe.package()).to_owned();
        let Some(link) = self.link(pool, worker) else {
            return String::new();
        };
        let told = {
            let mut pipe = link.stack().borrow_mut();
            pipe.read(Asker::Dispatcher);
            stack::of_user_in(&pipe.text(), &package, call.0)
        };
        if let Some(entry) = self.worker(pool, worker) {
            entry.last_stack.clone_from(&told);
        }
        told
    }

    /// Keeps what a worker has written, for its certificate.
    pub(super) fn keep_stack(&mut self, pool: PoolIndex, worker: WorkerId, text: &str) {
        let recipe = self.pools[pool.0].recipe.as_ref();
        let told = stack::of_user(text, recipe.map_or("", |recipe| recipe.package()));
        if let Some(entry) = self.worker(pool, worker) {
            entry.last_stack = told;
        }
    }

    fn dump_is_done(&mut self, link: &Link) -> bool {
        let Some(entry) = self.worker(link.pool, link.worker).filter(|entry| entry.dumping) else {
            return false;
        };
        let pipe = link.stack().borrow();
        if !pipe.is_whole() {
            return false;
        }
        entry.dumping = false;
        for reader in entry.stack_readers.drain(..) {
            let _ = reader.send(Ok(pipe.text()));
        }
        true
    }

    pub(super) fn link(&mut self, pool: PoolIndex, worker: WorkerId) -> Option<Rc<Link>> {
        self.worker(pool, worker)?.link.clone()
    }
}
