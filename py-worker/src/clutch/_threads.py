"""The mode `threads`: each call on a thread of its own, the main thread for signal handlers.

The threads take turns at the socket: who has the turn waits for a call, gives the turn on, and
runs what came. So a call is never handed from one thread to another. An answer is sent by the
thread that has it, whole, before any other.
"""

import threading
from _thread import allocate_lock
from time import monotonic

from clutch._cancel import Lane
from clutch._control import die, report
from clutch._frames import EXIT, FAILED, READY, RUN, ProtocolError, header_bytes
from clutch._lanes import LaneExecutor
from clutch._limits import HEADER_BYTES, RECEIVE_BYTES
from clutch._pristine import load
from clutch._receive import Arrivals, receive_frames, shielded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Callable, Iterator, Optional, Tuple

    from clutch._execute import Executor
    from clutch._lanes import Lanes, Send
    from clutch._receive import Frame, Payload

    # flags, codec, id, meta, payload, all for as long as one wants.
    Taken = Tuple[int, int, int, memoryview, Payload]

    MakeExecutor = Callable[[Lane], Executor]

__all__ = ["live", "start"]

# How long the end of a worker waits for threads that have nothing to do but to end.
_END_S = 1.0

# A frame up to here lies in a buffer that is used again.
_SHARED_BYTES_MAX = RECEIVE_BYTES - HEADER_BYTES


class Turns:
    """Who may read from the socket."""

    def __init__(self, frames: "Iterator[Frame]", lanes: "Lanes") -> None:
        self._frames = frames
        self._lanes = lanes
        self._turn = allocate_lock()
        # Held until there are no more calls.
        self.over = allocate_lock()
        self.over.acquire()
        self.is_over = False

    def next(self) -> "Optional[Taken]":
        """The next call, or None when there are no more."""
        with self._turn:
            if self.is_over:
                return None
            for kind, flags, codec, call_id, meta, payload in self._frames:
                if kind == RUN:
                    self._lanes.begin(call_id)
                    return _taken(flags, codec, call_id, meta, payload)
                if kind != EXIT:
                    raise ProtocolError(f"kind {kind} is not for a worker")
                break
            self.is_over = True
            self.over.release()
            return None


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

    def body() -> None:
        try:
            lanes.add_thread(lane)
            run(lane, executor)
        except ProtocolError as error:
            die(f"on the call socket, {error}")
        except BaseException as error:  # noqa: BLE001 - of a thread that throws into others, say.
            report(error)
            die(f"{lane.name} raised {type(error).__name__} outside of any call")

    # Not waited for when the interpreter ends: a call may still be at it.
    thread = threading.Thread(target=body, name=lane.name, daemon=True)
    thread.start()
    lanes.lanes.append(lane)
    return thread


def live(lanes: "Lanes", call: "socket", send: "Send", package: str, ready: bytes) -> int:
    """Serves calls until there are no more."""
    arrivals = Arrivals(call)
    receive_into = shielded(call, arrivals)
    frames = receive_frames(receive_into, lanes.setup.payload_bytes_max, arrivals)
    turns = Turns(frames, lanes)
    sending = allocate_lock()

    def run(lane: Lane, executor: "Executor") -> None:
        while True:
            frame = turns.next()
            if frame is None:
                return
            lane.begin(frame[2], lanes.early)
            head, body = executor.execute(*frame)
            lanes.end()
            with sending:
                send(head, body)
            # What it frees may be user code, which must not cost the caller the answer.
            executor.kept = frame = head = body = None
            lane.taken = 0

    def make(lane: Lane) -> LaneExecutor:
        return LaneExecutor(package, lanes.setup.payload_bytes_max, lane)

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
