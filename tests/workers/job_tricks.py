"""What user code does to its own process without meaning harm to anybody."""

import os
import pickle
import signal
import socket
import sys
import threading


def prints():
    """Print to both streams."""
    print("printed to stdout")
    print("printed to stderr", file=sys.stderr)
    return "printed"


def close_descriptors():
    """Close what a daemon closes: everything below 21."""
    for fd in range(21):
        try:
            os.close(fd)
        except OSError:
            pass  # It was not open.
    return "closed"


def point_descriptors_elsewhere(path):
    """Leave standard output and standard error pointing at a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    print("for the file")
    return "redirected"


def exits(code):
    """End the program, as scripts do."""
    sys.exit(code)


def exit_without_cleanup(code):
    """End the process."""
    os._exit(code)


def forks():
    """Fork, and let both sides return from this function."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return "parent"
    return "child"


def forks_and_prints():
    """Fork; the child prints and returns, and nobody waits for it yet."""
    if os.fork():
        return "parent"
    print("the child was here")
    return "child"


def wait_for_children():
    """Wait for every child, and count those that ended as scripts end."""
    ended = 0
    while True:
        try:
            ended += os.wait()[1] == 0
        except ChildProcessError:
            return ended


def change_directory(path):
    """Go somewhere else and stay there."""
    os.chdir(path)
    return os.getcwd()


def directory():
    """Where we are."""
    return os.getcwd()


def replace_stdout():
    """Put something else in the place of the standard streams."""

    class Hole:
        closed = False
        encoding = "utf-8"
        errors = "strict"

        def write(self, text):
            return len(text)

        def flush(self):
            raise RuntimeError("nothing goes down here")

    sys.stdout = Hole()
    sys.stderr = None
    return "replaced"


def close_stdout():
    """Close the streams themselves."""
    sys.stdout.close()
    sys.stderr.close()
    return "closed"


def delete_stdout():
    """Take the names away."""
    del sys.stdout
    del sys.stderr
    return "deleted"


def patch_modules():
    """Replace what a worker could be relying on."""

    def broken(*args, **kwargs):
        raise RuntimeError("patched")

    for module, names in (
        (pickle, ("dumps", "loads", "Pickler", "Unpickler", "dump", "load")),
        (socket, ("socket", "socketpair")),
        (socket.socket, ("recv", "recv_into", "send", "sendall", "sendmsg", "recvmsg")),
        (os, ("read", "write", "close", "dup2", "fstat", "getpid")),
        (threading, ("Lock", "Thread", "current_thread")),
        (sys, ("exc_info",)),
    ):
        for name in names:
            setattr(module, name, broken)
    return "patched"


def ignore_signals():
    """Change every handler that may be changed."""
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass  # SIGKILL, SIGSTOP and what the C library keeps for itself.
    return "ignored"


def block_signals():
    """Block what can be blocked in this thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    return "blocked"


def recurse(depth=0):
    """Call itself until Python has had enough."""
    return recurse(depth + 1) + 1


def recurse_unlimited():
    """Take the limit away first, as one does; the stack of C remains."""
    sys.setrecursionlimit(10**9)
    nested = []
    for _ in range(10**6):
        nested = [nested]
    return repr(nested)


def nested(depth):
    """A list in a list in a list."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


class Holder:
    """Not plain data, and holding what cannot travel at all."""

    def __init__(self):
        self.lock = threading.Lock()


def unserialisable():
    """A result with one part that is no data."""
    return {"fine": [1, 2], "items": [0, {"lock": threading.Lock()}]}


def unserialisable_object():
    """A result that is no data itself."""
    return Holder()


def leave_thread(path):
    """Leave a thread behind that goes on after the answer."""

    def work():
        with open(path, "w") as file:
            file.write("still here\n")

    thread = threading.Timer(0.2, work)
    thread.start()
    return "left"


class BadError(Exception):
    """An exception whose own methods fail."""

    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


def raise_bad_error():
    """Raise what cannot be described."""
    raise BadError


def interrupt_self():
    """What Ctrl-C would do."""
    raise KeyboardInterrupt("by myself")


def stop_iteration():
    """An exception with a meaning for loops."""
    raise StopIteration("over")


not_callable = {"a": 1}


def two(a, b):
    """Wants exactly two."""
    return [a, b]


def raises_type_error():
    """A TypeError that is the function's own fault, not the caller's."""
    return len(5)
