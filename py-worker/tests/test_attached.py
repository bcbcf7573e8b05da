"""What travels beside a payload, both ways: tables, memory, descriptors, what is refused."""

import array
import fcntl
import json
import os
import pickle
import pickletools
import random
import signal
import socket
import struct
import sys
import threading
import unittest

import attachments
import support
from attachments import (
    ARRAY,
    ARROW,
    BYTE_ARRAY,
    BYTES,
    HERE,
    RANGE,
    ROW_GROUP,
    STREAM,
    Arrived,
    entry,
    memfd,
    value_with,
)
from clutch import _pristine
from support import ATTACHED, ITEMS, JSON, PLAIN, RAW, Failed

sys.path.insert(0, support.SOURCE)
import boot  # noqa: E402

_pristine.configure(boot.pristine_path(support.SOURCE))

from clutch import (
    _attached,
    _call,
    _files,
    _frames,
    _inputs,
    _lane_ports,
    _loop,
    _outgoing,
    _parts,
    _plain,
    _port,
    _receive,
    _table,
)  # noqa: E402
from clutch._convert import attaching, convert  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None
try:
    import pyarrow
except ImportError:
    pyarrow = None

# Where numpy is installed, the tests without it hide it.
NO_NUMPY = "raise ImportError('there is none in this test')\n"

TASKS = """
import array
import mmap
import os
import resource
import sys

kept = []

def same(*values):
    return values[0] if len(values) == 1 else list(values)

def one(value):
    return value

def names(*values):
    return [type(value).__name__ for value in values]

def total(value):
    return sum(memoryview(value).cast("B").cast("d"))

def told(value):
    return [type(value).__name__, value.format, list(value.shape), value.readonly, value.tolist()]

def told_array(value):
    return [value.dtype.str, list(value.shape), bool(value.flags.writeable), repr(value.tolist())]

def keep(value):
    kept.append(value)
    return len(kept)

def kept_sum():
    return sum(kept[0][:1000].tolist())

def drop():
    kept.clear()

def at(value, place):
    return int(value[place]), len(value)

def double(value):
    for place in range(len(value)):
        value[place] *= 2

def double_array(value):
    value *= 2

def write(value):
    value[0] = 1

def make(kind, *arguments):
    if kind == "bytes":
        return b"x" * arguments[0]
    if kind == "bytearray":
        return bytearray(b"y" * arguments[0])
    if kind == "array":
        return array.array(arguments[0], range(arguments[1]))
    if kind == "view":
        return memoryview(b"z" * arguments[0])
    if kind == "nested":
        big = b"x" * arguments[0]
        return {"a": big, "again": [big, ("t" * arguments[0], bytearray(big))], "small": b"s"}

def make_array(code):
    import numpy
    return eval(code)

def make_arrow(rows):
    import pyarrow
    return {"t": pyarrow.table({"a": list(range(rows))})}

def arrow_sum(table):
    return type(table).__name__, sum(table.column("a").to_pylist())

def descriptors(*_values):
    there = []
    for name in os.listdir("/proc/self/fd"):
        try:
            there.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    return sorted(there)

def maps(*_values):
    with open("/proc/self/maps") as file:
        return sum("memfd" in line for line in file)

def exhaust():
    kept.append(resource.getrlimit(resource.RLIMIT_NOFILE))
    used = len(os.listdir("/proc/self/fd")) - 1
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, kept[0][1]))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        kept.append(taken)

def release():
    limit, taken = kept
    for number in taken:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    kept.clear()

def exhausted_bytes(size):
    exhaust()
    return b"x" * size

def small_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    return b"x" * size

def large_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def item(size):
    if size == 1:
        raise ValueError("one")
    return {"data": b"x" * size}

def give(*values):
    yield from values
    return values[0]

def give_large(size):
    yield b"x" * size
    yield {"a": array.array("d", range(size))}
    return b"y" * size

def fork(value):
    pid = os.fork()
    if not pid:
        os._exit(value[0] == 1.0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else None
"""

DOUBLES = array.array("d", range(20_000))
DATA = DOUBLES.tobytes()


class Base(support.FolderTestCase):
    """A worker of one's own."""

    options = {}

    def setUp(self):
        super().setUp()
        self.one = self.start()
        self.numbers = []
        self.addCleanup(lambda: [os.close(number) for number in self.numbers])

    def start(self, **options):
        return self.worker(TASKS, path=[self.folder], **{**self.options, **options})

    def memory(self, *arguments, **options):
        self.numbers.append(memfd(*arguments, **options))
        return self.numbers[-1]

    def ask(self, function, value, entries, numbers, flags=0, codec=PLAIN, worker=None):
        worker = worker or self.one
        value = value_with(value) if codec == PLAIN else value
        data = attachments.payload(entries, value)
        return worker.send("tasks:" + function, data, flags | ATTACHED, codec, descriptors=numbers)

    def call(self, function, value, entries, numbers, flags=0, codec=PLAIN):
        """The answer to a call with attachments."""
        answer = self.one.answer(self.ask(function, value, entries, numbers, flags, codec))
        return self.one.decoded(answer[0], answer[2])

    def rest(self, before):
        """Waits until the worker has nothing open that it had not before.

        Maps of shared memory are kept for a moment, for the next call that has it.
        """
        place = "/proc/%d/" % self.one.process.pid

        def rests():
            with open(place + "maps") as file:
                maps = sum("memfd" in line for line in file)
            return maps == 1 and len(os.listdir(place + "fd")) == len(before)

        support.wait_for(rests, "the worker to let go of everything")

    def refused(self, value, entries, numbers, *words):
        """A call is refused, for a reason with these words; and nothing stays open."""
        with self.assertRaises(Failed) as caught:
            self.call("same", value, entries, numbers)
        failure = caught.exception.failure
        self.assertEqual("BadArguments", failure["kind"], failure)
        for word in words:
            self.assertIn(word, failure["message"])
        return failure["message"]


