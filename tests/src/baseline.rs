//! The oracle's single checks, on any process and any directory. They know nothing of Clutch, so
//! that each can be seen to fail on a process that misbehaves on purpose.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::SECOND;
use crate::daemon::files_below;
use crate::process::{self, Descriptors, Process};
use crate::wait::wait_until;

/// How long the daemon's processor time is watched, and what it may use of it.
const IDLE_WATCH: Duration = Duration::from_millis(500);
const IDLE_CPU_PERCENT: u64 = 5;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `V1` to `V9`.
    pub rule: &'static str,
    /// What was found, and what was expected.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.found)
    }
}

/// A process and what it was like before the fault. Knows nothing of Clutch, so that it can be
/// tried on processes that misbehave on purpose.
#[derive(Clone, Debug)]
pub struct Baseline {
    pid: u32,
    token: String,
    descriptors: Descriptors,
    memory_bytes: u64,
}

impl Baseline {
    /// Of a process whose descendants carry `token`, as it is now.
    pub fn of(pid: u32, token: &str) -> Baseline {
        Baseline {
            pid,
            token: token.to_owned(),
            descriptors: settled_descriptors(pid),
            memory_bytes: process::memory_bytes(pid),
        }
    }

    /// V2: nobody but `expected` lives below the process or carries its token, and no zombies.
    pub fn strays(&self, expected: &BTreeSet<u32>) -> Result<(), Violation> {
        let mut seen = process::descendants(self.pid);
        seen.extend(process::with_token(&self.token));
        let stray = |one: &Process| {
            one.is_zombie() || (one.pid != self.pid && !expected.contains(&one.pid))
        };
        let found: BTreeSet<_> =
            seen.iter().filter(|one| stray(one)).map(|one| one.to_string()).collect();
        none_or("V2", "processes that should not be there", found)
    }

    /// V3: no more descriptors of any kind than before.
    pub fn descriptors(&self) -> Result<(), Violation> {
        let more = Descriptors::of(self.pid).more_than(&self.descriptors);
        if more.is_empty() {
            return Ok(());
        }
        let all = process::descriptor_list(self.pid);
        let found = format!("more descriptors than before: {}\nall: {all:#?}", more.join("; "));
        Err(Violation { rule: "V3", found })
    }

