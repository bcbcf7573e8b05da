"""The call that is running: what its code may ask about it, and how it is cancelled.

The ids here are those of `Run` frames: a call's own, and above it which attempt of it this is. So
what was meant for one attempt never reaches another.

Where a pool's workers run several calls at once, each has a state of its own: see `_lanes`. Else
`state` is the one thing the main thread, the control thread and user code share. Every field is
written by one thread only, with two exceptions. `armed` is also cleared by the signal handler: it
runs on the main thread, between two of its instructions, so there is no race. `call` is written by
any thread that asks for the current call; see `current_call`. Who delivers the signal is
`_control`; who arms and disarms is `_execute`.

```text
   control thread                        main thread
   Warn(id) ─► warned = id, which user code may look at: current_call().cancelled
   Interrupt(id) ─► interrupted = id     running = id, armed ─► user code ─► disarmed ─► answer
                    running == id ? ──── signal ──► on_interrupt: armed and interrupted == running ?
                                                    then disarm, raise Cancelled in user code
```
"""

import sys
from time import monotonic

from clutch._limits import CALL_ID_BITS, PLACE_WORDS
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, Callable

    from clutch._lanes import Lanes
    from clutch._subinterpreters import Interpreters

__all__ = [
    "SKIP",
    "Call",
    "Cancelled",
    "State",
    "current_call",
    "function_of",
    "no_page",
    "on_interrupt",
    "state",
]


class Cancelled(BaseException):
    """Raised in a call's main thread when its caller no longer wants it.

    Not an `Exception`, so that `except Exception` does not swallow it. It is raised at most once in
    a call; whatever the call returns or raises afterwards, its caller is told `Cancelled`.
    """


class _Skip:
    __slots__ = ()

    def __repr__(self) -> str:
        return "clutch.SKIP"

    def __reduce__(self) -> str:
        # By name: a copy, and what comes back from a child process, is the one there is.
        return "SKIP"


_Skip.__module__ = "clutch"
_Skip.__name__ = _Skip.__qualname__ = "SKIP"

SKIP = _Skip()
"""What a function returns for an item of a map that shall have no result."""

_CALL_ID_MASK = (1 << CALL_ID_BITS) - 1
_modules = sys.modules

# As its users import it, and as a traceback shall name it.
Cancelled.__module__ = "clutch"


class State:
    """What the worker is doing now; or, where it runs several calls, one of its lanes."""

    __slots__ = (
        "armed",
        "call",
        "control",
        "end_items",
        "generation",
        "interrupted",
        "key",
        "lanes",
        "on_interrupt",
        "page",
        "pool",
        "reports",
        "running",
        "slot",
        "started",
        "timeout_ms",
        "warned",
    )

    def __init__(self) -> None:
        # The pool and place of this worker.
        self.pool = ""
        self.slot = 0
        self.generation = 0
        # The call that runs; 0 for none. Its function (still encoded), start and time allowed.
        self.running = 0
        self.key = b""
        self.started = 0.0
        self.timeout_ms = 0
        # Whether user code runs, and may be interrupted.
        self.armed = False
        # The last call the daemon wanted interrupted. Ids never return, so it needs no clearing,
        # and an interrupt that overtakes its call on the other socket is not lost.
        self.interrupted = 0
        # The last call whose code the daemon wanted told that nobody waits for it any more.
        self.warned = 0
        # What a forked child does first with a chunk of items: there is none left for it.
        self.end_items: "Callable[[], object]" = int
        # What raising `Cancelled` needs first: whether it shall be raised here. See `_coroutine`.
        self.on_interrupt: "Callable[[], bool] | None" = None
        # Where the daemon reads which call has begun. See `_page`.
        self.page = no_page()
        # Where the worker runs several calls: their states, of which this is none. See `_lanes`.
        self.lanes: "Lanes | Interpreters | None" = None
        # What `current_call` made for the running call, if it was asked.
        self.call: "Call | None" = None
        # Where the worker reports what is no answer, and what the call has reported so far.
        self.control: "socket | None" = None
        self.reports: "Any" = None


def no_page() -> memoryview:
    """A page that nobody reads."""
    return memoryview(bytearray(8 * PLACE_WORDS)).cast("Q")


def function_of(key: bytes) -> str:
    """The name of a call's function."""
    return key[8 : 8 + int.from_bytes(key[:8], "little")].decode("utf-8", "replace")


state = State()


class Call:
    """The call that runs in this worker. Made by `current_call`."""

    __slots__ = (
        "_cancelled",
        "_state",
        "attempt",
        "deadline",
        "function",
        "generation",
        "id",
        "pool",
        "run",
        "slot",
    )

    def __init__(self, now: State) -> None:
        self._state = now
        self.run = now.running
        self.id: int = self.run & _CALL_ID_MASK
        """The daemon's id of the call, the same in all its attempts; 0 when no call is running."""
        self.attempt: int = (self.run >> CALL_ID_BITS) + 1
        """Which attempt of the call this is, from 1."""
        self.function: str = function_of(now.key)
        """`module:qualname`, as the caller named it."""
        self.pool: str = now.pool
        """The pool's name."""
        self.slot: int = now.slot
        """Which place in the pool this worker has; it survives the process."""
        self.generation: int = now.generation
        """How many processes had that place, this one included."""
        self.deadline: "float | None" = None
        """When the caller stops waiting for this attempt, on the clock of `time.monotonic`; None
        for never."""
        if now.timeout_ms:
            self.deadline = now.started + now.timeout_ms / 1000
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants the call.

        It has cancelled it, is gone, or its time is over. Where the pool has a `cooperate` budget,
        this is so for that long before `Cancelled` is raised.
        """
        if not self._cancelled and self.run:
            self._cancelled = self.run in (self._state.interrupted, self._state.warned)
        return self._cancelled

    def time_left(self) -> "float | None":
        """Seconds until the caller stops waiting, never below zero; None for ever."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - monotonic())

    def __repr__(self) -> str:
        return f"<clutch.Call {self.id} {self.function}>"


Call.__module__ = "clutch"


def current_call() -> Call:
    """The call that is running in this process; of several, the one that asks.

    The same object each time, unless two threads are the first to ask; then two that say the same.
    Any thread may ask; where several calls run, one that a call has started is told of it only if
    it runs in a copy of the call's context (`contextvars`). A thread that outlives its call should
    keep the object: asked again, it would be told about the next call. Where no call is running (in
    a `multiprocessing` child, in a test, while `main` is loaded) the answer is a call with id 0, no
    deadline, never cancelled, so that the same code runs there.
    """
    now = state if state.lanes is None else state.lanes.find()
    call = now.call
    if call is None or call.run != now.running:
        call = Call(now)
        now.call = call
    return call


def on_interrupt(_signal_number: int, _frame: object) -> None:
    """The handler of the control thread's signal, run by Python on the main thread.

    A signal may arrive late, when its call is over or the next has begun: then nothing happens.
    """
    if state.armed and state.interrupted == state.running:
        state.armed = False
        reach = state.on_interrupt or _reach_of_users_loop()
        if reach is not None and not reach():
            return
        raise Cancelled(f"call {state.running & _CALL_ID_MASK} was cancelled")


def _reach_of_users_loop() -> "Callable[[], bool] | None":
    """How to reach the tasks of an event loop that user code runs itself, if it does."""
    try:
        running_loop = getattr(_modules.get("asyncio"), "_get_running_loop", None)
        if running_loop is None or running_loop() is None:
            return None
        reach: "Callable[[], bool]" = load("clutch._coroutine").cancel_tasks
    except BaseException:  # noqa: BLE001 - no descriptor to import with, say.
        return None
    return reach
