"""The main thread's loop: take a call, run it, answer it, put things back in order, again.

Running is `_execute`'s, putting in order is `_stdio`'s; here is the order of things, and sending.
An answer is sent whole before the next call is looked at, so no finished result ever waits.
"""

from _socket import MSG_NOSIGNAL

from clutch._control import die, install_handler
from clutch._frames import EXIT, RUN, ProtocolError
from clutch._stdio import make_flush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Callable, Iterator

    from clutch._execute import Executor
    from clutch._receive import Frame

__all__ = ["make_send", "serve"]

# Up to here, joining header and body is cheaper than giving the system two buffers.
_JOINED_BYTES_MAX = 16 << 10


def serve(
    frames: "Iterator[Frame]",
    send: "Callable[[bytes, bytes | memoryview], None]",
    executor: "Executor",
    restore: "Callable[[], Callable[[], None] | None]",
) -> None:
    """Answers calls until the daemon says exit or closes the socket."""
    execute = executor.execute
    flush = make_flush()
    try:
        for kind, flags, codec, call_id, meta, payload in frames:
            if kind != RUN:
                if kind == EXIT:
                    return
                raise ProtocolError(f"kind {kind} is not for a worker")
            head, body = execute(flags, codec, call_id, meta, payload)
            # Before the answer, so that what a call printed is read as its own.
            flush()
            send(head, body)
            # Large arguments and results go before the wait for the next call, not after it.
            del meta, payload, body
            changed = restore()
            if changed is not None:
                flush = changed
            install_handler()
    except ProtocolError as error:
        die(f"on the call socket, {error}")
    except OSError as error:
        die(f"a call closed descriptors of the worker ({error}); no other call can be served")


def make_send(sock: "socket") -> "Callable[[bytes, bytes | memoryview], None]":
    """A function that sends a frame whole. If it cannot, the worker ends: nobody listens."""
    send, sendmsg = sock.send, sock.sendmsg

    def send_frame(head: bytes, body: "bytes | memoryview") -> None:
        size = len(head) + len(body)
        try:
            if size <= _JOINED_BYTES_MAX:
                sent = send(head + body, MSG_NOSIGNAL)
            else:
                sent = sendmsg((head, body), (), MSG_NOSIGNAL)
            if sent != size:
                rest = memoryview(b"".join((head, body)) if sent < len(head) else body)
                at = sent if sent < len(head) else sent - len(head)
                while at < len(rest):
                    at += send(rest[at:], MSG_NOSIGNAL)
        except BaseException as error:  # noqa: BLE001 - also what a user's signal handler raises.
            die(f"an answer could not be sent: {type(error).__name__}: {error}")

    return send_frame
