//! Knowing that a peer has gone for good, while it is still owed answers.

use std::io;

use tokio::io::Interest;
use tokio::net::UnixStream;

/// Resolves when the peer has closed the whole connection, not just its sending half.
///
/// Reading cannot tell the two apart, since both end it. Writing can, but there is nothing to
/// write. So this waits for the socket's hang-up, which the kernel reports with writability.
pub async fn wait_until_closed(stream: &UnixStream) {
    loop {
        match stream.ready(Interest::WRITABLE).await {
            Ok(ready) if ready.is_write_closed() => return,
            Err(_) => return,
            Ok(_) => {
                // Forgets the writability that is known already, so that the next wait is for news.
                // Writers ask the socket itself, so they do not miss it.
                let _ = stream.try_io(Interest::WRITABLE, || {
                    Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock))
                });
            }
        }
    }
}
