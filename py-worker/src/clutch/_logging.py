"""Records of `logging`, forwarded to the daemon. Loaded only where the pool asks for it.

A handler on the root logger writes each record to the control socket, as one frame. It holds no
lock and never waits: a frame of this size goes into the socket whole or not at all, so threads,
signal handlers and logging from within logging cannot get into each other's way. What comes too
fast, or does not fit, is counted, and the next record says how many are missing.

A program that configures `logging` anew (`basicConfig(force=True)`, `dictConfig`) takes the handler
away, and then nothing is forwarded any more.
"""

from _socket import MSG_DONTWAIT, MSG_NOSIGNAL
from _thread import get_ident
from posix import getpid, register_at_fork
from time import monotonic

from clutch._call import state
from clutch._frames import LOG, encode_log, header_bytes
from clutch._limits import LOG_NAME_BYTES_MAX, LOG_TEXT_BYTES_MAX
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from _socket import socket
    from typing import Any, Callable

    Restore = Callable[[], "Callable[[], None] | None"]

__all__ = ["Forwarder", "forward_logging"]

# How many records go out in a burst, and in each second after it: more than anybody reads, and
# less than a daemon or its other workers would notice.
_BURST = 2_000.0
_PER_SECOND = 1_000.0

_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL
_U32_MAX = (1 << 32) - 1
_CUT = b"\n... (cut) ...\n"


class Forwarder:
    """Sends records, as many as may be sent."""

    def __init__(self, sock: "socket") -> None:
        self._sock = sock
        self._pid = getpid()
        self._main_thread = get_ident()
        self._tokens = _BURST
        self._refilled = monotonic()
        self._dropped = 0
        # The call that the last of them belonged to.
        self._dropped_call = 0

    def is_due(self) -> bool:
        """Whether a record may be sent now; counts it as dropped otherwise."""
        if getpid() != self._pid:
            # A child that was forked behind Python's back; it does not speak for its parent.
            return False
        now = monotonic()
        tokens = min(_BURST, self._tokens + (now - self._refilled) * _PER_SECOND)
        self._refilled = now
        if tokens < 1:
            self._tokens = tokens
            self._drop(1)
            return False
        self._tokens = tokens - 1
        return True

    def send(self, record: "logging.LogRecord", text: str) -> None:
        """Sends a record with its finished text."""
        call = self._call_of(record.thread)
        level = record.levelno
        self._send(
            level if type(level) is int and 0 <= level <= _U32_MAX else 0,
            _cut(str(record.levelname), LOG_NAME_BYTES_MAX),
            _cut(str(record.name), LOG_NAME_BYTES_MAX),
            int(record.created * 1000),
            call,
            _cut(text, LOG_TEXT_BYTES_MAX),
        )

    def report(self) -> None:
        """Says how many records are missing, if no further record would say it soon."""
        if self._dropped and getpid() == self._pid:
            self._send(0, b"", b"", 0, self._dropped_call, b"")

    def after_calls(
        self, flush: "Callable[[], None]", restore: "Restore"
    ) -> "tuple[Callable[[], None], Restore]":
        """The same two functions; the first one also reports what a call has lost."""

        def flush_and_report() -> None:
            flush()
            try:
                self.report()
            except BaseException:  # noqa: BLE001, S110 - a signal handler's; told with the next.
                pass

        def restore_both() -> "Callable[[], None] | None":
            changed = restore()
            return None if changed is None else self.after_calls(changed, restore)[0]

        return flush_and_report, restore_both

    def _send(
        self, level: int, level_name: bytes, logger: bytes, created_ms: int, call: int, text: bytes
    ) -> None:
        dropped = self._dropped
        meta = encode_log(level, level_name, logger, max(created_ms, 0), call, dropped, text)
        frame = header_bytes(LOG, 0, len(meta), 0) + meta
        try:
            sent = self._sock.send(frame, _FLAGS)
        except OSError:
            # Full, or closed by user code.
            self._drop(1 if text else 0)
            return
        self._dropped -= dropped
        if sent < len(frame):
            # A socket with a tiny buffer. What has begun must be finished.
            self._sock.sendall(frame[sent:], MSG_NOSIGNAL)

    def _drop(self, count: int) -> None:
        self._dropped += count
        self._dropped_call = self._call_of(get_ident())

    def _call_of(self, thread: "int | None") -> int:
        """Which call a thread is at; where several run, only the thread that asks is known."""
        if state.lanes is None:
            return state.running if thread == self._main_thread else 0
        return state.lanes.find().running if thread == get_ident() else 0


def forward_logging(level: int, sock: "socket") -> Forwarder:
    """Has records from `level` on forwarded on this socket. Called on the main thread."""
    forwarder = Forwarder(sock)
    handler = _make_handler(load("logging"), forwarder)
    handler.setLevel(level)
    root = load("logging").getLogger()
    if root.level > level:
        root.setLevel(level)
    root.addHandler(handler)

    def forget() -> None:
        # A forked child has no daemon. Without a handler Python shows its warnings as ever.
        if handler in root.handlers:
            root.handlers.remove(handler)

    register_at_fork(after_in_child=forget)
    return forwarder


def _make_handler(logging: "Any", forwarder: Forwarder) -> "Any":
    """An object of a class that can only be made when `logging` is there."""

    class DaemonHandler(logging.Handler):  # type: ignore[misc]
        """Forwards records to the daemon of this worker."""

        def createLock(self) -> None:  # noqa: N802 - its name in `logging`.
            """Has none: see this module."""
            self.lock = None

        def handle(self, record: "logging.LogRecord") -> "Any":
            """Filters and sends; as the base class does, without its lock."""
            kept = self.filter(record)
            if kept:
                self.emit(record if kept is True else kept)
            return kept

        def emit(self, record: "logging.LogRecord") -> None:
            """Sends a record. Nothing that goes wrong reaches whoever has logged it."""
            try:
                if forwarder.is_due():
                    forwarder.send(record, self.format(record))
            except Exception:  # noqa: BLE001 - arguments of user code may do anything.
                self.handleError(record)

        def handleError(self, record: "logging.LogRecord") -> None:  # noqa: N802 - as above.
            """Shows on standard error what is wrong with a record, as handlers do."""
            try:
                super().handleError(record)
            except Exception:  # noqa: BLE001, S110 - the stack is too deep even for that.
                pass

        def flush(self) -> None:
            """Before the interpreter ends."""
            try:
                forwarder.report()
            except Exception:  # noqa: BLE001, S110 - there is nobody left to tell.
                pass

    return DaemonHandler()


def _cut(text: str, limit: int) -> bytes:
    """The text in UTF-8, its middle left out if it is too long: both its ends say the most."""
    half = (limit - len(_CUT)) // 2
    if len(text) > limit:
        head, tail = text[:half], text[-half:]
    else:
        data = text.encode("utf-8", "backslashreplace")
        if len(data) <= limit:
            return data
        head = tail = text
    first = head.encode("utf-8", "backslashreplace")[:half].decode("utf-8", "ignore")
    last = tail.encode("utf-8", "backslashreplace")[-half:].decode("utf-8", "ignore")
    return first.encode() + _CUT + last.encode()
