"""Calls that answer with a stream: order, credit, cancelling, and what is odd about iterators."""

import os
import pickle
import random
import select
import threading
import unittest

import attachments
import support
from support import (
    ASYNC,
    ATTACHED,
    CREDIT,
    ITEM,
    ITEMS_END,
    JSON,
    RAW,
    STREAM,
    THREADS,
    Failed,
    FolderTestCase,
    frame,
    wait_for,
)

TASKS = """
import asyncio, os, signal, sys, threading, time

def count(n, returned=None):
    for i in range(n):
        yield i
    return returned

async def acount(n):
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i
    finally:
        await asyncio.sleep(0)
        note("aclosed")

def made(n):
    return acount(n)

async def later(n):
    await asyncio.sleep(0)
    return count(n, "late")

async def later_async(n):
    await asyncio.sleep(0)
    return acount(n)

def note(text):
    print(text)

def noted(n, text="closed"):
    try:
        for i in range(n):
            yield i
    finally:
        note(text)

def spin():
    try:
        yield 1
        while True:
            pass
    finally:
        note("closed")

async def aspin():
    try:
        yield 1
        while True:
            pass
    finally:
        note("closed")

async def asleeps():
    try:
        yield 1
        await asyncio.sleep(1000)
    finally:
        note("closed")

def sleeps():
    try:
        yield 1
        time.sleep(1000)
    finally:
        note("closed")

def breaks(n):
    yield from range(n)
    raise ValueError("broken")

def unserializable(n):
    try:
        yield from range(n)
        yield {"a": [1, object()]}
    finally:
        note("closed")

def large():
    yield b"x"
    yield list(range(500_000))

class Plain:
    def __init__(self, n):
        self.n, self.at = n, 0
    def __next__(self):
        self.at += 1
        if self.at > self.n:
            raise StopIteration
        return self.at
    def close(self):
        note("object closed")

def plain(n):
    return Plain(n)

def mapped(n):
    return map(str, range(n))

def listed():
    return [1, 2]

def nothing():
    pass

def blob(data):
    for i in range(3):
        yield data + b"%d" % i

def refuses():
    try:
        yield 1
        yield 2
    except GeneratorExit:
        yield 3

def raises_in_close():
    try:
        yield 1
        yield 2
    finally:
        raise KeyError("in close")

def swallows():
    try:
        yield 1
        while True:
            pass
    except BaseException:
        pass

def hangs_in_close():
    try:
        yield 1
        yield 2
    finally:
        note("closing")
        while True:
            time.sleep(0.01)

def hangs_after_bad():
    try:
        yield object()
    finally:
        note("closing")
        while True:
            time.sleep(0.01)

def prints(n):
    for i in range(n):
        print("line", i)
        yield i

def add(a, b=0):
    return a + b

def alarmed():
    def handler(*_):
        raise TimeoutError("alarm")
    signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        yield 1
        yield 2
    finally:
        note("closed")

def ticking(n):
    ticks = []
    signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    yield from range(n)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return len(ticks)

def forks():
    for i in range(3):
        yield i
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)

def forks_and_goes_on():
    for i in range(3):
        pid = os.fork()
        if pid == 0:
            yield "child"
            return
        os.waitpid(pid, 0)
        yield i

def raises_in_child():
    yield 1
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the child")
    yield os.WEXITSTATUS(os.waitpid(pid, 0)[1])

def wide(n):
    for i in range(n):
        yield str(i) * 200_000

async def awide(n):
    for i in range(n):
        yield str(i) * 200_000

def blocks(n):
    for i in range(n):
        yield [i, bytes([i]) * 100_000]
    return b"z" * 100_000

def same(data):
    yield data
    yield len(data)

def closes_stdout():
    yield 1
    sys.stdout.close()
    yield 2
"""


