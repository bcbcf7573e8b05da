"""Functions that end their process, and functions with processes of their own."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time


def exit_now(code):
    """End without a word, as C code may."""
    os._exit(code)


def last_words(code):
    """Say something and end."""
    print("these are my last words", file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


def crash():
    """Read address 0."""
    ctypes.string_at(0)


def _wait_deep(depth, event):
    if depth:
        _wait_deep(depth - 1, event)
    else:
        event.wait()


def _await_file(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def crash_in_a_crowd(path):
    """Start many threads, and read address 0 beside them when the file is there."""
    event = threading.Event()
    for _ in range(40):
        threading.Thread(target=_wait_deep, args=(10, event), daemon=True).start()
    _await_file(path)
    crash()


def kill_self(number):
    """End by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(1000)


def _linger():
    """A child that would rather stay."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)


def _pid_of_child(method):
    child = multiprocessing.get_context(method).Process(target=_linger)
    child.start()
    return child.pid


def grow_family(path):
    """Start children of every kind, write their pids to a file, and stay with them."""
    shell = 'trap "" TERM HUP; echo $$; while :; do sleep 1000; done'
    stubborn = subprocess.Popen(
        ["sh", "-c", shell], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    daemonic = subprocess.Popen(
        # Its parent ends at once, so nobody but a subreaper above would adopt it.
        ["sh", "-c", "setsid sh -c '" + shell + "' &"],
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = [int(stubborn.stdout.readline()), int(daemonic.stdout.readline())]
    pids += [_pid_of_child(method) for method in ("fork", "spawn", "forkserver")]
    with open(path + ".new", "w") as file:
        file.write("".join("%d\n" % pid for pid in pids))
    os.rename(path + ".new", path)
    time.sleep(1000)
