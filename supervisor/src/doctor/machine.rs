//! What concerns the daemon as a whole: its socket, its state, its limits, its cgroup, the clock.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::{AccessFlags, eaccess};

use super::finding::{Finding, Status};
use crate::cgroup::find;
use crate::config::{Cgroup, Config};
use crate::package;
use crate::prepare::OpenFiles;
use crate::socket;

/// How far a clock may be behind this program's own file, whose time another machine may have set.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(24 * 3600);

/// All checks of the machine for a daemon with this configuration and this socket.
pub fn findings(config: &Config, socket: Result<PathBuf, String>) -> Vec<Finding> {
    vec![of_socket(socket), of_state(), of_open_files(config), of_cgroup(config), of_clock()]
}

fn of_socket(path: Result<PathBuf, String>) -> Finding {
    const ID: &str = "socket";
    let path = match path {
        Ok(path) => path,
        Err(why) => {
            let advice = "set XDG_RUNTIME_DIR or HOME, or name a socket with --socket";
            return Finding::new(ID, Status::Fail, why, advice);
        }
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    if let Err(error) = socket::check_place(&path) {
        let is_missing = !directory.exists();
        let advice = format!(
            "{} {}: only the daemon's user (and root) may write to it",
            if is_missing { "make (mkdir -m 700)" } else { "see who owns and may write to" },
            directory.display()
        );
        return Finding::new(ID, Status::Fail, error.to_string(), advice);
    }
    if let Err(errno) = eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
        let text = format!("no socket can be made in {}: {errno}", directory.display());
        let advice = "let the daemon's user write there, or name another socket with --socket";
        return Finding::new(ID, Status::Fail, text, advice);
    }
    Finding::ok(ID, format!("{} may be made, and by nobody else", path.display()))
}

fn of_state() -> Finding {
    const ID: &str = "state";
    let advice = "let the daemon's user write there, or set XDG_STATE_HOME";
    let directory = match package::state_dir() {
        Ok(directory) => directory,
        Err(error) => return Finding::new(ID, Status::Fail, error.to_string(), advice),
    };
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match probe_write(existing) {
        Ok(()) => Finding::ok(ID, format!("{} is writable", directory.display())),
        Err(error) => {
            let text = format!("{} cannot be written: {error}", existing.display());
            Finding::new(ID, Status::Fail, text, advice)
        }
    }
}

/// Permissions alone do not say it: the file system may be read-only or full.
fn probe_write(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".clutch-doctor-{}", std::process::id()));
    std::fs::create_dir(&path)?;
    std::fs::remove_dir(&path)
}

fn of_open_files(config: &Config) -> Finding {
    const ID: &str = "open_files";
    let files = OpenFiles::as_they_could_be();
    match files.as_ref().map(|files| files.check(config)) {
        Ok(Ok(())) => {
            let limit = files.map_or(0, |files| files.limit);
            Finding::ok(ID, format!("{limit} may be open, enough for all workers"))
        }
        Ok(Err(error)) => {
            let advice = "configure fewer workers, or raise the hard limit (`ulimit -Hn`, or \
                          LimitNOFILE= of a systemd unit)";
            Finding::new(ID, Status::Fail, error.to_string(), advice)
        }
        Err(error) => Finding::new(ID, Status::Skipped, error.to_string(), ""),
    }
}

fn of_cgroup(config: &Config) -> Finding {
    const ID: &str = "cgroup";
    let directory = match &config.daemon.cgroup {
        Cgroup::Off => None,
        Cgroup::At(path) => Some(path.clone()),
        Cgroup::Auto => find::own(),
    };
    let is_ours = |directory: &Path| {
        let may_write = |file: &str| eaccess(&directory.join(file), AccessFlags::W_OK).is_ok();
        // The kernel's root, which is nobody's to divide, has no such file.
        let is_root = !directory.join("cgroup.events").exists();
        !is_root && may_write("cgroup.procs") && may_write("cgroup.subtree_control")
    };
    let text = match &directory {
        Some(path) if is_ours(path) => {
            return Finding::ok(ID, format!("version 2, {}, delegated", path.display()));
        }
        Some(path) => format!("version 2, {}, not delegated", path.display()),
        None if config.daemon.cgroup == Cgroup::Off => "daemon.cgroup is \"off\"".to_owned(),
        None => "no cgroup of version 2".to_owned(),
    };
    let bounded = config.pools.values().filter(|pool| pool.memory.kill_above.is_some());
    let bounded: Vec<_> = bounded.map(|pool| pool.name.as_str()).collect();
    if bounded.is_empty() || config.daemon.cgroup == Cgroup::Off {
        let text = format!("{text}; bounds of memory are kept by looking, not by the kernel");
        return Finding::new(ID, Status::Skipped, text, "");
    }
    let text = format!(
        "{text}: memory.kill_above of {} is kept by looking every now and then, and what grows \
         faster takes the machine's memory",
        bounded.join(", ")
    );
    let advice = "run the daemon as a unit with Delegate=yes, or name a directory that was made \
                  for it in daemon.cgroup (or say \"off\" there)";
    Finding::new(ID, Status::Warn, text, advice)
}

fn of_clock() -> Finding {
    let made = std::fs::metadata("/proc/self/exe").and_then(|file| file.modified());
    let first = Instant::now();
    let goes_on = Instant::now() >= first;
    clock(SystemTime::now(), made.unwrap_or(SystemTime::UNIX_EPOCH), goes_on)
}

/// A clock that has not been set stands in the past of this very program.
fn clock(now: SystemTime, made: SystemTime, goes_on: bool) -> Finding {
    const ID: &str = "clock";
    let advice = "set the clock (timedatectl set-ntp true), or certificates and times in logs are \
                  wrong";
    if !goes_on {
        return Finding::new(ID, Status::Fail, "the monotonic clock goes backwards", advice);
    }
    if now < SystemTime::UNIX_EPOCH || now + CLOCK_BEHIND_MAX < made {
        let text = "the clock is behind the time at which this program was made";
        return Finding::new(ID, Status::Warn, text, advice);
    }
    Finding::ok(ID, "set, and monotonic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_the_past_of_this_program_was_never_set() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(Status::Ok, clock(made, made, true).status);
        assert_eq!(Status::Warn, clock(SystemTime::UNIX_EPOCH, made, true).status);
        assert_eq!(Status::Fail, clock(made, made, false).status);
    }

    #[test]
    fn a_socket_in_a_folder_of_everyone_or_of_nobody_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let of = |path: PathBuf| of_socket(Ok(path));
        assert_eq!(Status::Ok, of(directory.path().join("s")).status);
        let missing = of(directory.path().join("none/s"));
        assert_eq!(Status::Fail, missing.status);
        assert!(missing.advice.contains("mkdir"), "{}", missing.advice);
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&open, mode).unwrap();
        let unsafe_one = of(open.join("s"));
        assert!(unsafe_one.text.contains("others may write"), "{}", unsafe_one.text);
    }
}
