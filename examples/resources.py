"""A resource that is released whatever happens: also when the caller goes away."""

import contextlib
import os
import time


@contextlib.contextmanager
def workspace(path):
    """A directory that exists for as long as it is needed.

    It is made inside the `try`: a cancel, like Ctrl-C, may come between any two instructions.
    """
    try:
        os.mkdir(path)
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)


def work(path, seconds):
    """Use the resource for a while. A caller that cancels the call ends the `with` block too."""
    with workspace(path):
        time.sleep(seconds)
    return "done"
