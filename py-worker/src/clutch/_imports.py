"""How long a start's imports take, module by module, told while it is slow.

Python's import calls `_find_and_load` of its own module for whatever is not in `sys.modules` yet,
and for nothing else; so standing in for that function costs a microsecond per module that is really
loaded, and nothing for all other import statements. What stands in says that it is a part of
Python's import, as it is: tracebacks and warnings leave it out as they do the rest of that.
"""

import _frozen_importlib as _bootstrap
from _thread import get_ident
from time import monotonic

from clutch._frames import IMPORTS, encode_imports, header_bytes
from clutch._limits import IMPORT_TIMES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["ImportTimes"]

# A start that takes longer than this tells how far it is, and again after as long.
_TELL_AFTER_S = 0.5
# No module has a longer name that means anything.
_NAME_CHARS_MAX = 128


class ImportTimes:
    """While it is entered, this thread's imports are timed, and slow ones are told."""

    def __init__(self, send: "Callable[[bytes], object]") -> None:
        self._send = send
        self._begun = monotonic()
        self._tell_at = self._begun + _TELL_AFTER_S
        # By top-level module: its time with everything it imports, and without other modules.
        self._times: "dict[str, tuple[float, float]]" = {}
        # What is being imported: its top-level module, since when, and how much of it was others'.
        self._open: "list[tuple[str, float, float]]" = []
        self._former: "Any" = None
        self._timed: "Any" = None

    def __enter__(self) -> None:
        former = _bootstrap._find_and_load  # type: ignore[attr-defined]  # noqa: SLF001
        self._former = former
        self._timed = _stand_in(former, self._enter, self._leave)
        _bootstrap._find_and_load = self._timed  # type: ignore[attr-defined]  # noqa: SLF001

    def __exit__(self, *_error: object) -> None:
        # Unless user code has put something else there, which may call ours: that does no harm.
        if _bootstrap._find_and_load is self._timed:  # type: ignore[attr-defined]  # noqa: SLF001
            _bootstrap._find_and_load = self._former  # type: ignore[attr-defined]  # noqa: SLF001
        now = monotonic()
        if now >= self._begun + _TELL_AFTER_S:
            self._tell(now, not self._open)
        self._tell_at = float("inf")

    def _enter(self, name: str) -> None:
        self._open.append((name.partition(".")[0], monotonic(), 0.0))

    def _leave(self) -> None:
        now = monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_AFTER_S
            self._tell(now, False)
        self._close(self._times, self._open, now)

    @staticmethod
    def _close(
        times: "dict[str, tuple[float, float]]", still: "list[tuple[str, float, float]]", now: float
    ) -> None:
        """Books the innermost import of those that are open."""
        name, begun, others = still.pop()
        elapsed = now - begun
        total, own = times.get(name, (0.0, 0.0))
        # Inside of another one of the same module it is counted there.
        if not any(name == outer for outer, _, _ in still):
            total += elapsed
        times[name] = (total, own + elapsed - others)
        if still:
            outer, since, others = still[-1]
            still[-1] = (outer, since, others + elapsed)

    def _tell(self, now: float, finished: bool) -> None:
        times, still = dict(self._times), list(self._open)
        while still:
            self._close(times, still, now)
        slowest = sorted(times.items(), key=lambda item: -item[1][0])[:IMPORT_TIMES_MAX]
        modules = [
            (name[:_NAME_CHARS_MAX], int(total * 1000), int(own * 1000))
            for name, (total, own) in slowest
        ]
        meta = encode_imports(finished, int((now - self._begun) * 1000), modules)
        try:
            self._send(header_bytes(IMPORTS, 0, len(meta), 0) + meta)
        except OSError:
            # The daemon is gone, or user code closed the socket; the main loop finds out.
            pass


def _stand_in(
    former: "Any", enter: "Callable[[str], None]", leave: "Callable[[], None]"
) -> "Callable[[str, Any], Any]":
    thread = get_ident()

    def _find_and_load(name: str, import_: "Any") -> "Any":
        if get_ident() != thread:
            return former(name, import_)
        enter(name)
        try:
            return former(name, import_)
        finally:
            leave()

    own, other = _find_and_load.__code__, former.__code__
    _find_and_load.__code__ = own.replace(
        co_filename=other.co_filename, co_firstlineno=other.co_firstlineno
    )
    return _find_and_load
