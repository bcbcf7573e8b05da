"""Reports of how far a call has come, on their way to the daemon."""

import pickle
import select
import subprocess
import sys
import unittest

import support
from support import ASYNC, SUBINTERPRETERS, THREADS, FolderTestCase

CODE = """
import asyncio, os, signal, threading, time
import clutch
from clutch import progress

def report(*args):
    clutch.progress(*args)

def count(n):
    for i in range(n):
        progress(i, n)

def fails(n):
    count(n)
    raise ValueError

async def later(n):
    for i in range(n):
        await asyncio.sleep(0)
        clutch.progress(i, n, "later")

def items(n):
    for i in range(n):
        progress(i)
        yield i

class Odd:
    def __float__(self):
        raise RuntimeError("no number")
    def __str__(self):
        raise RuntimeError("no text")

def odd():
    for number in ("nan", "inf", "-inf", "-1", "1e400"):
        clutch.progress(float(number), float(number))
        slept()
    clutch.progress(10 ** 400, 10 ** 400)
    slept()
    clutch.progress("none", [], 17)
    slept()
    clutch.progress(Odd(), Odd(), Odd())
    slept()
    clutch.progress(True, 2, "\\N{SNOWMAN}" * 1000 + "\\ud800")

def slept():
    until = time.monotonic() + 0.11
    while time.monotonic() < until:
        time.sleep(0.02)

def nothing():
    pass

def price(n):
    clutch.progress(0)
    started = time.perf_counter()
    for i in range(n):
        progress(i, n, "message")
    return (time.perf_counter() - started) / n

def from_a_thread():
    threads = [threading.Thread(target=progress, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
        thread.join()

def forks():
    progress(1)
    progress(2)
    pid = os.fork()
    if pid == 0:
        progress(3)
        return
    return os.waitpid(pid, 0)[1]

def forks_and_exits():
    progress(1)
    pid = os.fork()
    if pid == 0:
        progress(3)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def ticking():
    progress(0)
    signal.signal(signal.SIGALRM, lambda *_: progress(7))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    for i in range(20_000):
        progress(i)
    signal.setitimer(signal.ITIMER_REAL, 0)
    progress(20_000)

def closes():
    for number in range(3, 200):
        try:
            os.close(number)
        except OSError:
            pass
    progress(1)

"""


