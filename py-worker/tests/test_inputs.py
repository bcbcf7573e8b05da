"""Arguments that are streams: read as they come, in both directions at once, and broken off."""

import os
import pickle
import struct
import sys
import tempfile
import unittest

import attachments
import support
from attachments import HERE, payload, value_with
from clutch import _pristine
from support import (
    ASYNC,
    ATTACHED,
    CREDIT,
    FAILED,
    ITEM,
    ITEMS_END,
    PLAIN,
    RESULT,
    STREAM,
    SUBINTERPRETERS,
    THREADS,
    FolderTestCase,
    frame,
    read_frame,
    send_with,
    wait_for,
)

sys.path.insert(0, support.SOURCE)
import boot  # noqa: E402

_pristine.configure(boot.pristine_path(support.SOURCE))

from clutch import _call, _inputs, _port, _receive  # noqa: E402

CODE = """
import asyncio, gc, os, signal, threading, time
import clutch

kept = []

def total(stream, more=0):
    assert type(stream) is clutch.Stream and iter(stream) is stream
    return sum(stream) + more

async def atotal(stream):
    found = 0
    async for item in stream:
        found += item
    return found

def first(stream, count):
    return [next(stream) for _ in range(count)]

def nothing(stream):
    return 1

def keep(stream):
    kept.append(stream)
    return next(stream)

def use_kept():
    try:
        return list(kept.pop())
    except clutch.StreamFailed as error:
        return str(error)

def told(stream):
    got = []
    try:
        for item in stream:
            got.append(item)
    except clutch.StreamFailed as error:
        return got, str(error)

def untold(stream):
    return list(stream)

def pairs(one, two):
    return [[a, b] for a, b in zip(one, two)]

async def apairs(one, two):
    async def gathered(stream):
        return [item async for item in stream]
    ones, twos = await asyncio.gather(gathered(one), gathered(two))
    return [[a, b] for a, b in zip(ones, twos)]

def doubled(stream):
    for item in stream:
        yield 2 * item
    return "end"

async def adoubled(stream):
    async for item in stream:
        yield 2 * item

def echo(stream):
    return stream

async def aecho(stream):
    return stream

def swallows(stream):
    # Reads all before it gives anything.
    yield from list(stream)

def waits(stream):
    try:
        next(stream)
        next(stream)
    finally:
        print("left", flush=True)

async def awaits(stream):
    try:
        await stream.__anext__()
        await stream.__anext__()
    finally:
        print("left", flush=True)

def generates(stream):
    try:
        yield next(stream)
        yield next(stream)
    finally:
        print("left", flush=True)

async def agenerates(stream):
    try:
        yield await stream.__anext__()
        yield await stream.__anext__()
    finally:
        print("left", flush=True)

def elsewhere(stream):
    said = []
    def read():
        try:
            next(stream)
        except clutch.StreamFailed as error:
            said.append(str(error))
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    return said + [next(stream)]

async def blocks(stream):
    try:
        return next(stream)
    except clutch.StreamFailed as error:
        return str(error)

def forks(stream):
    one = next(stream)
    pid = os.fork()
    if pid == 0:
        try:
            list(stream)
        except clutch.StreamFailed as error:
            os.write(1, str(error).encode())
        os._exit(3)
    os.waitpid(pid, 0)
    return one + next(stream)

def rests(stream):
    return threading.active_count(), sum(map(len, stream))

def alarmed(stream):
    def handler(*_):
        raise TimeoutError("alarm")
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        next(stream)
    except TimeoutError:
        return next(stream)

def summed(stream):
    return [sum(memoryview(item)) for item in stream]

def items(stream):
    return list(stream)

def keeps_failure(stream):
    try:
        next(stream)
    except clutch.StreamFailed as error:
        kept.append(error)

def keeps_error(value):
    try:
        yield 1
        raise ValueError(len(value))
    except ValueError as error:
        kept.append(error)
        del value
        raise

async def akeeps_error(value):
    for item in keeps_error(value):
        del value
        yield item

def in_own_loop(stream):
    return asyncio.run(atotal(stream))

def add(a, b):
    return a + b
"""

