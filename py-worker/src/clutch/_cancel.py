"""How a call on a thread is cancelled, without ever hitting the next call or the worker's own code.

```text
   control thread, on Interrupt(id)          the lane's thread
   early += id
   lock; taken == id ?                       lock; taken = id; in early? interrupted = id; unlock
     interrupted = id                        lock; armed for id; unlock; interrupted? raise
   unlock
   canceller's thread, until the call ends
   lock; armed for id, not raised for id,
     and in user code ?
       raised for id; Cancelled is set ────► user code: raised between two of its instructions
   unlock                                    lock; disarmed; what was set and not raised yet is
                                             taken back; unlock
```

So either the lane sees the interrupt or the interrupt sees the lane. Nothing is set outside of the
time between arming and disarming, at most one exception is set for a call, and none is left when
disarming returns. That one may be raised inside of disarming, even between taking the lock and
the next instruction; so disarming starts over when it is, and the lock knows whose it is.

An exception may be raised anywhere, also between the instruction that takes a lock and the one that
sees to its release; other calls would then wait for that lock for ever. `with lock:` is safe. What
`logging` or `queue` do in Python is not; and an import that is cut off would leave half a module to
all other calls. There, the canceller waits until the thread has come out of it. It looks and sets
in one go: it has only just got the interpreter, and nobody takes that away within microseconds.
"""

import sys
from _queue import Empty, SimpleQueue
from _thread import RLock, start_new_thread
from time import monotonic, sleep

from clutch._call import Cancelled, State, state
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Tuple

__all__ = ["Canceller", "Lane"]

# How long to try, if the call does not end before. By then, the daemon has long lost patience.
_TRY_FOR_S = 60.0
_PAUSE_MIN_S = 0.001
_PAUSE_MAX_S = 0.05

# Files whose Python code holds locks that calls share, or makes and takes down event loops.
_LOCKING = (
    "/_threading_local.py",
    "/_weakrefset.py",
    "/contextlib.py",
    "/functools.py",
    "/queue.py",
    "/selectors.py",
    "/socket.py",
    "/subprocess.py",
    "/tempfile.py",
    "/threading.py",
    "/weakref.py",
    "/clutch/_coroutine.py",
    "/clutch/_lane_ports.py",
    "/clutch/_logging.py",
)
_LOCKING_FOLDERS = ("/asyncio/", "/concurrent/", "/logging/", "/multiprocessing/")
# The import system, which is in no file.
_IMPORTING = "<frozen importlib"
# Whether an import is further out is not looked for; one look has to be quick.
_FRAMES_MAX = 2000


