"""Functions with answers that are known: what the main job is tried with."""

import os
import sys
import time


class Rejected(Exception):
    """An exception of a user's own, whose constructor wants more than a message."""

    def __init__(self, item, code):
        super().__init__("item %r was rejected with code %d" % (item, code))
        self.code = code


def echo(*args, **kwargs):
    """What came, as it came."""
    return {"args": list(args), "kwargs": kwargs}


def square(x):
    """The number, squared."""
    return x * x


def square_or_reject(x):
    """The number, squared; multiples of three are rejected, for a reason."""
    try:
        if x % 3 == 0:
            raise KeyError(x)
    except KeyError as error:
        raise Rejected(x, 42) from error
    return x * x


def speak(value):
    """Print to both streams, past Python's buffers too, and give the value back."""
    print("said to stdout:", value)
    print("said to stderr:", value, file=sys.stderr)
    sys.stdout.flush()
    os.write(1, b"written to 1\n")
    return value


def whoami():
    """Which process this is, and which interpreter it runs."""
    version = list(sys.version_info[:3])
    return {"pid": os.getpid(), "python": version, "role": os.environ.get("ROLE")}


def square_or_die(x):
    """The number, squared; multiples of thirteen end the process."""
    if x and x % 13 == 0:
        os._exit(x)
    return x * x


def nap(item):
    """The second part of a pair, as late as the first one says."""
    seconds, value = item
    time.sleep(seconds)
    return value
