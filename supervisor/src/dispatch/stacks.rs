//! Stacks of Python: asking for them, noticing when they are there, and telling them.

use std::rc::Rc;

use clutch_protocol::message::{Signal, WorkerId};

use super::core::Core;
use super::dispatcher::Dispatcher;
use crate::pool::{CallKey, Event};
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
        }
    }
}

impl Dispatcher {
    /// Has a worker write its stacks. What cannot answer is answered for: a worker that has not
    /// begun its call does nothing that could be told.
    pub(super) fn dump_stack(&mut self, pool: PoolIndex, worker: WorkerId) {
        let link = self.link(pool, worker);
        let asked = link.is_some_and(|link| {
            link.stack().borrow_mut().clear();
            self.runs_user_code(&link) && link.signal(Signal::DumpStack).is_ok()
        });
        match self.worker(pool, worker) {
            Some(entry) if asked => entry.dumping = true,
            _ => self.follow_up(pool, Event::StackDumped { worker }),
        }
    }

    /// What user code does in a worker that runs `call`, as far as it was told.
    pub(super) fn stack_of_call(
        &mut self,
        pool: PoolIndex,
        worker: WorkerId,
        call: CallKey,
    ) -> String {
        let package = self.pools[pool.0].recipe.package().to_owned();
        let Some(link) = self.link(pool, worker).filter(|link| link.has_begun(call.0)) else {
            return String::new();
        };
        let told = {
            let mut pipe = link.stack().borrow_mut();
            pipe.read(Asker::Dispatcher);
            stack::of_user(&pipe.take(), &package)
        };
        if let Some(entry) = self.worker(pool, worker) {
            entry.dumping = false;
            entry.last_stack.clone_from(&told);
        }
        told
    }

    fn runs_user_code(&self, link: &Link) -> bool {
        let state = self.pools[link.pool.0].policy.worker_state(link.worker);
        let call = state.and_then(crate::pool::WorkerState::call);
        call.is_some_and(|call| link.has_begun(call.0))
    }

    fn dump_is_done(&mut self, link: &Link) -> bool {
        let Some(entry) = self.worker(link.pool, link.worker).filter(|entry| entry.dumping) else {
            return false;
        };
        let done = link.stack().borrow().is_whole();
        entry.dumping = !done;
        done
    }

    pub(super) fn link(&mut self, pool: PoolIndex, worker: WorkerId) -> Option<Rc<Link>> {
        self.worker(pool, worker)?.link.clone()
    }
}
