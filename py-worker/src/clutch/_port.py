"""What the daemon sends to a call that already runs: leave to send items, and items.

A *port* is where that arrives for one call. Here is what all modes have in common, and the port of
a call that has the worker for itself: there the main thread reads the call socket while it waits,
since nobody else does. Loaded by the first call that streams.
"""

import sys
from _socket import MSG_PEEK, SHUT_RD
from _struct import Struct

from clutch._call import Cancelled
from clutch._control import FOR_ANY_THREAD, is_of_system
from clutch._frames import CREDIT, EXIT, ITEM, ITEMS_END, ProtocolError
from clutch._limits import STREAM_CREDIT_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import signal as _signal
    from _socket import socket
    from typing import Any, Callable, Iterator, Protocol

    from clutch._call import State
    from clutch._receive import Frame

    class Input(Protocol):
        """A stream of the client's, as far as a port knows it."""

        def put(self, index: int, flags: int, codec: int, payload: memoryview) -> None: ...
        def end(self, failure: str) -> None: ...

else:
    import _signal

__all__ = ["Port", "open_port"]

_CREDIT = Struct("<II")
_ITEM = Struct("<IQ")
# What comes before the bytes of the text.
_ITEMS_END = Struct("<IQ")

_modules = sys.modules
_sigmask = _signal.pthread_sigmask
_BLOCK, _SETMASK = _signal.SIG_BLOCK, _signal.SIG_SETMASK
_SIGNALS = _signal.valid_signals() - FOR_ANY_THREAD


def open_port(line: "Any", call_id: int, state: "State") -> "Port":
    """The port of a call that is about to run. `line` is what its executor was given."""
    if type(line) is not list:
        opened: "Port" = line.open(call_id, state)
        return opened
    sock, frames, send, _flush = line

    def send_in_order(head: bytes, body: "bytes | memoryview") -> None:
        line[3]()
        send(head, body)

    return _OnePort(call_id, state, sock, frames, send_in_order)


class Port:
    """What has come for one call."""

    __slots__ = ("call_id", "credit", "inputs", "send", "state")

    def __init__(
        self, call_id: int, state: "State", send: "Callable[[bytes, bytes | memoryview], None]"
    ) -> None:
        self.call_id = call_id
        self.state = state
        # Sends a frame whole, behind what the call has printed.
        self.send = send
        # How many more items of the answer may be sent.
        self.credit = 0
        # The client's streams that the call still reads, by their numbers.
        self.inputs: "dict[int, Input]" = {}

    def wait(self) -> None:
        """Waits until something has come. Like user code, it is interrupted while it does."""
        raise NotImplementedError

    async def awaited(self) -> None:
        """The same on an event loop, which goes on meanwhile."""
        raise NotImplementedError

    def deliver(self, kind: int, flags: int, codec: int, meta: memoryview, data: "Any") -> None:
        """Takes a frame that is for this call."""
        if kind == CREDIT:
            if len(meta) != _CREDIT.size:
                raise ProtocolError("the meta of a credit has the wrong size")
            stream, items = _CREDIT.unpack(meta)
            if stream == 0:
                self.credit += items
                if self.credit > STREAM_CREDIT_MAX:
                    raise ProtocolError(f"a credit of {self.credit} items is too much")
        elif kind == ITEM:
            if len(meta) != _ITEM.size:
                raise ProtocolError("the meta of an item has the wrong size")
            stream, index = _ITEM.unpack(meta)
            if stream in self.inputs:
                self.inputs[stream].put(index, flags, codec, data)
        elif kind == ITEMS_END:
            text = meta[_ITEMS_END.size :]
            if len(meta) < _ITEMS_END.size or len(text) != _ITEMS_END.unpack_from(meta)[1]:
                raise ProtocolError("the meta of an end of items has the wrong size")
            (stream, _) = _ITEMS_END.unpack_from(meta)
            if stream in self.inputs:
                self.inputs[stream].end(str(text, "utf-8", "replace"))
        else:
            raise ProtocolError(f"kind {kind} is not for a call that runs")


class _OnePort(Port):
    """That of the only call of a worker, which runs on the main thread."""

    __slots__ = ("_frames", "_recv", "_sock")

    def __init__(
        self,
        call_id: int,
        state: "State",
        sock: "socket",
        frames: "Iterator[Frame]",
        send: "Callable[[bytes, bytes | memoryview], None]",
    ) -> None:
        super().__init__(call_id, state, send)
        self._sock = sock
        self._recv = sock.recv
        self._frames: "Any" = frames

    def wait(self) -> None:
        """Waits until something has come. Like user code, it is interrupted while it does."""
        if not self._is_buffered():
            try:
                # Takes nothing, so that whatever a signal handler raises here, nothing is lost.
                self._recv(1, MSG_PEEK)
            except OSError as error:
                # A handler's `TimeoutError` is one, too; of a connection that is gone, reading
                # tells.
                if is_of_system(error) and not isinstance(error, ConnectionError):
                    raise _unreadable(error) from None
                if not is_of_system(error):
                    raise
        self._take_shielded()

    async def awaited(self) -> None:
        """The same on an event loop, which goes on meanwhile."""
        if not self._is_buffered():
            await _readable(self._sock.fileno())
        self._take_shielded()

    def _is_buffered(self) -> bool:
        """Whether `receive_frames` has taken more from the socket than it has given out.

        This is how `inspect` looks at a generator. Asking it costs no other call anything.
        """
        frame = self._frames.gi_frame
        if frame is None:
            return True
        names = frame.f_locals
        return names["start"] != names["end"]

    def _take_shielded(self) -> None:
        """Takes a frame. An exception raised in the midst of it would cost all that follow."""
        state = self.state
        state.armed = False
        if "signal" in _modules:
            mask = _sigmask(_BLOCK, ())
            try:
                _sigmask(_BLOCK, _SIGNALS)
                self._take()
            finally:
                _sigmask(_SETMASK, mask)
        else:
            # Nobody has set a handler.
            self._take()
        state.armed = True
        if state.interrupted == self.call_id:
            state.armed = False
            raise Cancelled

    def _take(self) -> None:
        for kind, flags, codec, call_id, meta, payload in self._frames:
            if call_id == self.call_id:
                self.deliver(kind, flags, codec, meta, payload)
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


def _unreadable(error: OSError) -> ProtocolError:
    return ProtocolError(f"the call socket cannot be read any more: {error}")


async def _readable(descriptor: int) -> None:
    """Waits until there is something to read."""
    asyncio: "Any" = _modules["asyncio"]
    loop: "asyncio.AbstractEventLoop" = asyncio.get_running_loop()
    future = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    try:
        loop.add_reader(descriptor, wake)
    except OSError as error:
        raise _unreadable(error) from None
    try:
        await future
    finally:
        loop.remove_reader(descriptor)
