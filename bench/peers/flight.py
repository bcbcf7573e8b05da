"""Peers with many calls in flight together: all are sent, then all answers are waited for.

Arguments are which peer it is and how many calls; each line on standard input is answered with the
milliseconds that one round took. Two workers.
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor


def pool(calls):
    with multiprocessing.Pool(2) as workers:
        yield
        while True:
            answers = [workers.apply_async(abs, (1,)) for _ in range(calls)]
            yield sum(answer.get() for answer in answers)


def executor(calls):
    with ProcessPoolExecutor(2) as workers:
        yield
        while True:
            answers = [workers.submit(abs, 1) for _ in range(calls)]
            yield sum(answer.result() for answer in answers)


def main() -> None:
    calls = int(sys.argv[2])
    rounds = {"pool": pool, "executor": executor}[sys.argv[1]](calls)
    next(rounds)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        total = next(rounds)
        took = time.perf_counter() - start
        assert total == calls
        print("%.3f" % (took * 1e3), flush=True)


if __name__ == "__main__":
    main()
