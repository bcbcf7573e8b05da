"""Short functions, and one that does not come back."""

import os
import time

import clutch


def quick(_seconds, number):
    """The number, at once."""
    return number


def busy(seconds, number):
    """The number, after some work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return number


def stay(_item):
    """Not come back."""
    time.sleep(1000)


def gives_up_at_first(path):
    """Take until it is told that nobody waits; be quick when the file is there."""
    call = clutch.current_call()
    if not os.path.exists(path):
        open(path, "w").close()
        while not call.cancelled:
            time.sleep(0.001)
        return "half done"
    return "attempt %d" % call.attempt
