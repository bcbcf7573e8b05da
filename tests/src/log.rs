//! What a daemon prints, kept in memory line by line, so that a test can wait for a line.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Log bytes kept; what a daemon prints beyond that is read and forgotten.
const LOG_BYTES_MAX: usize = 64 << 20;

/// What a daemon prints, as it prints it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
}

#[derive(Debug, Default)]
struct Lines {
    text: String,
    /// Streams that may still say something.
    open: usize,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a stream to its end on a thread of its own.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static) {
        self.lock().open += 1;
        let log = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let mut lines = log.lock();
                if lines.text.len() < LOG_BYTES_MAX {
                    lines.text.push_str(&String::from_utf8_lossy(&line));
                }
                drop(lines);
                log.shared.1.notify_all();
                line.clear();
            }
            log.lock().open -= 1;
            log.shared.1.notify_all();
        });
    }

    pub(crate) fn text(&self) -> String {
        self.lock().text.clone()
    }

    pub(crate) fn wait_for_line(&self, text: &str, deadline: Duration) -> Option<String> {
        let find =
            |lines: &Lines| lines.text.lines().find(|line| line.contains(text)).map(str::to_owned);
        let wait = |lines: &mut Lines| find(lines).is_none() && lines.open > 0;
        let guard = self.shared.1.wait_timeout_while(self.lock(), deadline, wait);
        find(&guard.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Waits until every stream has ended, at most `deadline`.
    pub(crate) fn wait_for_end(&self, deadline: Duration) {
        drop(self.shared.1.wait_timeout_while(self.lock(), deadline, |lines| lines.open > 0));
    }

    /// Prints the end of it, for the reader of a failed test.
    #[expect(clippy::print_stderr, reason = "the test runner shows it with the failed test")]
    pub(crate) fn show(&self) {
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        eprintln!("--- the daemon's log (last 60 of {} lines)\n{tail}\n---", lines.len());
    }
}
