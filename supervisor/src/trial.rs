//! What can be found out about a configuration without starting a worker: whether interpreters
//! answer, and whether this process may do to its workers what the table `process` says.
//!
//! Asking interpreters blocks; what is said about `process` takes a few system calls.

use std::fmt;
use std::sync::atomic::AtomicBool;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{getegid, geteuid};

use crate::config::{self, Config, Process, Python};
use crate::prepare;

/// Where the system lists its processors.
const CPUS_ONLINE: &str = "/sys/devices/system/cpu/online";

/// Something of a pool's configuration that cannot work here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The pool's name.
    pub pool: String,
    /// The key in its table.
    pub key: &'static str,
    /// What is wrong with it, and what to do.
    pub sentence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pools.{}.{}: {}", self.pool, self.key, self.sentence)
    }
}

/// Tries what can be tried, of every pool.
pub fn findings(config: &Config) -> Vec<Finding> {
    let tried = |pool: &config::Pool| {
        let key = match pool.python {
            Python::Venv(_) => "venv",
            Python::Named(_) | Python::File(_) => "python",
        };
        let interpreter = prepare::try_interpreter(pool, &AtomicBool::new(false)).err();
        let interpreter = interpreter.map(|error| (key, error.to_string()));
        let all = interpreter.into_iter().chain(of_process(&pool.process));
        all.map(|(key, sentence)| Finding { pool: pool.name.clone(), key, sentence })
            .collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            config.pools.values().map(|pool| scope.spawn(move || tried(pool))).collect();
        let tried = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        tried.flatten().collect()
    })
}

/// What of a pool's table `process` this process cannot do for its workers, with the key of each.
pub(crate) fn of_process(process: &Process) -> Vec<(&'static str, String)> {
    let is_root = geteuid().is_root();
    let mut found = Vec::new();
    found.extend(cpus(process, &std::fs::read_to_string(CPUS_ONLINE).unwrap_or_default()));
    if !is_root {
        found.extend(identity(process));
        found.extend(priority(process));
        found.extend(resources(process));
    }
    found
}

/// Processors that are not there, by the system's list of those that are.
fn cpus(process: &Process, online: &str) -> Option<(&'static str, String)> {
    let ranges: Vec<_> = online
        .trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
        })
        .collect();
    // A system that does not tell is taken at its word when a worker is started.
    let is_missing = |cpu: &&u32| !ranges.is_empty() && !ranges.iter().any(|r| r.contains(*cpu));
    let missing: Vec<_> = process.cpus.iter().filter(is_missing).map(ToString::to_string).collect();
    let sentence = format!(
        "this machine has no processor {}, only {}; name others",
        missing.join(", "),
        online.trim()
    );
    (!missing.is_empty()).then_some(("process.cpus", sentence))
}

/// Another user or group than this process has, who is not root.
fn identity(process: &Process) -> Option<(&'static str, String)> {
    let account = process.account.as_ref()?;
    let own = geteuid().as_raw();
    if account.user == own {
        let (group, own) = (account.group, getegid().as_raw());
        let sentence = format!(
            "workers are to have the group {group}, and this process, which is not root, has the \
             group {own}: start the daemon as root or with that group, or leave the key out"
        );
        return Some(("process.group", sentence));
    }
    let user = match &account.name {
        Some(name) => format!("'{name}' (uid {})", account.user),
        None => format!("uid {}", account.user),
    };
    let sentence = format!(
        "workers are to be the user {user}, and this process is uid {own}: only root may become \
         another user; start the daemon as root or as that user, or leave the key out"
    );
    Some(("process.user", sentence))
}

