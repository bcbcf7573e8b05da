"""Functions for the items of maps. They note in a file which items they were called with."""

import os
import signal

import clutch


def _note(path, item):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, b"%d\n" % item)
    finally:
        os.close(fd)


def _times(path, item):
    with open(path, "rb") as file:
        return file.read().split().count(b"%d" % item)


def noted(path, item):
    """Square it."""
    _note(path, item)
    return item * item


def dies_at(path, item, culprit, times):
    """Square it; the culprit ends with its worker, the first so many times."""
    _note(path, item)
    if item == culprit and _times(path, item) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def blocks_at(path, item, culprit):
    """Square it; the culprit waits for a file."""
    _note(path, item)
    while item == culprit and not os.path.exists(path + ".gate"):
        # Woken by whatever ends it.
        signal.sigtimedwait([signal.SIGUSR1], 0.02)
    return item * item


def odd(item):
    """Skip the even ones."""
    return item if item % 2 else clutch.SKIP


def text(item):
    """As text, or an exception for those below 0."""
    if item < 0:
        raise ValueError(f"negative: {item}")
    return f"{item},"


def join(so_far, more):
    """Associative and not commutative."""
    return so_far + more


def no_join(so_far, more):
    """No fold."""
    raise ValueError("no fold")
