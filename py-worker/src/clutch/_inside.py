"""One lane of the mode `subinterpreters`, inside of its interpreter: one call at a time.

It shares the sockets, the standard descriptors and the folder with the other lanes: see
`_subinterpreters`. No signal handler ever runs here, and nothing is raised in a call from outside.
"""

import sys
from _frozen_importlib_external import SourceFileLoader
from _socket import AF_UNIX, SOCK_STREAM, socket
from binascii import crc32
from posix import dup2, fchdir, read, write

from clutch import _pristine
from clutch._call import state
from clutch._control import complain_to, die, disarm_timers, is_of_system, report
from clutch._execute import Executor
from clutch._frames import (
    CREDIT,
    EXIT,
    FAILED,
    FLAG_ATTACHED,
    HEADER,
    ITEM,
    ITEMS_END,
    RUN,
    ProtocolError,
    Setup,
    check_header,
    header_bytes,
)
from clutch._limits import HEADER_BYTES, META_BYTES_MAX
from clutch._loop import make_send
from clutch._pristine import load
from clutch._receive import Arrivals, Attached, receive_exactly, shielded
from clutch._setup import become
from clutch._stdio import line_buffered, make_flush, make_restore
from clutch._words import ACTIVE, ENDED, FAILED_TO_START, FOLDER, OVER, STARTED, TAKEN, LaneState
from clutch._worker import load_user_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from clutch._execute import Body
    from clutch._receive import Payload

    # flags, codec, id, meta, payload.
    Taken = Tuple[int, int, int, memoryview, Payload]

__all__ = ["live"]


# Stands for a frame that nobody needs any more.
_LATE: "Taken" = (0, 0, 0, memoryview(b""), memoryview(b""))


class _Token:
    """A lock that works across interpreters."""

    def __init__(self, ends: "Tuple[int, int]") -> None:
        self._take, self._give = ends

    def __enter__(self) -> None:
        try:
            read(self._take, 1)
        except OSError as error:
            die(f"a call closed descriptors of the worker ({error}); it can serve no other")

    def __exit__(self, *_error: object) -> None:
        try:
            write(self._give, b"x")
        except OSError as error:
            die(f"a call closed descriptors of the worker ({error}); it can serve no other")


class _Lane:
    """Takes calls and answers them."""

    def __init__(
        self, words: memoryview, call: socket, setup: Setup, given: "Dict[str, Any]"
    ) -> None:
        self._words = words
        self._place: int = TAKEN + given["place"]
        self._turn, self._gate = _Token(given["turn"]), _Token(given["gate"])
        self._stdio: "list[int]" = given["stdio"]
        self._arrivals = Arrivals()
        self._receive_into = shielded(call, self._arrivals)
        self._length_max = setup.payload_bytes_max + META_BYTES_MAX
        self.send = make_send(call)

    def next(self) -> "Optional[Taken]":
        """The next call, or None when there are no more."""
        with self._turn:
            if self._words[OVER]:
                return None
            frame = self._receive()
            while frame is _LATE:
                frame = self._receive()
            if frame is None:
                self._words[OVER] = 1
                return None
            with self._gate:
                self._words[ACTIVE] += 1
            self._words[self._place] = LaneState.taken = frame[2]
            return frame

    def _receive(self) -> "Optional[Taken]":
        # Not a byte more than one frame: the next one is another lane's.
        head = receive_exactly(self._receive_into, HEADER_BYTES)
        if head is None:
            return None
        fields = HEADER.unpack(head)
        check_header(fields, crc32(head[:-4]), self._length_max)
        _magic, length, call_id, meta, kind, flags, codec, descriptors, *_rest = fields
        attached = None
        if flags & FLAG_ATTACHED:
            attached = Attached(head[:0], *self._arrivals.claim(descriptors))
        elif self._arrivals.waiting:
            self._arrivals.refuse()
        data = receive_exactly(self._receive_into, length)
        if data is None:
            raise ProtocolError("the stream ended inside a frame")
        if kind == EXIT:
            return None
        if kind in (CREDIT, ITEM, ITEMS_END):
            # For a call that was refused: see `_port`.
            return _LATE
        if kind != RUN:
            raise ProtocolError(f"kind {kind} is not for a worker")
        if attached is not None:
            attached.payload = data[meta:]
        return flags, codec, call_id, data[:meta], attached or data[meta:]

    def answer(self, head: bytes, body: "Body") -> None:
        """Sends an answer. With the last one, what all have changed is put back before."""
        with self._gate:
            self._words[ACTIVE] -= 1
            if not self._words[ACTIVE]:
                self._put_back()
            self.send(head, body)
            self._words[self._place] = 0

    def _put_back(self) -> None:
        disarm_timers()
        try:
            fchdir(self._words[FOLDER])
            for number, saved in enumerate(self._stdio):
                dup2(saved, number)
        except OSError as error:
            die(f"a call closed descriptors of the worker ({error}); it can serve no other")