MODES = [{}, {"mode": THREADS, "lanes": 2}, {"mode": THREADS}, {"mode": ASYNC, "lanes": 2}]


def item(call, index, value, stream=1):
    return frame(ITEM, call, struct.pack("<IQ", stream, index), pickle.dumps(value, 5), 0, PLAIN)


def end(call, failure="", stream=1):
    return frame(ITEMS_END, call, struct.pack("<I", stream) + support.text(failure))


class Case(FolderTestCase):
    def call(self, worker, function, *args, streams=1, flags=0):
        """Sends a call whose first arguments are streams."""
        entries = [
            attachments.entry(attachments.STREAM, details=struct.pack("<I", number))
            for number in range(1, streams + 1)
        ]
        value = value_with([HERE] * streams + list(args))
        return worker.send("tasks:" + function, payload(entries, value), ATTACHED | flags)

    def run_call(self, worker, call, *sources, failure="", ahead=0):
        """Feeds a call as it asks, and takes its items: these, and the result or the failure."""
        sources = [iter(source) for source in sources]
        sent, asked, items = [0] * len(sources), [0] * len(sources), []
        if ahead:
            worker.credit(call, ahead)
        while True:
            kind, _, _, answered, meta, body = read_frame(worker.call_socket)
            self.assertEqual(call, answered)
            if kind == CREDIT:
                stream, count = struct.unpack("<II", meta)
                asked[stream - 1] += count
                # So many may be under way.
                self.assertLessEqual(asked[stream - 1] - sent[stream - 1], 64)
                for _ in range(count):
                    try:
                        value = next(sources[stream - 1])
                    except StopIteration:
                        worker.call_socket.sendall(end(call, failure, stream))
                        sources[stream - 1] = iter(())
                        break
                    worker.call_socket.sendall(item(call, sent[stream - 1], value, stream))
                    sent[stream - 1] += 1
            elif kind == ITEM:
                self.assertEqual((0, len(items)), struct.unpack("<IQ", meta))
                items.append(pickle.loads(body))
                worker.credit(call, 1)
            elif kind == RESULT:
                return items, pickle.loads(body)
            else:
                self.assertEqual(FAILED, kind)
                return items, support.read_failure(meta)

    def credits(self, worker, call):
        """How many items a call asks for next."""
        kind, _, _, answered, meta, _ = read_frame(worker.call_socket)
        self.assertEqual((CREDIT, call), (kind, answered))
        return struct.unpack("<II", meta)