class Tables(unittest.TestCase):
    def golden(self):
        path = os.path.join(support.TESTDATA, "frames.json")
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return data["tables"], data["frames"]

    def expected(self, node):
        fields = dict(node["fields"])
        content = fields["content"]
        details = [self.plain(field) for _, field in content["fields"]]
        if content["index"] == ARRAY:
            details = (details[0], tuple(details[1]), tuple(details[2]), details[3])
        else:
            details = details[0] if details else None
        numbers = [fields[name]["value"] for name in ("descriptor", "offset", "bytes")]
        return (*numbers, content["index"], details)

    def plain(self, node):
        if node["type"] == "list":
            return [item["value"] for item in node["items"]]
        return node["index"] if node["type"] == "enum" else node["value"]

    def split(self, payload, descriptors):
        entries, value = _table.split(memoryview(payload), descriptors)
        found = [(e.descriptor, e.offset, e.bytes, e.content, e.details) for e in entries]
        return found, bytes(value)

    def test_tables_are_read_as_the_rust_side_writes_them(self):
        tables, frames = self.golden()
        seen = set()
        for table in tables:
            payload = bytes.fromhex(table["bytes"])
            (list_node,) = (node for name, node in table["table"]["fields"] if name == "list")
            expected = [self.expected(item) for item in list_node["items"]]
            self.assertEqual((expected, b"value"), self.split(payload + b"value", 3))
            seen |= {item[3] for item in expected}
            for size in range(len(payload)):
                with self.assertRaises(_table.AttachmentError, msg=size):
                    self.split(payload[:size], 3)
            with self.assertRaises(_table.AttachmentError):
                self.split(payload, 1)
        self.assertEqual(set(range(8)), seen)
        (frame,) = (frame for frame in frames if frame["name"] == "result-attached")
        entries, value = self.split(bytes.fromhex(frame["payload"]), 3)
        self.assertEqual(value.count(b"\x97"), len(entries))

    def test_what_cannot_be_is_refused(self):
        def refused(*entries, tail=b"", descriptors=1):
            payload = attachments.payload(entries, b"")
            if tail:
                (length,) = struct.unpack_from("<I", payload)
                payload = struct.pack("<I", length + len(tail)) + payload[4:] + tail
            try:
                self.split(payload, descriptors)
            except _table.AttachmentError:
                return True
            return False

        self.assertFalse(refused(entry(BYTES, size=1)))
        self.assertTrue(refused(entry(BYTES, size=1), tail=b"x"))
        self.assertTrue(refused(entry(BYTES), descriptors=0))
        self.assertTrue(refused(entry(BYTES, 0, (1 << 64) - 1, 1)))
        self.assertTrue(refused(entry(BYTES, 0, (1 << 63) - 1, 1)))
        self.assertTrue(refused(entry(8)))
        for stream, bad in ((0, True), (1, False), (63, False), (64, True)):
            self.assertEqual(bad, refused(entry(STREAM, 9, 0, 0, struct.pack("<I", stream))))
        self.assertTrue(refused(entry(RANGE, details=struct.pack("<I", 2))))
        self.assertTrue(refused(attachments.array("", [1], size=8)))
        self.assertTrue(refused(attachments.array("<" + "f" * 32, [1], size=8)))
        self.assertTrue(refused(attachments.array("<f8", [1] * 33)))
        self.assertTrue(refused(attachments.array("<f8", [1], [8, 8])))
        good = attachments.array("<f8", [1])
        self.assertFalse(refused(good))
        self.assertTrue(refused(good[:-1] + b"\x02"))
        self.assertFalse(refused(*[entry(BYTES)] * 4096))
        self.assertTrue(refused(*[entry(BYTES)] * 4097))
        # Lengths that nothing could hold.
        at = good.index(b"<f8") - 8
        for place in (at, at + 8 + 3):
            broken = good[:place] + struct.pack("<Q", 1 << 62) + good[place + 8 :]
            self.assertTrue(refused(broken))

    def test_random_bytes_are_refused_or_read(self):
        dice = random.Random(3)
        tables, _ = self.golden()
        payload = bytes.fromhex(tables[0]["bytes"])
        for _ in range(3000):
            broken = bytearray(payload)
            for _ in range(dice.randrange(1, 4)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            try:
                self.split(broken, 3)
            except _table.AttachmentError:
                pass


class Receiving(unittest.TestCase):
    """Frames with descriptors, out of a socket."""

    def setUp(self):
        self.near, self.far = socket.socketpair()
        self.addCleanup(lambda: (self.near.close(), self.far.close()))
        self.number = memfd(b"x")
        self.addCleanup(os.close, self.number)

    def open(self):
        return len(os.listdir("/proc/self/fd"))

    def frames(self):
        arrivals = _receive.Arrivals()
        receive_into = _receive.shielded(self.near, arrivals)
        return _receive.receive_frames(receive_into, 1 << 20, arrivals)

    def send(self, count, announced, size=10, flags=ATTACHED, kind=34, piece=None):
        data = support.frame(kind, 1, b"meta", b"p" * size, flags, PLAIN, announced)
        if piece is None:
            support.send_with(self.far, data, [self.number] * count)
            return
        support.send_with(self.far, data[:piece], [self.number] * count)
        self.far.sendall(data[piece:])

    def test_each_frame_has_its_own(self):
        before = self.open()
        frames = self.frames()
        counts = [0, 1, 3, 64, 0, 2]
        for count in counts:
            self.send(count, count)
            self.send(0, 0, flags=0)
        for count in counts:
            *_, meta, payload = next(frames)
            self.assertEqual(b"meta", bytes(meta))
            self.assertEqual(count, len(payload.descriptors))
            self.assertFalse(payload.is_cut)
            for number in payload.descriptors:
                self.assertEqual(os.fstat(self.number).st_ino, os.fstat(number).st_ino)
                self.assertFalse(os.get_inheritable(number))
            self.assertEqual(b"p" * 10, bytes(payload.payload))
            del payload
            self.assertEqual(b"p" * 10, bytes(next(frames)[5]))
        self.far.shutdown(socket.SHUT_WR)
        self.assertEqual([], list(frames))
        self.assertEqual(before, self.open())

    def test_large_ones_and_pieces(self):
        before = self.open()
        frames = self.frames()
        for piece in (1, 5, 31, 32, 33, 36, 40):
            self.send(2, 2, 100, piece=piece)
            *_, payload = next(frames)
            self.assertEqual((2, b"p" * 100), (len(payload.descriptors), bytes(payload.payload)))
        for size in (65_000, 65_500, 65_536, 100_000):
            self.send(2, 2, size)
            *_, payload = next(frames)
            self.assertEqual((2, size), (len(payload.descriptors), len(payload.payload)))
        del payload
        frames.close()
        self.assertEqual(before, self.open())

    def test_wrong_counts_are_refused_and_closed(self):
        before = self.open()
        cases = (
            (1, 2, ATTACHED, 34),
            (2, 1, ATTACHED, 34),
            (0, 1, ATTACHED, 34),
            (1, 0, ATTACHED, 34),
            (1, 0, 0, 34),
            (1, 1, 0, 34),
            (65, 65, ATTACHED, 34),
            (1, 1, ATTACHED, 37),
        )
        for count, announced, flags, kind in cases:
            self.near.close()
            self.far.close()
            self.near, self.far = socket.socketpair()
            frames = self.frames()
            self.send(count, announced, flags=flags, kind=kind)
            with self.assertRaises(_frames.ProtocolError, msg=(count, announced, flags, kind)):
                next(frames)
                next(frames)
            del frames
            self.assertEqual(before, self.open(), (count, announced, flags, kind))

    def test_none_is_lost_when_there_is_no_room(self):
        import resource

        frames = self.frames()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.dup(0) for _ in range(3)]
        self.send(5, 5)
        self.send(0, 0, flags=0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
        try:
            *_, payload = next(frames)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in taken:
                os.close(number)
        self.assertTrue(payload.is_cut)
        with self.assertRaises(_table.AttachmentError):
            _attached.Incoming(payload, None)
        del payload
        self.assertEqual(b"p" * 10, bytes(next(frames)[5]))


class Files(unittest.TestCase):
    def test_a_map_that_user_code_has_closed_is_made_again(self):
        number = memfd(DATA, attachments.SEAL | attachments.SHRINK | attachments.GROW)
        self.addCleanup(os.close, number)
        (described,), _ = _table.split(
            memoryview(attachments.payload([entry(BYTES, 0, 0, len(DATA))], b"")), 1
        )
        file = _files.File(number, {})
        mapped = file.map(described, writable=False)
        kept = file.shared()
        self.assertIs(mapped, _files.File(number, kept).map(described, writable=False))
        mapped.close()
        self.assertEqual(DATA, _files.File(number, kept).map(described, writable=False)[:])


class Closing(unittest.TestCase):
    def test_what_user_code_has_in_a_place_stays_open(self):
        numbers = [memfd(DATA), memfd(DATA)]
        payload = memoryview(attachments.payload([entry(BYTES, 0, 0, 8)], value_with([HERE])))
        incoming = _attached.Incoming(_receive.Attached(payload, numbers[:], False), None)
        incoming.decode(PLAIN)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, numbers[0])
        os.close(null)
        incoming.close()
        os.close(numbers[0])
        with self.assertRaises(OSError):
            os.fstat(numbers[1])


class Keeping(unittest.TestCase):
    """Maps that are kept while the reader of the socket lets go of older ones."""

    def setUp(self):
        self.timeout = _receive._FOR_EVER
        self.meanwhile = []
        self.arrivals = _receive.Arrivals(self)

    def setsockopt(self, _level, _name, value):
        if self.meanwhile:
            self.meanwhile.pop()()
        self.timeout = value

    def check(self):
        self.assertFalse(self.arrivals.maps and self.timeout == _receive._FOR_EVER)

    def test_whoever_is_faster(self):
        self.arrivals.keep({1: 2})
        self.assertEqual({1: 2}, self.arrivals.maps)
        self.check()
        # In the midst of letting go, before and behind its forgetting.
        self.meanwhile.append(lambda: self.arrivals.keep({3: 4}))
        self.arrivals.rest()
        self.check()
        self.arrivals.maps, self.timeout = {1: 2}, _receive._FOR_EVER
        self.arrivals.keep({3: 4})
        self.check()
        # In the midst of keeping.
        self.meanwhile.append(self.arrivals.rest)
        self.arrivals.keep({5: 6})
        self.check()
        self.arrivals.rest()
        self.assertEqual(({}, _receive._FOR_EVER), (self.arrivals.maps, self.timeout))


