//! V6: calls made beside a fault, on another pool or worker, which must not notice it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::raw::{RawClient, Reply};
use crate::wait::wait_for;
use crate::{MILLISECOND, SECOND, park};

/// Between two calls: enough to leave a small machine to the fault, little enough to be there
/// when it happens.
const PACE: Duration = MILLISECOND;

/// A thread that calls and calls until it is asked how that went. Dropping it stops it too.
#[derive(Debug)]
pub struct Bystander {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Report>>,
}

/// What a bystander saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How long each call that succeeded took, in the order they were made.
    pub latencies: Vec<Duration>,
    /// What went wrong, in words.
    pub failures: Vec<String>,
}

impl Bystander {
    /// Starts calling `math:sqrt` on a pool, over one connection of its own, and returns when the
    /// first calls were answered.
    #[track_caller]
    pub fn start(daemon: &Daemon, pool: &str) -> Bystander {
        let stop = Arc::new(AtomicBool::new(false));
        let warm = Arc::new(AtomicBool::new(false));
        let (socket, pool) = (daemon.socket().to_owned(), pool.to_owned());
        let (flag, ready) = (stop.clone(), warm.clone());
        let thread = std::thread::spawn(move || call_until(&socket, &pool, &flag, &ready));
        wait_for("the bystander's first calls are answered", 20 * SECOND, || {
            warm.load(Ordering::Acquire) || thread.is_finished()
        });
        Bystander { stop, thread: Some(thread) }
    }

    /// Stops calling, and says how it went.
    #[track_caller]
    pub fn finish(mut self) -> Report {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("only this takes it");
        thread.join().expect("a bystander reports failures, it does not panic")
    }

    /// Stops calling; panics unless every call succeeded, none took longer than `worst`, and
    /// there were any.
    #[track_caller]
    pub fn assert_unharmed(self, worst: Duration) {
        let report = self.finish();
        assert!(report.failures.is_empty(), "V6: a bystander was harmed: {:#?}", report.failures);
        let slowest = report.latencies.iter().max().expect("a bystander makes calls");
        assert!(*slowest <= worst, "V6: a bystander waited {slowest:?}, more than {worst:?}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn call_until(socket: &Path, pool: &str, stop: &AtomicBool, warm: &AtomicBool) -> Report {
    let mut report = Report::default();
    let mut client = match RawClient::try_hello(socket) {
        Ok((client, _)) => client,
        Err(why) => {
            report.failures.push(why);
            return report;
        }
    };
    while !stop.load(Ordering::Acquire) {
        let begun = Instant::now();
        match try_call(&mut client, pool) {
            Ok(Reply::Value(value)) if value.as_f64() == Some(3.0) => {
                report.latencies.push(begun.elapsed());
            }
            Ok(other) => report.failures.push(format!("{other:?}")),
            Err(why) => {
                report.failures.push(why);
                return report;
            }
        }
        if report.latencies.len() == 3 {
            warm.store(true, Ordering::Release);
        }
        park(PACE);
    }
    report
}

fn try_call(client: &mut RawClient, pool: &str) -> Result<Reply, String> {
    let id = client.next_id();
    let call = crate::raw::call(id, pool, "math:sqrt", "[9]");
    client.send(&call).map_err(|error| error.to_string())?;
    let frame = client.read(crate::raw::PATIENCE).map_err(|end| format!("{end:?}"))?;
    if frame.header.id != id {
        return Err(format!("an answer to another call: {:?}", frame.header));
    }
    Ok(crate::raw::reply(&frame))
}
