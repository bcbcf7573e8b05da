"""Receives frames from the call socket. What they mean is `_loop`'s business.

A blocking socket, a buffer of 64 KiB that most frames fit and are parsed in, and one buffer of the
exact size for each longer frame, allocated after its length was checked.

Descriptors come with the first byte of their frame, and wait in `Arrivals` until its header, which
says how many they are, has been read.
"""

from _socket import (
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    SCM_RIGHTS,
    SO_RCVTIMEO,
    SOL_SOCKET,
)
from _struct import Struct
from binascii import crc32
from posix import close
from time import monotonic

from clutch._control import is_of_system, report
from clutch._frames import (
    CODEC_RAW,
    FLAG_ATTACHED,
    FLAGS_INLINE,
    HEADER,
    MAGIC,
    ProtocolError,
    check_header,
)
from clutch._limits import DESCRIPTORS_MAX, HEADER_BYTES, META_BYTES_MAX, RECEIVE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

    # kind, flags, codec, id, meta, payload. The views are valid until the next frame is asked for;
    # those of a frame with the flag ATTACHED for as long as one wants.
    Payload = Union[memoryview, "Attached"]
    Frame = Tuple[int, int, int, int, memoryview, Payload]
    ReceiveInto = Callable[[Union[bytearray, memoryview]], int]
    # What a `recvmsg` gave beside the bytes: ancillary data, and flags.
    Arrival = Tuple[List[Tuple[int, int, bytes]], int]

__all__ = [
    "ANCILLARY_BYTES",
    "Arrivals",
    "Attached",
    "close_all",
    "receive_exactly",
    "receive_frames",
    "shielded",
]

ANCILLARY_BYTES = CMSG_SPACE(4 * DESCRIPTORS_MAX)

_SPACE = (ANCILLARY_BYTES,)
_FLAGS = (MSG_CMSG_CLOEXEC,)

_timeval = Struct("@ll").pack
# How long maps of shared memory are kept for the next call that has the same. Mapping and faulting
# in again costs more than twice what a pass over the memory does (measured: 100 MB, 13 ms of 20).
_REST_AFTER_US = 200_000
_FOR_EVER = _timeval(0, 0)
# And how long while calls come that have others, or none. Their sender may have let go of them.
_KEPT_S = 1.0
# What came with nothing: waits among what came while maps are kept, so that whoever looks there
# before it waits looks at them too, and while there are none has nothing more to look at.
_REMINDER: "Arrival" = ([], 0)


class Attached:
    """A payload with the flag ATTACHED, and its frame's descriptors.

    Whoever uses the descriptors takes them out. Those that are left are closed with it.
    """

    __slots__ = ("arrivals", "descriptors", "is_cut", "payload")

    def __init__(
        self,
        payload: memoryview,
        descriptors: "list[int]",
        is_cut: bool,
        arrivals: "Optional[Arrivals]" = None,
    ) -> None:
        # Where maps of shared memory wait for the next call, if they do.
        self.arrivals = arrivals
        self.payload = payload
        self.descriptors = descriptors
        # Whether the system had no room for all of them in this process.
        self.is_cut = is_cut

    def __del__(self) -> None:
        close_all(self.descriptors)


class Arrivals:
    """What comes beside bytes: descriptors that no header has claimed yet.

    And maps of shared memory that the last call had, until no call has come for a while. With the
    socket that those who wait for calls read; without it no maps are kept.
    """

    def __init__(self, sock: "Optional[socket]" = None) -> None:
        # By the `recvmsg` each, as it gave them.
        self.waiting: "list[Arrival]" = []
        self.maps: "Dict[Tuple[int, int, bool], Any]" = {}
        self._sock = sock
        self._kept_until = 0.0

    def keep(self, maps: "Dict[Tuple[int, int, bool], Any]") -> None:
        """Keeps maps in the place of those that were kept. Called by whoever runs a call."""
        if self._sock is not None:
            # In this order: whoever reads may be at the opposite. That it wakes up once too often
            # does not matter.
            self._kept_until = monotonic() + _KEPT_S
            self.maps = maps
            if _REMINDER not in self.waiting:
                # In front: who reads looks at what came last.
                self.waiting.insert(0, _REMINDER)
            self._sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _timeval(0, _REST_AFTER_US))

    def rest(self) -> None:
        """Lets go of them: no call has come, and whoever waits now waits for ever."""
        if self._sock is not None:
            self.maps = {}
            self._sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _FOR_EVER)
            # What was kept meanwhile, with a timeout that is gone.
            self.maps = {}

    def _look(self) -> None:
        """Lets go of maps that no call has had for long."""
        if self.maps and monotonic() >= self._kept_until:
            self.maps = {}
        while _REMINDER in self.waiting:
            self.waiting.remove(_REMINDER)
        # Whoever keeps maps meanwhile looks for it after that.
        if self.maps:
            self.waiting.insert(0, _REMINDER)

    def __del__(self) -> None:
        for ancillary, _ in self.waiting:
            close_all(_numbers(ancillary))

    def claim(self, count: int) -> "tuple[list[int], bool]":
        """The descriptors of the frame that has just begun, and whether some are missing."""
        numbers: "list[int]" = []
        is_cut = False
        while self.waiting and len(numbers) < count and not is_cut:
            ancillary, flags = self.waiting.pop(0)
            is_cut = flags & MSG_CTRUNC != 0
            numbers += _numbers(ancillary)
        self._look()
        if len(numbers) > count or (len(numbers) < count and not is_cut):
            close_all(numbers)
            raise ProtocolError(f"a frame announces {count} descriptors, not {len(numbers)}")
        return numbers, is_cut

    def refuse(self) -> None:
        """Closes what belongs to no frame, if there is any: it came with a byte of none."""
        self._look()
        if not self.waiting or self.waiting == [_REMINDER]:
            return
        count = 0
        while self.waiting:
            numbers = _numbers(self.waiting.pop()[0])
            count += len(numbers)
            close_all(numbers)
        raise ProtocolError(f"{count} descriptors came with a frame that announces none")


