"""A script whose own functions go through `multiprocessing`, with every start method.

It runs by itself (`python examples/main.py spawn`), and as the `main` of a pool, where its
functions are called as `__main__:squares`. There it is loaded as `multiprocessing` loads it in its
children: the block at the end does not run.
"""

import multiprocessing
import sys


def worker(x):
    """What each process of the pool does."""
    return x * x


def squares(method="spawn", numbers=(1, 2, 3, 4)):
    """The numbers, squared by processes that were started with this method."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(worker, numbers)


if __name__ == "__main__":
    print(squares(*sys.argv[1:2]))
