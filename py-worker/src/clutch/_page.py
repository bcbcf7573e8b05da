"""The page on which the worker says which call it has begun, for the daemon to read when it dies.

A call's id is written right before anything of a user's can run for it. When the worker dies, a
call whose id is not there has not begun, and may be given to another worker. The page is shared
memory, so writing costs no system call, and what was written outlives the process.

Its first half has a place for the id of each call that may run at once, in its second half each has
another: how many items of the call have begun, so that those behind them may be given away, too.
"""

import sys
from mmap import mmap
from posix import close, dup, fstat

__all__ = ["map_page"]

# A person's python has not loaded it, and a user may have a file of that name.
sys.modules.pop("mmap", None)

_PAGE_BYTES = 4096


def map_page(descriptor: int) -> memoryview:
    """The page behind a descriptor, as a list of numbers. The descriptor is closed.

    Whoever has the page must keep it until the process is gone: see `_mapped`. Only for a process
    with one thread.
    """
    if sys.version_info >= (3, 13):
        page = mmap(descriptor, _PAGE_BYTES, trackfd=False)
    else:
        page = _mapped(descriptor)
    close(descriptor)
    return memoryview(page).cast("Q")


def _mapped(descriptor: int) -> mmap:
    """Maps the page, and closes the descriptor that older versions keep for a map.

    It has the lowest free number, which user code would miss. When the map is freed, it closes
    that number, whoever has it by then; so the map must never be freed.
    """
    number = dup(descriptor)
    close(number)
    page = mmap(descriptor, _PAGE_BYTES)
    if fstat(number).st_ino == fstat(descriptor).st_ino:
        close(number)
    return page
