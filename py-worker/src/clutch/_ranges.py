"""Ranges of files as arguments: each worker maps its own, and nobody copies it.

Sender and daemon hand on a descriptor; here it is looked at. A range of lines is what begins in
it, so that ranges whose bounds fall anywhere tile the file all the same:

```text
   bounds            |         |         |         |
   file, . ends one  aaaa.bbbbbbbbbbbbbbbbbb.cc.d.
   first range       aaaa.bbbbbbbbbbbbbbbbbb.
   second range                                        no record begins in it: no call is made
   third range                               cc.d.
```

The ends of records are looked for by reading, and only around a range's bounds; the records
themselves are mapped. A file that shrinks under a mapping kills who touches it (SIGBUS), so a
mapping ends with the last object that refers to it: usually with its call.
"""

import sys
from _io import _RawIOBase as RawIOBase
from _stat import S_ISREG
from mmap import ALLOCATIONGRANULARITY, MAP_SHARED, PROT_READ, mmap
from posix import fstat, pread

from clutch._execute import NoRecordsError
from clutch._limits import RECORD_BYTES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from clutch._attached import Attachment

    # Bytes of a file: at most how many, from where on. None of them only at its end.
    Read = Callable[[int, int], bytes]

__all__ = ["RangeError", "part_of", "row_group", "take", "whole_lines"]

# The variants of `Split`.
SPLIT_BYTES = 0
SPLIT_LINES = 1

# How much is read at once to find the end of a record: little at first, since most are short.
_WINDOW_BYTES_MIN = 4 << 10
_WINDOW_BYTES_MAX = 1 << 20

# What Linux reads at once at most, rounded down.
_READ_BYTES_MAX = 1 << 30

_SEEK_SET, _SEEK_CURRENT = 0, 1
# Linux's number of it; `mmap` may have been built without.
_MADV_SEQUENTIAL = 2

_import = __import__


class RangeError(Exception):
    """A range that cannot be given to a function."""


# What a caller reads.
RangeError.__module__ = "clutch"


def part_of(descriptor: int, entry: "Attachment", is_row_group: bool) -> "Any":
    """The part of a file that an attachment names."""
    if is_row_group:
        return row_group(descriptor, entry.details)
    return take(descriptor, entry.offset, entry.bytes, entry.details)


def take(descriptor: int, offset: int, size: int, split: int) -> memoryview:
    """The whole records that begin in this range, as read-only memory of the file's own."""
    start, end, total = offset, offset + size, _size_of(descriptor)
    if end > total:
        raise _changed(end, total)
    if split == SPLIT_LINES:

        def read(count: int, at: int) -> bytes:
            return pread(descriptor, count, at)

        start, end = whole_lines(read, start, end, total)
    elif split != SPLIT_BYTES:
        raise RangeError(f"unknown split {split}; client and worker must be of one version")
    if start >= end:
        raise NoRecordsError
    return _mapped(descriptor, start, end, total)


def _size_of(descriptor: int) -> int:
    status = fstat(descriptor)
    if not S_ISREG(status.st_mode):
        raise RangeError("only regular files have ranges; client and worker disagree")
    return status.st_size


def whole_lines(read: "Read", start: int, end: int, total: int) -> "tuple[int, int]":
    """Where the lines begin and end that begin in a range of a file with so many bytes.

    A line belongs to the range that its first byte is in. So both bounds are moved by one rule, to
    behind the first line feed at or after the byte before them, and neighbours agree.
    """
    if start:
        found = _line_feed(read, start - 1, end - 1)
        if found < 0:
            # The line that begins before the range ends behind it.
            return end, end
        start = found + 1
    limit = min(total, end + RECORD_BYTES_MAX)
    found = _line_feed(read, end - 1, limit)
    if found >= 0:
        return start, found + 1
    if limit < total:
        raise RangeError(
            f"the record around byte {end} has no end within {RECORD_BYTES_MAX} bytes, the most "
            "that a record may have behind its range; is the file really one of lines?"
        )
    return start, total


def _line_feed(read: "Read", at: int, limit: int) -> int:
    """Where the first line feed in `at..limit` is; -1 when there is none."""
    window = _WINDOW_BYTES_MIN
    while at < limit:
        data = read(min(window, limit - at), at)
        if not data:
            raise _changed(limit, at)
        found = data.find(b"\n")
        if found >= 0:
            return at + found
        at += len(data)
        window = min(2 * window, _WINDOW_BYTES_MAX)
    return -1


def _mapped(descriptor: int, start: int, end: int, total: int) -> memoryview:
    skip = start % ALLOCATIONGRANULARITY
    size = end - start + skip
    # The descriptor that older versions keep for a map is closed with it.
    options: "Any" = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    try:
        mapping = mmap(descriptor, size, MAP_SHARED, PROT_READ, offset=start - skip, **options)
    except ValueError:
        # Python compares it with the file's size, which has just been larger.
        raise _changed(end, min(total, fstat(descriptor).st_size)) from None
    except (OSError, OverflowError, MemoryError) as error:
        raise RangeError(
            f"{size} bytes at byte {start - skip} of the file cannot be mapped ({error}); make the "
            "chunks smaller, or the pool's limit of address space larger"
        ) from None
    try:
        mapping.madvise(_MADV_SEQUENTIAL)
    except (AttributeError, OSError, ValueError):
        # Only advice.
        pass
    return memoryview(mapping)[skip:]


def _changed(end: int, total: int) -> RangeError:
    return RangeError(
        f"the range ends at byte {end} of a file that has only {total} bytes now: it was cut "
        "short while it was read"
    )


def row_group(descriptor: int, index: int) -> "Any":
    """A row group of a Parquet file, as a `pyarrow.Table`."""
    name = "pyarrow.parquet"
    try:
        _import(name)
        parquet: "Any" = sys.modules[name]
    except ImportError as error:
        raise RangeError(
            f"a row group is given as a pyarrow.Table, and {name} cannot be imported here "
            f"({error}); install pyarrow for this pool's Python"
        ) from None
    return parquet.ParquetFile(_File(descriptor)).read_row_group(index)


class _File(RawIOBase):
    """A file that is read by position: all workers' descriptors of it share one offset."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0
        self._size = _size_of(descriptor)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = _SEEK_SET, /) -> int:
        base = {_SEEK_SET: 0, _SEEK_CURRENT: self._at}.get(whence, self._size)
        self._at = max(0, base + offset)
        return self._at

    def read(self, count: "int | None" = -1, /) -> bytes:
        """At most so many bytes; all that are left without a number."""
        left = max(0, self._size - self._at)
        count = left if count is None or count < 0 else min(count, left)
        parts: "list[bytes]" = []
        while count:
            part = pread(self._descriptor, min(count, _READ_BYTES_MAX), self._at)
            if not part:
                raise _changed(self._at + count, self._at)
            parts.append(part)
            self._at += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: "Any", /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
