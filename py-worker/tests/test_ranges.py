"""Ranges of files: which records are in which, what is mapped, and what cannot be given."""

import gc
import io
import os
import pickle
import random
import struct
import sys
import tempfile
import types
import unittest

import attachments
import support
from clutch import _pristine, _ranges
from clutch._execute import NoRecordsError
from clutch._ranges import RangeError

sys.path.insert(0, support.SOURCE)
import boot  # noqa: E402

_pristine.configure(boot.pristine_path(support.SOURCE))

BYTES, LINES = 0, 1


def reader(data, reads=None):
    """Reads from bytes as `pread` does from a file; notes how much."""

    def read(count, at):
        if reads is not None:
            reads.append(count)
        return data[at : at + count]

    return read


def ranges(size, chunk):
    """The bounds that a client sends."""
    return [(start, min(size, start + chunk)) for start in range(0, size, chunk)]


def cut(data, chunk):
    """What each range of the data holds."""
    total = len(data)
    bounds = (_ranges.whole_lines(reader(data), *bounds, total) for bounds in ranges(total, chunk))
    return [data[start:end] for start, end in bounds]


class Tiling(unittest.TestCase):
    """Any text, any bounds: each line is in exactly one range, whole."""

    def check(self, data, chunk):
        pieces = cut(data, chunk)
        self.assertEqual(data, b"".join(pieces), (data, chunk))
        for number, piece in enumerate(pieces):
            is_last = number * chunk + chunk >= len(data)
            if piece and not (is_last or data.endswith(piece)):
                self.assertTrue(piece.endswith(b"\n"), (data, chunk, piece))
        # A line is where its first byte is.
        at = 0
        expected = [b""] * len(pieces)
        for line in data.splitlines(keepends=True) if b"\r" not in data else []:
            expected[at // chunk] += line
            at += len(line)
        if b"\r" not in data:
            self.assertEqual(expected, pieces, (data, chunk))

    def test_every_short_text_with_every_chunk(self):
        for length in range(8):
            for number in range(2**length):
                data = bytes(b"\na"[number >> bit & 1] for bit in range(length))
                for chunk in range(1, length + 2):
                    self.check(data, chunk)

    def test_random_texts(self):
        chance = random.Random(7)
        for _ in range(300):
            lines = [b"x" * chance.choice((0, 1, 3, 50, 900)) for _ in range(chance.randrange(40))]
            data = b"\n".join(lines)
            self.check(data, chance.randrange(1, 200))

    def test_carriage_returns_end_nothing(self):
        for chunk in range(1, 16):
            self.check(b"a\r\nb\rc\r\n\r\nd", chunk)

    def test_a_record_longer_than_its_range_leaves_empty_ones(self):
        self.assertEqual(
            [b"aa\n", b"b" * 9 + b"\n", b"", b"", b"c"], cut(b"aa\n" + b"b" * 9 + b"\nc", 3)
        )

    def test_little_is_read_and_a_long_record_in_windows(self):
        data = b"a" * 60 + b"\n" + b"b" * (8 << 20) + b"\n"
        reads = []
        read = reader(data, reads)
        self.assertEqual((61, len(data)), _ranges.whole_lines(read, 61, 70, len(data)))
        self.assertLessEqual(max(reads), 1 << 20)
        self.assertLess(len(reads), 30)
        del reads[:]
        self.assertEqual((0, 61), _ranges.whole_lines(read, 0, 50, len(data)))
        self.assertEqual([4096], reads)

    def test_what_is_before_a_range_is_looked_for_only_inside(self):
        data = b"a" * 100_000 + b"\n"
        reads = []
        read = reader(data, reads)
        self.assertEqual((30, 30), _ranges.whole_lines(read, 20, 30, len(data)))
        self.assertEqual(10, sum(reads))

    def test_a_record_without_end_is_refused_with_its_place(self):
        limit, _ranges.RECORD_BYTES_MAX = _ranges.RECORD_BYTES_MAX, 1000
        try:
            data = b"a\n" + b"b" * 5000
            with self.assertRaisesRegex(RangeError, "around byte 10 has no end within 1000"):
                _ranges.whole_lines(reader(data), 0, 10, len(data))
            self.assertEqual((2, 1005), _ranges.whole_lines(reader(data[:1005]), 2, 10, 1005))
        finally:
            _ranges.RECORD_BYTES_MAX = limit


class Mapped(unittest.TestCase):
    """What a function is given."""

    def setUp(self):
        self.file = tempfile.TemporaryFile()
        self.addCleanup(self.file.close)

    def write(self, data):
        self.file.write(data)
        self.file.flush()
        return self.file.fileno()

    def test_ranges_tile_a_file_at_offsets_that_are_no_pages(self):
        lines = b"".join(b"%d\n" % number for number in range(20_000))
        descriptor = self.write(lines)
        for split, chunk in ((BYTES, 12_345), (LINES, 12_345), (LINES, 4096)):
            views = [
                _ranges.take(descriptor, start, end - start, split)
                for start, end in ranges(len(lines), chunk)
            ]
            self.assertEqual(lines, b"".join(views))
            self.assertTrue(all(view.readonly and view.contiguous for view in views))
            self.assertEqual([("B", 1)] * len(views), [(v.format, v.ndim) for v in views])

    def test_an_empty_range_is_none(self):
        descriptor = self.write(b"a" * 100 + b"\n")
        with self.assertRaises(NoRecordsError):
            _ranges.take(descriptor, 10, 10, LINES)

    def test_the_mapping_and_its_descriptor_go_with_the_last_object(self):
        descriptor = self.write(b"a\n" * 50_000)

        def state():
            with open("/proc/self/maps") as maps:
                mapped = sum(os.readlink(f"/proc/self/fd/{descriptor}") in line for line in maps)
            return mapped, len(os.listdir("/proc/self/fd"))

        before = state()
        view = _ranges.take(descriptor, 8192, 8192, LINES)
        part = view[10:20]
        del view
        self.assertEqual(1, state()[0])
        self.assertEqual(b"a\na\na\na\na\n", part)
        del part
        gc.collect()
        self.assertEqual(before, state())

    def test_a_file_that_was_cut_short_is_told_and_not_touched(self):
        descriptor = self.write(b"a\n" * 100)
        for split in (BYTES, LINES):
            with self.assertRaisesRegex(RangeError, "ends at byte 300 .* only 200 bytes"):
                _ranges.take(descriptor, 100, 200, split)

    def test_what_was_appended_is_only_the_rest_of_a_line(self):
        descriptor = self.write(b"a\nbb")
        self.write(b"b\nc\n")
        self.assertEqual(b"bbb\n", _ranges.take(descriptor, 2, 2, LINES))
        self.assertEqual(b"bb", _ranges.take(descriptor, 2, 2, BYTES))

    def test_what_cannot_be_mapped_says_why(self):
        descriptor = self.write(b"a\n" * 100)

        def refuse(*arguments, **keywords):
            raise OSError(12, "Cannot allocate memory")

        mmap, _ranges.mmap = _ranges.mmap, refuse
        try:
            with self.assertRaisesRegex(RangeError, "200 bytes at byte 0 .*make the chunks small"):
                _ranges.take(descriptor, 0, 200, BYTES)
        finally:
            _ranges.mmap = mmap

    def test_an_unknown_split_is_refused(self):
        descriptor = self.write(b"a\n")
        with self.assertRaisesRegex(RangeError, "unknown split 9"):
            _ranges.take(descriptor, 0, 2, 9)


class RowGroups(unittest.TestCase):
    """Parquet, by way of pyarrow, which may or may not be there."""

    def setUp(self):
        self.modules = {name: sys.modules.get(name) for name in ("pyarrow", "pyarrow.parquet")}

    def tearDown(self):
        for name, module in self.modules.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module

    def test_without_pyarrow_it_says_what_to_install(self):
        for name in self.modules:
            sys.modules[name] = None
        with self.assertRaisesRegex(RangeError, "pyarrow.Table.*install pyarrow"):
            _ranges.row_group(0, 0)

    def test_pyarrow_reads_a_file_whose_offset_is_shared(self):
        read = []

        class ParquetFile:
            def __init__(self, source):
                self.source = source

            def read_row_group(self, index):
                source = self.source
                read.append((source.readable(), source.seekable(), source.writable()))
                read.append((source.seek(-4, 2), source.read()))
                read.append((source.seek(0), source.read(3), source.tell()))
                read.append((source.seek(2, 1), source.readinto(bytearray(4)), source.tell()))
                read.append((source.seek(100), source.read(5)))
                return f"table {index}"

        parquet = types.ModuleType("pyarrow.parquet")
        parquet.ParquetFile = ParquetFile
        sys.modules["pyarrow"] = types.ModuleType("pyarrow")
        sys.modules["pyarrow.parquet"] = parquet
        with tempfile.TemporaryFile() as file:
            file.write(b"0123456789abcdef")
            file.flush()
            file.seek(7)
            self.assertEqual("table 3", _ranges.row_group(file.fileno(), 3))
            self.assertEqual(7, os.lseek(file.fileno(), 0, 1))
        self.assertEqual(
            [
                (True, True, False),
                (12, b"cdef"),
                (0, b"012", 3),
                (5, 4, 9),
                (100, b""),
            ],
            read,
        )

    def test_buffered_readers_take_it(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"x\ny")
            file.flush()
            self.assertEqual(
                [b"x\n", b"y"], io.BufferedReader(_ranges._File(file.fileno())).readlines()
            )

    def test_a_file_that_was_cut_short_is_told(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"0123456789")
            file.flush()
            source = _ranges._File(file.fileno())
            file.truncate(5)
            with self.assertRaisesRegex(RangeError, "cut short"):
                source.read()


TASKS = """
    import os

    def text(chunk, header=None):
        return [header, str(chunk, "ascii")] if header else str(chunk, "ascii")

    async def text_async(chunk):
        return text(chunk)

    def held(name):
        with open("/proc/self/maps") as maps:
            mapped = sum(name in line for line in maps)
        paths = ["/proc/self/fd/" + number for number in os.listdir("/proc/self/fd")]
        return mapped, sum(os.path.exists(path) and name in os.readlink(path) for path in paths)
"""


class InWorker(support.FolderTestCase):
    """Calls with ranges, in every mode."""

    def setUp(self):
        super().setUp()
        self.write("tasks.py", TASKS)
        self.path = self.write("lines.txt", "a\nbbbbbbbb\nc\n")

    def send(self, worker, function, offset, size, split=LINES, keywords=None):
        """Sends a call with a range; its id."""
        details = struct.pack("<I", split)
        entry = attachments.entry(attachments.RANGE, 0, offset, size, details)
        value = [attachments.HERE]
        value = attachments.value_with((value, keywords) if keywords else value)
        payload = attachments.payload([entry], value)
        flags = support.ATTACHED | (support.KEYWORDS if keywords else 0)
        number = os.open(self.path, os.O_RDONLY)
        try:
            return worker.send("tasks:" + function, payload, flags, descriptors=[number])
        finally:
            os.close(number)

    def check(self, function, **mode):
        with support.Worker(self.folder, path=[self.folder], **mode) as worker:
            for bounds, lines in (((0, 4), "a\nbbbbbbbb\n"), ((11, 2), "c\n")):
                answer = worker.answer(self.send(worker, function, *bounds))
                self.assertEqual((support.PLAIN, lines), (answer[1], pickle.loads(answer[2])))
            # Nothing begins there: there was no call.
            answer = worker.answer(self.send(worker, function, 4, 4))
            self.assertEqual((0, support.NONE, b""), tuple(answer))
            answer = worker.answer(self.send(worker, function, 4, 4, BYTES))
            self.assertEqual("bbbb", pickle.loads(answer[2]))
            with self.assertRaises(support.Failed) as caught:
                worker.answer(self.send(worker, function, 4, 400))
            failure = caught.exception.failure
            self.assertEqual("BadArguments", failure["kind"])
            self.assertIn("clutch.RangeError: the range ends at byte 404", failure["message"])
            # A thread lets go of it right after its answer.
            support.wait_for(
                lambda: tuple(worker.call("tasks:held", self.path)) == (0, 0), "an unmapped file"
            )

    def test_one_at_a_time(self):
        self.check("text")

    def test_with_keywords(self):
        with support.Worker(self.folder, path=[self.folder]) as worker:
            call_id = self.send(worker, "text", 0, 2, keywords={"header": ["x", "y"]})
            self.assertEqual([["x", "y"], "a\n"], pickle.loads(worker.answer(call_id)[2]))

    def test_on_threads(self):
        self.check("text", mode=support.THREADS, lanes=2)

    def test_as_tasks(self):
        self.check("text_async", mode=support.ASYNC, lanes=2)
        self.check("text", mode=support.ASYNC, lanes=2)

    @unittest.skipIf(sys.version_info < (3, 13), "needs CPython 3.13")
    def test_in_subinterpreters(self):
        self.check("text", mode=support.SUBINTERPRETERS, lanes=2)


if __name__ == "__main__":
    unittest.main()
