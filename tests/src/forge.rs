//! Frames for a raw peer to send: true ones, and forged ones.

use clutch_protocol::frame::{Codec, Flags, Header, Kind};
use clutch_protocol::message::{Call, Hello, Retry, Role, RunProgram, Streams, version};
use clutch_protocol::stream::{Credit, Item, ItemsEnd};
use clutch_protocol::wire;

/// A frame with everything chosen freely but the lengths, which are true.
pub fn frame(kind: Kind, id: u64, codec: Codec, meta: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = Header {
        codec,
        meta_bytes: meta.len().try_into().expect("frames here are short"),
        payload_bytes: payload.len().try_into().expect("frames here are short"),
        ..Header::new(kind, id)
    };
    [&header.encode()[..], meta, payload].concat()
}

/// A call with JSON arguments.
pub fn call(id: u64, pool: &str, function: &str, arguments: &str) -> Vec<u8> {
    call_within(id, pool, function, arguments, 0)
}

/// A call with JSON arguments and a timeout in milliseconds.
pub fn call_within(id: u64, pool: &str, function: &str, json: &str, timeout_ms: u64) -> Vec<u8> {
    let (pool, function) = (pool.to_owned(), function.to_owned());
    call_of(
        id,
        &Call {
            pool,
            function,
            timeout_ms,
            priority: 0,
            retry: None,
            each: None,
            handles: Vec::new(),
        },
        json,
    )
}

/// A call to the default pool with JSON arguments, to be tried again.
pub fn call_again(id: u64, function: &str, json: &str, retry: Option<Retry>) -> Vec<u8> {
    let (pool, function) = ("default".to_owned(), function.to_owned());
    call_of(
        id,
        &Call {
            pool,
            function,
            timeout_ms: 0,
            priority: 0,
            retry,
            each: None,
            handles: Vec::new(),
        },
        json,
    )
}

fn call_of(id: u64, meta: &Call, json: &str) -> Vec<u8> {
    let meta = wire::encode(meta).expect("a short meta");
    frame(Kind::Call, id, Codec::Json, &meta, json.as_bytes())
}

/// A call with JSON arguments, whose header says that so many descriptors come with it.
pub fn call_attached(id: u64, pool: &str, function: &str, json: &str, descriptors: u8) -> Vec<u8> {
    let (pool, function) = (pool.to_owned(), function.to_owned());
    let meta = Call {
        pool,
        function,
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
        handles: Vec::new(),
    };
    call_attached_of(id, &meta, json, descriptors)
}

/// The same, of any call.
pub fn call_attached_of(id: u64, meta: &Call, json: &str, descriptors: u8) -> Vec<u8> {
    let meta = wire::encode(meta).expect("a short meta");
    let header = Header {
        flags: Flags::ATTACHED,
        codec: Codec::Json,
        descriptors,
        meta_bytes: meta.len().try_into().expect("frames here are short"),
        payload_bytes: json.len().try_into().expect("frames here are short"),
        ..Header::new(Kind::Call, id)
    };
    [&header.encode()[..], &meta, json.as_bytes()].concat()
}

/// A value for the daemon to keep, whose header says that so many descriptors come with it.
pub fn put(id: u64, descriptors: u8) -> Vec<u8> {
    Header { descriptors, ..Header::new(Kind::Put, id) }.encode().to_vec()
}

/// A value that is needed no more.
pub fn release(id: u64) -> Vec<u8> {
    Header::new(Kind::Release, id).encode().to_vec()
}

/// A call with JSON arguments to the default pool, with any flags.
pub fn call_flagged(id: u64, function: &str, json: &str, flags: Flags) -> Vec<u8> {
    let bytes = call(id, "default", function, json);
    let (header, rest) = bytes.split_first_chunk::<32>().expect("a frame has a header");
    let mut header = *header;
    header[21] = flags.byte();
    [&sealed(header)[..], rest].concat()
}

/// Leave to send more items of a stream.
pub fn credit(id: u64, stream: u32, items: u32) -> Vec<u8> {
    let meta = wire::encode(&Credit { stream, items }).expect("a short meta");
    frame(Kind::Credit, id, Codec::None, &meta, &[])
}

/// An item of a stream, as JSON.
pub fn item(id: u64, stream: u32, index: u64, json: &str) -> Vec<u8> {
    let meta = wire::encode(&Item { stream, index }).expect("a short meta");
    frame(Kind::Item, id, Codec::Json, &meta, json.as_bytes())
}

/// The end of a stream.
pub fn items_end(id: u64, stream: u32, failure: &str) -> Vec<u8> {
    let meta =
        wire::encode(&ItemsEnd { stream, failure: failure.to_owned() }).expect("it is short");
    frame(Kind::ItemsEnd, id, Codec::None, &meta, &[])
}

/// A hello of this version in any role.
pub fn hello(role: Role) -> Vec<u8> {
    hello_of(version::MIN, version::MAX, role, &[])
}

/// A hello of any versions, with bytes of the future behind its known fields.
pub fn hello_of(version_min: u16, version_max: u16, role: Role, future: &[u8]) -> Vec<u8> {
    let program = "clutch-tests".to_owned();
    let hello = Hello { version_min, version_max, role, program, worker: String::new() };
    let mut meta = wire::encode(&hello).expect("a short meta");
    meta.extend_from_slice(future);
    frame(Kind::Hello, 0, Codec::None, &meta, &[])
}

/// Header bytes with any field set to anything, and a checksum that fits. Flags are `NONE`.
pub fn forged(kind: u8, id: u64, length: u32, meta: u32) -> [u8; 32] {
    let mut bytes = Header::new(Kind::Ping, id).encode();
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[16..20].copy_from_slice(&meta.to_le_bytes());
    bytes[20] = kind;
    bytes[21] = Flags::NONE.byte();
    sealed(bytes)
}

/// The same header with the checksum its bytes need.
pub fn sealed(mut bytes: [u8; 32]) -> [u8; 32] {
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A wish to run a piece of code in the default pool's interpreter, with these streams of ours.
pub fn run_program(code: &str, open: &[u8], terminal: Option<u32>) -> Vec<u8> {
    let asked = RunProgram {
        pool: "default".into(),
        arguments: vec![b"-c".into(), code.into()],
        environment: vec![],
        set: vec![],
        directory: b"/".into(),
        interpreter: vec![],
        venv: vec![],
        umask: 0o22,
        streams: Streams { open: open.into(), terminal, ignored: 0 },
    };
    let meta = wire::encode(&asked).expect("it can be encoded");
    frame(Kind::RunProgram, 1, Codec::None, &meta, b"")
}