class InputTest(Case):
    """What a call can do with a stream, in all modes that have them."""

    def each_mode(self, **options):
        return [self.worker(CODE, **dict(mode, **options)) for mode in MODES]

    def test_read_to_the_end(self):
        for worker in self.each_mode():
            functions = ["total", "atotal", "in_own_loop"]
            for function in functions:
                for count in (0, 1, 3, 4, 5, 63, 64, 65, 5000):
                    call = self.call(worker, function)
                    self.assertEqual(
                        ([], sum(range(count))), self.run_call(worker, call, range(count)), function
                    )
            self.assertEqual(3, worker.call("tasks:add", 1, 2))

    def test_keywords_and_other_attachments(self):
        worker = self.worker(CODE)
        entries = [attachments.entry(attachments.STREAM, details=struct.pack("<I", 7))]
        value = value_with([[HERE], {"more": 5}])
        call = worker.send("tasks:total", payload(entries, value), ATTACHED | support.KEYWORDS)
        self.assertEqual((7, 4), self.credits(worker, call))
        worker.call_socket.sendall(item(call, 0, 1, 7) + end(call, stream=7))
        self.assertEqual(6, pickle.loads(self.last(worker, call)))

    def test_leaving_early(self):
        for worker in self.each_mode():
            call = self.call(worker, "first", 3)
            self.assertEqual(([], [0, 1, 2]), self.run_call(worker, call, range(1000)))
            # Late ones are for nobody.
            worker.call_socket.sendall(item(call, 900, 1) + end(call) + item(99, 0, 1))
            call = self.call(worker, "nothing")
            self.assertEqual(([], 1), self.run_call(worker, call, range(1000)))
            worker.call_socket.sendall(end(call, "late"))
            self.assertEqual(3, worker.call("tasks:add", 1, 2))

    def test_nothing_is_asked_for_that_is_not_read(self):
        worker = self.worker(CODE)
        call = self.call(worker, "keep")
        self.assertEqual((1, 4), self.credits(worker, call))
        self.assertTrue(worker.is_quiet())
        worker.ping()
        worker.call_socket.sendall(item(call, 0, "x"))
        self.assertEqual(([], "x"), self.run_call(worker, call, ()))

    def test_after_its_call(self):
        for worker in self.each_mode():
            call = self.call(worker, "keep")
            self.assertEqual(([], 0), self.run_call(worker, call, range(9)))
            self.assertIn("has ended", worker.call("tasks:use_kept"))

    def test_broken_off(self):
        for worker in self.each_mode():
            call = self.call(worker, "told")
            told = self.run_call(worker, call, range(3), failure="no file")
            self.assertEqual(([], ([0, 1, 2], "no file")), told)
            call = self.call(worker, "untold")
            _, failure = self.run_call(worker, call, range(3), failure="no file")
            self.assertEqual("clutch.StreamFailed", failure["type_name"])
            self.assertEqual("no file", failure["message"])

    def test_an_item_that_cannot_be_decoded(self):
        worker = self.worker(CODE)
        call = self.call(worker, "told")
        self.credits(worker, call)
        bad = frame(ITEM, call, struct.pack("<IQ", 1, 1), b"bad", 0, PLAIN)
        worker.call_socket.sendall(item(call, 0, 1) + bad)
        got, said = pickle.loads(self.last(worker, call))
        self.assertEqual([1], got)
        self.assertIn("item 1 of the stream cannot be decoded", said)

    def last(self, worker, call):
        """The payload of the answer, behind credits."""
        while True:
            kind, _, _, answered, meta, body = read_frame(worker.call_socket)
            self.assertEqual(call, answered)
            if kind != CREDIT:
                self.assertEqual(RESULT, kind, meta)
                return body

    def test_two_at_once(self):
        for worker in self.each_mode():
            for function in ("pairs", "apairs"):
                call = self.call(worker, function, streams=2)
                found = self.run_call(worker, call, range(500), range(500, 1000))
                self.assertEqual(([], [[i, 500 + i] for i in range(500)]), found)

    def test_both_directions(self):
        for worker in self.each_mode():
            for function, returned in [
                ("doubled", "end"),
                ("adoubled", None),
                ("swallows", None),
                ("echo", None),
                ("aecho", None),
            ]:
                call = self.call(worker, function, flags=STREAM)
                items, value = self.run_call(worker, call, range(1000), ahead=7)
                factor = 2 if "doubled" in function else 1
                self.assertEqual([factor * i for i in range(1000)], items, function)
                self.assertEqual(returned, value)

    def test_cancelled_where_it_waits(self):
        for worker in self.each_mode():
            left = 0
            for function in ("waits", "awaits", "generates", "agenerates"):
                is_stream = "generates" in function
                call = self.call(worker, function, flags=STREAM if is_stream else 0)
                if is_stream:
                    worker.credit(call, 9)
                self.credits(worker, call)
                worker.call_socket.sendall(item(call, 0, 1))
                seen = {CREDIT: 0, ITEM: 0}
                while seen != {CREDIT: 1, ITEM: int(is_stream)}:
                    seen[read_frame(worker.call_socket)[0]] += 1
                worker.interrupt(call)
                while True:
                    kind, _, _, _, meta, _ = read_frame(worker.call_socket)
                    if kind != CREDIT:
                        break
                self.assertEqual(
                    (FAILED, {"kind": "Cancelled"}), (kind, support.read_failure(meta))
                )
                left += 1
                self.assertEqual("left\n" * left, worker.stdout(), function)
            self.assertEqual(3, worker.call("tasks:add", 1, 2))
            self.assertEqual("", worker.stderr())

    def test_calls_side_by_side(self):
        for mode in (THREADS, ASYNC):
            for function in ("total", "atotal"):
                worker = self.worker(CODE, mode=mode, lanes=4)
                calls = [self.call(worker, function) for _ in range(4)]
                sent, ended, results = dict.fromkeys(calls, 0), set(), {}
                while len(results) < 4:
                    kind, _, _, call, meta, body = read_frame(worker.call_socket)
                    if kind == RESULT:
                        results[call] = pickle.loads(body)
                        # Beside calls that stream, others run as ever.
                        continue
                    self.assertEqual(CREDIT, kind)
                    for _ in range(struct.unpack("<II", meta)[1]):
                        if sent[call] == 300 and call not in ended:
                            ended.add(call)
                            worker.call_socket.sendall(end(call))
                        elif sent[call] < 300:
                            worker.call_socket.sendall(item(call, sent[call], call))
                            sent[call] += 1
                self.assertEqual({call: 300 * call for call in calls}, results)
                self.assertEqual(3, worker.call("tasks:add", 1, 2))

    def test_read_where_it_cannot_be(self):
        for worker in self.each_mode():
            call = self.call(worker, "elsewhere")
            said, first = self.run_call(worker, call, range(9))[1]
            self.assertEqual(
                ("a stream is read on the thread that its call runs on", 0), (said, first)
            )
            call = self.call(worker, "forks")
            self.assertEqual(([], 1), self.run_call(worker, call, range(9)))
            self.assertIn("a forked child cannot read the stream", worker.stdout())
        worker = self.worker(CODE, mode=ASYNC, lanes=2)
        call = self.call(worker, "blocks")
        self.assertIn("`async for`", self.run_call(worker, call, range(9))[1])

    def test_large_items_come_few_at_a_time(self):
        worker = self.worker(CODE, payload_bytes_max=32 << 20)
        call = self.call(worker, "rests")
        self.credits(worker, call)
        data, under_way = pickle.dumps(b"x" * (10 << 20), 5), 4
        for index in range(12):
            meta = struct.pack("<IQ", 1, index)
            worker.call_socket.sendall(frame(ITEM, call, meta, data, 0, PLAIN))
            under_way -= 1
            while not under_way:
                under_way += self.credits(worker, call)[1]
                self.assertLessEqual(under_way, 2)
        worker.call_socket.sendall(end(call))
        self.assertEqual((1, 120 << 20), pickle.loads(self.last(worker, call)))

    def test_items_with_attachments(self):
        for worker in self.each_mode():
            call = self.call(worker, "summed")
            self.credits(worker, call)
            for index in range(4):
                number = attachments.memfd(bytes([index]) * 100_000)
                entries = [attachments.entry(attachments.BYTES, 0, 0, 100_000)]
                body = payload(entries, value_with(HERE))
                meta = struct.pack("<IQ", 1, index)
                data = frame(ITEM, call, meta, body, ATTACHED, PLAIN, 1)
                send_with(worker.call_socket, data, [number])
                os.close(number)
            worker.call_socket.sendall(end(call))
            sums = pickle.loads(self.last(worker, call))
            self.assertEqual([0, 100_000, 200_000, 300_000], sums)
            # The last one is let go of when the next call is waited for.
            wait_for(lambda worker=worker: not self.files_in_memory(worker), "them to be closed")
            call = self.call(worker, "told")
            self.credits(worker, call)
            entries = [attachments.entry(attachments.STREAM, details=struct.pack("<I", 2))]
            body = payload(entries, value_with(HERE))
            worker.call_socket.sendall(
                frame(ITEM, call, struct.pack("<IQ", 1, 0), body, ATTACHED, PLAIN)
            )
            self.assertIn("which an item", pickle.loads(self.last(worker, call))[1])

    def test_kept_exceptions_keep_nothing_open(self):
        for worker in self.each_mode():
            call = self.call(worker, "keeps_failure")
            self.credits(worker, call)
            number = attachments.memfd(b"x" * 100)
            entries = [attachments.entry(attachments.BYTES, 0, 0, 200)]
            meta = struct.pack("<IQ", 1, 0)
            data = frame(ITEM, call, meta, payload(entries, value_with(HERE)), ATTACHED, PLAIN, 1)
            send_with(worker.call_socket, data, [number])
            self.assertIsNone(pickle.loads(self.last(worker, call)))
            gone = "what an item had"
            wait_for(lambda worker=worker: not self.files_in_memory(worker), gone)
            for function in ("keeps_error", "akeeps_error"):
                entries = [attachments.entry(attachments.BYTES, 0, 0, 100)]
                body = payload(entries, value_with([HERE]))
                call = worker.send(
                    "tasks:" + function, body, ATTACHED | STREAM, descriptors=[number]
                )
                _, failure = self.run_call(worker, call, ahead=1)
                self.assertEqual("ValueError", failure["type_name"])
                gone = "what a call had"
                wait_for(lambda worker=worker: not self.files_in_memory(worker), gone)
            os.close(number)

    def test_what_comes_late_is_not_kept(self):
        """For a call that is over, with nothing behind it."""
        for worker in self.each_mode():
            call = self.call(worker, "keeps_failure")
            self.credits(worker, call)
            meta = struct.pack("<IQ", 1, 0)
            worker.call_socket.sendall(frame(ITEM, call, meta, b"x", 0, PLAIN))
            self.last(worker, call)
            number = attachments.memfd(b"x" * 100)
            entries = [attachments.entry(attachments.BYTES, 0, 0, 100)]
            meta = struct.pack("<IQ", 1, 1)
            data = frame(ITEM, call, meta, payload(entries, value_with(HERE)), ATTACHED, PLAIN, 1)
            send_with(worker.call_socket, data, [number])
            os.close(number)
            wait_for(lambda worker=worker: worker.is_quiet(), "the worker to wait again")
            gone = "what came late"
            wait_for(lambda worker=worker: not self.files_in_memory(worker), gone)

    @staticmethod
    def files_in_memory(worker):
        """Those that came with items."""
        folder = "/proc/%d/fd/" % worker.process.pid
        links = [os.readlink(folder + number) for number in os.listdir(folder)]
        return [link for link in links if "memfd:test" in link]

    def test_a_stream_twice(self):
        worker = self.worker(CODE)
        entries = 2 * [attachments.entry(attachments.STREAM, details=struct.pack("<I", 1))]
        body = payload(entries, value_with([HERE, HERE]))
        call = worker.send("tasks:pairs", body, ATTACHED)
        _, failure = self.run_call(worker, call, ())
        self.assertEqual("BadArguments", failure["kind"])
        self.assertIn("stream 1 is there twice", failure["message"])

    def test_a_handler_that_raises(self):
        worker = self.worker(CODE)
        call = self.call(worker, "alarmed")
        self.credits(worker, call)
        wait_for(lambda: not worker.is_quiet(0.01) or worker.begun() == call, "the call")
        self.assertTrue(worker.is_quiet(0.3))
        worker.call_socket.sendall(item(call, 0, "x"))
        self.assertEqual(([], "x"), self.run_call(worker, call, ()))

    def test_items_against_the_rules_end_the_worker(self):
        for worker in self.each_mode():
            call = self.call(worker, "untold")
            self.credits(worker, call)
            worker.call_socket.sendall(item(call, 1, 1))
            self.assertEqual(70, worker.process.wait(support.DEADLINE_S))
            self.assertIn("is not the next one", worker.stderr())
        # It waits for the second one, and has asked for 65 of the first one.
        for worker in self.each_mode():
            call = self.call(worker, "pairs", streams=2)
            self.credits(worker, call)
            worker.call_socket.sendall(b"".join(item(call, index, 1) for index in range(4)))
            self.assertEqual(
                ((1, 61), (2, 4)), (self.credits(worker, call), self.credits(worker, call))
            )
            worker.call_socket.sendall(b"".join(item(call, index, 1) for index in range(4, 66)))
            self.assertEqual(70, worker.process.wait(support.DEADLINE_S))
            self.assertIn("was not asked for", worker.stderr())

    def test_the_daemon_goes(self):
        worker = self.worker(CODE)
        call = self.call(worker, "waits")
        self.credits(worker, call)
        worker.call_socket.close()
        self.assertEqual(70, worker.process.wait(support.DEADLINE_S))
        self.assertEqual("left\n", worker.stdout())


