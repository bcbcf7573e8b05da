"""Functions whose only point is that one can see whether they were run."""

import os

IMPORTED_IN = os.getpid()


def touch(path):
    """Leave a file behind."""
    with open(path, "w") as file:
        file.write("ran\n")


def append(path, text):
    """Add a line to a file, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (text + "\n").encode())
    finally:
        os.close(fd)


def _private():
    """Never meant to be called from outside."""
    return "private"


class Thing:
    """Something with more attributes than its author meant to offer."""

    @staticmethod
    def method():
        return "method"
