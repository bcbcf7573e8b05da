"""The call socket on an event loop: frames in and out without ever waiting for either."""

from _socket import MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_NOSIGNAL
from binascii import crc32
from collections import deque

from clutch._control import die
from clutch._frames import FLAG_ATTACHED, HEADER, ProtocolError, check_header
from clutch._limits import HEADER_BYTES, META_BYTES_MAX, RECEIVE_BYTES
from clutch._loop import ancillary_of
from clutch._receive import ANCILLARY_BYTES, Arrivals, Attached

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from _socket import socket
    from typing import Callable, List, Optional, Tuple

    from clutch._execute import Body
    from clutch._outgoing import Outgoing
    from clutch._receive import Payload

    # kind, flags, codec, id, meta, payload, all for as long as one wants.
    Letter = Tuple[int, int, int, int, memoryview, Payload]

__all__ = ["Inbox", "Outbox"]

_FLAGS = MSG_DONTWAIT | MSG_CMSG_CLOEXEC


class Inbox:
    """Cuts what comes into frames."""

    def __init__(self, sock: "socket", payload_bytes_max: int) -> None:
        self._recvmsg_into = sock.recvmsg_into
        self._arrivals = Arrivals()
        self._length_max = payload_bytes_max + META_BYTES_MAX
        self._view = memoryview(bytearray(RECEIVE_BYTES))
        self._end = 0
        # A frame that does not fit there: its header, its bytes, and how many of them have come.
        self._head: "Tuple[int, ...]" = ()
        self._attached: "Optional[Attached]" = None
        self._whole: "Optional[memoryview]" = None
        self._filled = 0

    def read(self) -> "Optional[List[Letter]]":
        """The frames that are there now, without waiting; None when no more will come."""
        room = self._view[self._end :] if self._whole is None else self._whole[self._filled :]
        try:
            received, ancillary, flags, _ = self._recvmsg_into((room,), ANCILLARY_BYTES, _FLAGS)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        except OSError as error:
            raise ProtocolError(f"the call socket cannot be read any more: {error}") from None
        if ancillary or flags & MSG_CTRUNC:
            self._arrivals.waiting.append((ancillary, flags))
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
        letter = _letter(self._head, self._whole, self._attached)
        self._whole = self._attached = None
        return [letter]

    def _cut(self) -> "List[Letter]":
        letters: "List[Letter]" = []
        view, at, end = self._view, 0, self._end
        while end - at >= HEADER_BYTES:
            body = at + HEADER_BYTES
            fields = HEADER.unpack(view[at:body])
            check_header(fields, crc32(view[at : body - 4]), self._length_max)
            stop = body + fields[1]
            is_attached = fields[5] & FLAG_ATTACHED
            attached = None
            if is_attached:
                attached = Attached(view[:0], *self._arrivals.claim(fields[7]))
            if stop <= end:
                letters.append(_letter(fields, memoryview(bytes(view[body:stop])), attached))
                at = stop
                continue
            if is_attached or stop - at > RECEIVE_BYTES:
                self._head, self._attached = fields, attached
                self._whole = memoryview(bytearray(fields[1]))
                self._filled = end - body
                self._whole[: self._filled] = view[body:end]
                at = end
            break
        self._end = end - at
        if self._arrivals.waiting and not 0 < self._end < HEADER_BYTES:
            # What is left does not begin with them either.
            self._arrivals.refuse()
        if at and self._end:
            view[: self._end] = bytes(view[at:end])
        return letters


def _letter(
    fields: "Tuple[int, ...]", data: memoryview, attached: "Optional[Attached]"
) -> "Letter":
    _magic, _length, call_id, meta, kind, flags, codec, *_rest = fields
    if attached is not None:
        attached.payload = data[meta:]
    return kind, flags, codec, call_id, data[:meta], attached or data[meta:]


class Outbox:
    """Sends frames; what the socket does not take waits. That are as many as there are calls."""

    def __init__(self, sock: "socket", loop: "asyncio.AbstractEventLoop") -> None:
        self._send = sock.send
        self._sendmsg = sock.sendmsg
        self._descriptor = sock.fileno()
        self._loop = loop
        # With what travels beside the first byte, and is closed with it.
        self._waiting: "deque[Tuple[memoryview, Optional[Outgoing]]]" = deque()
        # Who is told when nothing waits any more.
        self._listeners: "list[Callable[[], object]]" = []

    def send(self, head: bytes, body: "Body") -> bool:
        """Sends a frame, behind those that wait. Whether it has gone out as a whole."""
        outgoing = None
        if not isinstance(body, (bytes, memoryview)):
            outgoing, body = body, body.payload
        data = memoryview(b"".join((head, body)))
        if not self._waiting:
            sent = self._sent(data, outgoing)
            if sent == len(data):
                return True
            data, outgoing = data[sent:], None if sent else outgoing
            self._loop.add_writer(self._descriptor, self._go_on)
        self._waiting.append((data, outgoing))
        return False

    def when_empty(self, listener: "Callable[[], object]") -> None:
        """Has somebody told, once, when nothing waits any more."""
        self._listeners.append(listener)

    def _sent(self, data: memoryview, outgoing: "Optional[Outgoing]") -> int:
        try:
            if outgoing is not None:
                ancillary = ancillary_of(outgoing.descriptors)
                return self._sendmsg((data,), ancillary, MSG_DONTWAIT | MSG_NOSIGNAL)
            return self._send(data, MSG_DONTWAIT | MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            return die(f"an answer could not be sent: {type(error).__name__}: {error}")

    def _go_on(self) -> None:
        while self._waiting:
            data, outgoing = self._waiting[0]
            sent = self._sent(data, outgoing)
            if sent < len(data):
                self._waiting[0] = data[sent:], None if sent else outgoing
                return
            self._waiting.popleft()
        self._loop.remove_writer(self._descriptor)
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()
