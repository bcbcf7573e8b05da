"""Functions of values that were put with the daemon once."""

import os


def total(array, *_more):
    """The sum, without numpy too."""
    return float(array.sum()) if hasattr(array, "sum") else float(sum(array))


def where(_array):
    """Which process this is, and which memory of a client's is mapped into it, by inode."""
    found = set()
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[5].startswith("/memfd:clutch (deleted)"):
                found.add(int(fields[4]))
    return os.getpid(), sorted(found)


def weigh(model, factor):
    """A model of small things and an array, and an argument of the call's own."""
    return model[0], total(model[1]) * factor


def both(first, second, own):
    """Three arrays."""
    return [total(first), total(second), total(own)]


def die_once(array, path):
    """Ends its worker the first time."""
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        os._exit(1)
    return total(array)


def nothing():
    """Another call."""
