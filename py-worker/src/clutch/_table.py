"""The table in front of a payload that something is attached to: `protocol/src/attachment.rs`.

Sans-IO: whether the descriptors hold what the table says is `_attached`'s to look at. The table is
of a caller's making, so that what is wrong with it is wrong with the arguments.
"""

import sys
from _struct import Struct
from _struct import error as StructError  # type: ignore[attr-defined]  # noqa: N812

from clutch._limits import ATTACHMENTS_MAX, DIMENSIONS_MAX, DTYPE_BYTES_MAX, STREAMS_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Tuple

__all__ = [
    "ARRAY",
    "ARROW",
    "BYTES",
    "BYTE_ARRAY",
    "ORDER",
    "RANGE",
    "ROW_GROUP",
    "STREAM",
    "VALUE",
    "Attachment",
    "AttachmentError",
    "split",
]

# What an attachment is to its receiver.
BYTES = 0
BYTE_ARRAY = 1
ARRAY = 2
ARROW = 3
RANGE = 4
ROW_GROUP = 5
STREAM = 6
VALUE = 7

# Of the bytes of a number, as in the name of its type.
ORDER = "<" if sys.byteorder == "little" else ">"

# descriptor, offset, bytes, content.
_ENTRY = Struct("<IQQI")
_U32 = Struct("<I")
_U64 = Struct("<Q")


class AttachmentError(Exception):
    """An attachment is not what its table says, or nothing can be made of it here."""


class Attachment:
    """One entry of a table."""

    __slots__ = ("bytes", "content", "descriptor", "details", "index", "offset")

    def __init__(self, index: int, fields: "Tuple[int, int, int, int]") -> None:
        self.index = index
        # Which of the frame's descriptors, where in it, how much of it, and what it is.
        self.descriptor, self.offset, self.bytes, self.content = fields
        # Of an array: dtype, shape, strides, writable. Else the only field, if there is one.
        self.details: "Any" = None

    def error(self, fault: str) -> AttachmentError:
        """Says what is wrong with it."""
        return AttachmentError(f"attachment {self.index} {fault}")


def split(payload: memoryview, descriptors: int) -> "Tuple[List[Attachment], memoryview]":
    """The table of a payload, checked as far as that needs no descriptors, and the value."""
    try:
        (length,) = _U32.unpack_from(payload)
        table, value = payload[4 : 4 + length], payload[4 + length :]
        if len(table) != length:
            raise StructError
        (count,) = _U64.unpack_from(table)
        if count > ATTACHMENTS_MAX:
            raise AttachmentError(f"{count} attachments, of at most {ATTACHMENTS_MAX}")
        at = 8
        entries: "List[Attachment]" = []
        for index in range(count):
            entry = Attachment(index, _ENTRY.unpack_from(table, at))
            at = _details(entry, table, at + _ENTRY.size)
            if entry.content != STREAM and entry.descriptor >= descriptors:
                raise entry.error(f"is in descriptor {entry.descriptor}, and {descriptors} came")
            if entry.offset + entry.bytes >= 1 << 63:
                raise entry.error("ends behind the end of any file")
            entries.append(entry)
    except (StructError, UnicodeDecodeError):
        raise AttachmentError("the payload ends inside its table of attachments") from None
    if at != length:
        raise AttachmentError(f"the table of attachments has {length - at} bytes too many")
    return entries, value


def _details(entry: Attachment, table: memoryview, at: int) -> int:
    """Reads what an entry says of its content; where that ends."""
    if entry.content == ARRAY:
        (size,) = _U64.unpack_from(table, at)
        if not 0 < size <= DTYPE_BYTES_MAX:
            raise entry.error("is an array whose element type has no name")
        dtype = bytes(table[at + 8 : at + 8 + size]).decode()
        shape, at = _numbers(entry, table, at + 8 + size, "Q")
        strides, at = _numbers(entry, table, at, "q")
        if strides and len(strides) != len(shape):
            raise entry.error("is an array with a stride too many or too few")
        (writable,) = Struct("<B").unpack_from(table, at)
        if writable > 1:
            raise entry.error("is writable to a degree that is not known")
        entry.details = dtype, shape, strides, bool(writable)
        return at + 1
    if entry.content in (RANGE, ROW_GROUP, STREAM):
        (entry.details,) = _U32.unpack_from(table, at)
        if entry.content == STREAM and not 0 < entry.details < STREAMS_MAX:
            raise entry.error("is a stream whose number cannot be")
        if entry.content == RANGE and entry.details > 1:
            raise entry.error("is a range that is split in a way which is not known")
        return at + 4
    if entry.content > VALUE:
        raise entry.error(f"is of a kind {entry.content} that is not known")
    return at


def _numbers(
    entry: Attachment, table: memoryview, at: int, form: str
) -> "Tuple[Tuple[int, ...], int]":
    (count,) = _U64.unpack_from(table, at)
    if count > DIMENSIONS_MAX:
        raise entry.error("is an array of too many dimensions")
    return Struct(f"<{count}{form}").unpack_from(table, at + 8), at + 8 + 8 * count
