"""The `plain` codec: pickle protocol 5, restricted to data, at C speed both ways.

Reading: C's unpickler, which may build data but find no class and no function, so that a caller
who may only call certain functions cannot smuggle in others. Writing: C's pickler, which calls
`_refuse` for whatever is not data; then `_convert` makes data of it, or says why it cannot.

Large bytes leave the payload: the pickler hands them to its file as they are, so that finding them
costs nothing. Arrays leave it as what `_convert` has put in their places.
"""

import _pickle
from _io import BytesIO
from _struct import Struct

from clutch._limits import ATTACH_BYTES_MIN, DEPTH_MAX
from clutch._nesting import nests_deeper_than
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, NoReturn, Optional

    from clutch._convert import Where
    from clutch._execute import Body, Encode

__all__ = ["attach", "decode", "decode_attached", "encode", "make_encode"]

_PROTOCOL = 5
_dumps = _pickle.dumps
# Neither contains other values, nor can its pickle hold what Rust cannot read.
_ATOMS = frozenset((type(None), bool, int, float))

_SURROGATES = [bytes((0xED, second)) for second in range(0xA0, 0xC0)]

# What opens or closes a list, tuple, dict, set or frozenset: MARK, EMPTY_*, TUPLE*, FROZENSET.
_NESTING_OPCODES = b"()]}tld\x85\x86\x87\x8f\x91"

_FRAME = 0x95
_framed_head = Struct("<2s1sQ").pack
# Without a frame, C's unpickler reads a stream opcode by opcode: ten times slower on long lists.
_UNFRAMED_BYTES_MAX = 40


class NotDataError(Exception):
    """A pickle asked for code, or a value is not data."""


class _DataUnpickler(_pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> "NoReturn":
        raise NotDataError(f"plain data cannot name {module}.{name}; send data only")

    def persistent_load(self, _pid: object) -> "NoReturn":
        raise NotDataError("plain data cannot hold persistent ids; send data only")


class _Sink:
    """A file for a pickler: keeps what is written as it is."""

    def __init__(self, write: "Callable[[Any], None]") -> None:
        self.write = write


class _DataPickler(_pickle.Pickler):
    def reducer_override(self, _obj: object, /) -> "NoReturn":
        raise NotDataError


def decode(payload: "memoryview | bytes") -> "Any":
    """The value of a pickle that is data only; any exception means that it is not."""
    if len(payload) <= _UNFRAMED_BYTES_MAX:
        return _DataUnpickler(BytesIO(payload)).load()
    if payload[2] != _FRAME:
        head = _framed_head(bytes(payload[:2]), b"\x95", len(payload) - 2)
        payload = b"".join((head, payload[2:]))
    return _checked(_DataUnpickler(BytesIO(payload)).load(), payload)


def decode_attached(payload: memoryview, objects: "List[Any]") -> "Any":
    """The value of a pickle that refers to each of the objects once, in their order."""
    if len(payload) > _UNFRAMED_BYTES_MAX and payload[2] != _FRAME:
        head = _framed_head(bytes(payload[:2]), b"\x95", len(payload) - 2)
        payload = memoryview(b"".join((head, payload[2:])))
    buffers = iter(objects)
    value = _DataUnpickler(BytesIO(payload), buffers=buffers).load()
    unused = len(list(buffers))
    if unused:
        raise NotDataError(f"{unused} of {len(objects)} attachments are not used")
    return _checked(value, payload)


def _checked(value: "Any", payload: "memoryview | bytes") -> "Any":
    if len(payload) > DEPTH_MAX and _may_open_deep(payload) and nests_deeper_than(value, DEPTH_MAX):
        raise NotDataError("plain data nests at most %d deep; flatten it" % DEPTH_MAX)
    return value


def _may_open_deep(payload: "memoryview | bytes") -> bool:
    """Whether the bytes leave open that the value is too deep: each level costs an opcode."""
    return len(payload) - len(bytes(payload).translate(None, _NESTING_OPCODES)) > DEPTH_MAX


def make_encode() -> "Encode":
    """One pickler for all calls of a thread: making one costs as much as pickling a small value."""
    # What the pickler has written: one piece, unless the value is large or has parts that leave.
    written: "List[Any]" = []
    forget = written.clear

    def leaves(buffer: "Any") -> bool:
        """Called by the pickler: whether a buffer is to be written like bytes."""
        part = load("clutch._parts").part_of(buffer)
        if part is None:
            return True
        written.append(part)
        return False

    pickler = _DataPickler(_Sink(written.append), _PROTOCOL, buffer_callback=leaves)
    dump, clear = pickler.dump, pickler.clear_memo

    def encode(value: object, wrapped: int, *, is_checked: bool = False) -> "Optional[Body]":
        """The pickle of plain data, or None when the value is not (only) that.

        `wrapped` is how many containers the caller may still put around the value. A value that
        `_convert` made is `is_checked`: what it would be suspected of, it is known not to be.
        """
        if type(value) in _ATOMS or (type(value) is bytes and len(value) < ATTACH_BYTES_MIN):
            return _dumps(value, _PROTOCOL)
        parts = None
        try:
            dump(value)
            payload: bytes = written[0]
            if len(written) > 1:
                payload, parts = load("clutch._outgoing").gather(written)
        except BaseException:  # noqa: BLE001 - `NotDataError`, too deep, too large, no memory.
            return None
        finally:
            clear()
            forget()
        if is_checked or not (
            (_may_nest(payload) and nests_deeper_than(value, DEPTH_MAX - wrapped))
            or (b"\xed" in payload and _may_hold_surrogates(payload))
        ):
            return load("clutch._outgoing").Outgoing(payload, parts) if parts else payload
        return None

    return encode


def attach(value: object, kind: type, where: "Where") -> "Any":
    """What stands for a large array or a table in a value, or None."""
    return load("clutch._parts").attach(value, kind, where, ATTACH_BYTES_MIN, False)


def _may_nest(payload: bytes) -> bool:
    """Whether the bytes leave open that the value is too deep or cyclic.

    Each container but the empty tuple is followed by MEMOIZE, so few MEMOIZE mean little depth; a
    cycle needs a BINGET, of the only container when there is one.
    """
    memoized = payload.count(b"\x94")
    if memoized <= 1:
        return b"h\x00" in payload
    return memoized > DEPTH_MAX - 8 or b"h" in payload


def _may_hold_surrogates(payload: bytes) -> bool:
    """Whether a str may hold a lone surrogate, which is ED A0..BF and nothing Rust can read."""
    return any(start in payload for start in _SURROGATES)


encode = make_encode()
