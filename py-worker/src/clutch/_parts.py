"""What can leave a value for memory of its own, and what stands for it there.

Types are known by their names, so that nothing is imported: numpy least of all.
"""

import sys
from _pickle import PickleBuffer
from _struct import Struct
from posix import pwrite

from clutch._convert import UnserializableError, holds_objects
from clutch._limits import DIMENSIONS_MAX
from clutch._pristine import load
from clutch._table import ARRAY, ARROW, BYTES, ORDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Tuple

    from clutch._convert import Where

__all__ = ["Part", "attach", "part_of"]

# The most bytes that Linux moves in one call.
_MOVED_BYTES_MAX = 0x7FFFF000

_ENTRY = Struct("<IQQI").pack
_U64 = Struct("<Q").pack

# Elements of arrays that have a name outside of Python; others become lists.
_DTYPE_KINDS = frozenset("biufcmM")
_ITEM_BYTES_MAX = 16
_FLOAT_BYTES_MAX = 8
# In `dtype.isbuiltin`.
_BY_ANOTHER_LIBRARY = 2
_TYPE_CODES = {
    **dict.fromkeys("bhilqn", "i"),
    **dict.fromkeys("BHILQN", "u"),
    **dict.fromkeys("fd", "f"),
    "?": "b",
}


class Part:
    """Something that leaves the payload."""

    __slots__ = ("content", "is_flat", "memory", "shape", "size", "value", "where")

    def __init__(self, content: int, value: "Any", size: int) -> None:
        self.content = content
        self.value = value
        self.memory: "Any" = value
        self.size = size
        # Of an array: its name and its shape, and whether its memory is as it has to be.
        self.shape: "Tuple[str, Tuple[int, ...]]" = "", ()
        self.is_flat = True
        # Its place in the result, where that is known: not of bytes.
        self.where: "Where" = None

    def held(self) -> "Part":
        """The same, of a value that could be resized: not any more, until it has been copied."""
        self.memory = memoryview(self.value)
        self.size = self.memory.nbytes
        return self

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
        memory = self.memory
        if hasattr(memory, "__array_interface__"):
            memory = memory.reshape(-1).view("u1")
        with memoryview(memory) as view, view.cast("B") as flat:
            if flat.nbytes != self.size:
                message = (
                    f"it had {self.size} bytes, and {flat.nbytes} when they were to be copied; "
                    "do not resize what was returned"
                )
                raise UnserializableError(self.where, type(self.value), message)
            at = 0
            while at < self.size:
                with flat[at : at + _MOVED_BYTES_MAX] as piece:
                    moved = pwrite(descriptor, piece, offset + at)
                if not moved:
                    raise OSError("nothing could be written into a file in memory")
                at += moved

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


def part_of(buffer: PickleBuffer) -> "Optional[Part]":
    """What a buffer stands for that the pickler has come to; None if it is a user's own."""
    holder = memoryview(buffer).obj
    return holder.part if type(holder) is _Holder else None


def attach(
    value: "Any", kind: type, where: "Where", bytes_min: int, views_are_arrays: bool
) -> "Optional[PickleBuffer]":
    """What stands for an array or a table of a result; None if it is to become plain data."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    part = None
    if kind is memoryview:
        part = _of_view(value, views_are_arrays)
    elif name == "array.array":
        part = _of_elements(value)
    elif name in ("pyarrow.lib.Table", "pyarrow.lib.RecordBatch"):
        part = Part(ARROW, value, _write_arrow(value, None))
        bytes_min = 0
    else:
        part = _of_numpy(value, kind)
    if part is None or part.size < bytes_min:
        return None
    part.where = where
    holder = _Holder()
    holder.part = part
    return PickleBuffer(holder)


def _of_view(view: memoryview, are_arrays: bool) -> "Optional[Part]":
    if not view.c_contiguous or holds_objects(view):
        return None
    try:
        view.cast("B").release()
    except (TypeError, ValueError):
        # A format that cannot be cast.
        return None
    part = None
    if are_arrays:
        part = _of_elements(view)
    return part or Part(BYTES, view, view.nbytes).held()


def _of_elements(value: "Any") -> "Optional[Part]":
    part = Part(ARRAY, value, 0).held()
    view: memoryview = part.memory
    kind = _TYPE_CODES.get(view.format)
    if kind is None or not view.shape:
        return None
    order = ORDER if view.itemsize > 1 else "|"
    part.shape = f"{order}{kind}{view.itemsize}", view.shape
    return part


def _of_numpy(array: "Any", kind: type) -> "Optional[Part]":
    # The names are those of many a class elsewhere, which means more by them or something else.
    numpy: "Any" = sys.modules.get("numpy")
    if kind is not getattr(numpy, "ndarray", None) and kind is not getattr(numpy, "memmap", None):
        return None
    dtype = array.dtype
    if not array.shape or dtype.isbuiltin == _BY_ANOTHER_LIBRARY:
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
