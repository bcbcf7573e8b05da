"""Functions that fail at first, or always, and count how often they were tried in a file."""

import os
import signal
import time

import clutch


class Transient(Exception):
    """What is over if one waits."""


class Busy(Transient):
    """One kind of it."""


def _tried(path):
    """Note one more attempt, and give their number."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, b"tried %.6f\n" % time.monotonic())
        return os.pread(fd, 1 << 20, 0).count(b"\n")
    finally:
        os.close(fd)


def _good(tried):
    call = clutch.current_call()
    assert call.attempt == tried and not call.cancelled, (call.attempt, tried)
    return [tried, call.attempt, call.id]


def dies_until(path, attempts, *_ignored):
    """End with the worker until it was tried often enough."""
    tried = _tried(path)
    if tried < attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return _good(tried)


def raises_until(path, attempts):
    """Raise until it was tried often enough."""
    tried = _tried(path)
    if tried < attempts:
        raise Busy("not yet")
    return _good(tried)


def sleeps_until(path, attempts):
    """Take too long until it was tried often enough."""
    tried = _tried(path)
    if tried < attempts:
        time.sleep(1000)
    return _good(tried)


def clings_until(path, attempts):
    """Take too long, and give up for nobody, until it was tried often enough."""
    tried = _tried(path)
    while tried < attempts:
        try:
            time.sleep(1000)
        except clutch.Cancelled:
            pass
    return _good(tried)


def gives_up_slowly(path, seconds):
    """Take too long, and still so many seconds when it is to be given up."""
    _tried(path)
    try:
        time.sleep(1000)
    finally:
        time.sleep(seconds)


def note(path, text):
    """Add a line to a file."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (text + "\n").encode())
    finally:
        os.close(fd)


def first_time_fails(path):
    """Raise when tried for the first time with this path."""
    if _tried(path) == 1:
        raise Busy(path)
    return os.path.basename(path)
