"""Starts a worker: `python [flags] boot.py CALL CONTROL PAGE STACK`, run by the guardian.

This file only finds the package beside it, without looking anywhere a user's file could shadow
it, and hands over. Everything else is `clutch._worker`'s.
"""

import sys
from posix import getcwd, set_inheritable


def pristine_path(here: str) -> "list[str]":
    """This folder and the standard library's: what `sys.path` holds without users' folders.

    `encodings` is loaded before any folder of a user is searched, and unlike `os` it is never
    frozen, so it knows where the standard library is.
    """
    stdlib = (sys.modules["encodings"].__file__ or "").rpartition("/encodings/")[0]
    tails = ("/lib-dynload", "/python%d%d.zip" % sys.version_info[:2])
    return [here] + [entry for entry in sys.path if entry == stdlib or entry.endswith(tails)]


def start() -> int:
    """Becomes a worker, and returns its exit code when there is nothing left to do."""
    for descriptor in sys.argv[1:5]:
        set_inheritable(int(descriptor), False)
    here = __file__.rpartition("/")[0] or "."
    if not here.startswith("/"):
        here = f"{getcwd()}/{here}"
    pristine = pristine_path(here)
    inherited, sys.path = sys.path, pristine
    from clutch import _worker  # noqa: PLC0415 - only now is it found.

    return _worker.run(here, list(pristine), inherited)


if __name__ == "__main__":
    sys.exit(start())
