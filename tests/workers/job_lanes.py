"""Functions for workers that run several calls at once, each on a thread."""

import ctypes
import json
import os
import subprocess
import threading
import time

import clutch

_MEETING = threading.Barrier(3)


def meet():
    """The process that ran it, once three calls are here."""
    _MEETING.wait(20)
    return os.getpid()


def join(_item):
    """The same, for one item of several."""
    return meet()


def pid():
    """The process that ran it."""
    return os.getpid()


def hold(path):
    """Wait for a file, a moment at a time; the process that ran it."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.getpid()


def hang(seconds):
    """Sleep in one piece, which no interrupt ends."""
    time.sleep(seconds)


def die():
    """End the process."""
    os._exit(3)


def freeze(path):
    """Leave a mark, and keep every other thread from running."""
    with open(path, "w", encoding="ascii"):
        pass
    ctypes.PyDLL(None).sleep(60)


def say(word, path):
    """Print, and wait for a file."""
    print(word, flush=True)
    hold(path)


def call_pid(named):
    """Call `pid` in this pool: in the name of this call, or without a word."""
    environment = dict(os.environ)
    if named:
        environment["CLUTCH_CALL"] = str(clutch.current_call().id)
    command = [os.environ["CLUTCH_BIN"], "call", "--timeout", "60s", "job_lanes:pid"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout.decode())


def call_itself():
    """Call itself, in the name of this call, for ever."""
    environment = dict(os.environ, CLUTCH_CALL=str(clutch.current_call().id))
    command = [os.environ["CLUTCH_BIN"], "call", "--timeout", "60s", "job_lanes:call_itself"]
    pipe = subprocess.PIPE
    done = subprocess.run(command, stdout=pipe, stderr=pipe, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
