"""Functions of which a file tells whether they have run, and objects that end their process."""

import os
import signal
import time


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
    """Wait where the signal for stacks cannot arrive."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    time.sleep(1000)
