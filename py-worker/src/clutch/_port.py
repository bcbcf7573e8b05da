"""What the daemon sends to a call that already runs: leave to send items, and items.

A *port* is where that arrives for one call. Here is what all modes have in common, and the port of
a call that has the worker for itself: there the main thread reads the call socket while it waits,
since nobody else does. Loaded by the first call that streams.
"""

import sys
from _socket import MSG_PEEK, SHUT_RD
from _struct import Struct
from _weakref import ref
from posix import fstat

from clutch._call import Cancelled
from clutch._control import FOR_ANY_THREAD, is_of_system
from clutch._frames import (
    CREDIT,
    EXIT,
    FLAG_ATTACHED,
    ITEM,
    ITEMS_END,
    ProtocolError,
    failed_bad_arguments,
    header_bytes,
)
from clutch._limits import HEADER_BYTES, RECEIVE_BYTES, STREAM_CREDIT_MAX
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import signal as _signal
    from _socket import socket
    from typing import Any, Callable, Iterator, Protocol

    from clutch._call import State
    from clutch._execute import Body
    from clutch._receive import Attached, Frame

    class Input(Protocol):
        """One of the client's streams, as far as a port knows it."""

        def put(self, index: int, payload: Any, payload_bytes: int) -> None: ...
        def end(self, failure: str) -> None: ...

else:
    import _signal

__all__ = ["Port", "kept", "open_port"]

_CREDIT = Struct("<II")
_ITEM = Struct("<IQ")
# What comes before the bytes of the text.
_ITEMS_END = Struct("<IQ")

# What each descriptor of an item counts at least: a window of items then has 64 of them, far below
# the usual limit of 1024, which the function's own files need as well.
_DESCRIPTOR_BYTES = 256 << 10

# A frame up to here lies in a buffer that is used again.
_SHARED_BYTES_MAX = RECEIVE_BYTES - HEADER_BYTES

_modules = sys.modules
_sigmask = _signal.pthread_sigmask
_BLOCK, _SETMASK = _signal.SIG_BLOCK, _signal.SIG_SETMASK
_SIGNALS = _signal.valid_signals() - FOR_ANY_THREAD


def open_port(line: "Any", call_id: int, state: "State") -> "Port":
    """The port of a call that is about to run. `line` is what its executor was given."""
    if line is None:
        raise load("clutch._failures").FailedError(
            failed_bad_arguments(
                "a pool with `subinterpreters` has no streams: call it without one, or take "
                "`subinterpreters` away (`workers`, `threads` and `async` have them)"
            )
        )
    if type(line) is not list:
        opened: "Port" = line.open(call_id, state)
        return opened
    sock, frames, send, _flush, weak, rest = line
    port = weak()
    if port is not None and port.call_id == call_id:
        return port

    def send_in_order(head: bytes, body: "Body") -> None:
        line[3]()
        send(head, body)

    port = _OnePort(call_id, state, sock, frames, send_in_order, rest)
    # For others that ask in the course of this call.
    line[4] = ref(port)
    return port