def live(page: memoryview, words: memoryview, given: "Dict[str, Any]") -> None:
    """Lives: as `_worker` does, but for what belongs to the process."""
    _pristine.configure(given["pristine"])
    here: str = given["here"]
    setup: Setup = Setup.__new__(Setup)
    for name, value in given["setup"].items():
        setattr(setup, name, value)
    # What python gives a script that it runs, and `become` gives on.
    names = sys.modules["__main__"].__dict__
    names.update(__loader__=SourceFileLoader("__main__", here + "/boot.py"), __cached__=None)
    become(setup, here, given["inherited"])
    line_buffered()
    complain_to(given["stdio"][2])
    state.pool, state.slot, state.generation = setup.pool, setup.slot, setup.generation
    Executor.attached_bytes_max = setup.attached_bytes_max
    LaneState.words = words
    state.__class__ = LaneState
    state.page = page
    call = socket(AF_UNIX, SOCK_STREAM, 0, given["call"])
    control = state.control = socket(AF_UNIX, SOCK_STREAM, 0, given["control"])
    try:
        _live(_Lane(words, call, setup, given), control, setup, given)
    except ProtocolError as error:
        die(f"on the call socket, {error}")
    finally:
        call.detach()
        control.detach()


def _live(lane: _Lane, control: socket, setup: Setup, given: "Dict[str, Any]") -> None:
    here, news = given["here"], given["news"]
    package = f"{here}/{__package__}/"
    forwarder = None
    if setup.log_level:
        forwarder = load("clutch._logging").forward_logging(setup.log_level, control)
    meta = None
    if setup.preload or setup.main or setup.initializer or setup.warm:
        meta = load_user_code(setup, (package, here + "/"), given["stack"], control)
    if meta is not None:
        # Nobody else sends before all have started.
        lane.send(header_bytes(FAILED, 0, len(meta), 0), meta)
        write(news, FAILED_TO_START)
        return
    flush, restore = make_flush(), make_restore(None)
    if forwarder is not None:
        flush, restore = forwarder.after_calls(flush, restore)
    write(news, STARTED)
    _serve(lane, Executor(package, setup.payload_bytes_max), flush, restore)
    write(news, ENDED)


def _serve(
    lane: _Lane,
    executor: Executor,
    flush: "Callable[[], None]",
    restore: "Callable[[], Callable[[], None] | None]",
) -> None:
    execute = executor.execute
    while True:
        frame = lane.next()
        if frame is None:
            return
        head, body = execute(*frame)
        if state.call is not None:
            # Whoever holds the object must still see it when the next call runs.
            _ = state.call.cancelled
        flush()
        try:
            flush = restore() or flush
        except BaseException as error:  # noqa: BLE001 - of a stream of a user's.
            if is_of_system(error):
                die(f"a call closed descriptors of the worker ({error}); it can serve no other")
            report(error)
        lane.answer(head, body)
        # What it frees may be user code, which must not cost the caller the answer.
        executor.kept = frame = head = body = None
