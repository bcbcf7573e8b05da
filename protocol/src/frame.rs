//! Frames: a fixed header, a meta and a payload. Bytes only; what they mean is in `message`.
//!
//! ```text
//!   0      4        8                16       20   21    22    23     24       28      32
//!   ┌──────┬────────┬────────────────┬────────┬────┬─────┬─────┬──────┬────────┬───────┐
//!   │"CLU1"│ length │    call id     │  meta  │kind│flags│codec│descr.│reserved│ CRC-32│ ...
//!   │ [u8] │  u32   │      u64       │  u32   │ u8 │ u8  │ u8  │  u8  │ u32 = 0│  u32  │
//!   └──────┴────────┴────────────────┴────────┴────┴─────┴─────┴──────┴────────┴───────┘
//!            = meta + payload                                          of bytes 0..28
//! ```
//!
//! Behind the header come the meta, then the payload.
//!
//! Everything is little endian. The decoder checks every field before it believes any of them, and
//! a length is checked against a limit before anything is allocated for it.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::limits::{DESCRIPTORS_MAX, HEADER_BYTES, HELLO_BYTES_MAX, META_BYTES_MAX};

/// The first four bytes of every frame: the name and version of this header's layout. Its first
/// byte is not a letter HTTP, TLS or SSH would start with, so a stranger is known at once.
pub const MAGIC: [u8; 4] = *b"CLU1";

