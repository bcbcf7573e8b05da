//! A function over the chunks of a large file, beside a plain Python loop over its lines.
//!
//! All do the same: go through the lines and count those with a 7 in them. Rounds are taken in
//! turns, so that whatever else the machine does hits all alike; the first one, in which the file
//! comes into memory as far as it fits, does not count. The ratios are what to trust.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use clutch_client::blocking::Client;

use crate::daemon::{Daemon, program};
use crate::{Outcome, percentile};

/// Rounds that count.
const ROUNDS: usize = 3;

const CONFIG: &str = "\
[pools.one]
workers = 1
path = [\".\"]
[pools.two]
workers = 2
path = [\".\"]
";

/// What the workers run, and a plain python.
const TASKS: &str = "\
import io

def count(lines):
    total = sevens = 0
    for line in lines:
        total += 1
        sevens += b'7' in line
    return [total, sevens]

def count_chunk(chunk):
    return count(io.BytesIO(chunk))
";

const PLAIN: &str = "\
import sys
from tasks import count
with open(sys.argv[1], 'rb') as lines:
    print(*count(lines))
";

/// Goes over a file of so many GiB.
pub(crate) fn run(gib: u64) -> Outcome<()> {
    let mut daemon = Daemon::start(CONFIG, TASKS)?;
    let client = daemon.client()?;
    let file = daemon.path("lines.txt");
    write_lines(&file, gib << 30)?;
    let directory = daemon.path("");
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut lines = 0;
    for round in 0..=ROUNDS {
        let contenders: [&dyn Fn() -> Outcome<[u64; 2]>; 3] =
            [&|| through(&client, "one", &file), &|| through(&client, "two", &file), &|| {
                plain(&directory, &file)
            }];
        let mut found = Vec::new();
        for (times, contender) in times.iter_mut().zip(contenders) {
            let start = Instant::now();
            found.push(contender()?);
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
        assert!(found.iter().all(|one| *one == found[0]), "they all count alike: {found:?}");
        lines = found[0][0];
    }
    let counted = line_feeds(&file)?;
    assert_eq!(counted, lines, "`wc -l` counts alike");
    let [one, two, plain] = times.map(|times| percentile(&times, 500));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{gib} GiB of lines, the median of {ROUNDS} rounds:")?;
    writeln!(out, "  all count {lines} lines, and so does `wc -l`")?;
    writeln!(out, "  map-file, one worker   {one:7.2} s, {:.2} x the plain loop", one / plain)?;
    writeln!(out, "  map-file, two workers  {two:7.2} s, {:.2} x as fast as one", one / two)?;
    writeln!(out, "  a plain Python loop    {plain:7.2} s")?;
    for pool in client.status()?.pools {
        for worker in pool.workers {
            let peak = peak_bytes(worker.pid)? >> 20;
            writeln!(out, "  a worker of '{}': at most {peak} MiB resident", pool.name)?;
        }
    }
    writeln!(out, "  the daemon: at most {} MiB resident", peak_bytes(daemon.pid())? >> 20)?;
    let own = peak_bytes(std::process::id())? >> 20;
    writeln!(out, "  this client: at most {own} MiB resident")?;
    drop((out, client));
    daemon.stop()
}

fn write_lines(path: &Path, bytes: u64) -> Outcome<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let (mut written, mut number) = (0, 0_u64);
    while written < bytes {
        let line = format!("{number} INFO a line of a log as there are many of them\n");
        file.write_all(line.as_bytes())?;
        written += line.len() as u64;
        number += 1;
    }
    Ok(file.flush()?)
}

fn through(client: &Client, pool: &str, file: &Path) -> Outcome<[u64; 2]> {
    let map = client.map_file("tasks:count_chunk", file).pool(pool);
    let counts: Vec<[u64; 2]> = map.collect()?;
    let sum = |of: usize| counts.iter().map(|count| count[of]).sum();
    Ok([sum(0), sum(1)])
}

fn plain(directory: &Path, file: &Path) -> Outcome<[u64; 2]> {
    let output = program(Path::new("python3"))
        .args(["-c", PLAIN])
        .arg(file)
        .env("PYTHONPATH", directory)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next().ok_or("python has printed nothing");
    Ok([next()??, next()??])
}

/// How many lines `wc -l` finds.
fn line_feeds(file: &Path) -> Outcome<u64> {
    let output = program(Path::new("wc")).arg("-l").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().ok_or("wc has printed nothing")?.parse()?)
}

/// The most memory that was ever resident, pages of files included.
fn peak_bytes(pid: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).ok_or("no VmHWM")?;
    Ok(kib.parse::<u64>()? * 1024)
}