    /// V8: no more memory than before plus a budget.
    pub fn memory(&self, budget_bytes: u64) -> Result<(), Violation> {
        let now = process::memory_bytes(self.pid);
        if now <= self.memory_bytes + budget_bytes {
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        let found = format!(
            "{} MiB of memory, {} MiB before, and {} MiB more are allowed",
            mib(now),
            mib(self.memory_bytes),
            mib(budget_bytes)
        );
        Err(Violation { rule: "V8", found })
    }

    /// V8: it does not spin. Three looks, since something may still be going on at the first.
    pub fn idle(&self) -> Result<(), Violation> {
        let mut least = u64::MAX;
        for _ in 0..3 {
            least = least.min(process::cpu_percent(self.pid, IDLE_WATCH));
            if least <= IDLE_CPU_PERCENT {
                return Ok(());
            }
        }
        let found = format!("uses {least} % of a processor with nothing to do");
        Err(Violation { rule: "V8", found })
    }
}

/// V4: none of these paths exists, and none of these directories holds a file.
pub fn leftovers(gone: &[&Path], empty: &[&Path]) -> Result<(), Violation> {
    let mut found = BTreeSet::new();
    let exists = |path: &&&Path| fs::symlink_metadata(path).is_ok();
    found.extend(gone.iter().filter(exists).map(|path| path.display().to_string()));
    for dir in empty {
        found.extend(files_below(dir).iter().map(|file| dir.join(file).display().to_string()));
    }
    none_or("V4", "files left behind", found)
}

/// V4: nothing was forgotten in `/dev/shm` since `before`.
pub fn forgotten_shared_memory(before: &BTreeSet<String>) -> Result<(), Violation> {
    let now = process::abandoned_shared_memory();
    none_or("V4", "forgotten in /dev/shm", now.difference(before).cloned().collect())
}

/// The number of descriptors once it has stopped changing: a connection that was closed a moment
/// ago may not have been noticed yet.
fn settled_descriptors(pid: u32) -> Descriptors {
    let mut last = (Descriptors::of(pid), 0);
    wait_until("the daemon's descriptors settle", 10 * SECOND, || {
        let now = Descriptors::of(pid);
        let times = if now == last.0 { last.1 + 1 } else { 0 };
        last = (now, times);
        if times >= 10 { Ok(last.0.clone()) } else { Err(last.0.clone()) }
    })
}

pub(crate) fn none_or(
    rule: &'static str,
    what: &str,
    found: BTreeSet<String>,
) -> Result<(), Violation> {
    if found.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = found.into_iter().collect();
    Err(Violation { rule, found: format!("{what}:\n  {}", all.join("\n  ")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::unique_token;
    use crate::command::Program;
    use crate::process::TOKEN_VARIABLE;
    use crate::tmp::Tmp;
    use std::io::Write;
    use std::process::{Child, Stdio};

    /// A shell that plays a daemon with a fault: it does `before`, and does `fault` at a word.
    struct Fake {
        shell: Child,
        baseline: Baseline,
    }

    impl Fake {
        fn new(before: &str, fault: &str) -> Fake {
            let tmp = Tmp::new();
            let ready = tmp.join("ready");
            let token = unique_token();
            let script = format!("{before}\n: > '{}'\nread word\n{fault}", ready.display());
            let shell = Program::new("bash")
                .args(["-c", &script])
                .env(TOKEN_VARIABLE, &token)
                .spawn(Stdio::piped(), Stdio::null(), Stdio::inherit());
            crate::wait_for("the fake has begun", 10 * SECOND, || ready.exists());
            let baseline = Baseline::of(shell.id(), &token);
            Fake { shell, baseline }
        }

        fn misbehave(&mut self) {
            let stdin = self.shell.stdin.as_mut().expect("it is a pipe");
            stdin.write_all(b"now\n").expect("the fake listens");
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            for process in process::with_token(&self.baseline.token) {
                process::kill(process.pid);
            }
            self.shell.wait().expect("our own child can be waited for");
        }
    }

    fn rule(result: &Result<(), Violation>) -> Option<&'static str> {
        result.as_ref().err().map(|violation| violation.rule)
    }

    #[test]
    fn v2_sees_a_process_that_left_its_session() {
        let mut fake = Fake::new("", "setsid sleep 1000 & disown; read word");
        assert_eq!(Ok(()), fake.baseline.strays(&BTreeSet::new()));
        fake.misbehave();
        crate::wait_for("the stray is seen", 5 * SECOND, || {
            rule(&fake.baseline.strays(&BTreeSet::new())) == Some("V2")
        });
        let stray = process::with_token(&fake.baseline.token);
        let pids = stray.iter().map(|process| process.pid).collect();
        assert_eq!(Ok(()), fake.baseline.strays(&pids), "what is expected is no stray");
    }

    #[test]
    fn v2_sees_an_orphan_after_its_parents_end() {
        let mut fake = Fake::new("", "setsid sleep 1000 & exit 0");
        fake.misbehave();
        fake.shell.wait().unwrap();
        assert_eq!(Some("V2"), rule(&fake.baseline.strays(&BTreeSet::new())));
    }

    #[test]
    fn v2_sees_a_zombie_even_of_an_expected_process() {
        // The shell becomes `sleep`, which does not know that it has a child to wait for.
        let mut fake = Fake::new("", "(exit 0) & exec sleep 1000");
        fake.misbehave();
        let zombie = wait_until("there is a zombie", 5 * SECOND, || {
            let below = process::descendants(fake.baseline.pid);
            below.iter().find(|one| one.is_zombie()).map(|one| one.pid).ok_or(below)
        });
        assert_eq!(Some("V2"), rule(&fake.baseline.strays(&BTreeSet::from([zombie]))));
    }

    #[test]
    fn v3_sees_descriptors_by_kind_even_when_another_kind_shrinks() {
        let mut fake = Fake::new("exec 7</dev/null", "exec 7<&-; exec 8< <(sleep 1000); read word");
        assert_eq!(Ok(()), fake.baseline.descriptors());
        fake.misbehave();
        crate::wait_for("the pipe is seen", 5 * SECOND, || {
            rule(&fake.baseline.descriptors()) == Some("V3")
        });
    }

    #[test]
    fn v4_sees_sockets_files_and_shared_memory() {
        let tmp = Tmp::new();
        let (run, socket) = (tmp.dir("run"), tmp.join("gone.sock"));
        assert_eq!(Ok(()), leftovers(&[&socket], &[&run]));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(Some("V4"), rule(&leftovers(&[&socket], &[&run])));
        drop(listener);
        fs::remove_file(&socket).unwrap();
        tmp.write("run/deep/down.lock", "");
        assert_eq!(Some("V4"), rule(&leftovers(&[&socket], &[&run])));
        tmp.write("state/x.lock", "");
        assert_eq!(Some("V4"), rule(&crate::oracle::leftovers_by_name(&tmp.join("state"))));

        let before = process::abandoned_shared_memory();
        let name = Path::new("/dev/shm").join(format!("clutch-test-{}", unique_token()));
        let file = fs::File::create(&name).unwrap();
        assert!(
            !process::abandoned_shared_memory()
                .contains(&*name.file_name().unwrap().to_string_lossy()),
            "held"
        );
        drop(file);
        let seen = forgotten_shared_memory(&before);
        fs::remove_file(&name).unwrap();
        assert_eq!(Some("V4"), rule(&seen));
    }

    #[test]
    fn v8_sees_memory_and_spinning() {
        let mut fake =
            Fake::new("", "v=$(head -c 60000000 /dev/zero | tr '\\0' a); while :; do :; done");
        assert_eq!(Ok(()), fake.baseline.memory(1 << 20));
        assert_eq!(Ok(()), fake.baseline.idle());
        fake.misbehave();
        crate::wait_for("the memory is seen", 20 * SECOND, || {
            rule(&fake.baseline.memory(16 << 20)) == Some("V8")
        });
        crate::wait_for("the spinning is seen", 20 * SECOND, || {
            rule(&fake.baseline.idle()) == Some("V8")
        });
        assert!(
            process::cpu_percent(fake.baseline.pid, 100 * crate::MILLISECOND) > IDLE_CPU_PERCENT
        );
    }
}
