"""The call socket on an event loop: frames in and out without ever waiting for either."""

from _socket import MSG_DONTWAIT, MSG_NOSIGNAL
from binascii import crc32
from collections import deque

from clutch._control import die
from clutch._frames import HEADER, ProtocolError, check_header
from clutch._limits import HEADER_BYTES, META_BYTES_MAX, RECEIVE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from _socket import socket
    from typing import Callable, List, Optional, Tuple

    # kind, flags, codec, id, meta, payload, all for as long as one wants.
    Letter = Tuple[int, int, int, int, memoryview, memoryview]

__all__ = ["Inbox", "Outbox"]


class Inbox:
    """Cuts what comes into frames."""

    def __init__(self, sock: "socket", payload_bytes_max: int) -> None:
        self._recv_into = sock.recv_into
        self._length_max = payload_bytes_max + META_BYTES_MAX
        self._view = memoryview(bytearray(RECEIVE_BYTES))
        self._end = 0
        # A frame that does not fit there: its header, its bytes, and how many of them have come.
        self._head: "Tuple[int, ...]" = ()
        self._whole: "Optional[memoryview]" = None
        self._filled = 0

    def read(self) -> "Optional[List[Letter]]":
        """The frames that are there now, without waiting; None when no more will come."""
        room = self._view[self._end :] if self._whole is None else self._whole[self._filled :]
        try:
            received = self._recv_into(room, 0, MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        except OSError as error:
            raise ProtocolError(f"the call socket cannot be read any more: {error}") from None
        if not received:
            if self._end or self._whole is not None:
                raise ProtocolError("the stream ended inside a frame")
            return None
        if self._whole is None:
            self._end += received
            return self._cut()
        self._filled += received
        if self._filled < len(self._whole):
            return []
        letter = _letter(self._head, self._whole)
        self._whole = None
        return [letter]

    def _cut(self) -> "List[Letter]":
        letters: "List[Letter]" = []
        view, at, end = self._view, 0, self._end
        while end - at >= HEADER_BYTES:
            body = at + HEADER_BYTES
            fields = HEADER.unpack(view[at:body])
            check_header(fields, crc32(view[at : body - 4]), self._length_max)
            stop = body + fields[1]
            if stop <= end:
                letters.append(_letter(fields, memoryview(bytes(view[body:stop]))))
                at = stop
                continue
            if stop - at > RECEIVE_BYTES:
                self._head, self._whole = fields, memoryview(bytearray(fields[1]))
                self._filled = end - body
                self._whole[: self._filled] = view[body:end]
                at = end
            break
        self._end = end - at
        if at and self._end:
            view[: self._end] = bytes(view[at:end])
        return letters


def _letter(fields: "Tuple[int, ...]", data: memoryview) -> "Letter":
    _magic, _length, call_id, meta, kind, flags, codec, *_rest = fields
    return kind, flags, codec, call_id, data[:meta], data[meta:]


class Outbox:
    """Sends frames; what the socket does not take waits. That are as many as there are calls."""

    def __init__(self, sock: "socket", loop: "asyncio.AbstractEventLoop") -> None:
        self._send = sock.send
        self._descriptor = sock.fileno()
        self._loop = loop
        self._waiting: "deque[memoryview]" = deque()
        # Who is told when nothing waits any more.
        self._listeners: "list[Callable[[], object]]" = []

    def send(self, head: bytes, body: "bytes | memoryview") -> bool:
        """Sends a frame, behind those that wait. Whether it has gone out as a whole."""
        data = memoryview(b"".join((head, body)))
        if not self._waiting:
            data = data[self._sent(data) :]
            if not data:
                return True
            self._loop.add_writer(self._descriptor, self._go_on)
        self._waiting.append(data)
        return False

    def when_empty(self, listener: "Callable[[], object]") -> None:
        """Has somebody told, once, when nothing waits any more."""
        self._listeners.append(listener)

    def _sent(self, data: memoryview) -> int:
        try:
            return self._send(data, MSG_DONTWAIT | MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            return die(f"an answer could not be sent: {type(error).__name__}: {error}")

    def _go_on(self) -> None:
        while self._waiting:
            data = self._waiting[0]
            sent = self._sent(data)
            if sent < len(data):
                self._waiting[0] = data[sent:]
                return
            self._waiting.popleft()
        self._loop.remove_writer(self._descriptor)
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()
