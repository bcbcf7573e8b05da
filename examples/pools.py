"""Pools of processes and threads, started inside a worker as in any other python.

Nothing here knows of Clutch. `sys.executable`, `sys.argv` and `__main__` are what they should be,
so what starts an interpreter starts the right one; workers are not daemonic, so they may have
children.
"""

import multiprocessing
import queue
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

NUMBERS = (1, 2, 3, 4)


def worker(x):
    """What each process or thread does."""
    return x * x


def process_pool(method="spawn"):
    """`multiprocessing.Pool`: processes started by fork, spawn or forkserver."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(worker, NUMBERS)


def process_executor(method="spawn"):
    """`concurrent.futures.ProcessPoolExecutor`."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(max_workers=2, mp_context=context) as executor:
        return list(executor.map(worker, NUMBERS))


def thread_executor():
    """`concurrent.futures.ThreadPoolExecutor`."""
    with ThreadPoolExecutor(max_workers=4) as executor:
        return list(executor.map(worker, NUMBERS))


def thread_queue():
    """`threading`, with a `queue` for the results."""
    results = queue.Queue()
    threads = [
        threading.Thread(target=lambda number=number: results.put((number, worker(number))))
        for number in NUMBERS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = dict(results.get() for _ in threads)
    return [found[number] for number in NUMBERS]