class Lane(State):
    """What one of several calls is at. Made for a thread; a task's is never armed."""

    __slots__ = ("_armed_for", "_lock", "_raised_for", "_throw", "ident", "name", "taken")

    def __init__(
        self, name: str, page: memoryview, throw: "Callable[[int, Any], object] | None" = None
    ) -> None:
        self._armed_for = 0
        self._lock = RLock()
        self._raised_for = 0
        self._throw = throw
        # The call it was given, from before it is looked at until it is answered.
        self.taken = 0
        self.name = name
        self.ident = 0
        super().__init__()
        self.pool, self.slot, self.generation = state.pool, state.slot, state.generation
        # One place of the page; see `_page`.
        self.page = page

    @property
    def armed(self) -> bool:  # type: ignore[override]
        """Whether user code runs, and may be interrupted."""
        return self._armed_for != 0

    @armed.setter
    def armed(self, armed: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        lock = self._lock
        if armed:
            lock.acquire()
            self._armed_for = self.running
            lock.release()
            return
        while True:
            try:
                lock.acquire()
                self._armed_for = 0
                if self._throw is not None and self._raised_for == self.running:
                    self._throw(self.ident, None)
                while lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
                    lock.release()
            except Cancelled:
                # The only one that is ever raised in this call.
                continue
            return

    def begin(self, call_id: int, early: "dict[int, bool]") -> None:
        """Takes a call. What the control thread heard of it before is heard."""
        with self._lock:
            self.taken = call_id
            interrupted = early.pop(call_id, None) if early else None
            if interrupted is not None:
                self._hear(call_id, interrupted)

    def hear(self, call_id: int, interrupted: bool, early: "dict[int, bool]") -> bool:
        """Tells a call that it was warned or interrupted, if it is here."""
        with self._lock:
            if self.taken != call_id:
                return False
            self._hear(call_id, interrupted)
            # Not later: the call may be given away then, and this be for whoever takes it.
            early.pop(call_id, None)
            return True

    def _hear(self, call_id: int, interrupted: bool) -> None:
        if interrupted:
            self.interrupted = call_id
        else:
            self.warned = call_id
        if self.call is not None:
            # Whoever holds the object must still see it when the next call runs.
            _ = self.call.cancelled

    def leave(self, early: "dict[int, bool]") -> None:
        """Gives the call away; who takes it hears what was heard here."""
        with self._lock:
            call_id, self.taken, self.running = self.taken, 0, 0
            if call_id in (self.interrupted, self.warned):
                early[call_id] = self.interrupted == call_id or early.get(call_id, False)

    def reach(self, call_id: int) -> bool:
        """Has `Cancelled` raised in user code of this call. Whether there is no more to do."""
        with self._lock:
            if self.taken != call_id or self._raised_for == call_id or self._throw is None:
                return True
            if self._armed_for != call_id or not _is_interruptible(self.ident):
                return False
            self._raised_for = call_id
            self._throw(self.ident, Cancelled)
            return True

    def forget(self, page: memoryview) -> None:
        """In a forked child, where whoever held the lock is no more."""
        self._lock = RLock()
        self._armed_for = self.running = self.taken = 0
        self.end_items()
        self.page = page


class Canceller:
    """Tries to reach the calls that were interrupted, on a thread of its own."""

    def __init__(self) -> None:
        self.throw = _thrower()
        self._wanted: "SimpleQueue[Tuple[Lane, int]]" = SimpleQueue()
        start_new_thread(self._run, ())

    def reach(self, lane: Lane, call_id: int) -> None:
        """Has a call cancelled, as soon as it is where it can be."""
        self._wanted.put((lane, call_id))

    def _run(self) -> None:
        pending: "list[_Wanted]" = []
        pause = _PAUSE_MIN_S
        while True:
            try:
                if pending:
                    lane, call_id = self._wanted.get(True, pause)
                else:
                    lane, call_id = self._wanted.get()
                pending.append(_Wanted(lane, call_id))
                pause = _PAUSE_MIN_S
            except Empty:
                pause = min(2 * pause, _PAUSE_MAX_S)
            except BaseException:  # noqa: BLE001, S112 - user code may throw into any thread.
                continue
            try:
                pending = [wanted for wanted in pending if not wanted.is_done()]
            except BaseException:  # noqa: BLE001, S112 - as above; then they are tried again.
                continue


class _Wanted:
    """A call that is to be cancelled."""

    __slots__ = ("_call_id", "_is_woken", "_lane", "_until")

    def __init__(self, lane: Lane, call_id: int) -> None:
        self._lane = lane
        self._call_id = call_id
        self._until = monotonic() + _TRY_FOR_S
        self._is_woken = False

    def is_done(self) -> bool:
        """Tries, and says whether there is no more to do."""
        # In this order: what is looked at before the call is, is the call's.
        wake = self._lane.on_interrupt
        if wake is not None and not self._is_woken and self._lane.taken == self._call_id:
            # It waits in an event loop. Only once: what it does then is its own business.
            self._is_woken = True
            wake()
        # Lets go of the interpreter, so that it is not taken away right after it was got back.
        sleep(0)
        return self._lane.reach(self._call_id) or monotonic() > self._until


def _is_interruptible(ident: int) -> bool:
    """Whether a thread is in code that an exception can leave at any instruction."""
    frame = sys._current_frames().get(ident)  # noqa: SLF001 - there is no other way.
    if frame is None:
        return False
    file = frame.f_code.co_filename
    if file.endswith(_LOCKING) or any(folder in file for folder in _LOCKING_FOLDERS):
        return False
    for _ in range(_FRAMES_MAX):
        if frame is None:
            break
        if frame.f_code.co_filename.startswith(_IMPORTING):
            return False
        frame = frame.f_back
    return True


def _thrower() -> "Callable[[int, Any], object] | None":
    """Sets an exception in a thread; with None, takes back what was not raised yet."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        # A thread goes on while one looks where it is. Calls are told by their flag.
        return None
    try:
        ctypes = load("ctypes")
        function = ctypes.pythonapi.PyThreadState_SetAsyncExc
    except (ImportError, AttributeError):
        # A python without it. As above.
        return None
    c_ulong, py_object = ctypes.c_ulong, ctypes.py_object

    def throw(ident: int, error: "Any") -> object:
        return function(c_ulong(ident), None if error is None else py_object(error))

    return throw
