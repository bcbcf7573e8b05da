//! Ctrl-C: the first asks, the second ends the program.
//!
//! The signal is waited for on a thread of its own, so the second Ctrl-C works whatever the rest of
//! the program is stuck in. Until somebody listens with [`Interrupt::wait`], the first one ends the
//! program at once: there is nothing yet that could be cancelled.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Exit;

/// How long the program may go on after the second Ctrl-C, to remove what it has put into a
/// temporary directory. It usually needs a tenth of that.
const END_MAX: Duration = Duration::from_millis(500);

/// Which signal asked the program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Ctrl-C, or whoever sends the same signal.
    Interrupt,
    /// What `kill` sends.
    Terminate,
    /// The terminal was closed.
    HangUp,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ask::Interrupt => "Ctrl-C",
            Ask::Terminate => "SIGTERM",
            Ask::HangUp => "SIGHUP",
        })
    }
}

/// Knows whether Ctrl-C was pressed, or the like.
pub(crate) struct Interrupt {
    asked: watch::Receiver<Option<Ask>>,
    armed: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes Ctrl-C over from the system.
    pub(crate) fn install() -> io::Result<Interrupt> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _context = runtime.enter();
            Signals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: signal(SignalKind::hangup())?,
            }
        };
        let (sender, asked) = watch::channel(None);
        let armed = Arc::new(AtomicBool::new(false));
        let is_armed = Arc::clone(&armed);
        std::thread::Builder::new()
            .name("ctrl-c".into())
            .spawn(move || runtime.block_on(listen(signals, &sender, &is_armed)))?;
        Ok(Interrupt { asked, armed })
    }

    /// Waits for the first Ctrl-C; from now on it takes two to end the program.
    pub(crate) async fn wait(&mut self) -> Ask {
        self.armed.store(true, Ordering::Release);
        if let Ok(asked) = self.asked.wait_for(Option::is_some).await
            && let Some(ask) = *asked
        {
            return ask;
        }
        // The listening thread is gone, so there will be no Ctrl-C.
        std::future::pending().await
    }
}

/// The signals that ask a program to end: Ctrl-C, and what `kill` and a closed terminal send. All
/// are obeyed alike, so that whoever ends the program leaves nothing behind.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.interrupt.recv() => Ask::Interrupt,
            _ = self.terminate.recv() => Ask::Terminate,
            _ = self.hangup.recv() => Ask::HangUp,
        }
    }
}

#[expect(
    clippy::exit,
    reason = "the rest of the program had its chance; guardians end what runs locally"
)]
async fn listen(mut signals: Signals, sender: &watch::Sender<Option<Ask>>, armed: &AtomicBool) {
    loop {
        let ask = signals.next().await;
        let armed = armed.load(Ordering::Acquire);
        if armed && sender.send_replace(Some(ask)).is_none() {
            continue;
        }
        if armed {
            // The program is about to end; a third Ctrl-C does not wait for it.
            let _ = tokio::time::timeout(END_MAX, signals.next()).await;
        }
        std::process::exit(Exit::asked(ask).code().into());
    }
}
