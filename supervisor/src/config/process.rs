//! The table `process` of a pool: what its worker processes are made of and may use.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};
use schemars::JsonSchema;
use serde::Deserialize;

use super::checker::Checker;
use super::error::Key;
use super::reason::Reason;

const NICE: RangeInclusive<i64> = -20..=19;
const OOM_SCORE: RangeInclusive<i64> = -1000..=1000;
/// As many as a set of processors holds.
const CPU: RangeInclusive<u32> = 0..=1023;
/// A python with its worker needs some dozens.
const OPEN_FILES: RangeInclusive<u32> = 64..=1 << 30;
const PROCESSES: RangeInclusive<u32> = 1..=1 << 22;
/// An interpreter alone needs some dozens of mebibytes.
const ADDRESS_SPACE: RangeInclusive<u64> = 64 << 20..=1 << 50;
const FILE_SIZE: RangeInclusive<u64> = 0..=1 << 60;
const CPU_TIME: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// What a pool's worker processes are made of and may use. What is not written stays as the
/// daemon's own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawProcess {
    /// The nice value, from -20 (first) to 19 (last).
    #[schemars(example = 5)]
    nice: Option<i64>,
    /// The user whose rights workers have: a name or a number. Only root may change it.
    #[schemars(example = &"nobody")]
    user: Option<String>,
    /// The group; without, the user's own.
    #[schemars(example = &"nogroup")]
    group: Option<String>,
    /// The file mode creation mask, in octal digits.
    #[schemars(example = "027")]
    umask: Option<String>,
    /// The processors that workers may run on.
    #[schemars(example = [0, 1])]
    cpus: Option<Vec<i64>>,
    /// How many files one process may have open.
    #[schemars(example = 1024)]
    open_files: Option<i64>,
    /// How much address space one process may have.
    #[schemars(example = "8GiB")]
    address_space: Option<String>,
    /// How much processor time one process may use in its life.
    #[schemars(example = "1h")]
    cpu_time: Option<String>,
    /// How large a file may become.
    #[schemars(example = "1GiB")]
    file_size: Option<String>,
    /// How many processes and threads the user may have in all.
    #[schemars(example = 512)]
    processes: Option<i64>,
    /// How large a core dump may become.
    #[schemars(extend("default" = "0B"))]
    core: Option<String>,
    /// How likely the system is to pick a worker when memory runs out, from -1000 (never) to 1000
    /// (first). Without, 500 more than the daemon.
    #[schemars(example = 800)]
    oom_score_adj: Option<i64>,
}

/// What a pool's worker processes are made of and may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The nice value.
    pub nice: Option<i32>,
    /// Whose rights they have, where not the daemon's own.
    pub account: Option<Account>,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// The processors they may run on; empty for all.
    pub cpus: Vec<u32>,
    /// How many files they may have open.
    pub open_files: Option<u32>,
    /// Address space, in bytes.
    pub address_space: Option<u64>,
    /// Processor time.
    pub cpu_time: Option<Duration>,
    /// Size of a file, in bytes.
    pub file_size: Option<u64>,
    /// Processes and threads of the user.
    pub processes: Option<u32>,
    /// Size of a core dump, in bytes.
    pub core: u64,
    /// How likely the system is to pick them when memory runs out.
    pub oom_score_adj: Option<i32>,
}

/// Whose rights a process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The user's name, if the user has one.
    pub name: Option<String>,
    /// The user's home, if the user has one.
    pub home: Option<PathBuf>,
}