class FindingNumpy(support.FolderTestCase):
    def test_the_import_of_another_thread_is_waited_for(self):
        self.write(
            "numpy.py", "import sys\nsys.begun.set()\nsys.go_on.wait(60)\nndarray = dtype = 1"
        )
        before = sys.modules.pop("numpy", None), _files._import, _files._finished[:]
        sys.begun, sys.go_on = threading.Event(), threading.Event()
        sys.path.insert(0, self.folder)
        thread = threading.Thread(target=__import__, args=("numpy",))
        thread.start()

        def importing(name):
            sys.go_on.set()
            return __import__(name)

        try:
            self.assertTrue(sys.begun.wait(support.DEADLINE_S))
            _files._import = importing
            self.assertEqual(1, getattr(_files.find_numpy(), "ndarray", None))
        finally:
            sys.go_on.set()
            thread.join()
            sys.path.remove(self.folder)
            del sys.begun, sys.go_on, sys.modules["numpy"]
            module, _files._import, _files._finished[:] = before
            if module is not None:
                sys.modules["numpy"] = module


class WithoutNumpy(Base):
    """Arrays are memoryviews."""

    def setUp(self):
        super().setUp()
        self.write("numpy.py", NO_NUMPY)

    def test_bytes_and_bytearrays(self):
        number = self.memory(bytes(64) + DATA)
        entries = [entry(BYTES, 0, 64, len(DATA)), entry(BYTE_ARRAY, 0, 64, len(DATA))]
        self.assertEqual(
            ["bytes", "bytearray"], self.call("names", [HERE, HERE], entries, [number])
        )
        self.assertEqual(sum(DOUBLES), self.call("total", [HERE], entries[:1], [number]))
        self.assertEqual(sum(DOUBLES), self.call("total", [HERE], entries[1:], [number]))
        small = [entry(BYTES, 0, 64, 8), entry(BYTES, 0, 0, 0), entry(BYTE_ARRAY, 0, 0, 0)]
        self.assertEqual(
            [DATA[:8], b"", bytearray(), 5], self.call("same", [HERE] * 3 + [5], small, [number])
        )

    def test_memoryviews(self):
        number = self.memory(bytes(range(48)))
        for dtype, form in (("<f8", "d"), ("<i4", "i"), ("|u1", "B"), ("|b1", "?"), ("<u2", "H")):
            size = struct.calcsize(form)
            shape = [2, 48 // size // 2]
            there = self.call("told", [HERE], [attachments.array(dtype, shape)], [number])
            values = list(struct.unpack("=%d%s" % (48 // size, form), bytes(range(48))))
            rows = [values[: shape[1]], values[shape[1] :]]
            self.assertEqual(["memoryview", form, shape, True, rows], there)
        empty = attachments.array("<f8", [0])
        self.assertEqual(
            ["memoryview", "d", [0], True, []], self.call("told", [HERE], [empty], [number])
        )
        scalar = attachments.array("<f8", [])
        self.assertEqual("d", self.call("told", [HERE], [scalar], [number])[1])
        steps = attachments.array("<f8", [2, 3], [24, 8])
        self.assertEqual([2, 3], self.call("told", [HERE], [steps], [number])[2])

    def test_what_needs_numpy_says_so(self):
        number = self.memory(bytes(480))
        for array_of in (
            attachments.array("<f8", [2, 3], [8, 16], size=48),
            attachments.array("<f8", [2, 3], [48, 8], size=480),
            attachments.array("<c8", [2]),
            attachments.array("<f2", [2]),
            attachments.array(">f8", [2]),
            attachments.array("<M8[ns]", [2], size=16),
            attachments.array("<f8", [0, 2]),
        ):
            self.refused([HERE], [array_of], [number], "numpy")

    def test_they_go_back_as_arrays(self):
        number = self.memory(DATA)
        entries = [attachments.array("<f8", [2, 10_000])]
        self.assertEqual(
            Arrived("<f8", (2, 10_000), DATA), self.call("same", [HERE], entries, [number])
        )
        (received,) = self.one.received
        self.assertEqual(os.fstat(number).st_ino, os.fstat(received).st_ino)
        small = [attachments.array("<i2", [2])]
        there = self.call("same", [HERE], small, [number])
        self.assertEqual(Arrived("<i2", (2,), DATA[:4]), there)

    def test_what_only_its_owner_can_write_goes_back_to_it(self):
        seals = attachments.SEAL | attachments.SHRINK | attachments.GROW | attachments.FUTURE_WRITE
        number = self.memory(DATA, seals)
        before = self.one.call("tasks:maps")
        for reader in (os.open("/proc/self/fd/%d" % number, os.O_RDONLY), number):
            there = self.call("same", [HERE], [attachments.array("<f8", [20_000])], [reader])
            self.assertEqual(Arrived("<f8", (20_000,), DATA), there)
            (received,) = self.one.received
            same = os.fstat(number).st_ino == os.fstat(received).st_ino
            # With a descriptor that could be opened for writing, who knows whose it is.
            self.assertEqual(reader != number, same)
            if reader != number:
                os.close(reader)
                # Its owner may wait for it, so it is not kept for the next call.
                self.assertEqual(before, self.one.call("tasks:maps"))

    def test_written_in_place(self):
        number = self.memory(DATA, attachments.SEAL | attachments.SHRINK | attachments.GROW)
        shared = [attachments.array("<f8", [20_000], writable=True)]
        self.assertIsNone(self.call("double", [HERE], shared, [number]))
        there = array.array("d", os.pread(number, len(DATA), 0))
        self.assertEqual(array.array("d", [2 * value for value in DOUBLES]), there)
        # Not by those who were not asked to.
        with self.assertRaises(Failed) as caught:
            self.call("write", [HERE], [attachments.array("<f8", [20_000])], [number])
        self.assertEqual("TypeError", caught.exception.failure["type_name"])


class NoArrays(Base):
    def test_bytes_do_not_import_numpy(self):
        # Whole huge pages are placed with numpy's help, if it is there already.
        self.write("numpy.py", "import os; os._exit(3)\n")
        size = 2 << 20
        number = self.memory(b"x" * size)
        there = self.call("same", [HERE], [entry(BYTE_ARRAY, 0, 0, size)], [number])
        self.assertEqual(bytearray(b"x" * size), there)


@unittest.skipUnless(numpy, "numpy is not installed here")
class WithNumpy(Base):
    """Arrays are numpy's."""

    def test_arrays(self):
        number = self.memory(DATA)
        values = numpy.frombuffer(DATA).reshape(100, 200)
        for dtype, shape, strides, expected in (
            ("<f8", [100, 200], [], values),
            ("<f8", [20_000], [], values.reshape(-1)),
            ("<f8", [200, 100], [8, 1600], values.T),
            ("<f8", [50, 200], [3200, 8], values[::2]),
            ("<f8", [3, 3], [0, 0], numpy.full((3, 3), values[0, 0])),
            ("<u2", [80_000], [], values.reshape(-1).view("u2")),
            (">i4", [40_000], [], values.reshape(-1).view(">i4")),
            ("<M8[ns]", [20_000], [], values.reshape(-1).view("M8[ns]")),
            ("<c16", [10_000], [], values.reshape(-1).view("c16")),
            ("<f8", [0, 5], [], numpy.empty((0, 5))),
        ):
            size = len(DATA) if strides or "[" in dtype else None
            array_of = attachments.array(dtype, shape, strides, size=size)
            there = self.call("told_array", [HERE], [array_of], [number])
            values_of = repr(expected.tolist())
            expected = [expected.dtype.str, list(expected.shape), 0 in shape, values_of]
            self.assertEqual(expected, there, (dtype, shape, strides))

    def test_written_in_place(self):
        number = self.memory(DATA, attachments.SEAL | attachments.SHRINK | attachments.GROW)
        shared = [attachments.array("<f8", [20_000], writable=True)]
        self.assertIsNone(self.call("double_array", [HERE], shared, [number]))
        there = numpy.frombuffer(os.pread(number, len(DATA), 0))
        self.assertEqual((numpy.frombuffer(DATA) * 2).tolist(), there.tolist())
        for refused in (
            attachments.array("<f8", [20_000]),
            attachments.array("<f8", [10_000], offset=64),
        ):
            with self.assertRaises(Failed) as caught:
                self.call("write", [HERE], [refused], [number])
            self.assertEqual("ValueError", caught.exception.failure["type_name"])

    def test_what_is_no_array_of_data_is_refused(self):
        number = self.memory(bytes(480))
        for dtype, size in (
            ("|O8", 8),
            ("<f8,<f8", 16),
            ("(2,)f8", 16),
            ("|V0", 0),
            ("|S0", 0),
            ("<f7", 7),
            ("float64", 8),
            ("<q8", 8),
        ):
            self.refused([HERE], [attachments.array(dtype, [1], size=size)], [number])

    def test_results(self):
        for code, dtype in (
            ("numpy.arange(20000.0)", "<f8"),
            ("numpy.arange(20000.0).reshape(2, 100, 100)", "<f8"),
            ("numpy.arange(40000.0)[::2]", "<f8"),
            ("numpy.arange(20000.0).reshape(100, 200).T", "<f8"),
            ("numpy.arange(20000, dtype='>f8')", "<f8"),
            ("numpy.arange(80000, dtype='u1')", "|u1"),
            ("numpy.zeros(80000, bool)", "|b1"),
            ("numpy.arange(20000).astype('M8[ns]')", "<M8[ns]"),
            ("numpy.arange(20000) * 1j", "<c16"),
            ("numpy.arange(40000, dtype='f2')", "<f2"),
        ):
            expected = eval(code)
            data = numpy.ascontiguousarray(expected, dtype).tobytes()
            there = self.one.call("tasks:make_array", code)
            self.assertEqual(Arrived(dtype, expected.shape, data), there, code)
            self.assertEqual(1, len(self.one.received))
        lists = (
            "numpy.arange(1000.0)",
            "numpy.array(5.0)",
            "numpy.float32(3)",
            "numpy.array(['text'] * 20000)",
            "numpy.array([[1, 2]] * 20000, object)",
            "numpy.zeros(9000, 'f8,f8')",
            "numpy.ma.array(range(20000), mask=[True] * 20000)",
        )
        for code in lists:
            value = eval(code).tolist()
            self.assertEqual(value, self.one.call("tasks:make_array", code), code)

    def test_arrays_at_any_depth(self):
        code = "(lambda a: {'a': [a, (a[:9000], 3)], 'b': b'x' * 70000, 'again': a})"
        code += "(numpy.arange(10000.0))"
        values = numpy.arange(10_000.0)
        whole = Arrived("<f8", (10_000,), values.tobytes())
        part = Arrived("<f8", (9000,), values[:9000].tobytes())
        expected = {"a": [whole, (part, 3)], "b": b"x" * 70_000, "again": whole}
        self.assertEqual(expected, self.one.call("tasks:make_array", code))
        (number,) = self.one.received
        # What is there twice is sent once.
        self.assertLess(os.fstat(number).st_size, 80_000 + 72_000 + 70_000 + 300)

    def test_what_came_as_an_array_goes_as_one(self):
        number = self.memory(DATA)
        for shape, same in (([20_000], True), ([10], False)):
            entries = [attachments.array("<f8", shape)]
            there = self.call("same", [HERE], entries, [number])
            self.assertEqual(Arrived("<f8", tuple(shape), DATA[: 8 * shape[0]]), there)
            (received,) = self.one.received
            is_same = os.fstat(number).st_ino == os.fstat(received).st_ino
            self.assertEqual(same, is_same, shape)
        # Memory that others may change is copied.
        number = self.memory(DATA, attachments.SEAL | attachments.SHRINK | attachments.GROW)
        for writable in (False, True):
            entries = [attachments.array("<f8", [20_000], writable=writable)]
            there = self.call("same", [HERE], entries, [number])
            self.assertEqual(Arrived("<f8", (20_000,), DATA), there)
            self.assertNotEqual(os.fstat(number).st_ino, os.fstat(self.one.received[0]).st_ino)


class Refusals(Base):
    """Whatever is not what its table says is refused before it is mapped."""

    def setUp(self):
        super().setUp()
        self.write("numpy.py", NO_NUMPY)
        self.open = self.one.call("tasks:descriptors")

    def tearDown(self):
        self.rest(self.open)
        self.assertEqual(self.open, self.one.call("tasks:descriptors"))
        self.assertEqual(1, self.one.call("tasks:maps"))
        super().tearDown()

    def test_sizes_and_offsets(self):
        number = self.memory(bytes(4096))
        for offset, size in ((0, 4097), (4096, 1), (1 << 40, 1), (1, 4096), (0, 1 << 62)):
            for content in (BYTES, BYTE_ARRAY):
                self.refused([HERE], [entry(content, 0, offset, size)], [number], "ends at byte")
            one = attachments.array("|u1", [size], offset=offset)
            self.refused([HERE], [one], [number], "ends at byte")
        for wrong in (
            attachments.array("<f8", [2], size=15),
            attachments.array("<f8", [2], size=17),
            attachments.array("<f8", [1 << 61, 8], size=64),
            attachments.array("<f8", [1 << 63, 2], size=0),
            attachments.array("<f8", [(1 << 64) - 1] * 32, size=8),
        ):
            self.refused([HERE], [wrong], [number], "bytes")

    def test_strides(self):
        number = self.memory(bytes(4096))
        for shape, strides, size in (
            ([2], [-8], 16),
            ([2], [9], 16),
            ([2, 2], [8, -8], 32),
            ([3], [1 << 62], 64),
            ([1 << 40], [1 << 40], 64),
            ([5], [-(1 << 63)], 64),
        ):
            wrong = attachments.array("<f8", shape, strides, size=size)
            self.refused([HERE], [wrong], [number], "reaches from")

    def test_seals(self):
        for seals in (0, attachments.SHRINK, attachments.GROW, attachments.WRITE):
            number = self.memory(bytes(4096), seals)
            for one in (entry(BYTES, 0, 0, 8), attachments.array("<f8", [1])):
                self.refused([HERE], [one], [number], "shrunk")

    def test_memory_cannot_shrink_while_it_is_used(self):
        number = self.memory(DATA)
        call_id = self.ask("keep", [HERE], [attachments.array("<f8", [20_000])], [number])
        self.assertEqual(1, pickle.loads(self.one.answer(call_id)[2]))
        for size in (0, 4096, len(DATA) + 1):
            with self.assertRaises(OSError):
                os.ftruncate(number, size)
        self.assertEqual(sum(range(1000)), self.one.call("tasks:kept_sum"))
        self.one.call("tasks:drop")

    def test_who_may_write(self):
        sealed = self.memory(DATA)
        array_of = attachments.array("<f8", [20_000], writable=True)
        self.refused([HERE], [array_of], [sealed], "written")
        shared = self.memory(DATA, attachments.SEAL | attachments.SHRINK | attachments.GROW)
        read_only = os.open("/proc/self/fd/%d" % shared, os.O_RDONLY)
        self.numbers.append(read_only)
        self.refused([HERE], [array_of], [read_only], "written")
        there = self.call("told", [HERE], [attachments.array("<f8", [2])], [read_only])
        self.assertEqual(["memoryview", "d", [2], True, [0.0, 1.0]], there)

    def test_what_is_no_memory(self):
        read, write = os.pipe()
        near, far = socket.socketpair()
        file = os.open(__file__, os.O_RDONLY)
        path = os.open("/", 0o10000000)
        folder = os.open("/", os.O_RDONLY)
        device = os.open("/dev/zero", os.O_RDWR)
        numbers = [read, write, near.detach(), far.detach(), file, path, folder, device]
        self.numbers += numbers
        for number in numbers:
            for one in (entry(BYTES, 0, 0, 8), attachments.array("<f8", [1]), entry(BYTES)):
                self.refused([HERE], [one], [number], "")

    def test_elements(self):
        number = self.memory(bytes(4096))
        for dtype in ("|O8", "f8", "<", "<f", "<f8,<f8", "\x00f8", "object", "=V8"):
            self.refused([HERE], [attachments.array(dtype, [1], size=8)], [number], "array of")

    def test_each_is_used_once(self):
        number = self.memory(bytes(4096))
        one = entry(BYTES, 0, 0, 8)
        self.refused([HERE], [one, one], [number], "1 of 2 attachments are not used")
        self.refused([], [one], [number], "1 of 1")
        self.refused([HERE, HERE], [one], [number], "buffers")
        self.refused([HERE], [], [number], "buffers")
        self.refused([HERE], [entry(BYTES, 1, 0, 8)], [number], "descriptor 1")

    def test_no_buffer_without_attachments(self):
        call_id = self.one.send("tasks:same", value_with([HERE]))
        with self.assertRaises(Failed) as caught:
            self.one.answer(call_id)
        self.assertEqual("BadArguments", caught.exception.failure["kind"])

    def test_codecs(self):
        number = self.memory(DATA)
        for codec, value, entries, word in (
            (JSON, b"[]", [], "JSON"),
            (RAW, b"", [], "raw"),
            (RAW, b"x", [entry(BYTES, 0, 0, 8)], "raw"),
            (RAW, b"", [entry(BYTES, 0, 0, 8)] * 2, "raw"),
            (RAW, b"", [attachments.array("<f8", [1])], "raw"),
        ):
            with self.assertRaises(Failed) as caught:
                self.call("same", value, entries, [number], codec=codec)
            self.assertEqual("BadArguments", caught.exception.failure["kind"])
            self.assertIn(word, caught.exception.failure["message"])

    def test_what_nothing_is_made_of(self):
        number = self.memory(bytes(4096))
        arrow = entry(ARROW, 0, 0, 4096)
        self.write("pyarrow.py", NO_NUMPY)
        self.refused([HERE], [arrow], [number], "pyarrow")
        self.assertEqual(set(range(4)), set(_attached.OBJECTS) & set(range(4)))
        for content in (RANGE, ROW_GROUP, STREAM):
            if content not in _attached.OBJECTS:
                one = entry(content, 0, 0, 1, struct.pack("<I", 1))
                self.refused([HERE], [one], [number], "can do nothing with")


class Lifetimes(Base):
    """Memory and descriptors are gone when nobody has them any more."""

    def setUp(self):
        super().setUp()
        self.write("numpy.py", NO_NUMPY)

    def test_nothing_stays_open(self):
        number = self.memory(DATA)
        shared = self.memory(DATA, attachments.SEAL | attachments.SHRINK | attachments.GROW)
        before = self.one.call("tasks:descriptors")
        self.assertEqual(1, self.one.call("tasks:maps"))
        entries = [
            entry(BYTES, 0, 0, len(DATA)),
            entry(BYTE_ARRAY, 0, 0, len(DATA)),
            attachments.array("<f8", [20_000]),
            attachments.array("<f8", [20_000], descriptor=1),
            attachments.array("<f8", [20_000], descriptor=1, writable=True),
        ]
        for function in ("same", "names", "nothing", "total"):
            call_id = self.ask(function, [HERE] * 5, entries, [number, shared])
            try:
                self.one.answer(call_id)
            except Failed:
                self.assertIn(function, ("nothing", "total"))
            # Those of shared memory are kept for a moment, for the next call that has it.
            self.rest(before)
        while_running = self.call("descriptors", [HERE] * 5, entries, [number, shared])
        self.assertGreater(len(while_running), len(before))

    def test_shared_memory_is_mapped_once(self):
        shared = self.memory(DATA, attachments.SEAL | attachments.SHRINK | attachments.GROW)
        before = self.one.call("tasks:descriptors")
        one = [attachments.array("<f8", [20_000], writable=True)]
        for _ in range(5):
            self.assertIsNone(self.call("double", [HERE], one, [shared]))
        doubled = array.array("d", [32 * value for value in DOUBLES])
        self.assertEqual(doubled, array.array("d", os.pread(shared, len(DATA), 0)))
        self.rest(before)
        # And another that has the number of one that is gone is not taken for it.
        for value in range(20):
            data = struct.pack("<d", value) * 20_000
            other = memfd(data, attachments.SEAL | attachments.SHRINK | attachments.GROW)
            there = self.call("same", [HERE], one, [other])
            os.close(other)
            self.assertEqual(Arrived("<f8", (20_000,), data), there)
        self.rest(before)

    def test_streams_wait_for_longer_than_maps_are_kept(self):
        shared = self.memory(DATA, attachments.SEAL | attachments.SHRINK | attachments.GROW)
        before = self.one.call("tasks:descriptors")
        one = [attachments.array("<f8", [20_000], writable=True)]
        self.assertIsNone(self.call("double", [HERE], one, [shared]))
        call_id = self.one.stream("tasks:give", 1, 2)
        self.rest(before)
        self.one.credit(call_id, 3)
        self.assertEqual([1, 2], self.one.items(call_id, 2))
        self.assertEqual(1, self.one.value(call_id))

    def test_what_is_kept_lives(self):
        number = self.memory(DATA)
        array_of = attachments.array("<f8", [20_000])
        self.assertEqual(1, self.call("keep", [HERE], [array_of], [number]))
        self.assertEqual(2, self.one.call("tasks:maps"))
        self.assertEqual(sum(range(1000)), self.one.call("tasks:kept_sum"))
        self.one.call("tasks:drop")
        self.assertEqual(1, self.one.call("tasks:maps"))

    def test_children_see_what_their_parent_sees(self):
        number = self.memory(DATA)
        before = self.one.call("tasks:descriptors")
        if sys.version_info >= (3, 9):
            array_of = attachments.array("<f8", [20_000])
            self.assertEqual(0, self.call("fork", [HERE], [array_of], [number]))
        self.assertEqual(before, self.one.call("tasks:descriptors"))

    def test_many_descriptors(self):
        numbers = [self.memory(struct.pack("<d", number)) for number in range(64)]
        entries = [attachments.array("<f8", [1], descriptor=at) for at in range(64)]
        before = self.one.call("tasks:descriptors")
        there = self.call("same", [HERE] * 64, entries, numbers)
        expected = [Arrived("<f8", (1,), struct.pack("<d", number)) for number in range(64)]
        self.assertEqual(expected, there)
        self.assertEqual(1, len(self.one.received))
        self.assertEqual(before, self.one.call("tasks:descriptors"))

    def test_beyond_4_gib(self):
        # Sparse: nearly nothing of it is memory.
        for size in ((1 << 31) + 64, (1 << 32) + 64, 5 << 30):
            number = self.memory(seals=0, size=size)
            for place in ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, size - 1):
                if place < size:
                    os.pwrite(number, b"\x07", place)
            fcntl.fcntl(number, attachments.ADD_SEALS, 15)
            array_of = attachments.array("|u1", [size])
            for place in ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, size - 1):
                if place < size:
                    there = self.call("at", [HERE, place], [array_of], [number])
                    self.assertEqual((7, size), there)
            tail = [entry(BYTES, 0, size - 3, 3)]
            self.assertEqual(b"\0\0\x07", self.call("same", [HERE], tail, [number]))
            # And back, without a copy.
            answer = self.one.answer(self.ask("same", [HERE], [array_of], [number]))
            ((content, descriptor, offset, count, details),), _ = attachments.table_of(answer[2])
            self.assertEqual((ARRAY, 0, 0, size), (content, descriptor, offset, count))
            self.assertEqual(("|u1", (size,), (), False), details)
            self.assertEqual(os.fstat(number).st_ino, os.fstat(self.one.received[0]).st_ino)


class Results(Base):
    """What leaves a result."""

    def setUp(self):
        super().setUp()
        self.write("numpy.py", NO_NUMPY)

    def test_sizes_around_the_threshold(self):
        for size in (0, 1, 65_535, 65_536, 65_537, 1_000_000):
            for kind, expected in (
                ("bytes", b"x" * size),
                ("bytearray", bytearray(b"y" * size)),
                ("view", b"z" * size),
            ):
                there = self.one.call("tasks:make", kind, size)
                self.assertEqual((type(expected), expected), (type(there), there))
                self.assertEqual(size >= 65_536, bool(self.one.received), (kind, size))

    def test_arrays(self):
        for code, count, dtype in (("d", 20_000, "<f8"), ("B", 256, "|u1"), ("i", 20_000, "<i4")):
            expected = array.array(code, range(count))
            there = self.one.call("tasks:make", "array", code, count)
            if count * expected.itemsize < 65_536:
                self.assertEqual(expected.tolist(), there)
            else:
                self.assertEqual(Arrived(dtype, (count,), expected.tobytes()), there)

    def test_nested(self):
        size = 100_000
        big = b"x" * size
        expected = {"a": big, "again": [big, ("t" * size, bytearray(big))], "small": b"s"}
        self.assertEqual(expected, self.one.call("tasks:make", "nested", size))
        (number,) = self.one.received
        # One file, and what is there twice is there once.
        self.assertLess(os.fstat(number).st_size, 2 * size + 200)

    def test_raw(self):
        for size in (65_535, 65_536, 1_000_000):
            flags, codec, payload = self.one.answer(self.one.send("tasks:one", b"r" * size, 0, RAW))
            self.assertEqual((ATTACHED if size > 65_535 else 0, RAW), (flags, codec))
            there = self.one.decoded(flags, payload) if flags else payload
            self.assertEqual(b"r" * size, there)
        number = self.memory(DATA)
        entries = [entry(BYTES, 0, 0, len(DATA))]
        self.assertEqual(DATA, self.call("same", b"", entries, [number], codec=RAW))
        self.assertEqual(os.fstat(number).st_ino, os.fstat(self.one.received[0]).st_ino)

    def test_json_knows_none(self):
        call_id = self.one.send("tasks:make", b'["array", "d", 20000]', 0, JSON)
        flags, _, payload = self.one.answer(call_id)
        self.assertEqual((0, DOUBLES.tolist()), (flags, json.loads(payload)))

    def test_bytes_go_back_as_they_came(self):
        number = self.memory(bytes(64) + DATA)
        entries = [entry(BYTES, 0, 64, len(DATA)), entry(BYTE_ARRAY, 0, 64, len(DATA))]
        there = self.call("same", [HERE, HERE], entries, [number])
        self.assertEqual([DATA, bytearray(DATA)], there)
        inodes = [os.fstat(received).st_ino for received in self.one.received]
        self.assertEqual([False, True], [inode == os.fstat(number).st_ino for inode in inodes])

    def test_items(self):
        results, failures = self.one.map("tasks:item", [70_000, 2, 1, 80_000])
        self.assertEqual([b"x" * 70_000, b"x" * 2], [item["data"] for item in results[:2]])
        self.assertEqual((None, b"x" * 80_000), (results[2], results[3]["data"]))
        self.assertEqual([(2, "ValueError")], [(at, told["type_name"]) for at, told in failures])
        self.assertEqual(1, len(self.one.received))
        results, failures = self.one.map("tasks:item", [70_000] * 20)
        self.assertEqual(([{"data": b"x" * 70_000}] * 20, []), (results, failures))
        number = self.memory(DATA)
        entries = [attachments.array("<f8", [20_000]), entry(BYTES, 0, 0, len(DATA))]
        there = self.call("one", [HERE, HERE, 5], entries, [number], ITEMS)
        self.assertEqual([Arrived("<f8", (20_000,), DATA), DATA, 5], there)

    def next_of(self, call_id):
        """The next frame of a stream: its kind, and its value."""
        self.one.drop_received()
        kind, flags, _, answered, _, payload = support.read_frame(
            self.one.call_socket, received=self.one.received
        )
        self.assertEqual(call_id, answered)
        self.assertEqual(ATTACHED, flags)
        return kind, self.one.decoded(flags, payload)

    def test_items_of_streams(self):
        before = self.one.call("tasks:descriptors")
        size = 70_000
        call_id = self.one.stream("tasks:give_large", size, credit=9)
        data = array.array("d", range(size)).tobytes()
        self.assertEqual((support.ITEM, b"x" * size), self.next_of(call_id))
        there = (support.ITEM, {"a": Arrived("<f8", (size,), data)})
        self.assertEqual(there, self.next_of(call_id))
        self.assertEqual((support.RESULT, b"y" * size), self.next_of(call_id))
        # What came with the call goes back as it came, also as an item.
        number = self.memory(DATA)
        entries = [entry(BYTES, 0, 0, len(DATA)), attachments.array("<f8", [4])]
        call_id = self.ask("give", [HERE, HERE], entries, [number], support.STREAM)
        self.one.credit(call_id, 3)
        self.assertEqual((support.ITEM, DATA), self.next_of(call_id))
        self.assertEqual(os.fstat(number).st_ino, os.fstat(self.one.received[0]).st_ino)
        small = (support.ITEM, Arrived("<f8", (4,), DATA[:32]))
        self.assertEqual(small, self.next_of(call_id))
        self.assertEqual((support.RESULT, DATA), self.next_of(call_id))
        self.one.drop_received()
        self.assertEqual(before, self.one.call("tasks:descriptors"))

    def test_too_many_bytes(self):
        self.one = self.start(attached_bytes_max=1_000_000)
        self.assertEqual(1_000_000, len(self.one.call("tasks:make", "bytes", 1_000_000)))
        failure = self.one.failure("tasks:make", "bytes", 1_000_001)
        self.assertEqual({"kind": "TooLarge", "bytes": 1_000_001, "limit": 1_000_000}, failure)
        failure = self.one.failure("tasks:make", "nested", 700_000)
        self.assertEqual(("TooLarge", 1_000_000), (failure["kind"], failure["limit"]))
        failure = self.one.failure("tasks:make", "array", "d", 200_000)
        self.assertEqual({"kind": "TooLarge", "bytes": 1_600_000, "limit": 1_000_000}, failure)

    def test_no_descriptor_left(self):
        number = self.memory(DATA)
        self.assertEqual(DATA[:8], self.call("same", [HERE], [entry(BYTES, 0, 0, 8)], [number]))
        self.assertEqual(100_000, len(self.one.call("tasks:make", "bytes", 100_000)))
        # What is loaded at the first failure is there.
        self.refused([HERE], [entry(BYTES, 0, 1 << 40, 8)], [number], "ends at byte")
        before = self.one.call("tasks:descriptors")
        failure = self.one.failure("tasks:exhausted_bytes", 100_000)
        self.assertEqual("Unserializable", failure["kind"])
        self.assertIn("descriptor", failure["message"])
        # Arguments that find no room fail their call, and no other.
        self.refused([HERE], [entry(BYTES, 0, 0, 8)], [number], "too many open")
        self.one.call("tasks:release")
        self.assertEqual(100_000, len(self.one.call("tasks:make", "bytes", 100_000)))
        self.assertEqual(before, self.one.call("tasks:descriptors"))

    def test_no_room_for_a_file(self):
        before = self.one.call("tasks:descriptors")
        failure = self.one.failure("tasks:small_files", 100_000)
        self.assertEqual("Unserializable", failure["kind"])
        self.assertIn("too large", failure["message"].lower())
        self.one.call("tasks:large_files")
        self.assertEqual(100_000, len(self.one.call("tasks:make", "bytes", 100_000)))
        self.one.drop_received()
        self.assertEqual(before, self.one.call("tasks:descriptors"))

    def test_nothing_stays_open(self):
        before = self.one.call("tasks:descriptors")
        for _ in range(50):
            self.one.call("tasks:make", "nested", 70_000)
        self.one.drop_received()
        self.assertEqual(before, self.one.call("tasks:descriptors"))
        self.assertEqual(1, self.one.call("tasks:maps"))

    def test_closed_descriptors_are_not_sent_for_others(self):
        # User code that closes what is not its own, and opens something in its place.
        self.write(
            "closer.py",
            """
            import os
            def same(value):
                for name in os.listdir("/proc/self/fd"):
                    number = int(name)
                    try:
                        if "memfd:test" in os.readlink("/proc/self/fd/" + name):
                            other = os.open("/dev/null", os.O_RDONLY)
                            os.dup2(other, number)
                            os.close(other)
                    except OSError:
                        pass
                return value
            """,
        )
        number = self.memory(DATA)
        data = attachments.payload([entry(BYTES, 0, 0, len(DATA))], value_with([HERE]))
        call_id = self.one.send("closer:same", data, ATTACHED, PLAIN, descriptors=[number])
        flags, _, payload = self.one.answer(call_id)
        self.assertEqual(DATA, self.one.decoded(flags, payload))


@unittest.skipUnless(pyarrow, "pyarrow is not installed here")
class Arrow(Base):
    def test_tables(self):
        table = pyarrow.table({"a": list(range(1000))})
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        number = self.memory(bytes(64) + data)
        entries = [entry(ARROW, 0, 64, len(data))]
        there = self.call("arrow_sum", [HERE], entries, [number])
        self.assertEqual(("Table", sum(range(1000))), there)
        there = self.call("same", [HERE], entries, [number])
        self.assertEqual(table, pyarrow.ipc.open_stream(there).read_all())
        there = self.one.call("tasks:make_arrow", 3)["t"]
        self.assertEqual([0, 1, 2], pyarrow.ipc.open_stream(there).read_all()["a"].to_pylist())
        broken = self.memory(bytes(100))
        self.refused([HERE], [entry(ARROW, 0, 0, 100)], [broken])
        self.refused([HERE], [entry(ARROW)], [broken])


class Pickles(unittest.TestCase):
    """What the pickler writes is taken apart where it should be."""

    def through(self, value):
        body = _plain.encode(value, 0)
        if body is None:
            # By chance there is what a lone surrogate looks like.
            body = _plain.encode(convert(value, for_json=False), 0, is_checked=True)
        if isinstance(body, bytes):
            return pickle.loads(body), []
        parts = body._parts
        for _ in pickletools.genops(body._value):
            pass
        kinds = {BYTES: bytes, BYTE_ARRAY: bytearray}
        for part in parts:
            self.assertIs(kinds[part.content], type(part.value))
            self.assertGreaterEqual(part.size, 65_536)
        return pickle.loads(body._value, buffers=[part.value for part in parts]), parts

    def test_random_values(self):
        dice = random.Random(11)
        sizes = (0, 1, 3, 4, 5, 9, 255, 256, 65_530, 65_535, 65_536, 65_537, 70_000, 131_072)
        shared = [b"s" * 65_536, bytearray(b"t" * 70_000), "u" * 65_536, b"B\0\0\1\0" * 20_000]
        # What looks like a head when it is at the end of a piece.
        floats = [struct.unpack(">d", b"\x40\x41B\0\0\1\0\x7f"[:8])[0], -0.5]

        def value(depth):
            kind = dice.randrange(12 if depth else 8)
            size = dice.choice(sizes)
            if kind == 0:
                return dice.choice((bytes, bytearray))(dice.getrandbits(8) for _ in range(3)) * (
                    size // 3
                )
            if kind == 1:
                return dice.choice("xä€") * size
            if kind == 2:
                return dice.choice(shared)
            if kind == 3:
                return dice.choice(floats)
            if kind == 4:
                return dice.getrandbits(dice.choice((8, 31, 64, 5000)))
            if kind == 5:
                return dice.choice((None, True, b"\x95" * size, b"\x8e" + struct.pack("<Q", size)))
            if kind in (6, 7):
                return [dice.choice(floats)] * dice.randrange(1, 9000)
            count = dice.randrange(6)
            members = [value(depth - 1) for _ in range(count)]
            if kind in (8, 9):
                return members
            if kind == 10:
                return tuple(members)
            return {number: member for number, member in enumerate(members)}

        attached = 0
        for _ in range(100):
            original = [value(3) for _ in range(5)]
            there, parts = self.through(original)
            attached += len(parts)
            self.assertEqual(original, there)
            # Their types and what they share are the same as well.
            otherwise = pickle.loads(pickle.dumps(original, 5))
            self.assertEqual(pickle.dumps(otherwise, 5), pickle.dumps(there, 5))
        self.assertGreater(attached, 100)

    def test_every_length_of_what_is_before_and_behind(self):
        big, other = b"x" * 65_536, bytearray(70_000)
        for before in (*range(8), *range(65_500, 65_560), *range(131_050, 131_090)):
            filler = "f" * before if before < 60_000 else [0.5] * (before // 9) + [1] * (before % 9)
            for value in ([filler, big], [filler, big, filler, other, big], (big, filler)):
                there, parts = self.through(value)
                self.assertEqual(value, there)
                self.assertEqual(sum(map(len, {id(p): p.value for p in parts}.values())) > 0, True)

    def test_heads_are_never_found_in_data(self):
        # Frames end with what a head for the next piece would look like.
        for tail in (b"B" + struct.pack("<I", 65_545), b"\x8e" + struct.pack("<Q", 65_545)):
            for count in range(7270, 7290):
                number = struct.unpack(">d", (b"\x40" * 8 + tail)[-8:])[0]
                value = [number] * count * 3
                there, parts = self.through(value)
                self.assertEqual((value, []), (there, parts))

    def test_too_many_leave_the_smallest_in_place(self):
        value = [bytes([n % 256]) * (65_536 + n) for n in range(4100)]
        there, parts = self.through(value)
        self.assertEqual(4096, len(parts))
        self.assertEqual(65_540, min(part.size for part in parts))
        self.assertEqual(value, there)

    def test_what_is_to_be_sent_cannot_be_resized(self):
        data, numbers = bytearray(DATA), array.array("d", DOUBLES)
        for kept in (data, numbers):
            value = convert([kept], for_json=False, attach=_plain.attach)
            body = _plain.encode(value, 0, is_checked=True)
            with self.assertRaises(BufferError):
                kept.extend(kept[:1])
            self.assertEqual(b"", body.seal(1 << 20, 1 << 30))
            value = None
            kept.extend(kept[:1])
        # Where nothing prevents it.
        part = _parts.Part(BYTES, bytearray(70_000), 70_001)
        failed = support.read_failure(_outgoing.Outgoing(b"", [part]).seal(1 << 20, 1 << 30))
        self.assertEqual("Unserializable", failed["kind"])
        self.assertIn("resize", failed["message"])

    def test_more_arrays_than_a_result_may_have(self):
        (number,) = [memfd(DATA)]
        payload = memoryview(attachments.payload([entry(BYTES, 0, 0, 8)], value_with([HERE])))
        incoming = _attached.Incoming(_receive.Attached(payload, [number], False), None)
        encode = _outgoing.Encoder(incoming, _plain.encode)
        attach = attaching(PLAIN, encode)
        small = [array.array("d", [n]) for n in range(5000)]
        body = encode(convert(small, for_json=False, attach=attach), 0, is_checked=True)
        self.assertEqual(b"", body.seal(1 << 20, 1 << 30))
        there = attachments.read_back(body.payload, body.descriptors)
        self.assertEqual(Arrived("<f8", (1,), struct.pack("<d", 4095)), there[4095])
        self.assertEqual([float(n) for n in range(4096, 5000)], [n for [n] in there[4096:]])
        # Each payload has as many as it may.
        value = convert(small[:9], for_json=False, attach=attaching(PLAIN, encode))
        self.assertEqual(9, len(encode(value, 0, is_checked=True)._parts))
        # Nothing else can be done with these.
        large = [_parts.Part(BYTES, b"", 70_000)] * 4097
        failed = support.read_failure(_outgoing.Outgoing(b"", large).seal(1 << 20, 1 << 30))
        self.assertEqual("Unserializable", failed["kind"])
        self.assertIn("4097", failed["message"])
        self.assertIn("4096", failed["message"])

    def test_what_is_too_large_is_told_by_its_own_numbers(self):
        body = _plain.encode(["t" * 3_000_000, DATA], 0)
        size = 4 + 8 + 24 + len(body._value)
        failed = support.read_failure(body.seal(2_000_000, 1 << 30))
        self.assertEqual({"kind": "TooLarge", "bytes": size, "limit": 2_000_000}, failed)

    def test_writing_in_small_steps(self):
        moved = _parts._MOVED_BYTES_MAX
        self.addCleanup(setattr, _parts, "_MOVED_BYTES_MAX", moved)
        _parts._MOVED_BYTES_MAX = 1000
        body = _plain.encode([DATA, bytearray(DATA)], 0)
        self.assertEqual(b"", body.seal(1 << 20, 1 << 30))
        received = list(body.descriptors)
        self.assertEqual([DATA, bytearray(DATA)], attachments.read_back(body.payload, received))
        del body
        with self.assertRaises(OSError):
            os.fstat(received[0])


class Disturbed(unittest.TestCase):
    """What a signal handler raises while a call waits for the client's items."""

    call_id, loop_thread = 1, 0

    def test_the_call_can_still_be_interrupted(self):
        def handler(*_):
            raise LookupError

        def frames():
            signal.pthread_kill(threading.get_ident(), signal.SIGALRM)
            yield _frames.CREDIT, 0, 0, 1, memoryview(struct.pack("<II", 0, 3)), memoryview(b"")

        def send(_head, _body):
            raise LookupError

        self.addCleanup(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, handler))
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        state = _call.State()
        state.running, state.armed = 1, True
        port = _port._OnePort(1, state, near, frames(), send, int)
        with self.assertRaises(LookupError):
            port._take_shielded()
        self.assertEqual((3, 1, True), (port.given, port._taken, state.armed))
        with self.assertRaises(LookupError):
            port.ask(1, 4)
        self.assertTrue(state.armed)

    def test_items_are_asked_for_again(self):
        asked = []

        def ask(_stream, items):
            asked.append(items)
            if len(asked) == 1:
                raise LookupError

        def wait(_is_ready):
            self.assertEqual([4, 4], asked)
            for index in range(8):
                stream.put(index, b"x", 1)

        self.state = _call.State()
        self.state.running = 1
        self.ask, self.wait = ask, wait
        stream = _inputs.Stream(self, 1, bytes)
        with self.assertRaises(LookupError):
            next(stream)
        self.assertEqual(b"x", next(stream))


class Sending(unittest.TestCase):
    def test_what_waits_for_the_loop_is_a_copy(self):
        queued, sent = [], []
        self.call_soon_threadsafe = lambda *call: queued.append(call)
        self.send = lambda head, body: sent.append(head + body) or True
        port = _lane_ports.LoopPort(1, _call.State(), lambda: None, self, self)
        data = bytearray(b"first")
        thread = threading.Thread(target=port.send, args=(b"head ", memoryview(data)))
        thread.start()
        thread.join()
        data[:] = b"other"
        ((take, *arguments),) = queued
        take(*arguments)
        self.assertEqual([b"head first"], sent)

    def test_descriptors_are_sent_once_whatever_disturbs(self):
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        send = _loop.make_send(near)
        body = _plain.encode([DATA], 0)
        self.assertEqual(b"", body.seal(1 << 20, 1 << 30))
        head = _frames.header_bytes(6, 1, 0, len(body.payload), ATTACHED, PLAIN, 1)
        send(head, body)
        received = []
        frame = support.read_frame(far, received=received)
        self.assertEqual([DATA], attachments.read_back(frame[5], received))
        os.close(received[0])


class Modes(Base):
    """Every mode takes and gives the same."""

    mode = support.THREADS

    def setUp(self):
        super().setUp()
        self.write("numpy.py", NO_NUMPY)

    def start(self, **options):
        return super().start(mode=self.mode, lanes=3, **options)

    def test_there_and_back(self):
        number = self.memory(DATA)
        before = self.one.call("tasks:descriptors")
        entries = [
            attachments.array("<f8", [20_000]),
            entry(BYTES, 0, 0, len(DATA)),
            entry(BYTE_ARRAY, 0, 0, len(DATA)),
        ]
        expected = [Arrived("<f8", (20_000,), DATA), DATA, bytearray(DATA)]
        for _ in range(3):
            self.assertEqual(expected, self.call("same", [HERE] * 3, entries, [number]))
            self.assertEqual(2, len(self.one.received))
            self.assertEqual(100_000, len(self.one.call("tasks:make", "bytes", 100_000)))
            self.refused([HERE], [entry(BYTES, 0, 1 << 40, 8)], [number], "ends at byte")
        self.one.drop_received()
        # Lanes let go of their last call when they take the next.
        support.wait_for(
            lambda: before == self.one.call("tasks:descriptors"), "descriptors to be closed"
        )

    def test_many_at_once(self):
        numbers = [self.memory(struct.pack("<d", n) * 10_000) for n in range(9)]
        for start in range(0, 9, 3):
            asked = {}
            for n in range(start, start + 3):
                one = [attachments.array("<f8", [10_000])]
                asked[self.ask("same", [HERE], one, [numbers[n]])] = n
            for _ in range(3):
                self.one.drop_received()
                kind, flags, _, call_id, _, payload = support.read_frame(
                    self.one.call_socket, received=self.one.received
                )
                self.assertEqual(support.RESULT, kind)
                data = struct.pack("<d", asked[call_id]) * 10_000
                there = self.one.decoded(flags, payload)
                self.assertEqual(Arrived("<f8", (10_000,), data), there)

    def test_large_payloads_with_descriptors(self):
        number = self.memory(DATA)
        text = "t" * 300_000
        there = self.call("same", [text, HERE], [entry(BYTES, 0, 0, len(DATA))], [number])
        self.assertEqual([text, DATA], there)

    def test_descriptors_of_nobody_end_the_worker(self):
        number = self.memory(DATA)
        support.send_with(self.one.call_socket, support.frame(34, 9, bytes(17)), [number])
        self.assertEqual(70, self.one.process.wait(support.DEADLINE_S))
        self.assertIn("descriptors", self.one.stderr())


class AsyncMode(Modes):
    mode = support.ASYNC

    def start(self, **options):
        self.write(
            "later.py",
            """
            import asyncio
            async def same(*values):
                await asyncio.sleep(0)
                return list(values)
            """,
        )
        return super().start(**options)

    def test_coroutines(self):
        number = self.memory(DATA)
        entries = [attachments.array("<f8", [20_000]), entry(BYTES, 0, 0, len(DATA))]
        data = attachments.payload(entries, value_with([HERE, HERE]))
        before = self.one.call("tasks:descriptors")
        for _ in range(3):
            call_id = self.one.send("later:same", data, ATTACHED, PLAIN, descriptors=[number])
            flags, _, payload = self.one.answer(call_id)
            there = self.one.decoded(flags, payload)
            self.assertEqual([Arrived("<f8", (20_000,), DATA), DATA], there)
        self.one.drop_received()
        support.wait_for(
            lambda: before == self.one.call("tasks:descriptors"), "descriptors to be closed"
        )


@unittest.skipUnless(sys.version_info >= (3, 13), "subinterpreters need CPython 3.13 or newer")
class SubinterpretersMode(Modes):
    mode = support.SUBINTERPRETERS


class OneMode(Modes):
    def start(self, **options):
        return Base.start(self, **options)


if __name__ == "__main__":
    unittest.main()
