//! Knowing that a peer has gone for good, while it is still owed answers.

use std::io;
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::net::UnixStream;

/// Resolves when the peer has closed the whole connection, not just its sending half.
///
/// Reading cannot tell the two apart, since both end it. Writing can, but there is nothing to
/// write. So this waits for the socket's hang-up, which the kernel reports with writability.
///
/// It waits on a duplicate of the descriptor: forgetting the writability that is known already, so
/// that the next wait is for news, must not make the connection's flusher forget it too.
pub async fn wait_until_closed(stream: &UnixStream) {
    let Ok(watched) = duplicate(stream) else {
        // Out of descriptors: the callers' own bounds end the wait.
        return std::future::pending().await;
    };
    loop {
        match watched.ready(Interest::WRITABLE).await {
            Ok(ready) if ready.is_write_closed() => return,
            Err(_) => return,
            Ok(_) => {
                let _ = watched.try_io(Interest::WRITABLE, || {
                    Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock))
                });
            }
        }
    }
}

/// Another descriptor of the same socket, watched by itself.
fn duplicate(stream: &UnixStream) -> io::Result<UnixStream> {
    let descriptor = stream.as_fd().try_clone_to_owned()?;
    UnixStream::from_std(descriptor.into())
}