@unittest.skipIf(sys.version_info < (3, 13), "subinterpreters need 3.13")
class SubinterpretersTest(Case):
    """They have no streams, and say so."""

    def test_refused(self):
        worker = self.worker(CODE, mode=SUBINTERPRETERS, lanes=2)
        calls = [
            self.call(worker, "total"),
            worker.stream("tasks:doubled", [1]),
            worker.stream("tasks:add", 1, 2),
        ]
        for call in calls:
            for _ in range(4000):
                worker.credit(call, 1)
            worker.call_socket.sendall(item(call, 0, 1) + end(call))
        seen = set()
        for _ in calls:
            kind, _, _, call, meta, _ = read_frame(worker.call_socket)
            self.assertEqual(FAILED, kind)
            failure = support.read_failure(meta)
            self.assertEqual("BadArguments", failure["kind"])
            self.assertIn("a pool with `subinterpreters` has no streams", failure["message"])
            seen.add(call)
        self.assertEqual(set(calls), seen)
        self.assertEqual(3, worker.call("tasks:add", 1, 2))


class FedPort(_port.Port):
    """A port at which an item comes whenever it is waited for one."""

    def __init__(self, items):
        state = _call.State()
        state.running = 5
        super().__init__(5, state, self.count)
        self.items = iter(items)
        self.asked = 0

    def count(self, _head, meta):
        self.asked += struct.unpack("<II", meta)[1]

    def wait(self, is_ready):
        payload = next(self.items, None)
        if payload is None:
            self.inputs[1]().end("")
        else:
            index = self.sent
            self.sent += 1
            self.deliver(ITEM, struct.pack("<IQ", 1, index), payload)