LOOP_TASKS = """
import asyncio, functools, threading
import clutch

let_go = threading.Event()

async def go():
    await asyncio.sleep(0)
    let_go.set()
    return "gone"

def waits():
    yield 1
    assert let_go.wait(50)
    yield 2
    let_go.clear()
    return ["end", clutch.current_call().id]

async def waits_later():
    call = clutch.current_call().id
    await asyncio.sleep(0)
    assert call == clutch.current_call().id
    return waits()

async def nothing():
    yield 0

@functools.wraps(nothing)
def waits_decorated():
    return waits()
"""


class Case(FolderTestCase):
    """Has the functions above."""

    OPTIONS = {}

    def tasks(self, **options):
        return self.worker(TASKS, **dict(self.OPTIONS, **options))


class OutputTest(Case):
    """What comes out, one call at a time."""

    def test_items_come_before_what_the_generator_returned(self):
        worker = self.tasks()
        call = worker.stream("tasks:count", 3, credit=10, returned="end")
        self.assertEqual([0, 1, 2], worker.items(call, 3))
        self.assertEqual("end", worker.value(call))
        self.assertEqual(5, worker.call("tasks:add", 2, b=3))

    def test_every_kind_of_iterator(self):
        worker = self.tasks()
        for function, items in [
            ("tasks:count", [0, 1, 2]),
            ("tasks:acount", [0, 1, 2]),
            ("tasks:made", [0, 1, 2]),
            ("tasks:later", [0, 1, 2]),
            ("tasks:later_async", [0, 1, 2]),
            ("tasks:plain", [1, 2, 3]),
            ("tasks:mapped", ["0", "1", "2"]),
        ]:
            with self.subTest(function):
                call = worker.stream(function, 3, credit=4)
                self.assertEqual(items, worker.items(call, 3))
                self.assertEqual("late" if function == "tasks:later" else None, worker.value(call))
        self.assertEqual(7, worker.call("tasks:add", 7))

    def test_what_is_no_iterator_is_refused(self):
        worker = self.tasks()
        for function, what in [("listed", "a list"), ("nothing", "None")]:
            call = worker.stream("tasks:" + function, credit=1)
            with self.assertRaises(Failed) as failed:
                worker.answer(call)
            self.assertEqual(
                {
                    "kind": "BadArguments",
                    "message": "tasks:%s returned %s, which is no iterator; call it without a "
                    "stream" % (function, what),
                },
                failed.exception.failure,
            )
        call = worker.stream("tasks:count", credit=1)
        with self.assertRaises(Failed) as failed:
            worker.answer(call)
        self.assertEqual("BadArguments", failed.exception.failure["kind"])
        call = worker.send("tasks:count", pickle.dumps([1]), STREAM | support.ITEMS)
        with self.assertRaises(Failed) as failed:
            worker.answer(call)
        self.assertIn("not as a stream", failed.exception.failure["message"])
        self.assertEqual("NotFound", worker.rest(worker.stream("tasks:none"))[1]["kind"])

    def test_without_the_flag_a_generator_is_refused_and_streams_are_named(self):
        worker = self.tasks()
        for function in ("count", "acount"):
            failure = worker.failure("tasks:" + function, 1)
            self.assertEqual("Unserializable", failure["kind"])
            self.assertIn("clutch call --stream", failure["message"])

    def test_codecs(self):
        worker = self.tasks()
        call = worker.stream("tasks:blob", b"x", codec=RAW, credit=9)
        self.assertEqual(([b"x0", b"x1", b"x2"], b""), worker.rest(call, RAW))
        call = worker.stream("tasks:count", b"[2]", codec=JSON, credit=9)
        self.assertEqual(([b"0", b"1"], b"null"), worker.rest(call, JSON))
        call = worker.stream("tasks:count", b"2", codec=RAW, credit=9)
        self.assertEqual("Raised", worker.rest(call, RAW)[1]["kind"])

    def test_nothing_is_sent_without_credit(self):
        worker = self.tasks()
        call = worker.stream("tasks:prints", 5)
        self.assertTrue(worker.is_quiet())
        # Nothing is computed that nobody has asked for.
        self.assertEqual("", worker.stdout())
        worker.credit(call, 2)
        self.assertEqual([0, 1], worker.items(call, 2))
        self.assertTrue(worker.is_quiet())
        self.assertEqual("line 0\nline 1\n", worker.stdout())
        worker.ping()
        worker.credit(call, 1)
        self.assertEqual(2, worker.item(call, 2))
        worker.credit(call, 3)
        self.assertEqual([3, 4], worker.items(call, 2, 3))
        self.assertIsNone(worker.value(call))
        # What comes late is for nobody.
        worker.credit(call, 100)
        worker.call_socket.sendall(
            frame(ITEM, call, support.struct.pack("<IQ", 1, 0), b"x")
            + frame(ITEMS_END, call, support.struct.pack("<I", 1) + support.text("late"))
        )
        self.assertEqual(3, worker.call("tasks:add", 1, b=2))

    def test_a_hundred_thousand_items_with_credits_at_random(self):
        worker = self.tasks()
        count, chance = 100_000, random.Random(5)
        call = worker.stream("tasks:count", count)

        def give():
            given = 0
            while given <= count:
                some = chance.choice((1, 2, 3, 50, 1000))
                allowed.acquire_many(some)
                worker.credit(call, some)
                given += some

        allowed = Allowed(2000)
        thread = threading.Thread(target=give, daemon=True)
        thread.start()
        for index in range(count):
            if worker.item(call, index) != index:
                self.fail("item %d is wrong" % index)
            allowed.release()
        self.assertIsNone(worker.value(call))
        allowed.open()
        thread.join()

    def test_an_exception_in_the_middle(self):
        worker = self.tasks()
        call = worker.stream("tasks:breaks", 2, credit=9)
        items, failure = worker.rest(call)
        self.assertEqual([0, 1], items)
        self.assertEqual(("Raised", "ValueError"), (failure["kind"], failure["type_name"]))
        self.assertEqual(["breaks"], [frame["function"] for frame in failure["frames"]])

    def test_an_item_that_is_no_data(self):
        worker = self.tasks()
        call = worker.stream("tasks:unserializable", 17, credit=99)
        items, failure = worker.rest(call)
        self.assertEqual((17, "Unserializable"), (len(items), failure["kind"]))
        self.assertEqual("item[17]['a'][1]", failure["path"])
        self.assertEqual("object", failure["type_name"])
        self.assertEqual("closed\n", worker.stdout())

    def test_an_item_that_is_too_large(self):
        worker = self.tasks()
        items, failure = worker.rest(worker.stream("tasks:large", credit=99))
        self.assertEqual([b"x"], items)
        self.assertEqual(("TooLarge", 1 << 20), (failure["kind"], failure["limit"]))

    def test_what_is_printed_comes_before_the_item(self):
        worker = self.tasks()
        call = worker.stream("tasks:prints", 1000, credit=4000)
        for index in range(1000):
            worker.item(call, index)
            self.assertIn("line %d\n" % index, worker.stdout())
        worker.value(call)

    def test_closed_streams_are_put_back(self):
        worker = self.tasks()
        for _ in range(2):
            self.assertEqual([1, 2], worker.rest(worker.stream("tasks:closes_stdout", credit=9))[0])
            call = worker.stream("tasks:prints", 1, credit=9)
            worker.rest(call)
        self.assertEqual("line 0\nline 0\n", worker.stdout())

    def test_large_items_wait_for_their_reader(self):
        worker = self.tasks()
        for function in ("wide", "awide"):
            call = worker.stream("tasks:" + function, 100, credit=4000)
            worker.item(call, 0)
            before = memory_of(worker)
            # Nobody reads, so the socket is full, and that is all that there is.
            self.assertFalse(select.select([worker.control_socket], [], [], 0.5)[0])
            self.assertLess(memory_of(worker) - before, 10_000)
            for index in range(1, 100):
                self.assertEqual(str(index) * 200_000, worker.item(call, index))
            self.assertIsNone(worker.value(call))

    def test_items_with_attachments(self):
        worker = self.tasks()
        open_before = len(os.listdir("/proc/%d/fd" % worker.process.pid))
        call = worker.stream("tasks:blocks", 5, credit=9)
        for index in range(5):
            self.assertEqual([index, bytes([index]) * 100_000], self.attached(worker, ITEM, index))
        self.assertEqual(b"z" * 100_000, self.attached(worker, support.RESULT, None))
        number = attachments.memfd(b"y" * 200_000)
        entries = [attachments.entry(attachments.BYTES, 0, 0, 200_000)]
        body = attachments.payload(entries, attachments.value_with([attachments.HERE]))
        call = worker.send("tasks:same", body, STREAM | ATTACHED, descriptors=[number])
        worker.credit(call, 9)
        # It goes back as it came.
        self.assertEqual(b"y" * 200_000, self.attached(worker, ITEM, 0))
        self.assertEqual(os.fstat(number).st_ino, self.inode)
        os.close(number)
        self.assertEqual(200_000, worker.item(call, 1))
        self.assertIsNone(worker.value(call))
        self.assertEqual(3, worker.call("tasks:add", 1, b=2))
        wait_for(
            lambda: len(os.listdir("/proc/%d/fd" % worker.process.pid)) <= open_before + 2,
            "descriptors to be closed",
        )

    def attached(self, worker, kind, index):
        """The value of the next frame, which has something attached."""
        descriptors = []
        received = support.read_frame(worker.call_socket, received=descriptors)
        self.assertEqual((kind, ATTACHED), received[:2])
        if index is not None:
            self.assertEqual((0, index), support.struct.unpack("<IQ", received[4]))
        self.inode = os.fstat(descriptors[0]).st_ino
        value = attachments.read_back(received[5], descriptors)
        for number in descriptors:
            os.close(number)
        return value

    def test_memory_stays_flat(self):
        worker = self.tasks()
        sizes = []
        for count in (20_000, 200_000):
            call = worker.stream("tasks:count", count)
            index = 0
            while index < count:
                worker.credit(call, 2000)
                for index in range(index, index + 2000):
                    worker.item(call, index)
                index += 1
            worker.credit(call, 1)
            worker.value(call)
            sizes.append(memory_of(worker))
        self.assertLess(sizes[1] - sizes[0], 1000, sizes)