def _numbers(ancillary: "list[tuple[int, int, bytes]]") -> "list[int]":
    numbers: "list[int]" = []
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            numbers += memoryview(data)[: len(data) // 4 * 4].cast("i")
    return numbers


def close_all(numbers: "list[int]") -> None:
    """Closes descriptors, and forgets their numbers."""
    while numbers:
        try:
            close(numbers.pop())
        except OSError:
            # User code closed it before.
            pass


def shielded(sock: "socket", arrivals: Arrivals) -> "ReceiveInto":
    """`sock.recvmsg_into`, undisturbed by signal handlers that user code left behind.

    A handler that raises while the worker waits for its next call is reported and forgotten. It may
    run between two instructions here, also after bytes were taken. So their number is stored by
    the same C code that takes them, where no handler runs between; and so are descriptors.
    """
    recvmsg_into = sock.recvmsg_into
    waiting = arrivals.waiting
    results: "list[Any]" = []
    clear, extend = results.clear, results.extend

    def receive_into(buffer: "bytearray | memoryview") -> int:
        clear()
        while True:
            try:
                if not results:
                    extend(map(recvmsg_into, ((buffer,),), _SPACE, _FLAGS))
                size, ancillary, flags, _ = results[0]
                if (ancillary or flags & MSG_CTRUNC) and not (
                    # Unless a handler has disturbed this after it was done.
                    waiting and waiting[-1][0] is ancillary
                ):
                    waiting.append((ancillary, flags))
                return size
            except BaseException as error:  # noqa: BLE001 - whatever a handler raises.
                if not is_of_system(error):
                    report(error)
                elif isinstance(error, BlockingIOError):
                    try:
                        arrivals.rest()
                    except BaseException as disturbance:  # noqa: BLE001 - as above.
                        report(disturbance)
                elif isinstance(error, ConnectionError):
                    return 0
                else:
                    message = f"the call socket cannot be read any more: {error}"
                    raise ProtocolError(message) from None

    return receive_into


def receive_exactly(receive_into: "ReceiveInto", size: int) -> "memoryview | None":
    """The next bytes, or None when the stream ends before the first of them."""
    view = memoryview(bytearray(size))
    filled = 0
    while filled < size:
        received = receive_into(view[filled:])
        if not received:
            if filled:
                raise ProtocolError("the stream ended inside a frame")
            return None
        filled += received
    return view


def receive_frames(
    receive_into: "ReceiveInto", payload_bytes_max: int, arrivals: Arrivals
) -> "Iterator[Frame]":
    """Every frame until the stream ends."""
    unpack = HEADER.unpack_from
    length_max = payload_bytes_max + META_BYTES_MAX
    waiting = arrivals.waiting
    buffer = bytearray(RECEIVE_BYTES)
    view = memoryview(buffer)
    start = end = 0
    while True:
        if start == end:
            if waiting:
                arrivals.refuse()
            start = 0
            end = receive_into(buffer)
            if not end:
                return
        if end - start < HEADER_BYTES:
            start, end = _fill(view, start, end, HEADER_BYTES, receive_into)
        fields = unpack(buffer, start)
        magic, length, call_id, meta_bytes, kind, flags, codec, descriptors, reserved, crc = fields
        body = start + HEADER_BYTES
        computed = crc32(view[start : body - 4])
        if (
            magic != MAGIC
            or crc != computed
            or length > length_max
            or meta_bytes > length
            or meta_bytes > META_BYTES_MAX
            or descriptors
            or reserved
            or flags > FLAGS_INLINE
            or codec > CODEC_RAW
        ):
            check_header(fields, computed, length_max)
            if flags & FLAG_ATTACHED:
                numbers, is_cut = arrivals.claim(descriptors)
                attached = Attached(view[:0], numbers, is_cut, arrivals)
                whole = memoryview(bytearray(length))
                start = body + _move(view[body : min(end, body + length)], whole)
                if start == end:
                    _fill(whole, 0, start - body, length, receive_into)
                attached.payload = whole[meta_bytes:]
                yield kind, flags, codec, call_id, whole[:meta_bytes], attached
                del whole, attached, numbers
                continue
        stop = body + length
        if stop <= end:
            start = stop
        elif length <= RECEIVE_BYTES - HEADER_BYTES:
            start, end = _fill(view, start, end, HEADER_BYTES + length, receive_into)
            body = start + HEADER_BYTES
            start = stop = body + length
        else:
            whole = memoryview(bytearray(length))
            _fill(whole, 0, _move(view[body:end], whole), length, receive_into)
            start = end = 0
            yield kind, flags, codec, call_id, whole[:meta_bytes], whole[meta_bytes:]
            del whole
            continue
        middle = body + meta_bytes
        yield kind, flags, codec, call_id, view[body:middle], view[middle:stop]


def _move(source: memoryview, target: memoryview) -> int:
    size = len(source)
    target[:size] = source
    return size


def _fill(
    view: memoryview, start: int, end: int, size: int, receive_into: "ReceiveInto"
) -> "tuple[int, int]":
    """Moves `start..end` to the front, and receives until `size` bytes are there."""
    if start:
        end = _move(memoryview(bytes(view[start:end])), view)
    while end < size:
        received = receive_into(view[end:])
        if not received:
            raise ProtocolError("the stream ended inside a frame")
        end += received
    return 0, end
