"""Functions that call the daemon from inside a worker."""

import json
import os
import subprocess
import time


def _command(pool, function, args):
    words = [json.dumps(arg) for arg in args]
    return [os.environ["CLUTCH_BIN"], "call", "--pool", pool, "--timeout", "60s", function] + words


def _call(pool, function, *args):
    done = subprocess.run(
        _command(pool, function, args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise RuntimeError("exit {}: {}".format(done.returncode, done.stderr.decode()))
    return json.loads(done.stdout.decode())


def sum_to(number, pool="default"):
    """Add numbers, each in a call of its own."""
    return number and number + _call(pool, "job_nested:sum_to", number - 1, pool)


def through(pools):
    """Call the rest of the pools one by one, and name them all."""
    return pools[:1] + (_call(pools[1], "job_nested:through", pools[1:]) if pools[1:] else [])


def for_ever():
    """Call itself."""
    return _call("default", "job_nested:for_ever")


def sleep(path):
    """Leave a mark and stay."""
    with open(path, "w", encoding="ascii"):
        pass
    time.sleep(1000)


def wait_for_sleep(path):
    """Call what does not end."""
    return _call("default", "job_nested:sleep", path)


def leave_behind(path):
    """Start a process that calls what does not end, and do not wait for it."""
    null = subprocess.DEVNULL
    command = _command("default", "job_nested:sleep", [path])
    process = subprocess.Popen(command, stdout=null, stderr=null)
    while not os.path.exists(path):
        time.sleep(0.01)
    return process.pid


def token():
    """Say what only this worker's processes know."""
    return os.environ["CLUTCH_WORKER"]


def sets():
    """Say which of the variables are there."""
    names = ["CLUTCH_SOCKET", "CLUTCH_WORKER", "CLUTCH_BIN"]
    return [name for name in names if name in os.environ]
