"""Several calls at once in one worker: what its modes `threads` and `async` have in common.

Loaded only where a pool asks for one of them. A *lane* is what `state` is where one call runs at a
time: each call that runs has one, and one place on the page. Who puts calls on lanes is `_threads`
and `_tasks`.

How a call is cancelled is `_cancel`'s.
"""

from _contextvars import ContextVar
from _thread import RLock, allocate_lock, get_ident
from posix import register_at_fork

from clutch._call import State, function_of, state
from clutch._cancel import Canceller, Lane
from clutch._execute import Executor
from clutch._frames import (
    CODEC_PLAIN,
    CREDIT,
    ITEM,
    ITEMS_END,
    MODE_ASYNC,
    MODE_THREADS,
    ProtocolError,
)
from clutch._limits import CALL_ID_BITS, LANES_MAX, PLACE_WORDS
from clutch._loop import in_order
from clutch._pristine import load, no_imports, pristine_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from _socket import socket
    from typing import Any, Callable, Tuple

    from clutch._execute import Body, Decode, Encode
    from clutch._frames import Setup
    from clutch._lane_ports import LanePort

    Restore = Callable[[], "Callable[[], None] | None"]
    Send = Callable[[bytes, Body], None]

__all__ = ["LaneExecutor", "Lanes", "prepare"]

_CALL_ID_MASK = (1 << CALL_ID_BITS) - 1

# Interrupts that came before their calls. At most as many calls are on their way as there are
# lanes; the rest are interrupts that came after their calls, which nobody else takes out.
_EARLY_MAX = 16 * LANES_MAX


class LaneExecutor(Executor):
    """Runs the calls of one lane."""

    __slots__ = ()

    def _load_codec(self, codec: int) -> "tuple[Decode, Encode]":
        decode, encode = super()._load_codec(codec)
        if codec == CODEC_PLAIN:
            # That of the module is for one thread.
            encode = load("clutch._plain").make_encode()
            self._codecs[codec] = decode, encode
        return decode, encode


