"""Functions over arrays, with numpy or without."""

import os
import signal


def total(array):
    """The sum of all elements."""
    return float(array.sum()) if hasattr(array, "sum") else float(sum(array))


def echo(value):
    """What came."""
    return value


def double(array):
    """Doubles every element where it is."""
    if hasattr(array, "sum"):
        array *= 2
    else:
        for index in range(len(array)):
            array[index] *= 2


def overwrite(array):
    """Writes into the array, or fails."""
    array[0] = 1


def ends(array):
    """How many elements there are, and those at the ends and in the middle."""
    length = len(array)
    return length, float(array[0]), float(array[length // 2]), float(array[length - 1])


def nested(model):
    """The same parts, in another order and depth."""
    return {"parts": [model["a"], (model["b"],)], "size": len(model["raw"]), "raw": model["raw"]}


def raw(count):
    """So many bytes."""
    return b"\x07" * count


def die(array):
    """Ends the process while it has the array mapped."""
    assert len(array)
    os.kill(os.getpid(), signal.SIGKILL)


def grid(rows, columns):
    """A numpy array of numbers from 0 on, in C order."""
    import numpy

    return numpy.arange(rows * columns, dtype="<f4").reshape(rows, columns)


def turned(array):
    """Its transpose, which is not in C order, and its type."""
    return array.T, str(array.dtype), type(array).__module__
