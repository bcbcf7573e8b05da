//! Standard output that is a pipe which nobody reads any more. The next thing to write may be long
//! in coming, and then it is not worth waiting for.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

/// Tells when that is so. The thread that looks waits in the kernel, and ends with the program.
pub(crate) struct Unread(Option<oneshot::Receiver<()>>);

impl Unread {
    pub(crate) fn new() -> Unread {
        let (sender, receiver) = oneshot::channel();
        let look = move || {
            let stdout = io::stdout();
            // Without wishes, the kernel only tells of a broken pipe.
            let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
            while poll(&mut watched, PollTimeout::NONE) == Err(Errno::EINTR) {}
            // Its receiver is gone when what is written has ended.
            let _gone = sender.send(());
        };
        // Without it, a closed pipe is noticed with the next item.
        let thread = std::thread::Builder::new().name("clutch-stdout".to_owned()).spawn(look);
        Unread(thread.is_ok().then_some(receiver))
    }

    /// Resolves when nobody reads any more; never, where that cannot be told.
    pub(crate) async fn wait(&mut self) {
        if let Some(receiver) = &mut self.0
            && receiver.await.is_ok()
        {
            self.0 = None;
            return;
        }
        std::future::pending().await
    }
}
