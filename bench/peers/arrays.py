"""A peer that moves arrays: `arrays.py PEER BYTES` with one worker and one float64 array.

It says `ready` and the names of its tasks, then each line on standard input names one of them, and
the answer is how many milliseconds it took. Tasks are what a user of that peer would write: the
caller has the argument as an array, and can read the result as one. Every result is checked,
outside the time that is told.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory

import numpy


def total(array):
    return float(array.sum())


def echo(array):
    return array


def doubled(array):
    """In place on what arrived, which is a copy: so the result has to be sent back."""
    array *= 2.0
    return array


def doubled_copy(array):
    """Where what arrives is read-only."""
    return array * 2.0


def double_shared(name, length):
    """In place in named shared memory, attached by each call, as a stranger to it must."""
    block = shared_memory.SharedMemory(name)
    try:
        array = numpy.frombuffer(block.buf, numpy.float64, length)
        array *= 2.0
        del array
    finally:
        block.close()


class Task:
    """What is timed, and what has to be true of its result."""

    def __init__(self, run, is_right):
        self.run = run
        self.is_right = is_right

    def time(self):
        start = time.perf_counter_ns()
        result = self.run()
        took = time.perf_counter_ns() - start
        if not self.is_right(result):
            raise SystemExit("a wrong result: %r" % (result,))
        return took / 1e6


def is_array(factor, array):
    """Whether a result is `array` times `factor`: a look at some elements, not a pass over all."""

    def is_right(result):
        step = max(1, len(array) // 1000)
        return len(result) == len(array) and bool((result[::step] == array[::step] * factor).all())

    return is_right


class InPlace:
    """Looks whether each call doubles what the one before it left."""

    def __init__(self, array):
        self.array = array
        self.last = float(array[-1])

    def __call__(self, _result):
        before, self.last = self.last, float(self.array[-1])
        return self.last == 2 * before


def numpy_alone(array):
    """No peer: the operations themselves, in one process."""

    expected = total(array)
    own = array.copy()
    yield {
        "sum": Task(lambda: total(array), lambda result: result == expected),
        "double": Task(lambda: doubled(own), InPlace(own)),
    }


def of_executor(executor, array):
    """The tasks of whatever looks like a `concurrent.futures` executor."""
    expected = total(array)
    block = shared_memory.SharedMemory(create=True, size=array.nbytes)
    try:
        shared = numpy.frombuffer(block.buf, numpy.float64, len(array))
        shared[:] = array

        def call(function, *args):
            return executor.submit(function, *args).result()

        in_place = InPlace(shared)
        yield {
            "sum": Task(lambda: call(total, array), lambda result: result == expected),
            "echo": Task(lambda: call(echo, array), is_array(1, array)),
            "double": Task(lambda: call(doubled, array), is_array(2, array)),
            "shared": Task(lambda: call(double_shared, block.name, len(array)), in_place),
        }
        in_place.array = None
        del shared
    finally:
        block.close()
        block.unlink()


def executor(array):
    with ProcessPoolExecutor(max_workers=1) as pool:
        yield from of_executor(pool, array)


def loky(array):
    from loky import get_reusable_executor

    # Its workers end when they were idle for ten seconds, and others' turns may take longer.
    pool = get_reusable_executor(max_workers=1, timeout=None)
    try:
        yield from of_executor(pool, array)
    finally:
        pool.shutdown()


def ray(array):
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import logging

    import ray

    # Room for what several calls leave behind: the store frees lazily.
    store = max(8 * array.nbytes, 1 << 30)
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=store,
            _temp_dir=folder,
        )
        try:
            remote = {f: ray.remote(f).remote for f in (total, echo, doubled_copy)}
            reference = ray.put(array)
            expected = total(array)

            def call(function, argument):
                return ray.get(remote[function](argument))

            yield {
                "sum": Task(lambda: call(total, array), lambda result: result == expected),
                "put": Task(lambda: call(total, reference), lambda result: result == expected),
                "echo": Task(lambda: call(echo, array), is_array(1, array)),
                "double": Task(lambda: call(doubled_copy, array), is_array(2, array)),
            }
        finally:
            ray.shutdown()


def main():
    name, size = sys.argv[1], int(sys.argv[2])
    peer = {"numpy": numpy_alone, "executor": executor, "loky": loky, "ray": ray}[name]
    array = (numpy.arange(size // 8) % 1000).astype(numpy.float64)
    for tasks in peer(array):
        print("ready", *tasks, flush=True)
        for line in sys.stdin:
            print("%.4f" % tasks[line.strip()].time(), flush=True)


if __name__ == "__main__":
    main()