class Lanes:
    """All lanes of a worker: who is cancelled, who asks, and what is put back in between."""

    def __init__(self, setup: "Setup") -> None:
        self.setup = setup
        self.count = setup.lanes
        self.canceller = Canceller()
        # What was heard of calls that are yet to come: whether they were interrupted, else warned.
        self.early: "dict[int, bool]" = {}
        # Of calls on the event loop, by their ids.
        self.tasks: "dict[int, Lane]" = {}
        # Of threads.
        self.lanes: "list[Lane]" = []
        self.current: "ContextVar[Lane | None]" = ContextVar("clutch_lane", default=None)
        self._by_thread: "dict[int, Lane]" = {}
        # Of the mode `async`.
        self.loop: "asyncio.AbstractEventLoop | None" = None
        # Of the calls that stream. See `_lane_ports`.
        self.ports: "dict[int, LanePort]" = {}
        # What has to be done before one of them waits.
        self.on_open: "Callable[[], object]" = int
        self._gate = allocate_lock()
        self._active = 0
        self._flush: "Callable[[], None]" = int  # type: ignore[assignment]
        self._restore: "Restore" = int  # type: ignore[assignment]
        register_at_fork(after_in_child=self._unlock)

    def page_of(self, place: int) -> memoryview:
        """One place of the page, as far as the place of its items."""
        return state.page[place : place + PLACE_WORDS]

    def add_thread(self, lane: Lane) -> None:
        """Makes a lane this thread's, for all that runs in it and in copies of its context."""
        lane.ident = get_ident()
        self._by_thread[lane.ident] = lane
        self.current.set(lane)

    def find(self) -> State:
        """The lane of the thread or task that asks; the one state, without a call, if none."""
        lane = self.current.get() or self._by_thread.get(get_ident())
        return state if lane is None else lane

    def begin(self, call_id: int) -> None:
        """A call begins."""
        with self._gate:
            if self._active >= self.count:
                raise ProtocolError(f"run {call_id} is one too many: {self.count} run already")
            self._active += 1

    def open(self, call_id: int, now: State) -> "LanePort":
        """The port of a call that runs."""
        port = self.ports[call_id]
        port.state = now
        self.on_open()
        return port

    def deliver(self, kind: int, flags: int, call_id: int, meta: memoryview, data: "Any") -> None:
        """Gives a call that streams what is for it. One that is over needs it no more."""
        port = self.ports.get(call_id)
        if port is not None:
            port.deliver(kind, meta, load("clutch._port").kept(flags, meta, data))
        elif kind not in (CREDIT, ITEM, ITEMS_END):
            raise ProtocolError(f"kind {kind} is not for a worker")

    def hang_up(self) -> None:
        """Nothing will come any more."""
        for port in list(self.ports.values()):
            port.hang_up()

    def flush(self) -> None:
        """Lets what calls have printed out."""
        self._flush()

    def end(self) -> None:
        """A call is about to be answered. With the last one, what they have changed is put back.

        That belongs to the whole process: while any call runs, it may be what that call arranged.
        """
        with self._gate:
            # Before the answer, so that what a call printed comes before it.
            self._flush()
            self._active -= 1
            if not self._active:
                changed = in_order(self._restore, int)  # type: ignore[arg-type]
                if changed is not None:
                    self._flush = changed

    def hear(self, call_id: int, interrupted: bool) -> None:
        """Tells a call that it was warned or interrupted, also one that is yet to come."""
        early = self.early
        if len(early) >= _EARLY_MAX:
            early.pop(next(iter(early), 0), None)
        # Before looking: a lane that takes the call now looks there after we have looked at it.
        early[call_id] = early.get(call_id, False) or interrupted
        task = self.tasks.get(call_id)
        for lane in list(self.lanes) if task is None else [task]:
            if lane.hear(call_id, interrupted, early):
                if interrupted:
                    self.canceller.reach(lane, call_id)
                return

    def told(self) -> str:
        """A line for each call that runs: who is at it."""
        lines = []
        for lane in [*self.lanes, *self.tasks.values()]:
            run, function = lane.running, function_of(lane.key)
            if run:
                thread = f" (thread 0x{lane.ident:016x})" if lane.ident else ""
                lines.append(f"{lane.name}{thread}: call {run & _CALL_ID_MASK}, {function}\n")
        return "".join(lines)

    def forget(self, page: memoryview) -> None:
        """In a forked child: no call is anybody's here."""
        self._gate = allocate_lock()
        self.early.clear()
        for lane in [*self.lanes, *self.tasks.values()]:
            lane.forget(page)

    def _unlock(self) -> None:
        """In a forked child: other threads, which may have held them, are no more."""
        for importer in (pristine_imports, no_imports):
            type(importer).lock = RLock()  # type: ignore[attr-defined]

    def live(
        self,
        call: "socket",
        send: "Send",
        package: str,
        keepers: "Tuple[Callable[[], None], Restore]",
        ready: bytes,
    ) -> int:
        """Says that the worker is ready, and serves calls until there are no more."""
        self._flush, self._restore = keepers
        name = "_threads" if self.setup.mode == MODE_THREADS else "_tasks"
        return load("clutch." + name).live(self, call, send, package, ready)


def prepare(setup: "Setup", beyond: int) -> Lanes:
    """Makes the worker fit for several calls, before any user code is loaded."""
    for name in ("_plain", "_failures", "_missing", "_items"):
        load("clutch." + name)
    _lock_imports()
    lanes = Lanes(setup)
    if setup.mode == MODE_ASYNC:
        lanes.loop = load("clutch._tasks").make_loop(beyond)
    return lanes


def _lock_imports() -> None:
    """Lets one thread at a time bend what is imported for the worker itself."""
    for importer in (pristine_imports, no_imports):
        base: "Any" = type(importer)

        class Locked(base):  # type: ignore[misc]
            """The same, for several threads."""

            lock = RLock()

            def __enter__(self) -> None:
                self.lock.acquire()
                super().__enter__()

            def __exit__(self, *error: object) -> None:
                super().__exit__(*error)
                # A forked child has a new one.
                if self.lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
                    self.lock.release()

        importer.__class__ = Locked  # type: ignore[assignment]
