//! Files that are watched for a change, so that new code runs as soon as it is saved.
//!
//! The system tells a thread of its own, which notes the pool and wakes the data plane; nobody
//! wakes while nothing changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobMatcher};
use notify::event::{CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use thiserror::Error;
use tokio::sync::Notify;

use crate::config::{self, Watch};

/// How long files must be left alone before a change counts: an editor writes a file in several
/// steps, and a checkout writes many.
const QUIET: Duration = Duration::from_millis(200);

/// How long changes may go on before they count all the same.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// What Python writes itself when it imports; no source is in there.
const CACHE: &str = "__pycache__";

/// Why files cannot be watched.
#[derive(Debug, Error)]
#[error(
    "failed to watch {root} for pool '{pool}': {source}; is sysctl fs.inotify.max_user_watches too \
     low?"
)]
pub struct WatchError {
    pool: String,
    root: String,
    source: notify::Error,
}

/// Pools whose files have changed; at most as many as there are pools.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pools: Mutex<BTreeSet<String>>,
    told: Notify,
}

impl Changes {
    fn note(&self, pool: &str) {
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.insert(pool.to_owned());
        drop(pools);
        self.0.told.notify_one();
    }

    /// Resolves at the next change.
    pub async fn begun(&self) {
        self.0.told.notified().await;
    }

    /// Waits until changes have come to an end, and gives the pools they concern.
    pub async fn settled(&self) -> BTreeSet<String> {
        let end = Instant::now() + QUIET_MAX;
        loop {
            let quiet = tokio::time::Instant::from_std((Instant::now() + QUIET).min(end));
            let more = tokio::time::timeout_at(quiet, self.begun()).await.is_ok();
            if !more || Instant::now() >= end {
                break;
            }
        }
        std::mem::take(&mut *self.0.pools.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches for as long as it lives.
#[derive(Debug, Default)]
pub struct Watching {
    _watcher: Option<RecommendedWatcher>,
}

/// One pattern of one pool.
struct Rule {
    pool: String,
    matcher: GlobMatcher,
    /// The directory below which all of it is, if it has directories of its own.
    deep_root: Option<PathBuf>,
}

impl Rule {
    fn new(pool: &str, watch: &Watch) -> Rule {
        let deep_root = is_deep(watch).then(|| watch.root.clone());
        Rule { pool: pool.to_owned(), matcher: matcher(watch), deep_root }
    }
}

/// Whether a pattern stands for files in more than one directory.
fn is_deep(watch: &Watch) -> bool {
    watch.rest.contains('/') || watch.rest.contains("**")
}

impl Watching {
    /// Watches what these pools want watched, and notes their changes. May take a while.
    ///
    /// # Errors
    ///
    /// When the system does not watch so much.
    pub fn begin<'a>(
        pools: impl Iterator<Item = &'a config::Pool> + Clone,
        changes: &Changes,
    ) -> Result<Watching, WatchError> {
        let wanted = pools.flat_map(|pool| pool.watch.iter().map(|watch| (&pool.name, watch)));
        let rules: Vec<_> = wanted.clone().map(|(pool, watch)| Rule::new(pool, watch)).collect();
        let Some((first, watch)) = wanted.clone().next() else {
            return Ok(Watching::default());
        };
        let changes = changes.clone();
        let failed = |pool: &String, watch: &Watch| {
            let (pool, root) = (pool.clone(), watch.root.display().to_string());
            move |source| WatchError { pool, root, source }
        };
        let told = move |event: notify::Result<Event>| tell(&rules, &changes, event);
        let mut watcher = notify::recommended_watcher(told).map_err(failed(first, watch))?;
        for (pool, watch) in wanted {
            let mode =
                if is_deep(watch) { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            watcher.watch(&watch.root, mode).map_err(failed(pool, watch))?;
        }
        Ok(Watching { _watcher: Some(watcher) })
    }
}

fn matcher(watch: &Watch) -> GlobMatcher {
    let root = globset::escape(&watch.root.to_string_lossy());
    let pattern = format!("{}/{}", root.trim_end_matches('/'), watch.rest);
    let mut builder = GlobBuilder::new(&pattern);
    // As in a shell: `*` ends at a slash, `**` does not.
    let built = builder.literal_separator(true).build();
    built.expect("the configuration has checked it").compile_matcher()
}

fn tell(rules: &[Rule], changes: &Changes, event: notify::Result<Event>) {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(%error, "watching files has failed");
            return;
        }
    };
    let is_change = |kind: &EventKind| {
        matches!(kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_))
    };
    // Too much at once: what it was has been forgotten, so it may have been anything.
    let lost = event.need_rescan();
    if !lost && !is_change(&event.kind) {
        return;
    }
    let folder = new_folder(&event);
    for rule in rules {
        let is_below = |folder: &&Path| {
            rule.deep_root.as_ref().is_some_and(|root| folder.starts_with(root))
                && is_source(folder)
        };
        let concerned = event.paths.iter().any(|path| concerns(rule, path));
        if lost || concerned || folder.as_ref().is_some_and(is_below) {
            changes.note(&rule.pool);
        }
    }
}

/// A directory that has just come. Files may have been put there before it was watched, so its
/// coming stands for theirs.
fn new_folder(event: &Event) -> Option<&Path> {
    let path = event.paths.last()?;
    let is_new = match event.kind {
        EventKind::Create(kind) => kind == CreateKind::Folder,
        EventKind::Modify(ModifyKind::Name(_)) => path.is_dir(),
        _ => false,
    };
    is_new.then_some(path)
}

fn concerns(rule: &Rule, path: &Path) -> bool {
    rule.matcher.is_match(path) && is_source(path)
}

fn is_source(path: &Path) -> bool {
    !path.components().any(|part| part.as_os_str() == CACHE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell_and_pythons_own_cache_is_no_change() {
        let rule = |rest: &str| {
            let watch = Watch { root: "/app/[x]".into(), rest: rest.to_owned() };
            Rule::new("p", &watch)
        };
        let concerned = |rest, path| concerns(&rule(rest), Path::new(path));
        assert!(concerned("**/*.py", "/app/[x]/a/b/c.py"));
        assert!(concerned("**/*.py", "/app/[x]/c.py"));
        assert!(concerned("*.py", "/app/[x]/c.py"));
        assert!(!concerned("*.py", "/app/[x]/a/c.py"));
        assert!(!concerned("*.py", "/app/x/c.py"));
        assert!(!concerned("**/*.py", "/app/[x]/c.py~"));
        assert!(!concerned("**", "/app/[x]/__pycache__/c.cpython-312.pyc"));
    }

    #[test]
    fn a_directory_that_comes_stands_for_the_files_in_it() {
        let rules = ["**/*.py", "*.py"].map(|rest| {
            let watch = Watch { root: "/app".into(), rest: rest.to_owned() };
            Rule::new(rest, &watch)
        });
        let noted = |path: &str| {
            let changes = Changes::default();
            let event = Event::new(EventKind::Create(CreateKind::Folder)).add_path(path.into());
            tell(&rules, &changes, Ok(event));
            let noted = changes.0.pools.lock().unwrap().iter().cloned().collect::<Vec<_>>();
            noted.join(" ")
        };
        assert_eq!("**/*.py", noted("/app/new"));
        assert_eq!("", noted("/app/__pycache__"));
        assert_eq!("", noted("/elsewhere"));
    }
}
