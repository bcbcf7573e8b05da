//! Stacks of Python: asking for them, noticing when they are there, and telling them.

use std::rc::Rc;

use clutch_protocol::message::{Signal, WorkerId};

use super::core::Core;
use super::dispatcher::{Dispatcher, Worker};
use super::stack::{StackFault, StackReply};
use crate::limits::DUMP_PATIENCE;
use crate::pool::Event;
use crate::worker::link::Link;
use crate::worker::output::Asker;
use crate::worker::spawner::PoolIndex;
use crate::worker::stack;

impl Core {
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
    /// Has a worker write its stacks, because its call is late. What cannot answer is answered for:
    /// a worker that has not begun its call does nothing that could be told.
    pub(super) fn dump_stack(&mut self, core: &Core, pool: PoolIndex, worker: WorkerId) {
        let asked = self.has_begun(pool, worker) && self.ask_for_stack(core, pool, worker);
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
            tokio::time::sleep_until(tokio::time::Instant::now() + DUMP_PATIENCE).await;
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

    /// What user code does in the call that a worker has, as far as it was told.
    pub(super) fn stack_of_call(&mut self, pool: PoolIndex, worker: WorkerId) -> String {
        if !self.has_begun(pool, worker) {
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
            stack::of_user(&pipe.text(), &package)
        };
        if let Some(entry) = self.worker(pool, worker) {
            entry.last_stack.clone_from(&told);
        }
        told
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