class Port:
    """What has come for one call."""

    __slots__ = (
        "__weakref__",
        "armed",
        "call_id",
        "given",
        "inputs",
        "loop_thread",
        "send",
        "sent",
        "state",
    )

    # Whether other calls run on the event loop that this one runs on.
    is_shared = False
    # Whether what was sent has to get away first.
    is_choked = False

    def __init__(self, call_id: int, state: "State", send: "Callable[[bytes, Body], None]") -> None:
        self.call_id = call_id
        self.state = state
        # Sends a frame whole, behind what the call has printed.
        self.send = send
        # How many items of the answer may be sent, and were sent, from the first one on. Each is
        # written by one thread only.
        self.given = self.sent = 0
        # The thread of the event loop that reads the socket for all calls, if there is one.
        self.loop_thread = 0
        # Whether what runs there for a call on another thread may be interrupted.
        self.armed = False
        # The client's streams that the call can still read, by their numbers.
        self.inputs: "dict[int, Callable[[], Input | None]]" = {}

    def wait(self, is_ready: "Callable[[], object]") -> None:
        """Waits until something has come that may be what it is waited for.

        As user code does, it raises `Cancelled` when the call is interrupted. Only on the thread
        that the call runs on.
        """
        raise NotImplementedError

    async def awaited(self, is_ready: "Callable[[], object]") -> None:
        """The same on an event loop, which goes on meanwhile."""
        raise NotImplementedError

    def complete(self, coroutine: "Any") -> "Any":
        """What a coroutine gives on the event loop that all calls share."""
        raise NotImplementedError

    def ask(self, stream: int, items: int) -> None:
        """Lets the client send more of one of its streams. Called by user code."""
        state = self.state
        is_armed = state.armed
        try:
            # What is raised inside of a send would be lost.
            state.armed = False
            meta = _CREDIT.pack(stream, items)
            self.send(header_bytes(CREDIT, self.call_id, len(meta), 0), meta)
        finally:
            state.armed = is_armed
        if is_armed and state.interrupted == self.call_id:
            state.armed = False
            raise Cancelled

    def deliver(self, kind: int, meta: memoryview, payload: "Any") -> None:
        """Takes a frame that is for this call. What is given stays as it is."""
        if kind == CREDIT:
            if len(meta) != _CREDIT.size:
                raise ProtocolError("the meta of a credit has the wrong size")
            stream, items = _CREDIT.unpack(meta)
            if stream == 0:
                self.given += items
                if self.given - self.sent > STREAM_CREDIT_MAX:
                    raise ProtocolError(f"a credit of {self.given - self.sent} items is too much")
        elif kind == ITEM:
            if len(meta) != _ITEM.size:
                raise ProtocolError("the meta of an item has the wrong size")
            stream, index = _ITEM.unpack(meta)
            to = self._input(stream)
            if to is not None:
                is_alone = type(payload) is memoryview
                to.put(index, payload, len(payload) if is_alone else _bytes_with(payload))
        elif kind == ITEMS_END:
            text = meta[_ITEMS_END.size :]
            if len(meta) < _ITEMS_END.size or len(text) != _ITEMS_END.unpack_from(meta)[1]:
                raise ProtocolError("the meta of an end of items has the wrong size")
            (stream, _) = _ITEMS_END.unpack_from(meta)
            to = self._input(stream)
            if to is not None:
                to.end(str(text, "utf-8", "replace"))
        else:
            raise ProtocolError(f"kind {kind} is not for a call that runs")

    def _input(self, stream: int) -> "Input | None":
        """One of the client's streams; None if the call has forgotten it or never had it."""
        weak = self.inputs.get(stream)
        return None if weak is None else weak()


