"""The control thread: answers pings and interrupts calls, whatever the main thread is doing.

It is started below `threading`, so that a program's own list of threads is the one a person's
python would have, and it does not keep the interpreter alive. It runs no user code: it tells the
main thread by a signal, whose handler (`_call.on_interrupt`) decides there, without a race.
"""

import _signal
import _thread
from binascii import crc32
from posix import _exit, write

from clutch._call import on_interrupt, state
from clutch._frames import HEADER, INTERRUPT, PING, PONG, ProtocolError, check_header, header_bytes
from clutch._limits import HEADER_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

__all__ = ["EXIT_CODE_BROKEN", "INTERRUPT_SIGNAL", "die", "install_handler", "start_control"]

# The usual code for an internal error (EX_SOFTWARE); no call can be served after it.
EXIT_CODE_BROKEN = 70

# A real-time signal that neither the C library (the first ones) nor common programs (the last
# ones) use. Systems without any get one of the two that are free for programs.
INTERRUPT_SIGNAL = int(getattr(_signal, "SIGRTMIN", _signal.SIGUSR2 - 11)) + 11

# Python code a few calls deep; a finalizer of user code may run here when memory is collected.
_STACK_BYTES = 512 << 10


def die(sentence: str) -> None:
    """Ends the process at once, without running anything of a user's."""
    try:
        write(2, f"clutch worker: {sentence}\n".encode("utf-8", "backslashreplace"))
    finally:
        _exit(EXIT_CODE_BROKEN)


def install_handler() -> None:
    """Lets the interrupt signal reach `on_interrupt`. Main thread only."""
    _signal.signal(INTERRUPT_SIGNAL, on_interrupt)


def start_control(sock: "socket") -> None:
    """Starts the control thread. It ends with its socket."""
    before = _thread.stack_size(_STACK_BYTES)
    try:
        _thread.start_new_thread(_serve, (sock, _thread.get_ident()))
    finally:
        _thread.stack_size(before)


def _serve(sock: "socket", main_thread: int) -> None:
    buffer = bytearray(HEADER_BYTES)
    view = memoryview(buffer)
    recv_into, sendall = sock.recv_into, sock.sendall
    filled = 0
    while True:
        try:
            received = recv_into(view[filled:])
            if not received:
                return
            filled += received
            if filled == HEADER_BYTES:
                filled = 0
                _handle(HEADER.unpack(buffer), crc32(view[:-4]), sendall, main_thread)
        except OSError:
            # The daemon is gone, or user code closed the socket. The call socket tells which.
            return
        except ProtocolError as error:
            die(f"on the control socket, {error}")
        except BaseException:  # noqa: BLE001, S112 - e.g. raised into every thread by user code.
            continue


def _handle(
    fields: "tuple[bytes, int, int, int, int, int, int, int, int, int]",
    computed: int,
    sendall: "object",
    main_thread: int,
) -> None:
    check_header(fields, computed, 0)
    call_id, kind = fields[2], fields[4]
    if kind == PING:
        sendall(header_bytes(PONG, call_id, 0, 0))  # type: ignore[operator]
    elif kind == INTERRUPT:
        # In this order: either the main thread sees the interrupt before it starts the call, or
        # it had started the call before we look.
        state.interrupted = call_id
        if state.running == call_id and _signal.getsignal(INTERRUPT_SIGNAL) is on_interrupt:
            _signal.pthread_kill(main_thread, INTERRUPT_SIGNAL)
    else:
        raise ProtocolError(f"kind {kind} is not for a worker")
