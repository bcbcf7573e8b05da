//! Environments that are being provided in this process: whoever wants one that is under way joins
//! in and gets the same, and it goes on for as long as anybody waits for it.
//!
//! ```text
//!   first wish ──► leads: locks, builds ──► outcome ──► everyone who joined
//!   more wishes ─► join in, wait ─────────────┘
//! ```
//!
//! Between processes the lock of the environment's folder does the same, see `store`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::EnvError;
use super::progress::{Progress, Report, Stage};

/// How many builds run side by side. Builders use several processors and the network themselves.
pub(super) const AT_ONCE: usize = 4;

/// How often those that wait look whether they still want to.
const CANCEL_LOOK: Duration = Duration::from_millis(50);

/// Somebody's wish for an environment.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Becomes true when it is not wanted any more.
    pub cancelled: Arc<AtomicBool>,
    /// Is told how far it is.
    pub progress: Progress,
}

impl Wish {
    /// A wish that holds until the flag is true.
    pub fn until(cancelled: &Arc<AtomicBool>) -> Wish {
        Wish { cancelled: Arc::clone(cancelled), progress: Progress::default() }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Who says that something is not wanted any more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cancel<'a> {
    /// This flag.
    Flag(&'a AtomicBool),
    /// All who wait for it.
    Work(&'a Work),
}

impl Cancel<'_> {
    pub(super) fn is_set(self) -> bool {
        match self {
            Cancel::Flag(flag) => flag.load(Ordering::Relaxed),
            Cancel::Work(work) => work.members().iter().all(|member| member.wish.is_cancelled()),
        }
    }
}

/// Whether it was there before, or why it cannot be had.
pub(super) type Outcome = Result<bool, Arc<EnvError>>;

/// What is under way in this process.
#[derive(Debug)]
pub(super) struct Works {
    open: Mutex<BTreeMap<PathBuf, Arc<Work>>>,
    /// How many more may build.
    slots: Mutex<usize>,
    freed: Condvar,
}

/// An environment that is under way.
#[derive(Debug)]
pub(super) struct Work {
    /// The pool whose wish it is carried out for.
    pub(super) pool: String,
    members: Mutex<Vec<Member>>,
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
}

#[derive(Debug)]
struct Member {
    pools: Vec<String>,
    wish: Wish,
}

/// What somebody has to do for an environment.
#[derive(Debug)]
pub(super) enum Part<'a> {
    /// To see to it.
    Lead(Lead<'a>),
    /// To wait for somebody who does.
    Wait(Arc<Work>),
}

/// The duty to see to an environment. Whoever drops it without an outcome has given up.
#[derive(Debug)]
pub(super) struct Lead<'a> {
    works: &'a Works,
    env: PathBuf,
    pub(super) work: Arc<Work>,
}

/// The right to build.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Works);

impl Default for Works {
    fn default() -> Works {
        Works { open: Mutex::default(), slots: Mutex::new(AT_ONCE), freed: Condvar::new() }
    }
}

impl Works {
    /// Joins what is under way for this environment, or begins it.
    pub(super) fn join(&self, env: &Path, pools: &[String], wish: &Wish) -> Part<'_> {
        let member = Member { pools: pools.to_vec(), wish: wish.clone() };
        let mut open = locked(&self.open);
        if let Some(work) = open.get(env) {
            let work = Arc::clone(work);
            let mut members = work.members();
            if let Some(first) = members.first() {
                wish.progress.follow(&first.wish.progress.report());
            }
            members.push(member);
            drop(members);
            return Part::Wait(work);
        }
        let work = Arc::new(Work {
            pool: pools.first().cloned().unwrap_or_default(),
            members: Mutex::new(vec![member]),
            outcome: Mutex::default(),
            ended: Condvar::new(),
        });
        open.insert(env.to_owned(), Arc::clone(&work));
        Part::Lead(Lead { works: self, env: env.to_owned(), work })
    }

    /// How far an environment is that a pool waits for, if it is not just looked for.
    pub(super) fn report(&self, pool: &str) -> Option<Report> {
        locked(&self.open).values().find_map(|work| {
            let members = work.members();
            let is_its = |member: &&Member| member.pools.iter().any(|name| name == pool);
            let member = members.iter().find(is_its)?;
            Some(member.wish.progress.report()).filter(|report| report.stage != Stage::Looking)
        })
    }

