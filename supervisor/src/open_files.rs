//! How many files this process may have open, and for what they are.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{self, Config};
use crate::prepare::ServeError;

/// Descriptors of a worker in the daemon: three sockets, three pipes, a page, a pidfd, and two to
/// spare while it is being started.
const DESCRIPTORS_PER_WORKER: u64 = 10;

/// Descriptors of the daemon itself: runtime, listener, log, files it reads.
const DESCRIPTORS_RESERVED: u64 = 64;

/// How many descriptors are left when so many workers and connections have theirs: for what clients
/// attach to their calls.
pub(crate) fn descriptors_left(workers: u64, connections: u32) -> u64 {
    // A system that does not tell is taken to be a strict one.
    let limit = OpenFiles::as_they_are().map_or(0, |files| files.limit);
    // There may be more connections than there can ever be descriptors for.
    let connections = u64::from(connections).min(limit / 4);
    let needed = DESCRIPTORS_RESERVED + workers * DESCRIPTORS_PER_WORKER + connections;
    limit.saturating_sub(needed)
}

/// Limits of this process on open files.
#[derive(Clone, Copy, Debug)]
pub struct OpenFiles {
    /// The soft limit it was started with, which its workers get.
    pub inherited: u64,
    /// The soft limit it has now.
    pub limit: u64,
}

impl OpenFiles {
    /// The limits as they are.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub fn as_they_are() -> Result<OpenFiles, ServeError> {
        let doing = "read the limit of open files";
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)
            .map_err(|errno| ServeError::System { doing, source: errno.into() })?;
        Ok(OpenFiles { inherited: soft, limit: soft })
    }

    /// Raises the soft limit to the hard one: a daemon needs a descriptor per client and ten per
    /// worker, and the usual soft limit of 1024 exists for programs that use `select`.
    ///
    /// # Errors
    ///
    /// When the system does not tell the limits.
    pub fn raise() -> Result<OpenFiles, ServeError> {
        let before = Self::as_they_are()?;
        let doing = "read the limit of open files";
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)
            .map_err(|errno| ServeError::System { doing, source: errno.into() })?;
        let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        Ok(OpenFiles { limit: if raised { hard } else { before.limit }, ..before })
    }

    /// The limits as a daemon would have them, which raises its own.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub fn as_they_could_be() -> Result<OpenFiles, ServeError> {
        let before = Self::as_they_are()?;
        let doing = "read the limit of open files";
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)
            .map_err(|errno| ServeError::System { doing, source: errno.into() })?;
        Ok(OpenFiles { limit: hard, ..before })
    }

    /// Refuses a number of workers that can never be started: each try would fail, for ever.
    ///
    /// # Errors
    ///
    /// Names both numbers.
    pub fn check(&self, config: &Config) -> Result<(), ServeError> {
        let workers: u64 = config.pools.values().map(|pool| u64::from(pool.workers)).sum();
        let needed = DESCRIPTORS_RESERVED + workers * DESCRIPTORS_PER_WORKER;
        if needed <= self.limit {
            return Ok(());
        }
        Err(ServeError::OpenFiles { workers, needed, limit: self.limit })
    }

    /// How many connections leave enough for `config`'s workers, their successors included.
    pub fn connections(&self, config: &Config) -> u32 {
        // Every slot may have a second worker on its way out; replacements come on top. Extra ones
        // for nested calls are few at a time, and not replaced while others are.
        let of_pool = |pool: &config::Pool| {
            let slots = u64::from(pool.workers) + u64::from(pool.spares);
            let replacements = u64::from(pool.replace.at_once.min(pool.workers));
            2 * slots + replacements.next_multiple_of(2) + u64::from(pool.nested.extra)
        };
        let workers: u64 = config.pools.values().map(of_pool).sum();
        let reserve = DESCRIPTORS_RESERVED + workers * DESCRIPTORS_PER_WORKER;
        let free = u32::try_from(self.limit.saturating_sub(reserve)).unwrap_or(u32::MAX);
        config.daemon.connections.min(free.max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn extra_workers_are_reserved_for_once_and_others_with_their_successors() {
        let open_files = OpenFiles { inherited: 1024, limit: 2000 };
        let connections = |workers: u32, extra: u32| {
            let text = format!(
                "[pools.a]\nworkers = {workers}\n\
                 replace = {{ at_once = 1 }}\nnested = {{ extra = {extra} }}\n"
            );
            let config = config::parse(&text, None, Path::new("/")).unwrap();
            u64::from(open_files.connections(&config))
        };
        let none = connections(10, 1);
        assert_eq!(5 * DESCRIPTORS_PER_WORKER, none - connections(10, 6));
        assert_eq!(2 * 5 * DESCRIPTORS_PER_WORKER, none - connections(15, 1));
    }
}
