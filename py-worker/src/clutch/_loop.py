"""The main thread's loop: take a call, run it, answer it, put things back in order, again.

Running is `_execute`'s, putting in order is `_stdio`'s; here is the order of things, and sending.
An answer is sent whole before the next call is looked at, so no finished result ever waits.
"""

from _socket import MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET
from _struct import pack

from clutch._control import die, disarm_timers, install_handler, is_of_system, report
from clutch._frames import CREDIT, EXIT, ITEM, ITEMS_END, RUN, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, Callable, Iterator

    from clutch._execute import Body, Executor
    from clutch._receive import Frame

__all__ = ["ancillary_of", "in_order", "make_send", "serve"]

# Up to here, joining header and body is cheaper than giving the system two buffers.
_JOINED_BYTES_MAX = 16 << 10

# How often a signal handler may disturb one step between two calls.
_ATTEMPTS_MAX = 10_000

_FLAGS = (MSG_NOSIGNAL,)
_NO_ANCILLARY = ((),)


def serve(
    frames: "Iterator[Frame]",
    send: "Callable[[bytes, Body], None]",
    executor: "Executor",
    flush: "Callable[[], None]",
    restore: "Callable[[], Callable[[], None] | None]",
) -> None:
    """Answers calls until the daemon says exit or closes the socket."""
    execute = executor.execute
    try:
        for kind, flags, codec, call_id, meta, payload in frames:
            if kind != RUN:
                if kind == EXIT:
                    return
                if kind in (CREDIT, ITEM, ITEMS_END):
                    # For a call that is over: what is attached goes now, not with the next frame.
                    del meta, payload
                    continue
                raise ProtocolError(f"kind {kind} is not for a worker")
            head, body = execute(flags, codec, call_id, meta, payload)
            # Before the answer, so that what a call printed is read as its own.
            flush()
            send(head, body)
            # Large arguments and results go before the wait for the next call, not after it.
            executor.kept = None
            del meta, payload, body
            changed = in_order(restore)
            if changed is not None:
                flush = executor.line[3] = changed
    except ProtocolError as error:
        die(f"on the call socket, {error}")
    except BaseException as error:  # noqa: BLE001 - a signal handler, between two steps.
        report(error)
        die(f"a signal handler raised {type(error).__name__} between two calls")


def in_order(
    restore: "Callable[[], Callable[[], None] | None]",
    hear_interrupts: "Callable[[], None]" = install_handler,
) -> "Callable[[], None] | None":
    """Undoes what a call left behind; a signal handler that raises meanwhile only delays it."""
    for _ in range(_ATTEMPTS_MAX):
        try:
            # First: without timers, handlers have less reason to run.
            disarm_timers()
            hear_interrupts()
            return restore()
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises.
            if is_of_system(error):
                die(f"a call closed descriptors of the worker ({error}); it can serve no other")
            report(error)
    return die("what a call left behind cannot be undone; no other call can be served")


def ancillary_of(descriptors: "list[int]") -> "tuple[tuple[int, int, bytes], ...]":
    """What `sendmsg` sends descriptors by."""
    if not descriptors:
        return ()
    return ((SOL_SOCKET, SCM_RIGHTS, pack(f"{len(descriptors)}i", *descriptors)),)


def make_send(sock: "socket") -> "Callable[[bytes, Body], None]":
    """A function that sends a frame whole. If it cannot, the worker ends: nobody listens."""
    send, sendmsg = sock.send, sock.sendmsg

    # How many bytes each of the sends took. Stored by the same C code that sends, so that a
    # signal handler which raises between two instructions here cannot make it be forgotten.
    counts: "list[int]" = []
    clear, extend = counts.clear, counts.extend

    def send_frame(head: bytes, body: "Body") -> None:
        clear()
        size = len(head) + len(body)
        data: "Any" = body
        ancillary: "Any" = None
        if size > _JOINED_BYTES_MAX:
            ancillary = _NO_ANCILLARY
            if not isinstance(body, (bytes, memoryview)):
                # Its descriptors are closed with it, when the caller lets go of it.
                ancillary = (ancillary_of(body.descriptors),)
                data = body.payload
                size = len(head) + len(data)
        for _ in range(_ATTEMPTS_MAX):
            try:
                if not counts:
                    if ancillary is None:
                        extend(map(send, (head + data,), _FLAGS))
                    else:
                        extend(map(sendmsg, ((head, data),), ancillary, _FLAGS))
                if counts[0] != size:
                    while sum(counts) < size:
                        sent = sum(counts)
                        parts = (head[sent:], data) if sent < len(head) else (data,)
                        rest = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
                        at = 0 if sent < len(head) else sent - len(head)
                        extend(map(send, (rest[at:],), _FLAGS))
                return
            except BaseException as error:  # noqa: BLE001 - whatever a signal handler raises.
                if is_of_system(error):
                    die(f"an answer could not be sent: {type(error).__name__}: {error}")
                report(error)
        die("an answer could not be sent: it is interrupted again and again")

    return send_frame
