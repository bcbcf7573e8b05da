"""Functions that do not come back by themselves, and some that tidy up when made to."""

import contextlib
import ctypes
import itertools
import os
import signal
import time

import clutch


def spin():
    """An endless loop in Python."""
    while True:
        pass


def stop_itself(times):
    """Stop until somebody says to go on, again and again."""
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGSTOP)


def sleep():
    """One long system call."""
    time.sleep(1000)


def hold_gil_in_a_loop(mark=None):
    """An endless loop in C that lets no other thread of Python run, and looks at no signal."""
    if mark is not None:
        open(mark, "w").close()
    return all(itertools.repeat(True))


def hold_gil_in_a_power():
    """A computation of minutes in C that lets no other thread of Python run."""
    return len(bin(3 ** (1 << 30)))


def hold_gil_in_a_sleep():
    """A system call made by C code that did not release the interpreter before."""
    return ctypes.PyDLL(None).sleep(1000)


def ignore_everything():
    """An endless loop that swallows exceptions and polite signals."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def ignore_everything_once(path):
    """As above where the file is not there yet, which is made then; else come back."""
    if os.path.exists(path):
        return
    leave_mark(path, "tried")
    ignore_everything()


def leave_mark(path, text):
    """Add a line to a file, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (text + "\n").encode())
    finally:
        os.close(fd)


@contextlib.contextmanager
def held(path):
    """A resource that is taken and released, which a file tells."""
    try:
        # Inside, since the interrupt may come as soon as the file tells it.
        leave_mark(path, "taken")
        yield
    finally:
        leave_mark(path, "released")


def hold(path):
    """Hold the resource for as long as the caller lets us."""
    with held(path):
        time.sleep(1000)


def swallow_exceptions(path):
    """As much code does: catch every `Exception` and go on."""
    with held(path):
        while True:
            try:
                time.sleep(1000)
            except Exception:
                leave_mark(path, "swallowed")


def until_cancelled(path):
    """Look whether anyone still waits, as polite code does."""
    call = clutch.current_call()
    with held(path):
        try:
            while not call.cancelled:
                time.sleep(0.001)
        except clutch.Cancelled:
            leave_mark(path, "told")
            raise
