//! The floor: a process that passes frames between a client and one python, and does nothing else.
//!
//! Four hops, as through the daemon, but with one client, one worker and one call at a time it
//! waits for each in turn: no readiness to ask for, no queue, no deadline, nobody to supervise.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::Outcome;
use crate::daemon::program;

/// The word by which this program is started as the forwarder.
pub(crate) const WORD: &str = "forwarder";

/// A length, a number, and a value.
const FRAME_BYTES: usize = 20;

type Frame = [u8; FRAME_BYTES];

/// A client of a forwarder, which ends with it.
pub(crate) struct Forwarder {
    child: Child,
    line: UnixStream,
    number: u64,
}

impl Forwarder {
    pub(crate) fn start() -> Outcome<Forwarder> {
        let (line, theirs) = UnixStream::pair()?;
        let child = program(&std::env::current_exe()?)
            .arg(WORD)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let mut forwarder = Forwarder { child, line, number: 0 };
        forwarder.call(1)?;
        Ok(forwarder)
    }

    /// The time of so many null calls, each in microseconds.
    pub(crate) fn time(&mut self, calls: usize) -> Outcome<Vec<f64>> {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            let start = Instant::now();
            let one = self.call(1)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            assert_eq!(1, one, "abs(1) is 1");
        }
        Ok(times)
    }

    fn call(&mut self, value: i64) -> Outcome<i64> {
        self.number += 1;
        let mut frame: Frame = [0; FRAME_BYTES];
        frame[..4].copy_from_slice(&16_u32.to_le_bytes());
        frame[4..12].copy_from_slice(&self.number.to_le_bytes());
        frame[12..].copy_from_slice(&value.to_le_bytes());
        self.line.write_all(&frame)?;
        let mut answer: Frame = [0; FRAME_BYTES];
        self.line.read_exact(&mut answer)?;
        match answer[4..12] == frame[4..12] {
            true => Ok(i64::from_le_bytes(answer[12..].try_into()?)),
            false => Err("the answer is another call's".into()),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // It ends when its client has gone, and its worker when it has.
        let _ = self.line.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// What the forwarder's process does: passes frames on until its client has gone.
pub(crate) fn run() -> Outcome<()> {
    use std::os::fd::AsFd;
    let mut client = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let (mut worker, theirs) = UnixStream::pair()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/forwarded.py");
    let mut python = program("python3".as_ref())
        .arg(script)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let mut frame: Frame = [0; FRAME_BYTES];
    while client.read_exact(&mut frame).is_ok() {
        worker.write_all(&frame)?;
        worker.read_exact(&mut frame)?;
        client.write_all(&frame)?;
    }
    drop(worker);
    python.wait()?;
    Ok(())
}
