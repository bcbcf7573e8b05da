"""Frames and their metas as bytes: the Python side of `protocol/src/frame.rs` and `message.rs`.

Sans-IO: bytes in, values out, and back. Who reads and writes sockets is `_receive` and `_loop`;
what a failure says is `_errors`. The layout of a meta is little endian, integers of fixed width, a
`u64` length before text and lists, a `u32` index before an enum's fields.
"""

from _struct import Struct
from binascii import crc32

from clutch._limits import DESCRIPTORS_MAX, HEADER_BYTES, LANES_MAX, META_BYTES_MAX

__all__ = [
    "CODEC_JSON",
    "CODEC_NONE",
    "CODEC_PLAIN",
    "CODEC_RAW",
    "CREDIT",
    "EXIT",
    "FAILED",
    "FLAGS_INLINE",
    "FLAGS_KNOWN",
    "FLAGS_OF_PORTS",
    "FLAG_ATTACHED",
    "FLAG_ITEMS",
    "FLAG_KEYWORDS",
    "FLAG_STREAM",
    "HEADER",
    "IMPORTS",
    "INTERRUPT",
    "ITEM",
    "ITEMS_END",
    "LOG",
    "MAGIC",
    "MODE_ASYNC",
    "MODE_ONE",
    "MODE_SUBINTERPRETERS",
    "MODE_THREADS",
    "PING",
    "PONG",
    "PROGRESS",
    "READY",
    "RESULT",
    "RUN",
    "SETUP",
    "STACK",
    "VERSION",
    "WARN",
    "MetaReader",
    "ProtocolError",
    "Setup",
    "check_header",
    "decode_setup",
    "encode_exception",
    "encode_imports",
    "encode_log",
    "encode_missing",
    "encode_progress",
    "encode_ready",
    "failed_bad_arguments",
    "failed_cancelled",
    "failed_not_found",
    "failed_raised",
    "failed_too_large",
    "failed_unserializable",
    "header_bytes",
]

VERSION = 1
MAGIC = b"CLU1"

# The kinds a worker meets; Kind in frame.rs has all of them.
RESULT = 6
PING = 9
PONG = 10
SETUP = 32
READY = 33
RUN = 34
FAILED = 35
INTERRUPT = 36
EXIT = 37
WARN = 38
LOG = 39
STACK = 40
IMPORTS = 41
# Of streams: in both directions but the last, which is on the control socket.
ITEM = 28
CREDIT = 29
ITEMS_END = 30
PROGRESS = 31

FLAG_KEYWORDS = 1
FLAG_ITEMS = 2
FLAG_ATTACHED = 8
FLAG_STREAM = 16
# Of calls that more may come for while they run.
FLAGS_OF_PORTS = FLAG_ATTACHED | FLAG_STREAM
# With those that only clients and the daemon use.
FLAGS_KNOWN = 63
# No flag above says that something travels beside the payload.
FLAGS_INLINE = 7

CODEC_NONE = 0
CODEC_PLAIN = 1
CODEC_JSON = 2
CODEC_RAW = 3

# How a worker runs its calls.
MODE_ONE = 0
MODE_THREADS = 1
MODE_ASYNC = 2
MODE_SUBINTERPRETERS = 3

# magic, length, id, meta, kind, flags, codec, descriptors, reserved, checksum.
HEADER = Struct("<4sIQIBBBBII")
_HEADER_CHECKED = Struct("<4sIQIBBBBI")
_U16 = Struct("<H")
_U32 = Struct("<I")
_U64 = Struct("<Q")
_U64_PAIR = Struct("<QQ")
_F64 = Struct("<d")
_pack_checked = _HEADER_CHECKED.pack
_pack_u32 = _U32.pack

assert HEADER.size == HEADER_BYTES
assert _HEADER_CHECKED.size == HEADER_BYTES - 4


class ProtocolError(Exception):
    """The daemon sent bytes that are no frame, or a frame that is not for a worker."""


def header_bytes(
    kind: int,
    call_id: int,
    meta_bytes: int,
    payload_bytes: int,
    flags: int = 0,
    codec: int = 0,
    descriptors: int = 0,
) -> bytes:
    """The header of a frame as it travels."""
    head = _pack_checked(
        MAGIC, meta_bytes + payload_bytes, call_id, meta_bytes, kind, flags, codec, descriptors, 0
    )
    return head + _pack_u32(crc32(head))


