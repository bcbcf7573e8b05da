"""What came beside a payload: buffers in memory that nobody can shrink, made into objects.

```text
   payload: bytes of the table │ table │ value         descriptors, by SCM_RIGHTS
                                  │        │                 │
                        each entry, checked ◄── size, seals ─┘   looked at before it is believed
                                  │        │
                       an object for each  │                     `OBJECTS`, by what it is
                                  └──► NEXT_BUFFER, each once
```

Loaded by the first payload with the flag ATTACHED.
"""

from posix import close, pread

from clutch._files import File, find_numpy
from clutch._frames import CODEC_PLAIN, CODEC_RAW
from clutch._pristine import load
from clutch._receive import close_all
from clutch._table import (
    ARRAY,
    ARROW,
    BYTE_ARRAY,
    BYTES,
    ORDER,
    RANGE,
    ROW_GROUP,
    STREAM,
    VALUE,
    Attachment,
    AttachmentError,
    split,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from clutch._call import State
    from clutch._receive import Attached

__all__ = ["OBJECTS", "File", "Incoming"]

# The most bytes that Linux moves in one call.
_MOVED_BYTES_MAX = 0x7FFFF000

# Kinds of elements that an array may have: no objects, no records.
_DTYPE_KINDS = frozenset("biufcmMSUV")
# Those that a memoryview can have, and their formats there.
_FORMATS = dict(
    zip(["|b1", "|i1", "|u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"], "?bBhHiIqQfd")
)

_import = __import__


class Incoming:
    """What is attached to one payload, for as long as its call lasts.

    The memory lives as long as the objects made of it. The descriptors of what nobody can change
    stay open until the call is answered, so that it may be part of the answer as it is.
    """

    # Whether it is an item of a stream.
    is_item = False

    def __init__(self, attached: "Attached", state: "State", line: "Any" = None) -> None:
        self.state = state
        # Where a call gets its streams.
        self.line = line
        self.files: "List[File]" = []
        # They are this object's now, and closed with it: before the call is answered, since whoever
        # has taken the frame has it longer.
        self._descriptors, attached.descriptors = attached.descriptors, []
        self._arrivals = attached.arrivals
        if attached.is_cut:
            raise AttachmentError(
                "not all descriptors could be received: this worker has too many open; close "
                "them, or make the pool's limit of files larger"
            )
        self.entries, self.value = split(attached.payload, len(self._descriptors))
        kept = {} if self._arrivals is None else self._arrivals.maps
        self.files = [File(number, kept) for number in self._descriptors]
        # Whether arrays were made memoryviews, for want of numpy.
        self.has_views = False
        # Where objects lie: of maps their addresses, of others their identities.
        self._maps: "List[Tuple[int, File]]" = []
        self._known: "Dict[int, Tuple[object, Attachment]]" = {}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Closes what is still open: user code may have closed them, and have others there."""
        files = {file.number: file for file in self.files}
        while self._descriptors:
            number = self._descriptors.pop()
            if number not in files or files[number].is_open():
                close_all([number])

    def decode(self, codec: int) -> "Any":
        """The value, with an object for each attachment."""
        if codec == CODEC_RAW:
            if len(self.entries) != 1 or self.entries[0].content != BYTES or self.value:
                raise AttachmentError("raw bytes are one attachment, and nothing else")
            value: "Any" = (self.object_of(self.entries[0]),)
        elif codec == CODEC_PLAIN:
            objects = [self.object_of(entry) for entry in self.entries]
            value = load("clutch._plain").decode_attached(self.value, objects)
        else:
            raise AttachmentError("nothing can be attached to JSON; use plain or raw")
        shared: "Dict[Tuple[int, int, bool], Any]" = {}
        for file in self.files:
            shared.update(file.shared())
        if shared and self._arrivals is not None:
            self._arrivals.keep(shared)
        self._close_changeable()
        return value

    def object_of(self, entry: Attachment) -> "Any":
        """What is made of an attachment."""
        make = OBJECTS.get(entry.content)
        if make is None:
            raise entry.error("is of a kind that this worker can do nothing with")
        return make(self, entry)

    def file(self, entry: Attachment) -> File:
        """The file in memory that holds an attachment."""
        file = self.files[entry.descriptor]
        file.check(entry)
        return file

    def keep(self, value: object, entry: Attachment) -> None:
        """Remembers what nobody can change, should it be part of the answer."""
        self._known[id(value)] = value, entry

    def keep_map(self, address: int, file: File) -> None:
        """Remembers where a file that nobody can change is in memory."""
        if file.may_go_back:
            self._maps.append((address, file))

    def find(self, value: object, address: int) -> "Optional[Tuple[File, int]]":
        """Where bytes lie in a file that nobody can change, if they do."""
        known = self._known.get(id(value))
        if known is not None and known[0] is value:
            file = self.files[known[1].descriptor]
            return (file, known[1].offset) if file.may_go_back else None
        for start, file in self._maps:
            if start <= address < start + file.size:
                return file, address - start
        return None

    def _close_changeable(self) -> None:
        kept: "List[int]" = []
        for file in self.files:
            if file.may_go_back:
                kept.append(file.number)
            else:
                close(file.number)
                file.number = -1
        self._descriptors[:] = kept


def _bytes(incoming: Incoming, entry: Attachment) -> bytes:
    file = incoming.file(entry)
    if entry.bytes <= _MOVED_BYTES_MAX:
        value = pread(file.number, entry.bytes, entry.offset)
        if len(value) != entry.bytes:
            # A signal came.
            value = file.map(entry, writable=False)[entry.offset : entry.offset + entry.bytes]
    else:
        value = file.map(entry, writable=False)[entry.offset : entry.offset + entry.bytes]
    incoming.keep(value, entry)
    return value


def _bytearray(incoming: Incoming, entry: Attachment) -> bytearray:
    file = incoming.file(entry)
    if not entry.bytes:
        return bytearray()
    view = memoryview(file.map(entry, writable=False))
    return bytearray(view[entry.offset : entry.offset + entry.bytes])


def _array(incoming: Incoming, entry: Attachment) -> "Any":
    file = incoming.file(entry)
    name, shape, strides, writable = entry.details
    numpy = find_numpy()
    if (
        len(name) < 3  # noqa: PLR2004 - order, kind, size.
        or name[0] not in "<>|="
        or name[1] not in _DTYPE_KINDS
        or "," in name
    ):
        raise entry.error(f"is an array of {name!r}, which no array has")
    if numpy is None:
        return _view(incoming, entry, file)
    dtype = numpy.dtype(name)
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise entry.error(f"is an array of {name!r}, which is not data")
    _check_extent(entry, dtype.itemsize)
    if 0 in shape:
        return numpy.empty(shape, dtype)
    mapped = file.map(entry, writable)
    array = numpy.ndarray(shape, dtype, mapped, entry.offset, strides or None)
    incoming.keep_map(array.__array_interface__["data"][0] - entry.offset, file)
    return array


def _view(incoming: Incoming, entry: Attachment, file: File) -> memoryview:
    """An array where there is no numpy."""
    name, shape, strides, writable = entry.details
    is_own_order = name[0] in ("|", "=", ORDER)
    form = _FORMATS.get(name) or _FORMATS.get(name[1:] if is_own_order else "", "")
    if not form:
        raise entry.error(f"is an array of {name!r}, which needs numpy; install it in this pool")
    step = int(name[2:])
    _check_extent(entry, step)
    for place in reversed(range(len(shape))):
        length = shape[place]
        if strides and length > 1 and strides[place] != step:
            raise entry.error("is an array with gaps, which needs numpy; install it in this pool")
        step *= length
    incoming.has_views = True
    if 0 in shape:
        if len(shape) > 1:
            raise entry.error("is empty in some dimension, which needs numpy")
        return memoryview(b"").cast(form)  # type: ignore[call-overload, no-any-return]
    whole = memoryview(file.map(entry, writable))
    part = whole[entry.offset : entry.offset + step]
    view: memoryview = part.cast(form, shape)  # type: ignore[call-overload]
    if step == entry.bytes:
        incoming.keep(view, entry)
    return view


def _check_extent(entry: Attachment, size: int) -> None:
    """Whether all elements of an array lie in its bytes."""
    _name, shape, strides, _writable = entry.details
    if not size:
        raise entry.error("is an array of elements that have no bytes")
    needed = size
    for length in shape:
        needed *= length
    if not strides:
        if needed != entry.bytes:
            raise entry.error(f"has {entry.bytes} bytes, and an array of its shape has {needed}")
        return
    if not needed:
        return
    first, last = 0, size
    for length, stride in zip(shape, strides):
        reach = (length - 1) * stride
        if reach < 0:
            first += reach
        else:
            last += reach
    if first < 0 or last > entry.bytes:
        raise entry.error(f"reaches from byte {first} to {last} of its {entry.bytes}")


def _arrow(incoming: Incoming, entry: Attachment) -> "Any":
    file = incoming.file(entry)
    try:
        pyarrow = _import("pyarrow")
        ipc = pyarrow.ipc
    except (ImportError, AttributeError):
        raise entry.error(
            "is an Arrow table, which needs pyarrow; install it in this pool"
        ) from None
    if not entry.bytes:
        raise entry.error("is an Arrow table without any bytes")
    view = memoryview(file.map(entry, writable=False))
    part = view[entry.offset : entry.offset + entry.bytes]
    return ipc.open_stream(pyarrow.py_buffer(part)).read_all()


def _stream(incoming: Incoming, entry: Attachment) -> "Any":
    if incoming.is_item:
        raise entry.error("is a stream, which an item of a stream cannot hold")
    return load("clutch._inputs").open_input(incoming.line, incoming.state, entry.details)


def _value(incoming: Incoming, entry: Attachment) -> "Any":
    """What the caller put with the daemon before: made anew for each call that has it."""
    file = incoming.file(entry)
    if not file.is_final:
        raise entry.error("is a value that others can still change; seal its memory")
    whole = memoryview(file.map(entry, writable=False))
    payload = whole[entry.offset : entry.offset + entry.bytes]
    entries, value = split(payload, len(incoming.files) - entry.descriptor)
    for inner in entries:
        if inner.content in (STREAM, VALUE):
            raise entry.error("holds a stream or another value, and may not")
        inner.descriptor += entry.descriptor
        incoming.files[inner.descriptor].is_for_more = True
    objects = [incoming.object_of(inner) for inner in entries]
    file.is_for_more = True
    return load("clutch._plain").decode_attached(value, objects)


def _part(incoming: Incoming, entry: Attachment) -> "Any":
    number = incoming.files[entry.descriptor].number
    return load("clutch._ranges").part_of(number, entry, entry.content == ROW_GROUP)


# What is made of an attachment, by its content.
OBJECTS: "Dict[int, Callable[[Incoming, Attachment], Any]]" = {
    BYTES: _bytes,
    BYTE_ARRAY: _bytearray,
    ARRAY: _array,
    ARROW: _arrow,
    STREAM: _stream,
    RANGE: _part,
    ROW_GROUP: _part,
    VALUE: _value,
}
