"""Functions that make much of something: text, time, output."""

import sys
import time


def text(length):
    """A text of so many characters."""
    return "x" * length


def nap(seconds, value=None):
    """The value, a little later."""
    time.sleep(seconds)
    return value


def chatter(lines, width):
    """Print so many lines of so many characters to standard error."""
    line = "y" * width + "\n"
    for _ in range(lines):
        sys.stderr.write(line)
    sys.stderr.flush()
    return lines


def ignore(*args, **kwargs):
    """Do nothing with whatever it is."""
    return "ran"
