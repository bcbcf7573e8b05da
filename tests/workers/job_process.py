"""What a worker was started with, as Python sees it."""

import os
import sys
import time


def facts():
    """Everything about the process that a pool's configuration decides."""
    return {
        "version": "%d.%d.%d" % sys.version_info[:3],
        "executable": sys.executable,
        "prefix": sys.prefix,
        "environment": dict(os.environ),
        "path": sys.path,
        "argv": sys.argv,
        "cwd": os.getcwd(),
        "optimize": sys.flags.optimize,
        "options": dict(sys._xoptions),
        "warnings": sys.warnoptions,
        "cpus": sorted(os.sched_getaffinity(0)),
    }


def multiply(size, rounds):
    """So many products of square matrices, and how long they took."""
    import numpy

    one = numpy.random.default_rng(1).random((size, size))
    begun = time.monotonic()
    for _ in range(rounds):
        one @ one
    return time.monotonic() - begun