class WindowTest(unittest.TestCase):
    """How many items are here or under way, by how large those are that came."""

    @staticmethod
    def windows(items):
        """How many are, for each of the items, when it has been taken."""
        port = FedPort(items)
        stream = _inputs.Stream(port, 1, lambda _payload: None)
        port.inputs[1] = lambda: stream
        return [port.asked - port.sent for _ in stream]

    @staticmethod
    def attached(size, count):
        numbers = [attachments.memfd(size=size) for _ in range(count)]
        return _receive.Attached(memoryview(b""), numbers, False)

    def test_what_is_attached_counts_as_much_as_it_is(self):
        for size, count, most in (
            (1000, 1, 64),
            (400_000, 1, 41),
            (10 << 20, 1, 2),
            (5 << 20, 1, 3),
            (8, 9, 7),
            (1000, 64, 2),
        ):
            windows = self.windows(self.attached(size, count) for _ in range(200))
            self.assertEqual(most, max(windows[9:]), (size, count))

    def test_files_with_names_are_no_memory(self):
        with tempfile.NamedTemporaryFile() as file:
            os.ftruncate(file.fileno(), 1 << 40)
            items = (
                _receive.Attached(memoryview(b""), [os.dup(file.fileno())], False)
                for _ in range(200)
            )
            self.assertEqual(64, max(self.windows(items)[9:]))

    def test_one_large_item_does_not_slow_those_that_follow(self):
        small = memoryview(b"x" * 10)
        windows = self.windows([self.attached(40 << 20, 1)] + [small] * 200)
        self.assertEqual(2, max(windows[4:8]))
        self.assertEqual(64, max(windows))
        # Where it is not the only one, it counts.
        items = (self.attached(8 << 20, 1) if at % 10 == 0 else small for at in range(200))
        self.assertLess(max(self.windows(items)[9:]), 9)


if __name__ == "__main__":
    unittest.main()
