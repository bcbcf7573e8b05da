"""What a call gets for an argument that is a stream: an iterator over what its caller sends.

It asks for items only when its call does, and for so many at once that the way to the caller and
back costs little. Loaded by the first call that has such an argument; `clutch.Stream` and
`clutch.StreamFailed` are for user code to name.
"""

from _thread import get_ident
from _weakref import ref
from collections import deque
from posix import getpid

from clutch._frames import CODEC_PLAIN, ProtocolError
from clutch._port import open_port
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque

    from clutch._call import State
    from clutch._port import Port
    from clutch._receive import Attached

__all__ = ["Stream", "StreamFailed", "open_input"]

# How many items may be here or under way: enough that the caller need not wait for credit, and
# few if they are large. How large they are, those that came tell, the last ones most: what an item
# counts fades by an eighth with each that follows, so that one that is large among many that are
# small does not slow them all.
_WINDOW = 64
_WINDOW_FIRST = 4
_WINDOW_MIN = 2
_WINDOW_BYTES = 16 << 20
_FADING = 8


class StreamFailed(Exception):
    """A stream that the caller feeds has broken off, or cannot be read where it is read."""


class Stream:
    """An iterator over what the caller sends, also for `async for`.

    It can be read once, by the call that was given it, on the thread that the call runs on.
    """

    __slots__ = (
        "__weakref__",
        "_allowed",
        "_asked",
        "_decode",
        "_failure",
        "_is_ended",
        "_items",
        "_largest",
        "_pid",
        "_port",
        "_received",
        "_stream",
        "_taken",
        "_thread",
    )

    def __init__(self, port: "Port", stream: int, decode: "Callable[[Any], Any]") -> None:
        self._port = port
        self._stream = stream
        self._decode = decode
        # What has come and was not taken yet.
        self._items: "Deque[Any]" = deque()
        # How many items were asked for, have come, and were taken. Each is written by one thread
        # only.
        self._asked = self._received = self._taken = 0
        # How many may come: also those whose asking a signal handler has broken off, maybe too late
        # for the caller not to hear of it.
        self._allowed = 0
        self._largest = 0
        self._is_ended = False
        self._failure = ""
        self._thread = get_ident()
        self._pid = getpid()

    def put(self, index: int, payload: "Any", payload_bytes: int) -> None:
        """Takes an item. Called by whoever reads the socket."""
        if index != self._received or self._is_ended:
            raise ProtocolError(f"item {index} of stream {self._stream} is not the next one")
        if index >= self._allowed:
            raise ProtocolError(f"item {index} of stream {self._stream} was not asked for")
        self._received += 1
        self._largest = max(self._largest - self._largest // _FADING, payload_bytes)
        self._items.append(payload)

    def end(self, failure: str) -> None:
        """There will be no more. Called by whoever reads the socket."""
        self._failure = failure
        self._is_ended = True

    def _is_ready(self) -> bool:
        return bool(self._items) or self._is_ended

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> "Any":
        items = self._items
        while not items:
            if self._is_ended and not items:
                self._ended()
                raise StopIteration
            self._check(is_async=False)
            self._ask()
            self._port.wait(self._is_ready)
        return self._take()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> "Any":
        items = self._items
        while not items:
            if self._is_ended and not items:
                self._ended()
                raise StopAsyncIteration
            self._check(is_async=True)
            self._ask()
            await self._port.awaited(self._is_ready)
        return self._take()

    def _take(self) -> "Any":
        port = self._port
        if port.state.running != port.call_id:
            raise self._over()
        payload = self._items.popleft()
        index = self._taken
        self._taken += 1
        if not self._is_ended and self._pid == getpid():
            self._ask()
        try:
            return self._decode(payload)
        except Exception as error:  # noqa: BLE001 - whatever a codec raises.
            reason = f"{type(error).__name__}: {error}"
        # Out here, and without the payload: whoever keeps the exception keeps neither the item nor
        # what was attached to it.
        del payload
        raise StreamFailed(f"item {index} of the stream cannot be decoded: {reason}")

    def _ask(self) -> None:
        """Asks for more, if half of what may be here or under way has been taken."""
        window = _WINDOW_FIRST
        if self._received:
            window = max(_WINDOW_MIN, min(_WINDOW, _WINDOW_BYTES // max(1, self._largest)))
        missing = window - (self._asked - self._taken)
        if missing >= (window + 1) // 2:
            # Before they can come, and after it is certain that they will.
            self._allowed += missing
            self._port.ask(self._stream, missing)
            self._asked += missing

    def _check(self, *, is_async: bool) -> None:
        """Whether it may be waited for the next item here."""
        port = self._port
        if port.state.running != port.call_id or self._pid != getpid():
            raise self._over()
        thread = get_ident()
        if not is_async and thread == port.loop_thread:
            raise StreamFailed("on the event loop, read the stream by `async for`")
        if thread not in (self._thread, port.loop_thread):
            raise StreamFailed("a stream is read on the thread that its call runs on")

    def _ended(self) -> None:
        if self._failure:
            raise StreamFailed(self._failure)

    def _over(self) -> StreamFailed:
        if self._pid != getpid():
            return StreamFailed("a forked child cannot read the stream; only its parent can")
        return StreamFailed("the call that was given the stream has ended")

    def __repr__(self) -> str:
        return f"<clutch.Stream {self._stream}>"


for _public in (Stream, StreamFailed):
    # As its users import it, and as a traceback shall name it.
    _public.__module__ = "clutch"


def open_input(line: "Any", state: "State", stream: int) -> Stream:
    """The iterator for a stream of the caller's. `line` is what the call's executor was given."""
    port = open_port(line, state.running, state)
    if stream in port.inputs:
        raise ValueError(f"stream {stream} is there twice")
    # Only `plain` can stand for streams.
    decode = load("clutch._plain").decode

    def decode_item(payload: "memoryview | Attached") -> "Any":
        return decode(payload) if type(payload) is memoryview else _decode(payload, state)

    opened = Stream(port, stream, decode_item)
    port.inputs[stream] = ref(opened)
    return opened


def _decode(payload: "Any", state: "State") -> "Any":
    """An item that something is attached to."""
    incoming = load("clutch._attached").Incoming(payload, state)
    incoming.is_item = True
    return incoming.decode(CODEC_PLAIN)
