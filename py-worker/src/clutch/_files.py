"""Files in memory that came as descriptors: looked at before they are believed, then mapped.

And the user's numpy, which arrays over them are made by.
"""

import sys
from posix import O_ACCMODE, O_RDWR, fstat

from clutch._pristine import load
from clutch._table import ARRAY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from clutch._table import Attachment

__all__ = ["File", "find_numpy"]

# Of Linux; a Python that was built with old headers has no names for them.
_GET_SEALS = 1034
_SEAL_SHRINK = 2
_SEAL_GROW = 4
_SEAL_WRITE = 8
_SEAL_FUTURE_WRITE = 16

# As nearly all systems have them; with other ones, there is just nothing to gain.
_HUGE_PAGE_BYTES = 2 << 20

_import = __import__

# With this `sys.path` there was none.
_without_numpy: "List[Optional[str]]" = [None]
# The one that was imported to its end.
_finished: "List[Any]" = []


class File:
    """One of a frame's descriptors, with what the system says of it."""

    __slots__ = (
        "_identity",
        "_kept",
        "_maps",
        "is_final",
        "is_for_more",
        "is_writable",
        "may_go_back",
        "number",
        "seals",
        "size",
    )

    def __init__(self, number: int, kept: "Dict[Tuple[int, int, bool], Any]") -> None:
        fcntl = load("fcntl").fcntl
        self.number = number
        status = fstat(number)
        self._identity = status.st_dev, status.st_ino
        self.size = status.st_size
        try:
            self.seals: int = fcntl(number, _GET_SEALS)
        except OSError:
            # No file in memory.
            self.seals = 0
        # F_GETFL.
        self.is_writable: bool = fcntl(number, 3) & O_ACCMODE == O_RDWR
        # Nobody can change it any more, its owner neither.
        self.is_final = bool(self.seals & _SEAL_WRITE)
        # Whether it is known that more calls will have it.
        self.is_for_more = False
        # Nobody can change it; or only its owner, who is also whom it goes back to.
        is_for_reading = self.seals & _SEAL_FUTURE_WRITE and not self.is_writable
        self.may_go_back = bool(self.is_final or is_for_reading)
        self._maps: "Dict[bool, Any]" = {}
        # Of calls before this one.
        self._kept = kept

    def check(self, entry: "Attachment") -> None:
        """Whether it has what the entry says, for as long as anybody wants."""
        wanted = _SEAL_SHRINK | _SEAL_GROW
        if self.seals & wanted != wanted:
            raise entry.error("is in memory that can be shrunk; seal it against that")
        if entry.offset + entry.bytes > self.size:
            raise entry.error(
                f"ends at byte {entry.offset + entry.bytes} of a file that has {self.size}"
            )

    def is_open(self) -> bool:
        """Whether user code has left the descriptor what it was."""
        try:
            status = fstat(self.number)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def map(self, entry: "Attachment", writable: bool) -> "Any":
        """All of it as memory."""
        if writable and (self.seals & _SEAL_WRITE or not self.is_writable):
            raise entry.error("is to be written into, and its memory cannot be written")
        mapped = self._maps.get(writable)
        if mapped is None:
            # A map keeps its file, so that no other has its number.
            mapped = self._kept.get((*self._identity, writable))
            if mapped is None or mapped.closed or len(mapped) != self.size:
                # Also what user code has closed, which finds it behind its arrays.
                # Nothing else has to be made by numpy, so that nothing else imports it.
                numpy = find_numpy() if entry.content == ARRAY else sys.modules.get("numpy")
                mapped = _mapped(self, writable, numpy if numpy in _finished else None)
            self._maps[writable] = mapped
        return mapped

    def shared(self) -> "Dict[Tuple[int, int, bool], Any]":
        """Maps of memory that more calls will have: what others can still write into, for one.

        Not of what only its owner can: that may wait for us to let go before it does.
        """
        if self.may_go_back and not self.is_for_more:
            return {}
        return {(*self._identity, writable): mapped for writable, mapped in self._maps.items()}


def _mapped(file: File, writable: bool, numpy: "Any") -> "Any":
    # The descriptor that older versions keep for a map is closed with it.
    options: "Dict[str, Any]" = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    module = load("mmap")
    protection = module.PROT_READ | (module.PROT_WRITE if writable else 0)
    # What cannot be written is the same either way, but older kernels map it privately only.
    flags = module.MAP_PRIVATE if file.seals & _SEAL_WRITE else module.MAP_SHARED

    def mapped() -> "Any":
        return module.mmap(file.number, file.size, flags=flags, prot=protection, **options)

    whole = mapped()
    if numpy is None or not file.size or file.size % _HUGE_PAGE_BYTES:
        return whole
    # Its sender may have made it of huge pages, which cost nothing to map, but only at multiples of
    # their size. The system takes the place right below the last one: what is too much is filled.
    array = numpy.ndarray((1,), "u1", whole)
    surplus = array.__array_interface__["data"][0] % _HUGE_PAGE_BYTES
    del array
    if not surplus:
        return whole
    whole.close()
    private = module.MAP_PRIVATE | module.MAP_ANONYMOUS
    filler = module.mmap(-1, surplus, flags=private, prot=module.PROT_READ)
    try:
        return mapped()
    finally:
        filler.close()


def find_numpy() -> "Any":
    """The user's numpy, if there is one."""
    module = sys.modules.get("numpy")
    if module is not None and module in _finished:
        return module
    if module is None and sys.path == _without_numpy:
        return None
    try:
        # Also of what is there already: this waits for another thread that is in the middle of it.
        module = _import("numpy")
    except ImportError:
        # Looking again costs milliseconds where it is there, but not for this interpreter.
        _without_numpy[:] = sys.path
        return None
    if not (hasattr(module, "ndarray") and hasattr(module, "dtype")):
        return None
    _finished[:] = [module]
    return module
