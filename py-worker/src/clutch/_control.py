"""The control thread: answers pings and interrupts calls, whatever the main thread is doing.

It is started below `threading`, so that a program's own list of threads is the one a person's
python would have, and it does not keep the interpreter alive. It runs no user code: it tells the
main thread by a signal, whose handler (`_call.on_interrupt`) decides there, without a race.
"""

import _thread
import sys
from _socket import MSG_PEEK, MSG_WAITALL
from binascii import crc32
from faulthandler import dump_traceback
from posix import _exit, write

from clutch._call import on_interrupt, state
from clutch._frames import (
    HEADER,
    INTERRUPT,
    PING,
    PONG,
    STACK,
    WARN,
    ProtocolError,
    check_header,
    header_bytes,
)
from clutch._limits import HEADER_BYTES
from clutch._pristine import load, pristine_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from _socket import socket
    from typing import Callable, NoReturn
else:
    # The module below `signal`, which makes enums of all its numbers and takes its time.
    import _signal

__all__ = [
    "EXIT_CODE_BROKEN",
    "FOR_ANY_THREAD",
    "INTERRUPT_SIGNAL",
    "STACK_SIGNAL",
    "complain_to",
    "die",
    "disarm_timers",
    "install_handler",
    "is_of_system",
    "report",
    "start_control",
]

# The usual code for an internal error (EX_SOFTWARE); no call can be served after it.
EXIT_CODE_BROKEN = 70

# A real-time signal that neither the C library (the first ones) nor common programs (the last
# ones) use. Systems without any get one of the two that are free for programs.
_REAL_TIME = getattr(_signal, "SIGRTMIN", None)
INTERRUPT_SIGNAL = int(_signal.SIGUSR2 if _REAL_TIME is None else _REAL_TIME + 11)

# At which `faulthandler` writes the stacks of all threads; the guardian sends it.
STACK_SIGNAL = int(_signal.SIGXFSZ if _REAL_TIME is None else _REAL_TIME + 12)

# What the control thread does not block: its own faults, and the signal for stacks. A signal to the
# process that the main thread has blocked, to wait for it, must not find another thread to run in.
FOR_ANY_THREAD = {
    int(_signal.SIGSEGV),
    int(_signal.SIGBUS),
    int(_signal.SIGFPE),
    int(_signal.SIGILL),
    int(_signal.SIGABRT),
    int(_signal.SIGTRAP),
    int(_signal.SIGSYS),
    STACK_SIGNAL,
}

_getsignal = _signal.getsignal
_pthread_sigmask = _signal.pthread_sigmask
_pthread_kill = _signal.pthread_kill
_getitimer, _setitimer = _signal.getitimer, _signal.setitimer
_TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
_UNSET = (0.0, 0.0)
_modules = sys.modules

# How long to wait for the handler before the signal is sent again; half a second in all.
_RESEND_AFTER_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05, 0.1, 0.1, 0.15)

# Python code a few calls deep; a finalizer of user code may run here when memory is collected.
_STACK_BYTES = 512 << 10


def die(sentence: str) -> "NoReturn":
    """Ends the process at once, without running anything of a user's."""
    data = f"clutch worker: {sentence}\n".encode("utf-8", "backslashreplace")
    try:
        for descriptor in _complaints:
            try:
                write(descriptor, data)
            except OSError:
                continue
            break
    finally:
        _exit(EXIT_CODE_BROKEN)


def is_of_system(error: BaseException) -> bool:
    """Whether a system call failed. A handler's `TimeoutError` is an OSError without a number."""
    return isinstance(error, OSError) and error.errno is not None


def report(error: BaseException) -> None:
    """Says that a signal handler of user code raised between two calls, and goes on."""
    try:
        # Before the next time: a timer may be quicker than this.
        disarm_timers()
        with pristine_imports:
            text = load("clutch._errors").format_traceback(error, ())
        sys.stderr.write(f"clutch worker: a signal handler raised between two calls\n{text}")
    except BaseException:  # noqa: BLE001, S110 - it may raise again meanwhile.
        pass


def complain_to(descriptor: int) -> None:
    """Where `die` tries to write first: a copy of standard error, which user code may close."""
    _complaints.insert(0, descriptor)


_complaints = [2]


def install_handler() -> None:
    """Lets the interrupt signal reach `on_interrupt`, if it does not. Main thread only."""
    if _getsignal(INTERRUPT_SIGNAL) is not on_interrupt:
        _signal.signal(INTERRUPT_SIGNAL, on_interrupt)