def check_header(
    fields: "tuple[bytes, int, int, int, int, int, int, int, int, int]",
    computed: int,
    length_max: int,
) -> None:
    """Refuses a header, unpacked by `HEADER`, whose bytes are not what they claim to be."""
    magic, length, _id, meta, kind, flags, codec, descriptors, reserved, checksum = fields
    if magic != MAGIC:
        raise ProtocolError(f"bytes are not a Clutch frame (they start with {magic!r})")
    if checksum != computed:
        raise ProtocolError(f"a header's checksum is {checksum:08x}, not {computed:08x}")
    if length > length_max:
        raise ProtocolError(f"a frame claims {length} bytes, at most {length_max} are accepted")
    if meta > length or meta > META_BYTES_MAX:
        raise ProtocolError(f"a frame claims a meta of {meta} bytes in {length} bytes")
    if reserved:
        raise ProtocolError("a frame uses header fields that mean nothing to a worker")
    if flags & FLAG_ATTACHED and kind not in (RUN, ITEM):
        raise ProtocolError(f"something is attached to a frame of kind {kind}")
    if descriptors > (DESCRIPTORS_MAX if flags & FLAG_ATTACHED else 0):
        raise ProtocolError(f"a frame announces {descriptors} descriptors, which it cannot have")
    if flags > FLAGS_KNOWN:
        raise ProtocolError(f"unknown flags {flags:#04x}")
    if codec > CODEC_RAW:
        raise ProtocolError(f"unknown codec {codec}")


class MetaReader:
    """Takes the fields of a meta off its front, each checked against what is left."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, data: "bytes | bytearray | memoryview") -> None:
        self._bytes = bytes(data)
        self._at = 0

    def _take(self, count: int) -> bytes:
        start, end = self._at, self._at + count
        if end > len(self._bytes):
            raise ProtocolError(f"a meta ends {end - len(self._bytes)} bytes too early")
        self._at = end
        return self._bytes[start:end]

    def u16(self) -> int:
        """An unsigned integer of two bytes."""
        return _U16.unpack(self._take(2))[0]

    def u32(self) -> int:
        """An unsigned integer of four bytes."""
        return _U32.unpack(self._take(4))[0]

    def u64(self) -> int:
        """An unsigned integer of eight bytes."""
        return _U64.unpack(self._take(8))[0]

    def raw(self) -> bytes:
        """The bytes of a text."""
        return self._take(self.u64())

    def raws(self) -> "list[bytes]":
        """A list of texts, as bytes."""
        count = self.u64()
        if count > len(self._bytes) // 8:
            raise ProtocolError(f"a meta claims a list of {count} texts")
        return [self.raw() for _ in range(count)]

    def flag(self) -> bool:
        """A bool, or whether an option has a value."""
        byte = self._take(1)
        if byte > b"\1":
            raise ProtocolError(f"a meta has {byte[0]} where 0 or 1 belongs")
        return byte == b"\1"

    def end(self) -> None:
        """Nothing may be left over."""
        if self._at != len(self._bytes):
            raise ProtocolError(f"a meta has {len(self._bytes) - self._at} bytes too many")


class Setup:
    """How to become a worker. Texts that the system will see stay bytes, as argv's are."""

    __slots__ = (
        "argv",
        "attached_bytes_max",
        "generation",
        "initargs",
        "initializer",
        "lanes",
        "log_level",
        "main",
        "mode",
        "path",
        "payload_bytes_max",
        "pool",
        "preload",
        "slot",
        "start_stack_ms",
        "version",
        "warm",
    )

    def __init__(self, reader: MetaReader) -> None:
        self.version = reader.u16()
        self.pool = reader.raw().decode()
        self.slot = reader.u32()
        self.generation = reader.u32()
        self.argv = reader.raws()
        self.main = reader.raw()
        self.path = reader.raws()
        self.preload = [name.decode() for name in reader.raws()]
        self.payload_bytes_max = reader.u32()
        self.start_stack_ms = reader.u64()
        self.log_level = reader.u32()
        self.initializer = reader.raw().decode()
        self.initargs = reader.raw()
        self.warm = [name.decode() for name in reader.raws()]
        self.mode = reader.u32()
        self.lanes = reader.u32()
        self.attached_bytes_max = reader.u64()


