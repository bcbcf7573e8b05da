"""The mode `threads`: each call on a thread of its own, the main thread for signal handlers.

The threads take turns at the socket: who has the turn waits for a call, gives the turn on, and
runs what came. So a call is never handed from one thread to another, until the first one comes that
streams: then one more thread reads for all. An answer is sent by the thread that has it, whole,
before any other.
"""

import threading
from _queue import SimpleQueue
from _thread import allocate_lock
from time import monotonic

from clutch._call import state
from clutch._cancel import Lane
from clutch._control import die, report
from clutch._frames import (
    EXIT,
    FAILED,
    FLAGS_OF_PORTS,
    READY,
    RUN,
    ProtocolError,
    header_bytes,
)
from clutch._lanes import LaneExecutor
from clutch._limits import HEADER_BYTES, RECEIVE_BYTES
from clutch._pristine import load
from clutch._receive import Arrivals, receive_frames, shielded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Callable, Iterator, Optional, Tuple

    from clutch._execute import Body, Executor
    from clutch._lane_ports import LanePort
    from clutch._lanes import Lanes, Send
    from clutch._receive import Frame, Payload

    # flags, codec, id, meta, payload, all for as long as one wants.
    Taken = Tuple[int, int, int, memoryview, Payload]

    MakeExecutor = Callable[[Lane], Executor]
    OpenPort = Callable[[int], LanePort]

__all__ = ["guarded", "live", "start"]

# How long the end of a worker waits for threads that have nothing to do but to end.
_END_S = 1.0

# A frame up to here lies in a buffer that is used again.
_SHARED_BYTES_MAX = RECEIVE_BYTES - HEADER_BYTES


class Turns:
    """Who may read from the socket."""

    def __init__(self, frames: "Iterator[Frame]", lanes: "Lanes", open_port: "OpenPort") -> None:
        self._frames = frames
        self._lanes = lanes
        self._open_port = open_port
        self._turn = allocate_lock()
        # Where calls are, when one thread has all turns: see `_read_for_all`.
        self._calls: "Optional[SimpleQueue[Optional[Taken]]]" = None
        self._asking = allocate_lock()
        self._is_asked = False
        # Held until there are no more calls.
        self.over = allocate_lock()
        self.over.acquire()
        self.is_over = False

    def next(self) -> "Optional[Taken]":
        """The next call, or None when there are no more."""
        with self._turn:
            if self._calls is None:
                return self._receive()
        return self._calls.get()

    def _receive(self) -> "Optional[Taken]":
        """The next call. What comes before it is for calls that run."""
        if self.is_over:
            return None
        for kind, flags, codec, call_id, meta, payload in self._frames:
            if kind == RUN:
                self._lanes.begin(call_id)
                taken = _taken(flags, codec, call_id, meta, payload)
                if flags & FLAGS_OF_PORTS:
                    # Before the turn is given on: what comes next may be for it.
                    self._lanes.ports[call_id] = self._open_port(call_id)
                return taken
            if kind == EXIT:
                break
            self._lanes.deliver(kind, flags, call_id, meta, payload)
            # What is attached goes with its call, not with the next frame.
            del meta, payload
        self.is_over = True
        self._lanes.hang_up()
        self.over.release()
        return None

    def read_for_all(self) -> None:
        """Has one more thread read from now on: all that run calls may wait for what comes.

        Called by the first call that streams; before it, a call goes to its thread without a
        detour.
        """
        with self._asking:
            if self._is_asked:
                return
            body = guarded(self._read_for_all, "clutch-streams")
            threading.Thread(target=body, name="clutch-streams", daemon=True).start()
            self._is_asked = True

    def _read_for_all(self) -> None:
        with self._turn:
            calls = self._calls = SimpleQueue()
        while True:
            taken = self._receive()
            if taken is None:
                break
            calls.put(taken)
        for _ in range(self._lanes.count):
            calls.put(None)