def memory_of(worker):
    """What a worker has in memory, in KiB."""
    with open("/proc/%d/status" % worker.process.pid, encoding="utf-8") as status:
        return int(status.read().split("VmRSS:")[1].split()[0])


class Allowed:
    """How many items may still be asked for, as a receiver counts them."""

    def __init__(self, count):
        self._count, self._is_open = count, False
        self._changed = threading.Condition()

    def acquire_many(self, count):
        with self._changed:
            self._changed.wait_for(lambda: self._count >= count or self._is_open)
            self._count -= count

    def release(self):
        with self._changed:
            self._count += 1
            self._changed.notify()

    def open(self):
        with self._changed:
            self._is_open = True
            self._changed.notify()


def begun(worker):
    """The calls that a worker has begun, of any lane."""
    return support.struct.unpack("=4Q", os.pread(worker.page, 32, 0))


class CancelTest(Case):
    """A stream that ends before its iterator does."""

    # What runs until it is interrupted from outside, and how the worker ends without a daemon.
    SPINNING = ("spin", "sleeps", "aspin", "asleeps")
    EXIT_CODES = (70,)

    def cancelled(self, worker, call):
        worker.interrupt(call)
        with self.assertRaises(Failed) as failed:
            worker.answer(call)
        self.assertEqual({"kind": "Cancelled"}, failed.exception.failure)
        self.assertEqual(3, worker.call("tasks:add", 1, b=2))

    def test_where_it_waits_for_credit(self):
        worker = self.tasks()
        for function in ("noted", "plain", "acount", "later_async", "made"):
            with self.subTest(function):
                call = worker.stream("tasks:" + function, 9, credit=2)
                worker.item(call, 0)
                worker.item(call, 1)
                self.cancelled(worker, call)
        self.assertEqual("closed\nobject closed\n" + 3 * "aclosed\n", worker.stdout())
        self.assertEqual("", worker.stderr())

    def test_before_the_first_item(self):
        worker = self.tasks()
        for function in ("noted", "acount"):
            call = worker.stream("tasks:" + function, 9)
            wait_for(lambda call=call: call in begun(worker), "the call to begin")
            self.cancelled(worker, call)

    def test_where_it_runs(self):
        worker = self.tasks()
        for function in self.SPINNING:
            with self.subTest(function):
                call = worker.stream("tasks:" + function, credit=9)
                worker.item(call, 0)
                self.cancelled(worker, call)
        self.assertEqual("closed\n" * len(self.SPINNING), worker.stdout())
        self.assertEqual("", worker.stderr())

    def test_one_that_swallows_it(self):
        worker = self.tasks()
        call = worker.stream("tasks:swallows", credit=9)
        worker.item(call, 0)
        self.cancelled(worker, call)

    def test_at_any_moment(self):
        worker = self.tasks()
        chance = random.Random(7)
        for number in range(60):
            function = ("noted", "acount", "made")[number % 3]
            call = worker.stream("tasks:" + function, 10**9, credit=4000)
            seen = chance.randrange(4000)
            for index in range(seen):
                worker.item(call, index)
            worker.interrupt(call)
            items, failure = worker.rest(call)
            self.assertEqual(list(range(seen, seen + len(items))), items)
            self.assertEqual({"kind": "Cancelled"}, failure)
        self.assertEqual(3, worker.call("tasks:add", 1, b=2))
        self.assertEqual("closed\naclosed\naclosed\n" * 20, worker.stdout())
        self.assertEqual("", worker.stderr())

    def test_closing_that_raises_or_yields_is_told(self):
        worker = self.tasks()
        for function, said in [
            ("raises_in_close", "KeyError: 'in close'"),
            ("refuses", "RuntimeError: generator ignored GeneratorExit"),
        ]:
            call = worker.stream("tasks:" + function, credit=1)
            worker.item(call, 0)
            self.cancelled(worker, call)
            self.assertIn("closing the iterator of a stream raised", worker.stderr())
            self.assertIn(said, worker.stderr())

    def test_closing_that_hangs_can_be_interrupted_once(self):
        worker = self.tasks()
        call = worker.stream("tasks:hangs_after_bad", credit=1)
        wait_for(lambda: "closing" in worker.stdout(), "the end")
        self.cancelled(worker, call)
        call = worker.stream("tasks:hangs_in_close", credit=1)
        worker.item(call, 0)
        worker.interrupt(call)
        # It has been interrupted, and will be killed.
        self.assertTrue(worker.is_quiet())
        worker.ping()

    def test_the_daemon_goes(self):
        for function in ("noted", "acount"):
            with self.subTest(function):
                worker = self.tasks()
                call = worker.stream("tasks:" + function, 9, credit=1)
                worker.item(call, 0)
                worker.call_socket.close()
                self.assertIn(worker.process.wait(support.DEADLINE_S), self.EXIT_CODES)
                self.assertIn("closed\n", worker.stdout())
        worker = self.tasks()
        worker.item(worker.stream("tasks:noted", 9, credit=1), 0)
        self.assertEqual(0, worker.finish())
        self.assertEqual("closed\n", worker.stdout())

    def test_what_breaks_the_protocol_ends_the_worker(self):
        for bad in (
            frame(CREDIT, 1, b"x"),
            frame(CREDIT, 1, support.struct.pack("<II", 0, 4097)),
            frame(ITEM, 1, b"x"),
            frame(ITEMS_END, 1, b"x"),
            frame(ITEMS_END, 1, support.struct.pack("<IQ", 1, 99)),
            frame(support.RESULT, 1),
        ):
            worker = self.tasks()
            worker.stream("tasks:count", 9)
            worker.call_socket.sendall(bad)
            self.assertEqual(70, worker.process.wait(support.DEADLINE_S))
            self.assertIn("on the call socket", worker.stderr())


