//! The thread that looks at processes. It is asked for many at once, so that one look at all of
//! them is one wake-up.

use std::io;
use std::sync::mpsc;

use clutch_protocol::message::WorkerId;

use super::process::{self, Look};
use crate::cgroup::Group;
use crate::limits::WATCH_QUESTIONS_MAX;
use crate::worker::spawner::PoolIndex;

/// Which worker is to be looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its pool.
    pub pool: PoolIndex,
    /// Which.
    pub worker: WorkerId,
    /// Its python.
    pub pid: u32,
    /// Its guardian, below which everything of it is, if its whole tree is to be weighed; and the
    /// least weight that matters.
    pub tree: Option<(u32, u64)>,
    /// Its group, where the kernel counts what all of it holds.
    pub group: Option<Group>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Of whom.
    pub subject: Subject,
    /// Python's own process, unless it is gone.
    pub look: Option<Look>,
    /// What its whole tree holds, in bytes, if that was asked.
    pub tree_bytes: Option<u64>,
}

/// Who is to be looked at, and who wants to know.
type Question = (Vec<Subject>, tokio::sync::oneshot::Sender<Vec<Observation>>);

/// The way to the thread, which ends when this is dropped.
#[derive(Clone, Debug)]
pub struct Watcher {
    questions: mpsc::SyncSender<Question>,
}

impl Watcher {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn start() -> io::Result<Watcher> {
        let (questions, inbox) = mpsc::sync_channel::<Question>(WATCH_QUESTIONS_MAX);
        std::thread::Builder::new().name("clutch-watch".into()).spawn(move || {
            while let Ok((subjects, answer)) = inbox.recv() {
                // Whoever asked may have given up; that is their business.
                let _ = answer.send(subjects.into_iter().map(observe).collect());
            }
        })?;
        Ok(Watcher { questions })
    }

    /// Looks at all of `subjects`, soon. None when too many wait already.
    pub async fn look(&self, subjects: Vec<Subject>) -> Option<Vec<Observation>> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.questions.try_send((subjects, answer)).ok()?;
        answered.await.ok()
    }
}

fn observe(subject: Subject) -> Observation {
    let counted = subject.group.as_ref().and_then(Group::held_bytes);
    let tree_bytes = subject
        .tree
        .map(|(guardian, bound)| counted.unwrap_or_else(|| process::tree_bytes(guardian, bound)));
    Observation { look: process::look(subject.pid), tree_bytes, subject }
}
