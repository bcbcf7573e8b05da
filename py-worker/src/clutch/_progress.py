"""How far a call has come: `clutch.progress`. Loaded when user code first asks for it.

A report is one frame on the control socket, written as records of `logging` are: whole or not at
all, without a lock and without waiting. At most ten a second go out for a call. The last one that
was held back goes out when the call has ended, before its answer; nothing is done for that in a
worker where no call has ever reported anything.
"""

import sys
from _socket import MSG_DONTWAIT, MSG_NOSIGNAL
from posix import getpid
from time import monotonic

from clutch._call import State, state
from clutch._frames import PROGRESS, encode_progress, header_bytes
from clutch._limits import PROGRESS_TEXT_BYTES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, SupportsFloat, Tuple

    Told = Tuple[Any, Any, Any]

__all__ = ["progress"]

_INTERVAL_S = 0.1
# How often a signal handler may disturb the last report of a call.
_ATTEMPTS_MAX = 100
_FLOAT_MAX = sys.float_info.max

_pid = getpid()


class _Reports:
    """What a call has reported."""

    __slots__ = ("due", "held", "run")

    def __init__(self, run: int) -> None:
        self.run = run
        # When the next one may go out.
        self.due = 0.0
        # The last one, if it did not.
        self.held: "Optional[Told]" = None


def progress(
    done: "SupportsFloat", total: "Optional[SupportsFloat]" = None, message: str = ""
) -> None:
    """Says how far the call has come: `done` of `total`, in whatever unit, and what it is at.

    It never waits and never raises, whatever the numbers are: one that is not finite or below zero
    counts as 0, and as an unknown total. A message is cut to 512 bytes. Call it as often as you
    like: at most ten reports a second go out, and the last one before the call ends. Where no call
    is running (in a test, in a `multiprocessing` child, while `main` is loaded) nothing happens.
    """
    now = state if state.lanes is None else state.lanes.find()
    run = now.running
    if not run:
        return
    reports: "Optional[_Reports]" = now.reports
    if reports is None or reports.run != run:
        reports = now.reports = _Reports(run)
        _watch_end(now)
    at = monotonic()
    if at < reports.due:
        reports.held = done, total, message
        return
    reports.due = at + _INTERVAL_S
    # If it does not get out, it is one of those that were held back.
    reports.held = told = done, total, message
    if _send(run, told, MSG_DONTWAIT) and reports.held is told:
        reports.held = None


def _send(run: int, told: "Told", flags: int) -> bool:
    """Whether a report has got out; it has not where the socket is full."""
    done, total, message = told
    meta = encode_progress(
        _number(done) or 0.0, None if total is None else _number(total), _text(message)
    )
    frame = header_bytes(PROGRESS, run, len(meta), 0) + meta
    control = state.control
    if control is None or getpid() != _pid:
        # A child that was forked behind Python's back; it does not speak for its parent.
        return True
    try:
        sent = control.send(frame, flags | MSG_NOSIGNAL)
        if sent < len(frame):
            # A socket with a tiny buffer. What has begun must be finished.
            control.sendall(frame[sent:], MSG_NOSIGNAL)
    except BlockingIOError:
        return False
    except OSError:
        # Closed by user code, or the daemon is gone.
        pass
    return True


def _number(value: "Any") -> "Optional[float]":
    """A number that is finite and not below zero; None for any other value."""
    try:
        number = float(value)
    except Exception:  # noqa: BLE001 - too large, no number, or code of a user's.
        return None
    return number if 0.0 <= number <= _FLOAT_MAX else None


def _text(message: object) -> bytes:
    try:
        text = str(message)[:PROGRESS_TEXT_BYTES_MAX]
        data = text.encode("utf-8", "backslashreplace")[:PROGRESS_TEXT_BYTES_MAX]
    except Exception:  # noqa: BLE001 - code of a user's.
        return b""
    return data.decode("utf-8", "ignore").encode()


def _watch_end(now: State) -> None:
    """Has what was held back sent when the call ends, which is when it no longer runs."""
    kind = type(now)
    if kind not in _watched:
        watched = _watching.get(kind)
        if watched is None:
            watched = _watching[kind] = _make_watched(kind)
            _watched.add(watched)
        now.__class__ = watched


_watching: "dict[type, type]" = {}
_watched: "set[type]" = set()


def _make_watched(kind: "type[State]") -> "type[State]":
    stored: "Any" = State.__dict__["running"]
    read, write = stored.__get__, stored.__set__

    class Watched(kind):  # type: ignore[misc, valid-type]
        """The same, which tells the last report before the call is over."""

        __slots__ = ()

        @property
        def running(self) -> int:
            """The call that runs; 0 for none."""
            return read(self)

        @running.setter
        def running(  # pyright: ignore[reportIncompatibleVariableOverride]
            self, call_id: int
        ) -> None:
            if not call_id and self.reports is not None:
                _tell_last(self.reports)
                self.reports = None
            write(self, call_id)

    return Watched


def _tell_last(reports: _Reports) -> None:
    for _ in range(_ATTEMPTS_MAX):
        try:
            told = reports.held
            if told is not None:
                # Waits where the socket is full, as the answer would.
                _send(reports.run, told, 0)
                reports.held = None
        except BaseException:  # noqa: BLE001, S112 - a handler, between two calls.
            continue
        return