    /// Waits for the right to build; none when it is cancelled. Each that builds has its own limit
    /// of time, so one comes free.
    pub(super) fn slot(&self, cancel: Cancel<'_>, queued: impl FnOnce()) -> Option<Slot<'_>> {
        let mut free = locked(&self.slots);
        if *free == 0 {
            queued();
        }
        while *free == 0 {
            if cancel.is_set() {
                return None;
            }
            let waited = self.freed.wait_timeout(free, CANCEL_LOOK);
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Some(Slot(self))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *locked(&self.0.slots) += 1;
        self.0.freed.notify_one();
    }
}

impl Lead<'_> {
    /// Tells everyone how it went.
    pub(super) fn end(self, outcome: &Outcome) {
        self.close(outcome.clone());
    }

    fn close(&self, outcome: Outcome) {
        // Who comes after this begins anew; who came before finds the outcome.
        locked(&self.works.open).remove(&self.env);
        locked(&self.work.outcome).get_or_insert(outcome);
        self.work.ended.notify_all();
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if locked(&self.work.outcome).is_none() {
            self.close(Err(Arc::new(EnvError::Cancelled)));
        }
    }
}

impl Work {
    /// Waits for its outcome; none when the wish is cancelled before.
    pub(super) fn wait(&self, wish: &Wish) -> Option<Outcome> {
        let mut outcome = locked(&self.outcome);
        loop {
            if let Some(outcome) = &*outcome {
                return Some(outcome.clone());
            }
            if wish.is_cancelled() {
                return None;
            }
            let waited = self.ended.wait_timeout(outcome, CANCEL_LOOK);
            outcome = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells everyone who waits how far it is.
    pub(super) fn tell(&self, tell: impl Fn(&Progress)) {
        for member in self.members().iter() {
            tell(&member.wish.progress);
        }
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        locked(&self.members)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    #[test]
    fn who_joins_gets_the_same_and_it_goes_on_for_whoever_is_left() {
        let works = Works::default();
        let (first, second) = (Wish::default(), Wish::default());
        let Part::Lead(lead) = works.join(Path::new("/e"), &pools("a"), &first) else {
            panic!("nothing is under way");
        };
        lead.work.tell(|progress| progress.enter(Stage::Building, "w", "making", ""));
        let Part::Wait(work) = works.join(Path::new("/e"), &pools("b"), &second) else {
            panic!("it is under way");
        };
        assert_eq!(Stage::Building, second.progress.report().stage);
        assert_eq!(Some("making"), works.report("b").map(|report| report.phase));
        assert_eq!(None, works.report("c"));
        first.cancelled.store(true, Ordering::Relaxed);
        assert!(!Cancel::Work(&lead.work).is_set(), "the second still wants it");
        let waiting = std::thread::spawn(move || work.wait(&second));
        lead.end(&Ok(false));
        assert!(matches!(waiting.join(), Ok(Some(Ok(false)))));
        assert_eq!(None, works.report("a"));
        assert!(matches!(works.join(Path::new("/e"), &pools("a"), &first), Part::Lead(_)));
    }

    #[test]
    fn who_gives_up_leaves_and_a_lost_lead_is_told() {
        let works = Works::default();
        let (first, second) = (Wish::default(), Wish::default());
        let Part::Lead(lead) = works.join(Path::new("/e"), &pools("a"), &first) else {
            panic!("nothing is under way");
        };
        let Part::Wait(work) = works.join(Path::new("/e"), &pools("b"), &second) else {
            panic!("it is under way");
        };
        second.cancelled.store(true, Ordering::Relaxed);
        assert!(work.wait(&second).is_none());
        first.cancelled.store(true, Ordering::Relaxed);
        assert!(Cancel::Work(&lead.work).is_set());
        drop(lead);
        let told = work.wait(&Wish::default());
        assert!(matches!(told, Some(Err(error)) if matches!(*error, EnvError::Cancelled)));
    }

    #[test]
    fn so_many_build_at_once_and_no_more() {
        let works = Works::default();
        let (go_on, stop) = (AtomicBool::new(false), AtomicBool::new(true));
        let mut slots: Vec<_> =
            (0..AT_ONCE).map(|_| works.slot(Cancel::Flag(&go_on), || ()).unwrap()).collect();
        let mut queued = false;
        assert!(works.slot(Cancel::Flag(&stop), || queued = true).is_none());
        assert!(queued);
        slots.pop();
        assert!(works.slot(Cancel::Flag(&go_on), || panic!("one is free")).is_some());
    }
}
