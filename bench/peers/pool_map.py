"""The peer: multiprocessing.Pool.map over two workers, the same function and items.

Each line on standard input is answered with the seconds that one map took.
"""

import multiprocessing
import sys
import time


def double(x):
    return x + x


def main() -> None:
    items = range(int(sys.argv[1]))
    with multiprocessing.Pool(2) as pool:
        pool.map(double, range(100))
        print("ready", flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            results = pool.map(double, items)
            took = time.perf_counter() - start
            assert len(results) == len(items)
            print("%.6f" % took, flush=True)


if __name__ == "__main__":
    main()
