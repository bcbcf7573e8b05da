//! The Python stacks of a worker that an operator asks for: which worker is meant, and a bounded
//! wait for what it writes.

use clutch_protocol::message::WorkerId;
use clutch_protocol::operate::{Denial, Stack};
use thiserror::Error;
use tokio::sync::oneshot;

use super::core::Core;
use super::dispatcher::Dispatcher;
use super::operate::Denied;
use crate::limits::STACK_TIMEOUT;
use crate::pool::WorkerState;
use crate::worker::spawner::PoolIndex;

/// Why a worker's stacks are not there.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StackFault {
    /// It is only just being started, or it is gone.
    #[error("it is being started, or is gone; `clutch workers` says which")]
    Unreachable,
}

/// Where a dumped stack goes, once.
pub type StackReply = oneshot::Sender<Result<String, StackFault>>;

impl Core {
    /// Has a worker write the stacks of its threads now; `reply` is given the text when it is
    /// there. Dropping `reply` says that the worker is gone.
    pub(crate) fn dump_stack(&self, pool: PoolIndex, worker: WorkerId, reply: StackReply) {
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
        let call = view.state.call();
        let stack = Stack {
            pool: name.to_owned(),
            worker: view.id,
            pid: entry.pid,
            call: call.map(|key| key.0),
            function: call.and(entry.function.as_deref()).map(str::to_owned),
            text: String::new(),
        };
        Ok((pool, stack))
    }
}
