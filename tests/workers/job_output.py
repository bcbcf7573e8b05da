"""Functions that print and log, in every way there is."""

import ctypes
import logging
import os
import subprocess
import sys
import threading
import time

import clutch

log = logging.getLogger("job.output")
threads = []


def every_way():
    """Print in every way; the daemon's id of this call."""
    call = clutch.current_call().id
    print("by print")
    os.write(1, b"by write\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    libc = ctypes.CDLL(None)
    libc.printf(b"by printf\n")
    libc.fflush(None)
    print("by stderr", file=sys.stderr)
    os.write(2, b"without an end")
    return call


def say(text):
    """Print one line; the daemon's id of this call."""
    print(text)
    return clutch.current_call().id


def sign(direct):
    """Print this call's id, last thing before the answer."""
    call = clutch.current_call().id
    if direct:
        os.write(1 + call % 2, b"%d\n" % call)
    else:
        print(call)
    return call


def megabytes(count):
    """Print that much, in lines of 100 bytes with a last one that says so."""
    line = "x" * 99 + "\n"
    for _ in range(count):
        sys.stdout.write(line * 10_000)
    print("that was all")
    return clutch.current_call().id


def lines(first, last):
    """Print numbered lines."""
    os.write(1, b"".join(b"line %d\n" % number for number in range(first, last)))
    return last - first


def leave_a_thread(path):
    """Start a thread that prints and raises after this call, when a file appears."""

    def run():
        while not os.path.exists(path):
            time.sleep(0.001)
        print("printed after the call")
        log.warning("logged after the call")
        raise RuntimeError("raised after the call")

    thread = threading.Thread(target=run)
    thread.start()
    threads.append(thread)
    return clutch.current_call().id


def wait_for_thread():
    """Wait until the thread has ended."""
    threads.pop().join()
    return True


def records(count):
    """Log so many records."""
    for number in range(count):
        log.info("record %d", number)
    return clutch.current_call().id


def all_levels():
    """Log one record of each level, one of another, and one with a traceback."""
    for level in (10, 20, 30, 40, 50):
        log.log(level, "level %d\x1b[2J", level)
    logging.addLevelName(25, "NOTICE")
    log.log(25, "noticed")
    try:
        raise ValueError("for the record")
    except ValueError:
        log.exception("failed")
    return clutch.current_call().id


def log_and_die():
    """Log something, print half a line and end without a word."""
    log.error("last record")
    sys.stdout.write("last half of a line")
    sys.stdout.flush()
    os._exit(3)
