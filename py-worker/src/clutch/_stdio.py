"""Keeps a call's traces from the next call: standard streams, descriptors 0 to 2, directory.

Undoing is cheaper than looking: three `dup2` and an `fchdir` take a microsecond, after the answer
was sent. What is put back is what was there when the worker became ready, so what a pool's `main`
arranged (a tee, another directory) stays arranged.
"""

import faulthandler
import sys
from _io import TextIOWrapper
from _io import open as open_stream
from posix import O_CLOEXEC, O_DIRECTORY, close, dup, dup2, fchdir
from posix import open as open_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["PrivateDescriptors", "line_buffered", "make_flush", "make_restore"]

# Linux's number (the module has no name for it): a handle on a folder that may not be readable.
_O_PATH = 0o10000000


class PrivateDescriptors:
    """Copies of the descriptors 0 to 2 at high numbers, out of the way of user code."""

    def __init__(self, above: int) -> None:
        self._next = above + 1
        self.stdio = [self._copy(number) for number in range(3)]

    def folder(self) -> int:
        """A handle on the current folder, as it is now."""
        low = open_fd(".", O_CLOEXEC | O_DIRECTORY | _O_PATH)
        high = self._copy(low)
        close(low)
        return high

    def beyond(self) -> int:
        """A number that is above all of them, that of the folder included."""
        return self._next + 1

    def _copy(self, number: int) -> int:
        try:
            copy = dup2(number, self._next, inheritable=False)
        except OSError:
            # Numbers that high are not allowed here.
            copy = dup(number)
        self._next += 1
        return copy

    def report_stacks(self, stack_fd: int, stack_signal: int) -> None:
        """Lets Python write stacks for the daemon: at a fatal signal, and when it asks for them.

        All of it is C code, so it works whoever holds the interpreter.
        """
        faulthandler.enable(file=stack_fd)
        faulthandler.register(stack_signal, file=stack_fd, all_threads=True, chain=False)

    def report_crashes_of_child(self, stack_signal: int) -> None:
        """In a child, lets a fatal signal leave its stack on standard error, where it started."""
        faulthandler.unregister(stack_signal)
        if faulthandler.is_enabled():
            faulthandler.enable(file=self.stdio[2])


def line_buffered() -> None:
    """Makes what is printed appear line by line, as it does for a person at a terminal."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)


def make_flush() -> "Callable[[], None]":
    """A function that flushes the standard streams, before an answer is sent."""
    flush_out, flush_error = _flush_of(sys.stdout), _flush_of(sys.stderr)

    def flush() -> None:
        try:
            flush_out()
            flush_error()
        except BaseException:  # noqa: BLE001, S110 - closed, or a user's object: `restore` looks.
            pass

    return flush


def make_restore(
    descriptors: "PrivateDescriptors | None",
) -> "Callable[[], Callable[[], None] | None]":
    """A function that undoes, after each call, what the call did to the streams and folder.

    It gives a new flush function when a stream had to be replaced. Without descriptors, only the
    streams of this interpreter are put back.
    """
    stdin, stdout, stderr = sys.stdin, sys.stdout, sys.stderr
    seen_in, seen_out, seen_error = _closable(stdin), _closable(stdout), _closable(stderr)
    modules = sys
    saved_in, saved_out, saved_error = (0, 1, 2) if descriptors is None else descriptors.stdio
    folder = None if descriptors is None else descriptors.folder()

    def restore() -> "Callable[[], None] | None":
        nonlocal stdin, stdout, stderr, seen_in, seen_out, seen_error
        if folder is not None:
            fchdir(folder)
            dup2(saved_in, 0)
            dup2(saved_out, 1)
            dup2(saved_error, 2)
        try:
            if (
                getattr(modules, "stdout", None) is stdout
                and getattr(modules, "stderr", None) is stderr
                and getattr(modules, "stdin", None) is stdin
                and not (seen_out.closed or seen_error.closed or seen_in.closed)
            ):
                return None
        except ValueError:
            # Detached from its descriptor; as good as closed.
            pass
        for name in ("stdout", "stderr"):
            try:
                getattr(modules, name).flush()
            except BaseException:  # noqa: BLE001, S110 - a user's object, or deleted.
                pass
        stdin = modules.stdin = _opened(stdin, 0)
        stdout = modules.stdout = _opened(stdout, 1)
        stderr = modules.stderr = _opened(stderr, 2)
        seen_in, seen_out, seen_error = _closable(stdin), _closable(stdout), _closable(stderr)
        return make_flush()

    return restore


class _NeverClosed:
    """Stands for a stream that cannot say whether it is closed, like a tee of a user's, or None."""

    closed = False


_never_closed = _NeverClosed()


def _nothing_to_flush() -> None:
    """For a stream that is None, or has no such method."""


def _flush_of(stream: "Any") -> "Callable[[], None]":
    try:
        return stream.flush
    except BaseException:  # noqa: BLE001 - a user's object.
        return _nothing_to_flush


def _closable(stream: "Any") -> "Any":
    """The stream if it is one of Python's, which alone are replaced when they were closed."""
    return stream if type(stream) is TextIOWrapper else _never_closed


def _opened(stream: "Any", number: int) -> "Any":
    """The stream, or one like it on the same descriptor when it was closed."""
    errors = "backslashreplace" if number == 2 else "strict"  # noqa: PLR2004 - standard error.
    try:
        if not _closable(stream).closed:
            return stream
        errors = stream.errors
    except ValueError:
        # Detached: it forgot how it treated errors.
        pass
    mode = "r" if number == 0 else "w"
    names = ("__stdin__", "__stdout__", "__stderr__")
    fresh = open_stream(number, mode, 1 if number else -1, stream.encoding, errors, closefd=False)
    if getattr(sys, names[number]) is stream:
        setattr(sys, names[number], fresh)
    return fresh
