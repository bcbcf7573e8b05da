//! How much a value may be. The numbers come from `crate::limits`; an operator's can be stricter.

use crate::limits::{DEPTH_MAX, NODES_MAX, PAYLOAD_BYTES_MAX};

/// How much a value may be, with its shared parts copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the input, and bytes of text and data in the value. The second can exceed the
    /// first, since a dict key that occurs a thousand times is sent once: so this is not the place
    /// for the limit on a payload, which the frame decoder keeps.
    pub bytes: usize,
    /// Values in it, those in containers included.
    pub nodes: usize,
    /// Levels of containers. Reading into a Rust type recurses this deep.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: PAYLOAD_BYTES_MAX as usize, nodes: NODES_MAX, depth: DEPTH_MAX }
    }
}

impl Limits {
    /// Nothing the reader counts with 32 bits (depth: 16) can then overflow.
    pub(super) fn clamped(self) -> Limits {
        Limits {
            bytes: self.bytes.min(PAYLOAD_BYTES_MAX as usize),
            nodes: self.nodes.min(PAYLOAD_BYTES_MAX as usize),
            depth: self.depth.min(usize::from(u16::MAX) - 1),
        }
    }
}
