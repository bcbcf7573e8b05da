"""What leaves a payload for memory of its own: large bytes, arrays and tables of a result.

All that has to be copied goes into one sealed memfd. What came with the call, and nobody can
change, goes back as it came.

Loaded by the first result that has any.
"""

import sys
from _pickle import PickleBuffer
from _struct import Struct
from posix import ftruncate, pwrite

from clutch._attached import ARRAY, ARROW, BYTE_ARRAY, BYTES, ORDER
from clutch._frames import failed_too_large, failed_unserializable
from clutch._limits import (
    ATTACH_BYTES_MIN,
    ATTACHMENT_ALIGNMENT,
    ATTACHMENTS_MAX,
    DESCRIPTORS_MAX,
    DIMENSIONS_MAX,
    META_BYTES_MAX,
)
from clutch._pristine import load
from clutch._receive import close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from clutch._attached import File, Incoming
    from clutch._execute import Body, Encode

__all__ = ["Encoder", "Outgoing", "Part", "attach", "gather", "part_of"]

_ADD_SEALS = 1033
_ALL_SEALS = 15
_CLOEXEC, _ALLOW_SEALING = 1, 2
_MOVED_BYTES_MAX = 0x7FFFF000
_DUPFD_CLOEXEC = 1030

# Opcodes of pickle: large objects are behind a head of one of these, outside of any frame.
_FRAME = 0x95
_FRAME_HEAD_BYTES = 9
_PROTO_BYTES = 2
_SHORT_HEAD_BYTES, _LONG_HEAD_BYTES = 5, 9
_NEXT_BUFFER = b"\x97"
_BYTES_OPCODES = {ord("B"): BYTES, 0x8E: BYTES, 0x96: BYTE_ARRAY}

# What goes back as it came is at least this part of its memory, which it keeps alive.
_ECHO_SHARE = 8

_ENTRY = Struct("<IQQI").pack
_U32 = Struct("<I").pack
_U64 = Struct("<Q").pack
_U64_AT = Struct("<Q").unpack_from

# Elements of arrays that have a name outside of Python; others become lists.
_DTYPE_KINDS = frozenset("biufcmM")
_ITEM_BYTES_MAX = 16
_FLOAT_BYTES_MAX = 8
_TYPE_CODES = {
    **dict.fromkeys("bhilqn", "i"),
    **dict.fromkeys("BHILQN", "u"),
    **dict.fromkeys("fd", "f"),
    "?": "b",
}


class Part:
    """Something that leaves the payload."""

    __slots__ = ("content", "is_flat", "shape", "size", "value")

    def __init__(self, content: int, value: "Any", size: int) -> None:
        self.content = content
        self.value = value
        self.size = size
        # Of an array: its name and its shape, and whether its memory is as it has to be.
        self.shape: "Tuple[str, Tuple[int, ...]]" = "", ()
        self.is_flat = True

    def address(self) -> int:
        """Where it is in memory, if that is known."""
        interface = getattr(self.value, "__array_interface__", None)
        if self.content != ARRAY or not self.is_flat or type(interface) is not dict:
            return 0
        return interface["data"][0]  # type: ignore[no-any-return]

    def entry(self, descriptor: int, offset: int) -> bytes:
        """Its place in the table."""
        head = _ENTRY(descriptor, offset, self.size, self.content)
        if self.content != ARRAY:
            return head
        dtype, shape = self.shape
        name = dtype.encode()
        lengths = Struct(f"<{len(shape)}Q").pack(*shape)
        return b"".join((head, _U64(len(name)), name, _U64(len(shape)), lengths, _U64(0), b"\0"))

    def put(self, descriptor: int, offset: int) -> None:
        """Copies it into a file in memory."""
        if not self.size:
            return
        if self.content == ARROW or not self.is_flat:
            self._put_by_map(descriptor, offset)
            return
        value = self.value
        if hasattr(value, "__array_interface__"):
            value = value.reshape(-1).view("u1")
        with memoryview(value) as view, view.cast("B") as flat:
            at = 0
            while at < self.size:
                with flat[at : at + _MOVED_BYTES_MAX] as piece:
                    at += pwrite(descriptor, piece, offset + at)

    def _put_by_map(self, descriptor: int, offset: int) -> None:
        module = load("mmap")
        before = offset % module.ALLOCATIONGRANULARITY
        window = module.mmap(descriptor, before + self.size, offset=offset - before)
        try:
            if self.content == ARROW:
                _write_arrow(self.value, memoryview(window)[before:])
            else:
                ndarray = _ndarray(type(self.value))
                dtype, shape = self.shape
                ndarray(shape, dtype, window, before)[...] = self.value
        finally:
            # Before the file is sealed: it must not be writable by anybody then.
            window.close()


