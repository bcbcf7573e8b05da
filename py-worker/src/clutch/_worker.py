"""A worker's life: become what a person's python is, say so, serve calls, end like any python.

```text
   daemon                                   worker (this process's main thread)
     │ ── Setup ─────────────────────────►  sys.argv, sys.path, __main__            (_setup)
     │                                      preload, main, initializer, warm        (_warmup)
     │ ◄─ Ready, or Failed and exit 1 ────
     │ ── Run ───────────────────────────►  execute                                 (_execute)
     │ ◄─ Result or Failed ───────────────
     │ ── Exit, or end of stream ────────►  atexit handlers, exit 0
     ┊
     │ ── Ping, Interrupt ───────────────►  the control thread, on its own socket   (_control)
     │ ◄─ Pong ───────────────────────────
     │ ◄─ Imports ────────────────────────  while a start is slow                       (_imports)
     │ ◄─ Log ────────────────────────────  any thread, if the pool asks for it         (_logging)
```
"""

import faulthandler
import sys
from _socket import AF_UNIX, MSG_PEEK, SO_RCVTIMEO, SOCK_STREAM, SOL_SOCKET, socket
from _struct import Struct
from posix import close, getpid, register_at_fork

from clutch import _pristine
from clutch._call import no_page, state
from clutch._control import (
    STACK_SIGNAL,
    complain_to,
    die,
    install_handler,
    start_control,
)
from clutch._execute import Executor
from clutch._frames import (
    FAILED,
    HEADER,
    MODE_ONE,
    MODE_SUBINTERPRETERS,
    READY,
    SETUP,
    ProtocolError,
    Setup,
    check_header,
    crc32,
    decode_setup,
    encode_ready,
    header_bytes,
)
from clutch._limits import HEADER_BYTES, META_BYTES_MAX
from clutch._loop import make_send, serve
from clutch._page import map_page
from clutch._receive import Arrivals, receive_exactly, receive_frames, shielded
from clutch._setup import become, load_main
from clutch._stdio import PrivateDescriptors, line_buffered, make_flush, make_restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from clutch._receive import ReceiveInto

__all__ = ["load_user_code", "run"]

_EXIT_CODE_START_FAILED = 1
_import = __import__
_timeval = Struct("@ll").pack
# How long a fresh worker may be idle before it loads what its first `plain` call needs.
_WARM_AFTER_US = 20_000


def run(here: str, pristine: "list[str]", inherited: "list[str]") -> int:
    """Lives. Returns the exit code, for the interpreter's own way to end."""
    call_fd, control_fd, page_fd, stack_fd = map(int, sys.argv[1:5])
    call = socket(AF_UNIX, SOCK_STREAM, 0, call_fd)
    control = socket(AF_UNIX, SOCK_STREAM, 0, control_fd)
    _pristine.configure(pristine)
    descriptors = PrivateDescriptors(max(call_fd, control_fd, page_fd, stack_fd))
    descriptors.report_stacks(stack_fd, STACK_SIGNAL)
    state.page = map_page(page_fd)
    complain_to(descriptors.stdio[2])
    line_buffered()
    try:
        return _live(call, control, descriptors, stack_fd, here, inherited)
    finally:
        # Closed when the process ends and no sooner, so that the daemon sees one thing, its end.
        call.detach()
        control.detach()