class _OnePort(Port):
    """That of the only call of a worker, which runs on the main thread."""

    __slots__ = ("_frames", "_recv", "_rest", "_sock", "_taken", "_waiters")

    def __init__(
        self,
        call_id: int,
        state: "State",
        sock: "socket",
        frames: "Iterator[Frame]",
        send: "Callable[[bytes, Body], None]",
        rest: "Callable[[], None]",
    ) -> None:
        super().__init__(call_id, state, send)
        self._rest = rest
        self._sock = sock
        self._recv = sock.recv
        self._frames: "Any" = frames
        # How many frames were taken, and the futures of those who wait for the next one.
        self._taken = 0
        self._waiters: "list[asyncio.Future[None]]" = []

    def wait(self, is_ready: "Callable[[], object]") -> None:
        """Waits for the next frame."""
        del is_ready
        self._check()
        if not self._is_buffered():
            try:
                # Takes nothing, so that whatever a signal handler raises here, nothing is lost.
                self._recv(1, MSG_PEEK)
            except OSError as error:
                if is_of_system(error) and isinstance(error, BlockingIOError):
                    # What calls before this one had has been kept for long enough.
                    self._rest()
                    return
                # A handler's `TimeoutError` is one, too; of a connection that is gone, reading
                # tells.
                if is_of_system(error) and not isinstance(error, ConnectionError):
                    raise _unreadable(error) from None
                if not is_of_system(error):
                    raise
        self._take_shielded()

    async def awaited(self, is_ready: "Callable[[], object]") -> None:
        """Waits for the next frame, whichever task takes it."""
        del is_ready
        self._check()
        taken = self._taken
        if not self._is_buffered():
            await self._readable()
        if taken == self._taken:
            self._take_shielded()

    def _check(self) -> None:
        """Nothing is waited for by a call that was interrupted: it would be for ever."""
        if self.state.interrupted == self.call_id:
            self.state.armed = False
            raise Cancelled

    async def _readable(self) -> None:
        """Waits until there is something to read, or another task has read."""
        loop: "asyncio.AbstractEventLoop" = _modules["asyncio"].get_running_loop()
        descriptor = self._sock.fileno()
        future = loop.create_future()
        try:
            # In the place of whoever waited before.
            loop.add_reader(descriptor, self._wake)
        except OSError as error:
            raise _unreadable(error) from None
        self._waiters.append(future)
        try:
            await future
        finally:
            if future in self._waiters:
                self._waiters.remove(future)
            if not self._waiters:
                loop.remove_reader(descriptor)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)

    def _is_buffered(self) -> bool:
        """Whether `receive_frames` has taken more from the socket than it has given out.

        This is how `inspect` looks at a generator. Asking it costs no other call anything.
        """
        frame = self._frames.gi_frame
        if frame is None:
            return True
        names = frame.f_locals
        is_buffered: bool = names["start"] != names["end"]
        if type(names) is dict:
            # A copy, until 3.12, which the frame keeps: also of the last payload.
            names.clear()
        return is_buffered

    def _take_shielded(self) -> None:
        """Takes a frame. An exception raised in the midst of it would cost all that follow."""
        state = self.state
        is_armed = state.armed
        try:
            state.armed = False
            if "signal" in _modules:
                mask = _sigmask(_BLOCK, ())
                try:
                    _sigmask(_BLOCK, _SIGNALS)
                    self._take()
                finally:
                    # Here the handler of a signal that came meanwhile may raise.
                    _sigmask(_SETMASK, mask)
            else:
                # Nobody has set a handler.
                self._take()
        except (Cancelled, ProtocolError):
            # The call is over.
            is_armed = False
            raise
        finally:
            self._taken += 1
            self._wake()
            state.armed = is_armed
        if is_armed:
            self._check()

    def _take(self) -> None:
        for kind, flags, _codec, call_id, meta, payload in self._frames:
            if call_id == self.call_id:
                self.deliver(kind, meta, kept(flags, meta, payload))
            elif kind == EXIT:
                break
            elif kind not in (CREDIT, ITEM, ITEMS_END):
                raise ProtocolError(f"kind {kind} is not for a worker that is busy")
            # Else it is for a call that is over.
            return
        try:
            # Also for the loop that waits for calls.
            self._sock.shutdown(SHUT_RD)
        except OSError:
            # It is closed, and reading tells.
            pass
        raise Cancelled("the daemon waits for this call no more")


def kept(flags: int, meta: memoryview, payload: "Any") -> "Any":
    """A payload that stays as it is when the next frame is received."""
    if not flags & FLAG_ATTACHED and len(meta) + len(payload) <= _SHARED_BYTES_MAX:
        return memoryview(bytes(payload))
    return payload


def _bytes_with(attached: "Attached") -> int:
    """What an item counts that something is attached to: all memory that it keeps."""
    count = len(attached.payload)
    for number in attached.descriptors:
        status = fstat(number)
        # A file in memory has no name; others, which ranges are of, take no memory of ours.
        size = 0 if status.st_nlink else status.st_size
        count += max(size, _DESCRIPTOR_BYTES)
    return count


def _unreadable(error: OSError) -> ProtocolError:
    return ProtocolError(f"the call socket cannot be read any more: {error}")
