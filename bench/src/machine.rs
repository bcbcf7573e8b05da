//! What the bench runs on, and what of it its processes take.

use crate::Outcome;

/// One line on the machine: measurements mean nothing without.
pub(crate) fn describe() -> Outcome<String> {
    let processor = field("/proc/cpuinfo", "model name")?;
    let cores = std::thread::available_parallelism()?;
    let memory = field("/proc/meminfo", "MemTotal")?;
    let memory = memory.trim_end_matches(" kB").parse::<u64>()? >> 20;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel: Vec<&str> = kernel.split('.').take(2).collect();
    Ok(format!("{processor}, {cores} cores, {memory} GiB, Linux {}", kernel.join(".")))
}

/// A line of a process's `status` that counts KiB: `VmRSS`, `VmHWM`.
pub(crate) fn status_kib(pid: u32, name: &str) -> Outcome<u64> {
    Ok(field(&format!("/proc/{pid}/status"), name)?.trim_end_matches(" kB").parse()?)
}

fn field(path: &str, name: &str) -> Outcome<String> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    line.ok_or_else(|| format!("{path} has no {name}").into())
}
