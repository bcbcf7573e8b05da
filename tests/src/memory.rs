//! Memory to attach to a call, as it should be and as it should not.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What every memfd of a test is called.
pub const NAME: &str = "clutch-test";

/// A memfd with these seals.
pub fn memory(bytes: u64, seals: SealFlag) -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(NAME, flags).expect("there is memory"));
    file.set_len(bytes).expect("it has no seals yet");
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("it may be sealed");
    file
}

/// Memory that nobody can shrink or grow any more.
pub fn sealed(bytes: u64) -> File {
    memory(bytes, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL)
}

/// The same, and nobody can write into it either.
pub fn constant(bytes: u64) -> File {
    let file = memory(bytes, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW);
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("nobody has it mapped");
    file
}

/// The same file, opened anew through `/proc`.
pub fn again(file: &File, flags: OFlag) -> File {
    let access = flags & OFlag::O_ACCMODE;
    std::fs::OpenOptions::new()
        .read(access != OFlag::O_WRONLY)
        .write(access != OFlag::O_RDONLY)
        .custom_flags((flags & !OFlag::O_ACCMODE).bits())
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .expect("what is open can be opened")
}

/// Which file it is.
pub fn inode(descriptor: impl AsFd) -> u64 {
    let copy = descriptor.as_fd().try_clone_to_owned().expect("descriptors are left");
    File::from(copy).metadata().expect("it is open").ino()
}