def decode_setup(meta: "bytes | bytearray | memoryview") -> Setup:
    """Reads a `Setup` meta, which must fill its bytes."""
    reader = MetaReader(meta)
    try:
        setup = Setup(reader)
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a text of the setup is not UTF-8: {error}") from None
    reader.end()
    if setup.version != VERSION:
        raise ProtocolError(
            f"the daemon speaks protocol version {setup.version}, this worker {VERSION}; "
            "they must come from one installation"
        )
    if setup.mode > MODE_SUBINTERPRETERS or not 0 < setup.lanes <= LANES_MAX:
        raise ProtocolError(f"unknown mode {setup.mode} with {setup.lanes} calls at once")
    return setup


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "backslashreplace")
    return _U64.pack(len(data)) + data


def encode_ready(pid: int, python: str, executable: str) -> bytes:
    """The `Ready` meta."""
    return _U16.pack(VERSION) + _pack_u32(pid) + _text(python) + _text(executable)


def encode_imports(finished: bool, elapsed_ms: int, modules: "list[tuple[str, int, int]]") -> bytes:
    """The `Imports` meta: of each module its name, and its time with and without others."""
    parts = [b"\1" if finished else b"\0", _U64_PAIR.pack(elapsed_ms, len(modules))]
    for name, total_ms, own_ms in modules:
        parts.append(_text(name))
        parts.append(_U64_PAIR.pack(total_ms, own_ms))
    return b"".join(parts)


def encode_log(
    level: int,
    level_name: bytes,
    logger: bytes,
    created_ms: int,
    call: int,
    dropped: int,
    text: bytes,
) -> bytes:
    """The `Log` meta. The texts are UTF-8, and as short as the protocol wants them."""
    return b"".join(
        (
            _pack_u32(level),
            _U64.pack(len(level_name)),
            level_name,
            _U64.pack(len(logger)),
            logger,
            _U64.pack(created_ms),
            _U64_PAIR.pack(call, dropped),
            _U64.pack(len(text)),
            text,
        )
    )


def encode_progress(done: float, total: "float | None", message: bytes) -> bytes:
    """The `Progress` meta. The message is UTF-8, and as short as the protocol wants it."""
    known = b"\0" if total is None else b"\1" + _F64.pack(total)
    return _F64.pack(done) + known + _U64.pack(len(message)) + message


def encode_missing(what: int, message: str, traceback: str) -> bytes:
    """A `Missing`; `what` is the index of its `MissingWhat`."""
    return _pack_u32(what) + _text(message) + _text(traceback)


def encode_exception(
    type_name: str,
    message: str,
    notes: "list[str]",
    frames: "list[tuple[str, int, str, str]]",
    traceback: str,
    chain: "list[tuple[int, str, str]]",
    bases: "list[str]",
) -> bytes:
    """An `Exception`; a frame is (file, line, function, source), a link (relation, type, text)."""
    parts = [_text(type_name), _text(message), _U64.pack(len(notes))]
    parts.extend(_text(note) for note in notes)
    parts.append(_U64.pack(len(frames)))
    for file, line, function, source in frames:
        parts += [_text(file), _pack_u32(line), _text(function), _text(source)]
    parts += [_text(traceback), _U64.pack(len(chain))]
    for relation, link_type, link_message in chain:
        parts += [_pack_u32(relation), _text(link_type), _text(link_message)]
    parts.append(_U64.pack(len(bases)))
    parts.extend(_text(base) for base in bases)
    return b"".join(parts)


# The metas of a `Failed`, one for each variant of `WorkerFailure`.


def failed_raised(exception: bytes) -> bytes:
    """`Raised`, around an encoded exception."""
    return _pack_u32(0) + exception


def failed_not_found(missing: bytes) -> bytes:
    """`NotFound`, around an encoded missing."""
    return _pack_u32(1) + missing


def failed_bad_arguments(message: str) -> bytes:
    """`BadArguments`."""
    return _pack_u32(2) + _text(message)


def failed_unserializable(path: str, type_name: str, message: str) -> bytes:
    """`Unserializable`."""
    return _pack_u32(3) + _text(path) + _text(type_name) + _text(message)


def failed_too_large(size: int, limit: int) -> bytes:
    """`TooLarge`."""
    return _pack_u32(4) + _U64_PAIR.pack(size, limit)


def failed_cancelled() -> bytes:
    """`Cancelled`."""
    return _pack_u32(5)
