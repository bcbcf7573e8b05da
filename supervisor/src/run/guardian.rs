//! Starting the guardian of a client's program: as a worker's, but for its descriptors.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use clutch_protocol::Kind;
use clutch_protocol::message::SpawnProgram;

use super::recipe;
use crate::worker::handover::hand_over;
use crate::worker::spawner::{Guardian, LaunchError};

/// Starts a guardian, and hands it what it is to run. The caller's thread must live as long as the
/// guardian is to, and has to reap it.
///
/// # Errors
///
/// When the system has no descriptor or process left, or the program is too long.
pub fn start(
    guardian: &Guardian,
    program: &SpawnProgram,
    streams: &[OwnedFd],
) -> Result<(Child, UnixStream), LaunchError> {
    let meta = recipe::encode(program).ok_or(LaunchError::TooLong)?;
    let (report, its_report) = UnixStream::pair().map_err(LaunchError::Channels)?;
    #[expect(clippy::disallowed_methods, reason = "it starts guardians, as the spawner does")]
    let mut child = Command::new(&guardian.program)
        .args(&guardian.args)
        .stdin(Stdio::from(OwnedFd::from(its_report)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(LaunchError::Guardian)?;
    let handed: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
    if let Err(error) = hand_over(&report, Kind::SpawnProgram, &meta, &handed) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(LaunchError::Handover(error));
    }
    Ok((child, report))
}