class ProgressTest(FolderTestCase):
    """One worker process per test."""

    def has_reported(self, worker):
        return bool(select.select([worker.control_socket], [], [], 0)[0])

    def first_and_last(self, worker, call, first, last):
        """All reports of a call; there are some between if the machine is busy."""
        self.assertEqual(first, worker.progress(call)[0])
        while worker.progress(call)[0] != last:
            pass

    def test_first_and_last_are_told_and_few_between(self):
        worker = self.worker(CODE)
        for function in ("count", "fails", "later"):
            call = worker.send("tasks:" + function, pickle.dumps([20_000], 5))
            support.read_frame(worker.call_socket)
            message = "later" if function == "later" else ""
            reports = [worker.progress(call)]
            while reports[-1][0] != 19_999:
                reports.append(worker.progress(call))
            self.assertEqual((0, 20_000, message), reports[0])
            # Twenty thousand of them take far less than two seconds.
            self.assertLess(len(reports), 40)
            self.assertEqual(sorted(reports), reports)
        worker.call("tasks:nothing")
        self.assertFalse(self.has_reported(worker))

    def test_the_last_one_is_there_before_the_answer(self):
        worker = self.worker(CODE)
        for _ in range(50):
            call = worker.send("tasks:count", pickle.dumps([2], 5))
            worker.answer(call)
            self.assertTrue(self.has_reported(worker))
            self.assertEqual((0, 2, ""), worker.progress(call))
            self.assertTrue(self.has_reported(worker))
            self.assertEqual((1, 2, ""), worker.progress(call))

    def test_odd_numbers_and_texts(self):
        worker = self.worker(CODE)
        call = worker.send("tasks:odd", pickle.dumps([], 5))
        worker.answer(call)
        for _ in range(6):
            self.assertEqual((0, None, ""), worker.progress(call))
        self.assertEqual((0, None, "17"), worker.progress(call))
        self.assertEqual((0, None, ""), worker.progress(call))
        done, total, message = worker.progress(call)
        self.assertEqual((1, 2), (done, total))
        self.assertEqual("\N{SNOWMAN}" * 170, message)

    def test_what_is_held_back_costs_little(self):
        worker = self.worker(CODE)
        price = min(worker.call("tasks:price", 20_000) for _ in range(5))
        # Far above what it is, since the machine may be busy.
        self.assertLess(price, 20e-6)

    def test_from_threads_handlers_and_children(self):
        worker = self.worker(CODE)
        call = worker.send("tasks:from_a_thread", pickle.dumps([], 5))
        worker.answer(call)
        self.first_and_last(worker, call, 0, 2)
        for function, last in [("forks", 2), ("forks_and_exits", 1)]:
            call = worker.send("tasks:" + function, pickle.dumps([], 5))
            self.assertEqual(0, pickle.loads(worker.answer(call)[2]))
            self.assertEqual(
                list(range(1, last + 1)), [worker.progress(call)[0] for _ in range(last)]
            )
            self.assertFalse(self.has_reported(worker))
        call = worker.send("tasks:ticking", pickle.dumps([], 5))
        worker.answer(call)
        while worker.progress(call)[0] != 20_000:
            pass
        self.assertFalse(self.has_reported(worker))

    def test_a_full_socket_stops_nobody_before_the_end(self):
        worker = self.worker(CODE)
        payload = pickle.dumps([1, 2, "x" * 512], 5)
        worker.call("tasks:nothing")
        calls = []
        while True:
            calls.append(worker.send("tasks:report", payload))
            if worker.is_quiet(2):
                break
            support.read_frame(worker.call_socket)
        # It waits for room, since a last report is never lost.
        self.assertGreater(len(calls), 10)
        for call in calls:
            self.assertEqual((1, 2, "x" * 512), worker.progress(call))
        support.read_frame(worker.call_socket)

    def test_without_a_control_socket(self):
        worker = self.worker(CODE)
        call = worker.send("tasks:closes", pickle.dumps([], 5))
        # The worker may well be broken, but not by this.
        support.read_frame(worker.call_socket)
        self.assertGreater(call, 0)

    def test_streams_and_modes(self):
        modes = [{}, {"mode": THREADS, "lanes": 2}, {"mode": ASYNC, "lanes": 2}]
        if sys.version_info >= (3, 13):
            modes.append({"mode": SUBINTERPRETERS, "lanes": 2})
        for options in modes:
            with self.subTest(options):
                worker = self.worker(CODE, **options)
                for function in ("count", "later", "count"):
                    call = worker.send("tasks:" + function, pickle.dumps([3], 5))
                    worker.answer(call)
                    self.first_and_last(worker, call, 0, 2)
                if options.get("mode") != SUBINTERPRETERS:
                    call = worker.stream("tasks:items", 3, credit=9)
                    self.assertEqual([0, 1, 2], worker.rest(call)[0])
                    self.first_and_last(worker, call, 0, 2)
                self.assertFalse(self.has_reported(worker))

    def test_calls_at_once_report_for_themselves(self):
        for mode in (THREADS, ASYNC):
            worker = self.worker(CODE, mode=mode, lanes=4)
            calls = [worker.send("tasks:later", pickle.dumps([5000], 5)) for _ in range(4)]
            for _ in calls:
                support.read_frame(worker.call_socket)
            last = {}
            while set(last.values()) != {4999} or len(last) < 4:
                received = support.read_frame(worker.control_socket)
                last[received[3]] = support.Reader(received[4]).take("d")
            self.assertEqual(set(calls), set(last))

    def test_outside_of_a_worker_nothing_happens(self):
        code = (
            "import sys; sys.path.insert(0, %r); import clutch; clutch.progress(1, 2, 'x'); "
            "from clutch import *; progress(2); print(Stream.__name__, StreamFailed.__module__); "
            "print('_inputs' in dir(), hasattr(clutch, 'none'))" % support.SOURCE
        )
        said = subprocess.check_output([sys.executable, "-I", "-S", "-c", code])
        self.assertEqual(b"Stream clutch\nFalse False\n", said)
        self.write("early.py", "import clutch; clutch.progress(1)")
        self.assertFalse(self.has_reported(self.worker(CODE, preload=["early"])))


if __name__ == "__main__":
    unittest.main()