class ThreadsOutputTest(OutputTest):
    """The same, where several calls run on threads."""

    OPTIONS = {"mode": THREADS, "lanes": 2}


class OneThreadOutputTest(OutputTest):
    """The same, where the only thread cannot wait for calls while it runs one."""

    OPTIONS = {"mode": THREADS, "lanes": 1}


class AsyncOutputTest(OutputTest):
    """The same, where calls run on an event loop, or beside it."""

    OPTIONS = {"mode": ASYNC, "lanes": 2}


class ThreadsCancelTest(CancelTest):
    """The same, where several calls run on threads."""

    OPTIONS = {"mode": THREADS, "lanes": 2}
    # Nothing reaches a thread in a system call.
    SPINNING = ("spin", "aspin", "asleeps")
    # An answer may still get out, or the interpreter end before it.
    EXIT_CODES = (0, 70)


class AsyncLoopTest(Case):
    def test_plain_iterators_of_coroutines_leave_the_loop_to_others(self):
        # The generator is at its second item until another call of the loop has let it go.
        for function in ("waits_later", "waits_decorated"):
            worker = self.worker(LOOP_TASKS, mode=ASYNC, lanes=3)
            call = worker.stream("tasks:" + function, credit=9)
            self.assertEqual([1], worker.items(call, 1))
            other = worker.send("tasks:go", pickle.dumps([], 5))
            seen = {}
            while len(seen) < 2:
                kind, _, _, answered, meta, body = support.read_frame(worker.call_socket)
                self.assertNotEqual(support.FAILED, kind, meta)
                if kind == support.RESULT:
                    seen[answered] = pickle.loads(body)
            self.assertEqual({call: ["end", call], other: "gone"}, seen)