pub(super) fn check(checker: &mut Checker<'_>, raw: &RawProcess, at: &Key) -> Process {
    let number = |checker: &mut Checker<'_>, name, value, range| {
        checker.number(&at.child(name), value, range)
    };
    let size = |checker: &mut Checker<'_>, name, text: &Option<String>, range| {
        checker.size(&at.child(name), text.as_deref(), range)
    };
    let cpus = raw.cpus.as_deref().unwrap_or_default().iter().enumerate();
    Process {
        nice: signed(checker, &at.child("nice"), raw.nice, &NICE),
        account: account(checker, raw, at),
        umask: umask(checker, &at.child("umask"), raw.umask.as_deref()),
        cpus: cpus
            .filter_map(|(index, cpu)| {
                let at = at.child("cpus").child(&index.to_string());
                checker.number(&at, Some(*cpu), &CPU)
            })
            .collect(),
        open_files: number(checker, "open_files", raw.open_files, &OPEN_FILES),
        address_space: size(checker, "address_space", &raw.address_space, &ADDRESS_SPACE),
        cpu_time: checker.duration(&at.child("cpu_time"), raw.cpu_time.as_deref(), &CPU_TIME),
        file_size: size(checker, "file_size", &raw.file_size, &FILE_SIZE),
        processes: number(checker, "processes", raw.processes, &PROCESSES),
        core: size(checker, "core", &raw.core, &FILE_SIZE).unwrap_or(0),
        oom_score_adj: signed(checker, &at.child("oom_score_adj"), raw.oom_score_adj, &OOM_SCORE),
    }
}

fn signed(
    checker: &mut Checker<'_>,
    at: &Key,
    value: Option<i64>,
    range: &RangeInclusive<i64>,
) -> Option<i32> {
    let value = value?;
    if let Ok(number) = i32::try_from(value)
        && range.contains(&value)
    {
        return Some(number);
    }
    let (least, most) = (range.start().to_string(), range.end().to_string());
    checker.report(at, Reason::Range { value: value.to_string(), least, most });
    None
}

fn umask(checker: &mut Checker<'_>, at: &Key, text: Option<&str>) -> Option<u32> {
    let text = text?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match u32::from_str_radix(text, 8) {
        Ok(mask) if digits && mask <= 0o777 => Some(mask),
        _ => {
            let expected = "octal digits, like \"022\" or \"077\"";
            checker.report(at, Reason::Word { found: text.to_owned(), expected });
            None
        }
    }
}

/// Who workers are to be; none when that is the daemon's own user and group.
fn account(checker: &mut Checker<'_>, raw: &RawProcess, at: &Key) -> Option<Account> {
    let user = raw.user.as_deref().map(|text| user(checker, &at.child("user"), text));
    let group = raw.group.as_deref().map(|text| group(checker, &at.child("group"), text));
    let mut account = match user {
        Some(found) => found?,
        None => {
            let (user, group) = (geteuid().as_raw(), getegid().as_raw());
            Account { user, group, groups: vec![group], name: None, home: None }
        }
    };
    if let Some(found) = group {
        account.group = found?.as_raw();
        if !account.groups.contains(&account.group) {
            account.groups.push(account.group);
        }
    }
    let is_own = account.user == geteuid().as_raw() && account.group == getegid().as_raw();
    (!is_own).then_some(account)
}

fn user(checker: &mut Checker<'_>, at: &Key, text: &str) -> Option<Account> {
    let number = text.parse().ok().map(Uid::from_raw);
    let found = match number {
        Some(uid) => User::from_uid(uid),
        None => User::from_name(text),
    };
    match (found, number) {
        (Ok(Some(user)), _) => {
            let group = user.gid.as_raw();
            let name = std::ffi::CString::new(user.name.clone()).unwrap_or_default();
            let groups = getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]);
            Some(Account {
                user: user.uid.as_raw(),
                group,
                groups: groups.into_iter().map(Gid::as_raw).collect(),
                name: Some(user.name),
                home: Some(user.dir),
            })
        }
        // A number needs no entry. Its group has the same number, as is usual.
        (_, Some(uid)) => {
            let user = uid.as_raw();
            Some(Account { user, group: user, groups: vec![user], name: None, home: None })
        }
        (_, None) => {
            checker.report(at, Reason::Account { what: "user", name: text.to_owned() });
            None
        }
    }
}

fn group(checker: &mut Checker<'_>, at: &Key, text: &str) -> Option<Gid> {
    if let Ok(number) = text.parse() {
        return Some(Gid::from_raw(number));
    }
    if let Ok(Some(group)) = Group::from_name(text) {
        return Some(group.gid);
    }
    checker.report(at, Reason::Account { what: "group", name: text.to_owned() });
    None
}
