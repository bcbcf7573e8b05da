"""Short functions, and one that does not come back."""

import time


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