/// Declares a `#[repr(u8)]` enum together with its reverse, so that the two cannot drift apart.
macro_rules! byte_enum {
    (
        $(#[$meta:meta])* pub enum $name:ident {
            $($(#[$doc:meta])* $variant:ident = $value:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $value,)* }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The variant with this number, if there is one.
            pub const fn from_byte(byte: u8) -> Option<$name> {
                match byte { $($value => Some($name::$variant),)* _ => None }
            }
        }
    };
}

byte_enum! {
    /// What a frame is. New kinds are only ever added at the end of their group.
    pub enum Kind {
        /// Client → daemon, first: versions and role. Meta [`crate::message::Hello`].
        Hello = 1,
        /// Daemon → client: the version chosen and the limits. Meta [`crate::message::Welcome`].
        Welcome = 2,
        /// Daemon → client, last before closing: why. Meta [`crate::message::Refused`].
        Refused = 3,
        /// Client → daemon: call a function. Meta [`crate::message::Call`], payload the arguments.
        Call = 4,
        /// Client → daemon: the caller no longer wants call `id`. No meta.
        Cancel = 5,
        /// The value of call `id`. To a client with meta [`crate::message::Answer`]; from a worker
        /// with none.
        Result = 6,
        /// Daemon → client: call `id` failed. Meta [`crate::failure::Failure`].
        Error = 7,
        /// Daemon → client: something call `id` printed. Meta [`crate::message::Output`].
        Output = 8,
        /// Any → any: are you there? Echoed id. No meta.
        Ping = 9,
        /// The answer to a ping, with its id. No meta.
        Pong = 10,
        /// Client → daemon: what is everyone doing? No meta.
        Status = 11,
        /// Daemon → client: JSON payload, [`crate::status::Status`].
        StatusReport = 12,
        /// Client → daemon: stop the daemon. Meta [`crate::message::Stop`].
        Stop = 13,
        /// Daemon → client: the stop has begun. No meta.
        Stopping = 14,
        /// Client → daemon: an operator's order or question. Meta [`crate::operate::Operation`].
        Operate = 15,
        /// Daemon → client: what became of it. Meta [`crate::operate::Outcome`], payload JSON where
        /// there is something to tell.
        Operated = 16,
        /// Daemon → client: lines of the output store. Meta [`crate::message::LogLines`], JSON
        /// payload: a list of [`crate::logs::LogLine`].
        LogLines = 17,
        /// Client → daemon: what have workers printed? Meta [`crate::message::Logs`]. Ended by a
        /// `Cancel` with its id.
        Logs = 18,
        /// Client → daemon: read the configuration anew. Meta [`crate::message::Reload`].
        Reload = 19,
        /// Daemon → client: what a reload changed, or why it changed nothing; JSON payload,
        /// [`crate::reload::Reloaded`].
        Reloaded = 20,

        /// Daemon → worker, first: how to become a worker. Meta [`crate::message::Setup`].
        Setup = 32,
        /// Worker → daemon: ready for calls. Meta [`crate::message::Ready`].
        Ready = 33,
        /// Daemon → worker: run a function. Meta [`crate::message::Run`], payload the arguments.
        Run = 34,
        /// Worker → daemon: call `id` failed (0: the start failed). Meta
        /// [`crate::failure::WorkerFailure`].
        Failed = 35,
        /// Daemon → worker, on the control socket: interrupt call `id`. No meta.
        Interrupt = 36,
        /// Daemon → worker, on the call socket: finish and exit. No meta.
        Exit = 37,
        /// Daemon → worker, on the control socket: the caller no longer wants call `id`; sets the
        /// flag that its code can look at, and nothing more. No meta.
        Warn = 38,
        /// Worker → daemon, on the control socket: a record of Python's `logging`. Meta
        /// [`crate::message::Log`].
        Log = 39,

        /// Daemon → guardian, first: what to run. Meta [`crate::message::Spawn`], two descriptors.
        Spawn = 48,
        /// Guardian → daemon: python was started. Meta [`crate::message::Spawned`].
        Spawned = 49,
        /// Guardian → daemon: python could not be started. Meta [`crate::message::SpawnFailed`].
        SpawnFailed = 50,
        /// Daemon → guardian: signal python, or kill the tree. Meta [`crate::message::Signal`].
        Signal = 51,
        /// Guardian → daemon: python ended. Meta [`crate::message::Exited`].
        Exited = 52,
        /// Guardian → daemon, last: no process of the tree is left. Meta
        /// [`crate::message::Swept`].
        Swept = 53,
    }
}

byte_enum! {
    /// How a payload is encoded. The daemon never looks inside; it only passes the number on.
    pub enum Codec {
        /// No payload.
        None = 0,
        /// The data-only subset of pickle protocol 5; see `plain`.
        Plain = 1,
        /// Standard JSON in UTF-8.
        Json = 2,
        /// Bytes in, bytes out.
        Raw = 3,
    }
}

/// Bits of a header that change how its frame is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// `Call`, `Run`: the payload is `(args, kwargs)` instead of `args`.
    pub const KEYWORDS: Flags = Flags(1);
    /// `Call`, `Run`: the payload is a list of items; call the function once for each, and answer
    /// with the list of results. `Result`: the payload is `(results, failures)`, see PROTOCOL.md.
    pub const ITEMS: Flags = Flags(2);
    /// `Call`: send what the call prints to the caller as `Output` frames.
    pub const OUTPUT: Flags = Flags(4);

    const KNOWN: u8 = 7;

    /// The flags with this number, if every bit is known.
    pub const fn from_byte(byte: u8) -> Option<Flags> {
        if byte & !Self::KNOWN == 0 { Some(Flags(byte)) } else { None }
    }

    /// The number on the wire.
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// Whether every bit of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Why bytes are not a frame. Each is the sender's fault, and each is final for a connection.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The first bytes are not a frame's.
    #[error("these bytes are not a Clutch frame (they start with {0:?}, a frame with {MAGIC:?})")]
    Magic([u8; 4]),
    /// The header was damaged on its way.
    #[error("the header's checksum is {found:08x}, its bytes say {computed:08x}")]
    Checksum {
        /// What the header claims.
        found: u32,
        /// What its bytes add up to.
        computed: u32,
    },
    /// A kind of frame this version does not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A flag this version does not know.
    #[error("unknown flags {0:#04x}")]
    Flags(u8),
    /// A codec this version does not know.
    #[error("unknown codec {0}")]
    Codec(u8),
    /// Reserved bits are set.
    #[error("reserved header bytes are {0:#x}, not zero")]
    Reserved(u32),
    /// More descriptors than any frame may carry.
    #[error("the frame claims {0} descriptors, at most {DESCRIPTORS_MAX} may travel")]
    Descriptors(u8),
    /// Meta plus payload are too long.
    #[error("the frame claims {length} bytes, at most {limit} are accepted here")]
    TooLong {
        /// Bytes claimed.
        length: u32,
        /// Bytes accepted.
        limit: u32,
    },
    /// The meta is longer than the frame or than any meta may be.
    #[error("the frame claims a meta of {meta} bytes in {length} bytes")]
    Meta {
        /// Bytes of meta claimed.
        meta: u32,
        /// Bytes of meta and payload claimed.
        length: u32,
    },
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// How it is to be read.
    pub flags: Flags,
    /// How its payload is encoded.
    pub codec: Codec,
    /// File descriptors that travel with it.
    pub descriptors: u8,
    /// The call, ping or request it belongs to; 0 where it belongs to none.
    pub id: u64,
    /// Bytes of meta.
    pub meta_bytes: u32,
    /// Bytes of payload.
    pub payload_bytes: u32,
}

impl Header {
    /// A header of `kind` for request `id`, with nothing behind it.
    pub const fn new(kind: Kind, id: u64) -> Header {
        Header {
            kind,
            flags: Flags::NONE,
            codec: Codec::None,
            descriptors: 0,
            id,
            meta_bytes: 0,
            payload_bytes: 0,
        }
    }

    /// The header as it travels.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        assert!(self.meta_bytes <= META_BYTES_MAX, "a meta we made is within its limit");
        assert!(self.descriptors <= DESCRIPTORS_MAX, "descriptors we send are within their limit");
        let length = self.meta_bytes.checked_add(self.payload_bytes).expect("limits.rs proves it");
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.meta_bytes.to_le_bytes());
        bytes[20] = self.kind as u8;
        bytes[21] = self.flags.byte();
        bytes[22] = self.codec as u8;
        bytes[23] = self.descriptors;
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header, and refuses one that claims more than `length_max` bytes behind it.
    pub fn decode(bytes: &[u8; HEADER_BYTES], length_max: u32) -> Result<Header, FrameError> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let computed = crc32fast::hash(&bytes[..28]);
        if word(28) != computed {
            return Err(FrameError::Checksum { found: word(28), computed });
        }
        if word(24) != 0 {
            return Err(FrameError::Reserved(word(24)));
        }
        let (length, meta) = (word(4), word(16));
        if length > length_max {
            return Err(FrameError::TooLong { length, limit: length_max });
        }
        if meta > length || meta > META_BYTES_MAX {
            return Err(FrameError::Meta { meta, length });
        }
        if bytes[23] > DESCRIPTORS_MAX {
            return Err(FrameError::Descriptors(bytes[23]));
        }
        Ok(Header {
            kind: Kind::from_byte(bytes[20]).ok_or(FrameError::Kind(bytes[20]))?,
            flags: Flags::from_byte(bytes[21]).ok_or(FrameError::Flags(bytes[21]))?,
            codec: Codec::from_byte(bytes[22]).ok_or(FrameError::Codec(bytes[22]))?,
            descriptors: bytes[23],
            id: u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")),
            meta_bytes: meta,
            payload_bytes: length - meta,
        })
    }

    /// Bytes of the whole frame, this header included.
    pub const fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.meta_bytes as usize + self.payload_bytes as usize
    }
}