def disarm_timers() -> None:
    """Stops what `signal.alarm` and `setitimer` left running, so that it hits no later call.

    Asking costs three system calls, so nobody asks in a worker where nothing that can set a timer
    was ever imported.
    """
    if "signal" in _modules or "_ctypes" in _modules:
        for timer in _TIMERS:
            if _getitimer(timer) != _UNSET:
                _setitimer(timer, 0)


def start_control(sock: "socket", stack_fd: int, keep: object) -> None:
    """Starts the control thread, which listens as long as its socket lives.

    It writes stacks to `stack_fd` when it is asked for them. It holds the interpreter then, so no
    thread can change its frames meanwhile, as it can when a signal handler looks at them.
    It never ends, and so never lets go of `keep`, not even while the interpreter is taken down.
    """
    before = _thread.stack_size(_STACK_BYTES)
    # It inherits what is blocked here now.
    mask = _pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - FOR_ANY_THREAD)
    try:
        _thread.start_new_thread(_run, (sock, _thread.get_ident(), stack_fd, keep))
    finally:
        _pthread_sigmask(_signal.SIG_SETMASK, mask)
        _thread.stack_size(before)


def _run(sock: "socket", main_thread: int, stack_fd: int, keep: object) -> None:
    _serve(sock, main_thread, stack_fd)
    for_ever = _thread.allocate_lock()
    for_ever.acquire()
    while keep is not None:
        try:
            for_ever.acquire()
        except BaseException:  # noqa: BLE001, S112 - user code may throw into any thread.
            continue


def _serve(sock: "socket", main_thread: int, stack_fd: int) -> None:
    view = memoryview(bytearray(HEADER_BYTES))
    recv_into, sendall = sock.recv_into, sock.sendall
    while True:
        try:
            # A frame is looked at before it is taken, so that an exception which user code throws
            # into this thread can make it be handled twice, but never be lost.
            received = recv_into(view, HEADER_BYTES, MSG_PEEK | MSG_WAITALL)
            if received != HEADER_BYTES:
                # The daemon closed it. What that means, the call socket tells the main thread.
                return
            _handle(HEADER.unpack(view), crc32(view[:-4]), sendall, main_thread, stack_fd)
            recv_into(view, HEADER_BYTES)
        except OSError:
            # The daemon is gone, or user code closed the socket. As above.
            return
        except ProtocolError as error:
            die(f"on the control socket, {error}")
        except BaseException:  # noqa: BLE001, S112 - see above.
            continue


def _interrupt(call_id: int, main_thread: int) -> None:
    """Signals the main thread until its handler has run, within a bound.

    Once is not always enough: a signal that comes just before a system call, after Python has
    looked for signals, does not wake that call, and only the next one does.
    """
    pause = _thread.allocate_lock()
    pause.acquire()
    for seconds in _RESEND_AFTER_S:
        if not (state.armed and state.running == call_id):
            return
        if _getsignal(INTERRUPT_SIGNAL) is not on_interrupt:
            return
        _pthread_kill(main_thread, INTERRUPT_SIGNAL)
        # Nobody releases the lock: this waits for as long as it says.
        pause.acquire(True, seconds)


def _handle(
    fields: "tuple[bytes, int, int, int, int, int, int, int, int, int]",
    computed: int,
    sendall: "Callable[[bytes], None]",
    main_thread: int,
    stack_fd: int,
) -> None:
    check_header(fields, computed, 0)
    call_id, kind = fields[2], fields[4]
    if kind == PING:
        sendall(header_bytes(PONG, call_id, 0, 0))
    elif state.lanes is not None and kind in (INTERRUPT, WARN):
        state.lanes.hear(call_id, kind == INTERRUPT)
    elif kind == INTERRUPT:
        # In this order: either the main thread sees the interrupt before it starts the call, or
        # it had started the call before we look.
        state.interrupted = call_id
        _interrupt(call_id, main_thread)
    elif kind == WARN:
        state.warned = call_id
        call = state.call
        if call is not None:
            # A thread that holds the object must still see it when the next call runs.
            _ = call.cancelled
    elif kind == STACK:
        try:
            if state.lanes is not None:
                write(stack_fd, state.lanes.told().encode("utf-8", "replace"))
            dump_traceback(stack_fd)
            write(stack_fd, b"(all)\n")
        except OSError:
            # The pipe is full or closed. Whoever asked does not wait for ever.
            pass
    else:
        raise ProtocolError(f"kind {kind} is not for a worker")
