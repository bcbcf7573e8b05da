"""Receives frames from the call socket. What they mean is `_loop`'s business.

A blocking socket, a buffer of 64 KiB that most frames fit and are parsed in, and one buffer of the
exact size for each longer frame, allocated after its length was checked.
"""

from binascii import crc32

from clutch._control import is_of_system, report
from clutch._frames import (
    CODEC_RAW,
    FLAGS_KNOWN,
    HEADER,
    MAGIC,
    ProtocolError,
    check_header,
)
from clutch._limits import HEADER_BYTES, META_BYTES_MAX, RECEIVE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Callable, Iterator, Tuple, Union

    # kind, flags, codec, id, meta, payload. The views are valid until the next frame is asked for.
    Frame = Tuple[int, int, int, int, memoryview, memoryview]
    ReceiveInto = Callable[[Union[bytearray, memoryview]], int]

__all__ = ["receive_exactly", "receive_frames", "shielded"]


def shielded(sock: "socket") -> "ReceiveInto":
    """`sock.recv_into`, undisturbed by signal handlers that user code left behind.

    A handler that raises while the worker waits for its next call is reported and forgotten. It may
    run between two instructions here, also after bytes were taken. So their number is stored by
    the same C code that takes them, where no handler runs between.
    """
    recv_into = sock.recv_into
    counts: "list[int]" = []
    clear, extend = counts.clear, counts.extend

    def receive_into(buffer: "bytearray | memoryview") -> int:
        clear()
        while True:
            try:
                if not counts:
                    extend(map(recv_into, (buffer,)))
                return counts[0]
            except BaseException as error:  # noqa: BLE001 - whatever a handler raises.
                if not is_of_system(error):
                    report(error)
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


def receive_frames(receive_into: "ReceiveInto", payload_bytes_max: int) -> "Iterator[Frame]":
    """Every frame until the stream ends."""
    unpack = HEADER.unpack_from
    length_max = payload_bytes_max + META_BYTES_MAX
    buffer = bytearray(RECEIVE_BYTES)
    view = memoryview(buffer)
    start = end = 0
    while True:
        if start == end:
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
            or flags > FLAGS_KNOWN
            or codec > CODEC_RAW
        ):
            check_header(fields, computed, length_max)
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