def _taken(flags: int, codec: int, call_id: int, meta: memoryview, payload: "Payload") -> "Taken":
    """A frame that stays as it is when the next one is received."""
    if isinstance(payload, memoryview) and len(meta) + len(payload) <= _SHARED_BYTES_MAX:
        return flags, codec, call_id, memoryview(bytes(meta)), memoryview(bytes(payload))
    return flags, codec, call_id, meta, payload


def start(
    lanes: "Lanes", place: int, make: "MakeExecutor", run: "Callable[[Lane, Executor], object]"
) -> threading.Thread:
    """Starts the thread of one lane, which runs `run`. Nothing that it raises goes unnoticed."""
    lane = Lane(f"clutch-{place + 1}", lanes.page_of(place), lanes.canceller.throw)
    executor = make(lane)

    def live() -> None:
        lanes.add_thread(lane)
        run(lane, executor)

    # Not waited for when the interpreter ends: a call may still be at it.
    thread = threading.Thread(target=guarded(live, lane.name), name=lane.name, daemon=True)
    thread.start()
    lanes.lanes.append(lane)
    return thread


def guarded(live: "Callable[[], object]", name: str) -> "Callable[[], None]":
    """The body of a thread of the worker's own, whose end would be that of the worker."""

    def body() -> None:
        try:
            live()
        except ProtocolError as error:
            die(f"on the call socket, {error}")
        except BaseException as error:  # noqa: BLE001 - of a thread that throws into others, say.
            report(error)
            die(f"{name} raised {type(error).__name__} outside of any call")

    return body


def live(lanes: "Lanes", call: "socket", send: "Send", package: str, ready: bytes) -> int:
    """Serves calls until there are no more."""
    sending = allocate_lock()

    def send_in_turn(head: bytes, body: "Body") -> None:
        lanes.flush()
        with sending:
            send(head, body)

    def open_port(call_id: int) -> "LanePort":
        return load("clutch._lane_ports").LanePort(call_id, state, send_in_turn)

    arrivals = Arrivals(call)
    receive_into = shielded(call, arrivals)
    frames = receive_frames(receive_into, lanes.setup.payload_bytes_max, arrivals)
    turns = Turns(frames, lanes, open_port)
    lanes.on_open = turns.read_for_all

    def run(lane: Lane, executor: "Executor") -> None:
        while True:
            frame = turns.next()
            if frame is None:
                return
            lane.begin(frame[2], lanes.early)
            head, body = executor.execute(*frame)
            if lanes.ports:
                lanes.ports.pop(frame[2], None)
            lanes.end()
            with sending:
                send(head, body)
            # What it frees may be user code, which must not cost the caller the answer.
            executor.kept = frame = head = body = None
            lane.taken = 0

    def make(lane: Lane) -> LaneExecutor:
        executor = LaneExecutor(package, lanes.setup.payload_bytes_max, lane)
        executor.line = lanes
        return executor

    threads: "list[threading.Thread]" = []
    try:
        # What was started before one could not be is counted.
        threads.extend(start(lanes, place, make, run) for place in range(lanes.count))
    except (RuntimeError, MemoryError) as error:
        return _refuse(error, len(threads), lanes.count, send, package)
    send(header_bytes(READY, 0, len(ready), 0), ready)
    while not turns.is_over:
        try:
            turns.over.acquire()
        except BaseException as error:  # noqa: BLE001 - whatever a signal handler raises.
            report(error)
    end = monotonic() + _END_S
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
    return 0


def _refuse(error: BaseException, started: int, wanted: int, send: "Send", package: str) -> int:
    """Says that not all threads could be started; the exit code."""
    told = RuntimeError(
        f"only {started} of {wanted} threads could be started ({error}): make the pool's `threads` "
        "smaller, or its `process.processes` larger"
    )
    meta = load("clutch._failures").raised(told, (package,))
    send(header_bytes(FAILED, 0, len(meta), 0), meta)
    return 1