def _live(
    call: socket,
    control: socket,
    descriptors: PrivateDescriptors,
    stack_fd: int,
    here: str,
    inherited: "list[str]",
) -> int:
    arrivals = Arrivals(call)
    receive_into = shielded(call, arrivals)
    send = make_send(call)
    try:
        setup = _receive_setup(receive_into)
    except ProtocolError as error:
        die(f"on the call socket, {error}")
    if setup is None:
        return 0
    state.pool, state.slot, state.generation = setup.pool, setup.slot, setup.generation
    state.control = control
    Executor.attached_bytes_max = setup.attached_bytes_max
    become(setup, here, inherited)
    install_handler()
    start_control(control, stack_fd, state.page)
    register_at_fork(after_in_child=_leave_parent(call, control, descriptors, stack_fd))
    if setup.mode == MODE_SUBINTERPRETERS:
        given = {"here": here, "inherited": inherited, "stack": stack_fd}
        given.update(call=call.fileno(), control=control.fileno())
        mode = _pristine.load("clutch._subinterpreters")
        return mode.live(setup, call, send, descriptors, given, _ready())
    lanes = None
    if setup.mode != MODE_ONE:
        lanes = state.lanes = _pristine.load("clutch._lanes").prepare(setup, descriptors.beyond())
    forwarder = None
    if setup.log_level:
        forwarder = _pristine.load("clutch._logging").forward_logging(setup.log_level, control)
    package = f"{here}/{__package__}/"
    meta = None
    if setup.preload or setup.main or setup.initializer or setup.warm:
        meta = load_user_code(setup, (package, here + "/"), stack_fd, control)
    if meta is not None:
        send(header_bytes(FAILED, 0, len(meta), 0), meta)
        return _EXIT_CODE_START_FAILED
    flush, restore = make_flush(), make_restore(descriptors)
    if forwarder is not None:
        flush, restore = forwarder.after_calls(flush, restore)
    ready = _ready()
    if lanes is not None:
        return lanes.live(call, send, package, (flush, restore), ready)
    send(header_bytes(READY, 0, len(ready), 0), ready)
    _warm(call)
    frames = receive_frames(receive_into, setup.payload_bytes_max, arrivals)
    executor = Executor(package, setup.payload_bytes_max)
    executor.line = [call, frames, send, flush, _nobody, arrivals.rest]
    serve(frames, send, executor, flush, restore)
    return 0


def _receive_setup(receive_into: "ReceiveInto") -> "Setup | None":
    head = receive_exactly(receive_into, HEADER_BYTES)
    if head is None:
        return None
    fields = HEADER.unpack(head)
    check_header(fields, crc32(head[:-4]), META_BYTES_MAX)
    length, meta_bytes, kind = fields[1], fields[3], fields[4]
    if kind != SETUP or meta_bytes != length:
        raise ProtocolError(f"kind {kind} comes where a setup was expected")
    meta = receive_exactly(receive_into, length)
    if meta is None:
        raise ProtocolError("the stream ended inside a frame")
    return decode_setup(meta)


def _ready() -> bytes:
    python = "%d.%d.%d" % sys.version_info[:3]
    return encode_ready(getpid(), python, sys.executable or "")


def load_user_code(
    setup: Setup, skip: "tuple[str, ...]", stack_fd: int, control: socket
) -> "bytes | None":
    """Loads what the pool wants loaded. A failure's meta when that raises."""
    if setup.start_stack_ms:
        faulthandler.dump_traceback_later(setup.start_stack_ms / 1000, file=stack_fd)
    module = None
    imports = _pristine.load("clutch._imports")
    pid = getpid()
    try:
        with imports.ImportTimes(control.sendall):
            for module in setup.preload:
                _import(module)
            module = None
            if setup.main:
                load_main(setup)
            failed = None
            if setup.initializer or setup.warm:
                failed = _pristine.load("clutch._warmup").warm_up(setup, pid, skip)
        if getpid() != pid:
            # A child that user code forked, and that came to the end of it.
            _pristine.load("clutch._failures").leave_child(None, skip)
        return failed
    except BaseException as error:  # noqa: BLE001 - SystemExit included: no worker came of it.
        with _pristine.pristine_imports:
            if getpid() != pid:
                _pristine.load("clutch._failures").leave_child(error, skip)
            if module is not None:
                missing = _pristine.load("clutch._missing")
                if missing.is_absent(module, error):
                    return missing.bad_preload(module, error, skip)
            return _pristine.load("clutch._failures").raised(error, skip)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _leave_parent(
    call: socket, control: socket, descriptors: PrivateDescriptors, stack_fd: int
) -> "Callable[[], None]":
    """What a child that user code forks does first: it can then never speak for its parent."""
    private = no_page()

    def forget() -> None:
        state.armed = False
        state.running = 0
        state.end_items()
        state.page = private
        if state.lanes is not None:
            state.lanes.forget(private)
        call.close()
        control.close()
        descriptors.report_crashes_of_child(STACK_SIGNAL)
        try:
            close(stack_fd)
        except OSError:
            # User code closed it before; the number is nobody's.
            pass

    return forget


def _nobody() -> None:
    """Stands for a port, where no call has one yet."""


def _warm(call: socket) -> None:
    """Loads the `plain` codec while nobody waits; a first call that comes at once loads its own."""
    call.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _timeval(0, _WARM_AFTER_US))
    try:
        call.recv(1, MSG_PEEK)
    except BlockingIOError:
        _pristine.load("clutch._names")
        _pristine.load("clutch._plain")
    except OSError:
        # The loop will meet the same error, and tell.
        pass
    finally:
        call.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _timeval(0, 0))