fn priority(process: &Process) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    // The limit is 20 minus the lowest nice value that may be had.
    let lowest = getrlimit(Resource::RLIMIT_NICE).map_or(0, |(soft, _)| soft.min(40));
    let lowest = 20 - i64::try_from(lowest).unwrap_or(40);
    let own = own_nice();
    if let Some(nice) = process.nice.map(i64::from).filter(|nice| *nice < own.min(lowest)) {
        let sentence = format!(
            "only root may make a process less nice than it is: {nice} is asked for, and {own} is \
             what the daemon has; write {own} or more, or raise its limit (`ulimit -e`, or \
             LimitNICE= of a systemd unit)"
        );
        found.push(("process.nice", sentence));
    }
    let own = own_number("/proc/self/oom_score_adj");
    if let Some(score) = process.oom_score_adj.map(i64::from).filter(|score| *score < own) {
        let sentence = format!(
            "only root may make a process less likely to be picked when memory runs out: {score} \
             is asked for, and {own} is what the daemon has; write {own} or more"
        );
        found.push(("process.oom_score_adj", sentence));
    }
    found
}

/// Limits above what this process may have itself.
fn resources(process: &Process) -> Vec<(&'static str, String)> {
    let asked = [
        ("process.open_files", Resource::RLIMIT_NOFILE, process.open_files.map(u64::from)),
        ("process.address_space", Resource::RLIMIT_AS, process.address_space),
        ("process.cpu_time", Resource::RLIMIT_CPU, process.cpu_time.map(|time| time.as_secs())),
        ("process.file_size", Resource::RLIMIT_FSIZE, process.file_size),
        ("process.processes", Resource::RLIMIT_NPROC, process.processes.map(u64::from)),
        ("process.core", Resource::RLIMIT_CORE, Some(process.core)),
    ];
    let above = |(key, resource, asked): (_, _, Option<u64>)| {
        let (asked, (_, hard)) = (asked?, getrlimit(resource).ok()?);
        let sentence = format!(
            "{asked} is more than the daemon's own hard limit of {hard}, which only root may \
             exceed; write less, or raise that limit before the daemon starts"
        );
        (asked > hard).then_some((key, sentence))
    };
    asked.into_iter().filter_map(above).collect()
}

/// The nice value of this process: the nineteenth field, the name of a program being the second,
/// in parentheses.
fn own_nice() -> i64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().nth(16).and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn own_number(path: &str) -> i64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Account;

    fn keys(found: impl IntoIterator<Item = (&'static str, String)>) -> Vec<&'static str> {
        found.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn processors_that_are_not_there_are_named() {
        let process = Process { cpus: vec![0, 3, 9], ..Process::default() };
        let (key, sentence) = cpus(&process, "0-2,8,10-11\n").unwrap();
        assert_eq!("process.cpus", key);
        assert!(sentence.contains("no processor 3, 9, only 0-2,8,10-11"), "{sentence}");
        assert_eq!(None, cpus(&process, "0-15"));
        assert_eq!(None, cpus(&process, ""), "a system that does not tell");
    }

    #[test]
    fn another_user_or_group_is_named_with_its_key() {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let account = |user, group, name: Option<&str>| Process {
            account: Some(Account {
                user,
                group,
                groups: vec![group],
                name: name.map(str::to_owned),
                home: None,
            }),
            ..Process::default()
        };
        let (key, sentence) = identity(&account(user + 7, group, Some("worker"))).unwrap();
        let named = format!("'worker' (uid {})", user + 7);
        assert!(key == "process.user" && sentence.contains(&named), "{sentence}");
        let (key, _) = identity(&account(user, group + 7, None)).unwrap();
        assert_eq!("process.group", key);
        assert_eq!(None, identity(&Process::default()));
    }

    #[test]
    fn limits_above_the_daemons_own_are_named() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let more = u32::try_from(hard.saturating_add(1)).expect("a limit of open files is small");
        let process = Process { open_files: Some(more), ..Process::default() };
        assert_eq!(vec!["process.open_files"], keys(resources(&process)));
        assert_eq!(keys(vec![]), keys(resources(&Process::default())));
    }

    #[test]
    fn what_makes_a_process_more_important_is_named() {
        let process = Process { oom_score_adj: Some(-1000), ..Process::default() };
        let is_lowest = own_number("/proc/self/oom_score_adj") == -1000;
        let expected = if is_lowest { vec![] } else { vec!["process.oom_score_adj"] };
        assert_eq!(expected, keys(priority(&process)));
        assert_eq!(keys(vec![]), keys(priority(&Process { nice: Some(19), ..Process::default() })));
    }
}
