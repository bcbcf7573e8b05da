"""The peer: ProcessPoolExecutor with one worker, asked for rounds of null calls on standard input.

Each line holds a number of calls; the answer is the time of each in microseconds, one line.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor


def main() -> None:
    with ProcessPoolExecutor(max_workers=1) as executor:
        executor.submit(abs, 1).result()
        print("ready", flush=True)
        for line in sys.stdin:
            times = []
            for _ in range(int(line)):
                start = time.perf_counter_ns()
                executor.submit(abs, 1).result()
                times.append((time.perf_counter_ns() - start) / 1000)
            print(" ".join("%.1f" % t for t in times), flush=True)


if __name__ == "__main__":
    main()