class _Holder(bytearray):
    """Stands for a part in a value that is pickled."""

    part: Part


class Outgoing:
    """A payload of which parts have left, first as it is to be, then as it can be sent.

    To `len` it is longer than any payload may be and than all that is sent in one piece, so that
    those who handle payloads find it where they look for large ones, and nobody else looks.
    """

    def __init__(self, value: bytes, parts: "List[Part]") -> None:
        self._value = value
        self._parts = parts
        self.incoming: "Optional[Incoming]" = None
        self.payload = b""
        self.descriptors: "List[int]" = []

    def __len__(self) -> int:
        return sys.maxsize

    def __del__(self) -> None:
        close_all(self.descriptors)

    def seal(self, payload_bytes_max: int, attached_bytes_max: int) -> bytes:
        """Makes the payload and its descriptors; or the meta of the failure, if that fails."""
        try:
            return self._seal(payload_bytes_max, attached_bytes_max)
        except (OSError, MemoryError) as error:
            kind = type(max(self._parts, key=_size_of).value).__name__
            message = f"there is no memory or no descriptor to send it by: {error or 'no memory'}"
            return failed_unserializable("result", kind, message)
        finally:
            if not self.payload:
                close_all(self.descriptors)
            self._parts = []
            self._value = b""
            self.incoming = None

    def _seal(self, payload_bytes_max: int, attached_bytes_max: int) -> bytes:
        copied: "List[Tuple[Part, int]]" = []
        echoed: "Dict[int, File]" = {}
        places: "Dict[int, Tuple[int, int]]" = {}
        end = echoed_bytes = 0
        for part in self._parts:
            if id(part) in places:
                continue
            found = self._echo(part)
            if found is not None:
                file, offset = found
                is_new = file.number not in echoed
                if echoed_bytes + is_new * file.size <= attached_bytes_max and (
                    len(echoed) + is_new < DESCRIPTORS_MAX
                ):
                    echoed_bytes += is_new * file.size
                    echoed[file.number] = file
                    places[id(part)] = file.number, offset
                    continue
            offset = -(-end // ATTACHMENT_ALIGNMENT) * ATTACHMENT_ALIGNMENT
            places[id(part)] = -1, offset
            copied.append((part, offset))
            end = offset + part.size
        if end + echoed_bytes > attached_bytes_max:
            return failed_too_large(end + echoed_bytes, attached_bytes_max)
        order = {number: at for at, number in enumerate(echoed, bool(copied))}
        order[-1] = 0
        entries = [_U64(len(self._parts))]
        for part in self._parts:
            number, offset = places[id(part)]
            entries.append(part.entry(order[number], offset))
        table = b"".join(entries)
        payload = b"".join((_U32(len(table)), table, self._value))
        if len(table) > META_BYTES_MAX or len(payload) > payload_bytes_max:
            return failed_too_large(len(payload), min(payload_bytes_max, META_BYTES_MAX))
        if copied:
            self.descriptors.append(_create())
            ftruncate(self.descriptors[0], max(end, 1))
            for part, offset in copied:
                part.put(self.descriptors[0], offset)
            load("fcntl").fcntl(self.descriptors[0], _ADD_SEALS, _ALL_SEALS)
        for number in echoed:
            self.descriptors.append(load("fcntl").fcntl(number, _DUPFD_CLOEXEC, 0))
        self.payload = payload
        return b""

    def _echo(self, part: Part) -> "Optional[Tuple[File, int]]":
        """Where a part is already, if it can be sent from there."""
        if self.incoming is None or part.size < ATTACH_BYTES_MIN:
            return None
        found = self.incoming.find(part.value, part.address())
        if found is None:
            return None
        file, offset = found
        if not file.is_open():
            return None
        if offset % ATTACHMENT_ALIGNMENT or offset + part.size > file.size:
            return None
        return found if part.size * _ECHO_SHARE >= file.size else None


class Encoder:
    """Encodes the answer to a call that something was attached to."""

    def __init__(self, incoming: "Incoming", encode: "Encode") -> None:
        self._incoming = incoming
        self._encode = encode

    def __call__(
        self, value: object, wrapped: int, *, is_checked: bool = False
    ) -> "Optional[Body]":
        body = self._encode(value, wrapped, is_checked=is_checked)
        if type(body) is Outgoing:
            body.incoming = self._incoming
        return body

    def attach(self, value: object, kind: type) -> "Optional[PickleBuffer]":
        """What came as an array goes as an array, whatever its size."""
        return attach(value, kind, 0, self._incoming.has_views)


def _size_of(part: Part) -> int:
    return part.size


def _create() -> int:
    """A new file in memory."""
    create = getattr(load("posix"), "memfd_create", None)
    if create is not None:
        return create("clutch", _CLOEXEC | _ALLOW_SEALING)  # type: ignore[no-any-return]
    # A Python that was built for older systems than this one.
    ctypes = load("ctypes")
    library = ctypes.CDLL(None, use_errno=True)
    number: int = library.memfd_create(b"clutch", _CLOEXEC | _ALLOW_SEALING)
    if number < 0:
        raise OSError(ctypes.get_errno(), "memfd_create failed")
    return number


def part_of(buffer: PickleBuffer) -> "Optional[Part]":
    """What a buffer stands for that the pickler has come to; None if it is a user's own."""
    holder = memoryview(buffer).obj
    return holder.part if type(holder) is _Holder else None


def gather(written: "List[Any]") -> "Tuple[bytes, List[Part]]":
    """The value without its large parts, and these, of what a pickler has written piece by piece.

    It writes a large object as it is, and its head at the end of the piece before. In each piece
    there is at most one frame, and such a head is behind it: so no data is taken for one. A part
    that `part_of` found stands before the piece in which it is referred to.
    """
    pieces: "List[Any]" = []
    parts: "List[Part]" = []
    # Of large bytes: which of the pieces is their head, and which of the parts they are.
    places: "List[Tuple[int, int]]" = []
    head = 0
    at = _PROTO_BYTES
    for piece in written:
        if type(piece) is Part:
            parts.append(piece)
            continue
        if head:
            head_bytes = pieces[-1][-head:]
            content = _BYTES_OPCODES.get(head_bytes[0])
            if content is not None:
                places.append((len(pieces), len(parts)))
                parts.append(Part(content, piece, len(piece)))
            pieces.append(piece)
            head = 0
            continue
        if len(piece) > at and piece[at] == _FRAME:
            at += _FRAME_HEAD_BYTES + _U64_AT(piece, at + 1)[0]
        rest, at = len(piece) - at, 0
        if rest >= _SHORT_HEAD_BYTES:
            head = _LONG_HEAD_BYTES if rest >= _LONG_HEAD_BYTES else _SHORT_HEAD_BYTES
        pieces.append(piece)
    if len(parts) > ATTACHMENTS_MAX:
        places = _largest(places, parts)
    for place, _ in places:
        is_long = len(pieces[place]) >> 32 or type(pieces[place]) is bytearray
        head = _LONG_HEAD_BYTES if is_long else _SHORT_HEAD_BYTES
        pieces[place - 1] = pieces[place - 1][:-head]
        pieces[place] = _NEXT_BUFFER
    return b"".join(pieces), parts


def _largest(places: "List[Tuple[int, int]]", parts: "List[Part]") -> "List[Tuple[int, int]]":
    """Leaves as many of the bytes in the value as there are attachments too many, the smallest."""
    excess = len(parts) - ATTACHMENTS_MAX
    by_size = sorted(places, key=lambda place: parts[place[1]].size)
    stay = {index for _, index in by_size[:excess]}
    parts[:] = [part for index, part in enumerate(parts) if index not in stay]
    return [place for place in places if place[1] not in stay]


def attach(
    value: "Any", kind: type, bytes_min: int, views_are_arrays: bool
) -> "Optional[PickleBuffer]":
    """What stands for an array or a table of a result; None if it is to become plain data."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    part = None
    if kind is memoryview:
        part = _of_view(value, views_are_arrays)
    elif name == "array.array":
        part = _of_elements(value, value.typecode, (len(value),), value.itemsize)
    elif name in ("pyarrow.lib.Table", "pyarrow.lib.RecordBatch"):
        part = Part(ARROW, value, _write_arrow(value, None))
        bytes_min = 0
    else:
        part = _of_numpy(value, kind)
    if part is None or part.size < bytes_min:
        return None
    holder = _Holder()
    holder.part = part
    return PickleBuffer(holder)


def _of_view(view: memoryview, are_arrays: bool) -> "Optional[Part]":
    if not view.c_contiguous:
        return None
    try:
        view.cast("B").release()
    except (TypeError, ValueError):
        # A format that cannot be cast.
        return None
    part = None
    if are_arrays:
        part = _of_elements(view, view.format, view.shape or (), view.itemsize)
    return part or Part(BYTES, view, view.nbytes)


def _of_elements(
    value: "Any", code: str, shape: "Tuple[int, ...]", item_bytes: int
) -> "Optional[Part]":
    kind = _TYPE_CODES.get(code)
    if kind is None or not shape:
        return None
    part = Part(ARRAY, value, memoryview(value).nbytes)
    part.shape = f"{ORDER if item_bytes > 1 else '|'}{kind}{item_bytes}", tuple(shape)
    return part


def _of_numpy(array: "Any", kind: type) -> "Optional[Part]":
    dtype = getattr(array, "dtype", None)
    if dtype is None or kind.__name__ not in ("ndarray", "memmap") or not array.shape:
        return None
    bytes_max = _FLOAT_BYTES_MAX if dtype.kind == "f" else _ITEM_BYTES_MAX
    if dtype.kind not in _DTYPE_KINDS or dtype.itemsize > bytes_max:
        return None
    if len(array.shape) > DIMENSIONS_MAX:
        return None
    sent = dtype.newbyteorder("<")
    part = Part(ARRAY, array, array.nbytes)
    part.shape = sent.str, array.shape
    part.is_flat = array.flags.c_contiguous and sent == dtype
    return part


def _ndarray(kind: type) -> "Any":
    return next(cls for cls in kind.__mro__ if cls.__name__ == "ndarray")


def _write_arrow(table: "Any", target: "Optional[memoryview]") -> int:
    """Writes a table as an Arrow IPC stream; how many bytes that are."""
    pyarrow: "Any" = sys.modules["pyarrow"]
    if target is None:
        sink = pyarrow.MockOutputStream()
    else:
        sink = pyarrow.FixedSizeBufferWriter(pyarrow.py_buffer(target))
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    if target is not None:
        sink.close()
        return len(target)
    return sink.size()  # type: ignore[no-any-return]
