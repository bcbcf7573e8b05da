"""Short functions, and one that tells when it was made to stop."""

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


def work_until_stopped(path):
    """Write down when it began and when it was made to stop."""
    with open(path, "w") as file:
        file.write("%.6f\n" % time.monotonic())
        file.flush()
        try:
            time.sleep(1000)
        finally:
            file.write("%.6f\n" % time.monotonic())
