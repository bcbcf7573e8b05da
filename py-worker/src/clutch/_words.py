"""What all interpreters of one process share in the mode `subinterpreters`: a list of numbers.

Each is 8 bytes that are written at once. All but the flags are written by whoever has the turn or
the gate (see `_subinterpreters`); the flags by the control thread of the main interpreter.

An interrupt may come before its call, and nobody there knows where a call runs. So each call has
its own two flags, found by its id. Ids go up one by one: a second call has the same flags only
when thousands were between them, and takes away what the first one was told if it is cancelled,
too. Nothing but a flag is lost then; the daemon replaces a worker whose call does not end.
"""

from clutch._call import State
from clutch._limits import LANES_MAX

__all__ = [
    "ACTIVE",
    "ENDED",
    "FAILED_TO_START",
    "FOLDER",
    "OVER",
    "STARTED",
    "TAKEN",
    "LaneState",
    "hear",
    "make_words",
]

# What an interpreter tells the main thread through a pipe.
STARTED = b"s"
FAILED_TO_START = b"f"
ENDED = b"e"

# Whether there are no more calls.
OVER = 0
# How many calls run.
ACTIVE = 1
# The descriptor of the folder that is gone back to.
FOLDER = 2

# The call of each lane; 0 for none.
TAKEN = 8

_INTERRUPTED = TAKEN + LANES_MAX
_CALLS = 16 * LANES_MAX
_WARNED = _INTERRUPTED + _CALLS
_COUNT = _WARNED + _CALLS


def make_words() -> memoryview:
    """All of them, at zero."""
    return memoryview(bytearray(8 * _COUNT)).cast("Q")


def hear(words: memoryview, call_id: int, interrupted: bool) -> None:
    """Tells a call that it was warned or interrupted."""
    words[(_INTERRUPTED if interrupted else _WARNED) + call_id % _CALLS] = call_id


class LaneState(State):
    """The one state of an interpreter, whose call is told by flags. `state` is made one of these.

    They are those of the call that was taken last, also when it has ended.
    """

    __slots__ = ()

    taken = 0
    words = memoryview(b"")

    @property
    def interrupted(self) -> int:  # type: ignore[override]
        """The call, if the daemon wants it interrupted."""
        return self.words[_INTERRUPTED + self.taken % _CALLS]

    @property
    def warned(self) -> int:  # type: ignore[override]
        """The call, if the daemon wants it told that nobody waits for it any more."""
        return self.words[_WARNED + self.taken % _CALLS]
