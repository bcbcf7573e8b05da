"""Functions of which a file tells whether they have run, and objects that end their process."""

import os
import signal
import threading
import time

import job_stuck


def leave_mark(path):
    """Add a line to a file, in one write; say who did."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, b"ran\n")
    finally:
        os.close(fd)
    return os.getpid()


def mark_and_sleep(path):
    """Add a line to a file, and stay."""
    leave_mark(path)
    time.sleep(1000)


class Mine(str):
    """A result whose end is its process's end."""

    def __del__(self):
        """Read address 0."""
        os.kill(os.getpid(), signal.SIGSEGV)


def return_a_mine():
    """Return what explodes when nobody needs it any more."""
    return Mine("delivered")


def block_stacks():
    """Keep the interpreter to itself where the signal for stacks cannot arrive."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    job_stuck.hold_gil_in_a_power()


def _fibonacci(number):
    return number if number < 2 else _fibonacci(number - 1) + _fibonacci(number - 2)


def make_frames(seconds):
    """Make and leave frames as fast as Python can, for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _fibonacci(15)
    return os.getpid()


def go_deaf(go, gone):
    """Answer; once the first file is there, let no other thread run any more, and say so before."""

    def deafen():
        while not os.path.exists(go):
            time.sleep(0.002)
        leave_mark(gone)
        job_stuck.hold_gil_in_a_loop()

    threading.Thread(target=deafen, daemon=True).start()
    return os.getpid()