class AsyncCancelTest(CancelTest):
    """The same, where calls run on an event loop, or beside it."""

    OPTIONS = {"mode": ASYNC, "lanes": 2}
    SPINNING = ("spin", "asleeps")
    EXIT_CODES = (0, 70)


class SignalTest(Case):
    """Handlers of user code that run while a stream waits."""

    def test_one_that_raises(self):
        worker = self.tasks()
        call = worker.stream("tasks:alarmed", credit=1)
        worker.item(call, 0)
        with self.assertRaises(Failed) as failed:
            worker.answer(call)
        self.assertEqual("TimeoutError", failed.exception.failure["type_name"])
        self.assertEqual("closed\n", worker.stdout())
        self.assertEqual(3, worker.call("tasks:add", 1, b=2))

    def test_many_that_do_not(self):
        worker = self.tasks()
        call = worker.stream("tasks:ticking", 2000)
        for index in range(0, 2000, 4):
            worker.credit(call, 4)
            worker.items(call, 4, index)
            select.select([worker.call_socket], [], [], 0.0002)
        worker.credit(call, 1)
        self.assertGreater(worker.value(call), 10)


class ForkTest(Case):
    """Children that a generator forks do not speak for their parent."""

    def test_fork(self):
        worker = self.tasks()
        for function, items in [
            ("forks", [0, 1, 2]),
            ("forks_and_goes_on", [0, 1, 2]),
            ("raises_in_child", [1, 1]),
        ]:
            with self.subTest(function):
                call = worker.stream("tasks:" + function, credit=9)
                self.assertEqual((items, pickle.dumps(None, 5)), worker.rest(call))
        self.assertIn("ValueError: in the child", worker.stderr())
        self.assertEqual(3, worker.call("tasks:add", 1, b=2))


class ThreadsForkTest(ForkTest):
    """The same, where several calls run on threads."""

    OPTIONS = {"mode": THREADS, "lanes": 2}


class AsyncForkTest(ForkTest):
    """The same, where calls run on an event loop, or beside it."""

    OPTIONS = {"mode": ASYNC, "lanes": 2}


if __name__ == "__main__":
    unittest.main()
