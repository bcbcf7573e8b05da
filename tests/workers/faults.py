"""Functions for the faults of workers and of the system below them."""

import atexit
import ctypes
import os
import resource
import signal
import threading
import time
from multiprocessing import shared_memory


def tell(path, text):
    """Add a line to a file, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (text + "\n").encode())
    finally:
        os.close(fd)


def step(ledger, number, ms):
    """A call whose beginning and end are told with the process it ran in."""
    tell(ledger, "begin %d %d" % (number, os.getpid()))
    time.sleep(ms / 1000)
    tell(ledger, "end %d %d" % (number, os.getpid()))
    return number


def wait_for(path, value):
    """The value, as soon as there is a file of that name."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return value


def text_after(path, length):
    """A text of so many characters, as soon as there is a file of that name."""
    return wait_for(path, "x" * length)


def length(text):
    """How long a text is."""
    return len(text)


def sleep_at_exit(path):
    """Have the interpreter's end take very long."""

    def end():
        tell(path, "ending")
        time.sleep(1000)

    atexit.register(end)
    return "registered"


def leave_thread_running(path):
    """Leave a thread behind that the interpreter waits for at its end."""

    def run():
        while True:
            time.sleep(1)

    threading.Thread(target=run).start()
    tell(path, "running")
    return "running"


def ignore_sigterm(path):
    """Sleep on, whoever asks politely for what."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(path, "ignoring")
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass


def raise_local():
    """Raise what only this function's frame can name."""

    class Hidden(Exception):
        """An exception of nobody else's."""

    raise Hidden("nobody knows my class")


def fork_into_a_deadlock(path, stubborn):
    """Fork while a thread holds a lock: in the child there is nobody who could release it."""
    lock, held = threading.Lock(), threading.Event()

    def hold():
        with lock:
            held.set()
            time.sleep(1000)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    child = os.fork()
    if child == 0:
        lock.acquire()
    tell(path, str(child))
    while True:
        try:
            os.waitpid(child, 0)
        except BaseException:
            if not stubborn:
                raise


def leave_shared_memory(path):
    """Make a segment of shared memory, tell its name, and never come to removing it."""
    segment = shared_memory.SharedMemory(create=True, size=1 << 16)
    segment.buf[:5] = b"stays"
    tell(path, segment.name)
    time.sleep(1000)


def limit(name, value):
    """Lower a limit of this process for good."""
    resource.setrlimit(getattr(resource, name), (value, value))
    return "lowered"


def claim(mebibytes):
    """Use that much memory, and give it back."""
    return len(b"x" * (mebibytes << 20))


def open_files(count):
    """Open that many files, and close them."""
    files = [open(os.devnull) for _ in range(count)]
    for file in files:
        file.close()
    return count


def import_something(name):
    """Import a module that was not needed so far."""
    return __import__(name).__name__


def kill_parent():
    """Kill the process above this one, beyond saving."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def fill(path, mebibytes):
    """Write that much to a file, and to the disk below it."""
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            file.write(b"x" * (1 << 20))
        file.flush()
        os.fsync(file.fileno())
    return mebibytes


def end_in_c(code):
    """Let the C library end the process, exit handlers of C included."""
    ctypes.CDLL(None).exit(code)


def scatter(count):
    """Leave processes behind that nobody but a subreaper would adopt, and end."""
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
    os._exit(3)


def work(ms):
    """Use that much of a processor."""
    end = time.process_time() + ms / 1000
    while time.process_time() < end:
        pass
    return "worked"
