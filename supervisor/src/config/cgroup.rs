//! `daemon.cgroup`: whether workers get groups of the kernel's, and where.

use std::path::PathBuf;

use super::checker::Checker;
use super::error::Key;

/// Where the groups of workers are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cgroup {
    /// Below the daemon's own group, if that is delegated to it.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// In a directory of the tree of groups that is made for it.
    At(PathBuf),
}

pub(super) fn check(checker: &mut Checker<'_>, raw: Option<&str>, at: &Key) -> Cgroup {
    match raw {
        None | Some("auto") => Cgroup::Auto,
        Some("off") => Cgroup::Off,
        Some(text) => checker.path(at, text).map_or(Cgroup::Auto, Cgroup::At),
    }
}