/// A whole frame, sliced out of the buffer it was received in.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its meta, still encoded.
    pub meta: Bytes,
    /// Its payload, never decoded by the daemon.
    pub payload: Bytes,
}

/// What the decoder makes of the bytes so far.
#[derive(Debug)]
pub enum Step {
    /// A whole frame; it was taken out of the buffer.
    Frame(Frame),
    /// At least this many more bytes are needed before there can be one.
    Need(usize),
}

/// Takes frames out of a receive buffer. Holds no bytes itself, so it can be tested byte by byte.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    length_max: u32,
    /// The header at the front of the buffer, once it was checked, so that a frame that comes in
    /// many pieces is checked once.
    head: Option<Header>,
}

impl Decoder {
    /// For a connection whose peer has not said hello yet.
    pub const fn before_hello() -> Decoder {
        Decoder { length_max: HELLO_BYTES_MAX, head: None }
    }

    /// For a peer that may send frames with up to `payload_bytes_max` bytes of payload.
    pub const fn with_payload_max(payload_bytes_max: u32) -> Decoder {
        Decoder { length_max: payload_bytes_max.saturating_add(META_BYTES_MAX), head: None }
    }

    /// The header at the front of the buffer, if it has been received but its frame has not.
    pub const fn pending(&self) -> Option<&Header> {
        self.head.as_ref()
    }

    /// Takes the next frame off the front of `buffer`.
    ///
    /// # Errors
    ///
    /// When the bytes are no frame; the connection is then beyond repair.
    pub fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, FrameError> {
        let header = match self.head {
            Some(header) => header,
            None => {
                // Four bytes are enough to tell a stranger from a peer.
                let known = buffer.len().min(MAGIC.len());
                if buffer[..known] != MAGIC[..known] {
                    let mut found = [0; 4];
                    found[..known].copy_from_slice(&buffer[..known]);
                    return Err(FrameError::Magic(found));
                }
                let Some(bytes) = buffer.first_chunk::<HEADER_BYTES>() else {
                    return Ok(Step::Need(HEADER_BYTES - buffer.len()));
                };
                Header::decode(bytes, self.length_max)?
            }
        };
        if buffer.len() < header.frame_bytes() {
            self.head = Some(header);
            return Ok(Step::Need(header.frame_bytes() - buffer.len()));
        }
        self.head = None;
        let mut bytes = buffer.split_to(header.frame_bytes()).freeze();
        let mut body = bytes.split_off(HEADER_BYTES);
        let meta = body.split_to(header.meta_bytes as usize);
        assert_eq!(body.len(), header.payload_bytes as usize, "the frame was cut where it ends");
        Ok(Step::Frame(Frame { header, meta, payload: body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            kind: Kind::Call,
            flags: Flags::KEYWORDS.with(Flags::OUTPUT),
            codec: Codec::Plain,
            descriptors: 0,
            id: 0x0102_0304_0506_0708,
            meta_bytes: 3,
            payload_bytes: 5,
        }
    }

    fn frame() -> Vec<u8> {
        [&sample().encode()[..], b"abc", b"hello"].concat()
    }

    #[test]
    fn a_header_survives_the_wire() {
        assert_eq!(Ok(sample()), Header::decode(&sample().encode(), 100));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed_f084() {
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = sample().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes, u32::MAX).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_cut_at_every_byte_is_the_same_frame_f078() {
        let bytes = frame();
        for cut in 0..=bytes.len() {
            let mut decoder = Decoder::with_payload_max(100);
            let mut buffer = BytesMut::from(&bytes[..cut]);
            if cut < bytes.len() {
                let Step::Need(need) = decoder.step(&mut buffer).unwrap() else {
                    panic!("a frame out of {cut} bytes")
                };
                assert!(need > 0 && need <= bytes.len() - cut);
            }
            buffer.extend_from_slice(&bytes[cut..]);
            let Step::Frame(frame) = decoder.step(&mut buffer).unwrap() else { panic!("no frame") };
            assert_eq!(
                (sample(), &b"abc"[..], &b"hello"[..]),
                (frame.header, &frame.meta[..], &frame.payload[..])
            );
            assert!(buffer.is_empty() && decoder.pending().is_none());
        }
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_come_f071() {
        let header = Header { payload_bytes: 1 << 30, ..sample() };
        let mut buffer = BytesMut::from(&header.encode()[..]);
        let refusal = Decoder::before_hello().step(&mut buffer).unwrap_err();
        assert!(matches!(refusal, FrameError::TooLong { limit: HELLO_BYTES_MAX, .. }));
    }

    #[test]
    fn a_stranger_is_known_by_the_first_byte_f079() {
        for hello in
            [&b"G"[..], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\0", b"\xff\xff\xff\xff", b"CLU2"]
        {
            let refusal = Decoder::before_hello().step(&mut BytesMut::from(hello)).unwrap_err();
            assert!(matches!(refusal, FrameError::Magic(_)), "{hello:?}");
        }
    }

    #[test]
    fn what_is_reserved_or_unknown_is_refused_f080() {
        let reseal = |mut bytes: [u8; HEADER_BYTES]| {
            let crc = crc32fast::hash(&bytes[..28]);
            bytes[28..].copy_from_slice(&crc.to_le_bytes());
            Header::decode(&bytes, 100)
        };
        let edit = |at: usize, value: u8| {
            let mut bytes = sample().encode();
            bytes[at] = value;
            reseal(bytes)
        };
        assert_eq!(Err(FrameError::Kind(0)), edit(20, 0));
        assert_eq!(Err(FrameError::Flags(0x80)), edit(21, 0x80));
        assert_eq!(Err(FrameError::Codec(9)), edit(22, 9));
        assert_eq!(Err(FrameError::Descriptors(253)), edit(23, 253));
        assert_eq!(Err(FrameError::Reserved(1)), edit(24, 1));
        assert_eq!(Err(FrameError::Meta { meta: 9, length: 8 }), edit(16, 9));
    }
}
