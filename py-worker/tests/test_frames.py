"""The worker's bytes against the golden bytes, which the Rust tests read too."""

import binascii
import json
import linecache
import os
import random
import re
import signal
import socket
import struct
import threading
import unittest

import support
from clutch import _frames, _limits, _loop, _outgoing, _receive
from clutch._receive import receive_exactly, receive_frames

PAYLOAD_BYTES_MAX = 1 << 20


def golden(name):
    """A file of the golden bytes."""
    path = os.path.join(support.TESTDATA, name)
    with open(path, encoding="utf-8") as file:
        return json.load(file) if name.endswith(".json") else file.read()


def plain_value(node):
    """A meta's node as plain Python: structs are dicts, enums (index, fields)."""
    kind = node["type"]
    if kind == "struct":
        return {name: plain_value(field) for name, field in node["fields"]}
    if kind == "enum":
        return node["index"], {name: plain_value(field) for name, field in node["fields"]}
    if kind == "list":
        return [plain_value(item) for item in node["items"]]
    if kind == "bytes":
        return bytes.fromhex(node["value"])
    if kind == "option" and node["value"] is not None:
        return plain_value(node["value"])
    return node["value"]


def source_of(data):
    """A `recv_into` that gives the bytes in pieces of random size."""
    view = memoryview(data)
    dice = random.Random(len(data))
    at = 0

    def receive_into(buffer):
        nonlocal at
        size = min(len(buffer), len(view) - at, dice.choice((1, 3, 31, 33, 1000, 70000)))
        memoryview(buffer)[:size] = view[at : at + size]
        at += size
        return size

    return receive_into


def all_frames(data, payload_bytes_max=PAYLOAD_BYTES_MAX):
    """Every frame in the bytes, with its views copied."""
    return [
        (*frame[:4], bytes(frame[4]), bytes(frame[5]))
        for frame in receive_frames(source_of(data), payload_bytes_max, _receive.Arrivals())
    ]


def encode_exception(fields):
    """An exception's node as the worker writes it."""
    frames = [tuple(frame.values()) for frame in fields["frames"]]
    chain = [(link["relation"][0], link["type_name"], link["message"]) for link in fields["chain"]]
    return _frames.encode_exception(
        fields["type_name"],
        fields["message"],
        fields["notes"],
        frames,
        fields["traceback"],
        chain,
        fields["bases"],
    )


def encode_failure(node):
    """A `WorkerFailure` as the worker writes it."""
    index, fields = plain_value(node)
    if index == 0:
        return _frames.failed_raised(encode_exception(fields["0"]))
    if index == 1:
        missing = fields["0"]
        return _frames.failed_not_found(
            _frames.encode_missing(missing["what"][0], missing["message"], missing["traceback"])
        )
    write = {
        2: _frames.failed_bad_arguments,
        3: _frames.failed_unserializable,
        4: _frames.failed_too_large,
        5: _frames.failed_cancelled,
    }[index]
    return write(*fields.values())


class Golden(unittest.TestCase):
    def entries(self, *kinds):
        found = [entry for entry in golden("frames.json")["frames"] if entry["kind"] in kinds]
        self.assertTrue(found, kinds)
        return found

    def test_headers_are_written_as_the_rust_side_writes_them(self):
        for entry in golden("frames.json")["frames"]:
            head = entry["header"]
            if head["descriptors"]:
                continue
            mine = _frames.header_bytes(
                head["kind"],
                head["id"],
                head["meta_bytes"],
                head["payload_bytes"],
                head["flags"],
                head["codec"],
            )
            self.assertEqual(entry["frame"][:64], mine.hex(), entry["name"])

    def test_frames_of_the_daemon_are_read(self):
        entries = self.entries("Setup", "Run", "Ping", "Interrupt", "Warn", "Exit", "Result")
        # To a worker nobody answers anything; the table is read in `test_attached`.
        entries = [entry for entry in entries if not entry["header"]["descriptors"]]
        received = all_frames(b"".join(bytes.fromhex(entry["frame"]) for entry in entries))
        self.assertEqual(len(entries), len(received))
        for entry, (kind, flags, codec, call_id, meta, payload) in zip(entries, received):
            head = entry["header"]
            self.assertEqual(
                (head["kind"], head["flags"], head["codec"], head["id"]),
                (kind, flags, codec, call_id),
            )
            self.assertEqual(entry["payload"], payload.hex())
            self.assertEqual(head["meta_bytes"], len(meta))

    def test_setup_is_read(self):
        for entry in self.entries("Setup"):
            meta = bytes.fromhex(entry["frame"])[32:]
            setup = _frames.decode_setup(meta)
            fields = plain_value(entry["meta"])
            worker = fields.pop("worker")
            self.assertEqual((worker["slot"], worker["generation"]), (setup.slot, setup.generation))
            fields["mode"], _ = fields["mode"]
            for name, value in fields.items():
                self.assertEqual(value, getattr(setup, name), name)
            for size in range(len(meta)):
                with self.assertRaises(_frames.ProtocolError):
                    _frames.decode_setup(meta[:size])
            with self.assertRaises(_frames.ProtocolError):
                _frames.decode_setup(meta + b"x")

    def test_ready_is_written(self):
        for entry in self.entries("Ready"):
            fields = plain_value(entry["meta"])
            self.assertEqual(_frames.VERSION, fields.pop("version"))
            meta = _frames.encode_ready(**fields)
            self.assertEqual(entry["frame"][64:], meta.hex())

    def test_imports_are_written(self):
        for entry in self.entries("Imports"):
            fields = plain_value(entry["meta"])
            modules = [tuple(module.values()) for module in fields.pop("modules")]
            meta = _frames.encode_imports(modules=modules, **fields)
            self.assertEqual(entry["frame"][64:], meta.hex())

    def test_log_is_written(self):
        for entry in self.entries("Log"):
            fields = plain_value(entry["meta"])
            texts = {
                name: value.encode() for name, value in fields.items() if isinstance(value, str)
            }
            meta = _frames.encode_log(**{**fields, **texts})
            self.assertEqual(entry["frame"][64:], meta.hex())

    def test_progress_is_written(self):
        for entry in self.entries("Progress"):
            fields = plain_value(entry["meta"])
            fields["message"] = fields["message"].encode()
            meta = _frames.encode_progress(**fields)
            self.assertEqual(entry["frame"][64:], meta.hex())

    def test_every_failure_is_written(self):
        seen = set()
        for entry in self.entries("Failed"):
            seen.add(entry["meta"]["index"])
            self.assertEqual(entry["frame"][64:], encode_failure(entry["meta"]).hex(), entry)
        self.assertEqual(set(range(6)), seen)

    def test_bytes_that_are_no_frame_are_refused(self):
        for entry in golden("frames.json")["invalid"]:
            data = bytes.fromhex(entry["bytes"])
            if entry["error"] == "Kind":
                # Whether a kind is a worker's is the loop's to say.
                continue
            with self.assertRaises(_frames.ProtocolError, msg=entry["name"]):
                all_frames(data + bytes(64), 1024)


class Limits(unittest.TestCase):
    def test_they_are_the_protocols_own(self):
        path = os.path.join(os.path.dirname(support.TESTDATA), "src", "limits.rs")
        with open(path, encoding="utf-8") as file:
            rust = dict(re.findall(r"pub const (\w+): \w+ = ([\d_]+(?: << \d+)?);", file.read()))
        compared = 0
        for name in _limits.__all__:
            if name in rust:
                number, _, shift = rust[name].replace("_", "").partition(" << ")
                self.assertEqual(int(number) << int(shift or 0), getattr(_limits, name), name)
                compared += 1
        self.assertEqual(24, compared)


class Receiving(unittest.TestCase):
    def test_frames_of_every_size_in_pieces_of_every_size(self):
        sizes = [0, 1, 31, 65000, 65503, 65504, 65505, 65536, 100_000, 1 << 20]
        frames = [
            (34, 0, 1, number + 1, b"m" * (number % 3), bytes([number]) * size)
            for number, size in enumerate(sizes * 3)
        ]
        data = b"".join(
            support.frame(kind, call_id, meta, payload, flags, codec)
            for kind, flags, codec, call_id, meta, payload in frames
        )
        self.assertEqual(frames, all_frames(data))

    def test_ten_thousand_frames_at_once(self):
        data = support.frame(34, 5, b"meta", b"payload", 1, 1)
        received = all_frames(data * 10_000)
        self.assertEqual([(34, 1, 1, 5, b"meta", b"payload")] * 10_000, received)

    def test_an_end_inside_a_frame(self):
        data = support.frame(34, 5, b"meta", b"p" * 70_000)
        for size in (1, 31, 32, 35, 70_000):
            with self.assertRaises(_frames.ProtocolError):
                all_frames(data[:size])

    def test_a_length_is_believed_only_within_its_limit(self):
        for length, meta in ((PAYLOAD_BYTES_MAX + (1 << 20) + 1, 0), (1 << 21, (1 << 20) + 1)):
            head = support.HEAD.pack(b"CLU1", length, 1, meta, 34, 0, 0, 0, 0)
            head += struct.pack("<I", binascii.crc32(head))
            with self.assertRaises(_frames.ProtocolError):
                all_frames(head + bytes(100))

    def test_every_flipped_bit_of_a_header_is_found(self):
        data = bytearray(support.frame(34, 5, b"meta", b"payload"))
        for bit in range(32 * 8):
            data[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(_frames.ProtocolError):
                all_frames(bytes(data))
            data[bit // 8] ^= 1 << bit % 8

    def test_exactly(self):
        self.assertIsNone(receive_exactly(source_of(b""), 5))
        self.assertEqual(b"12345", bytes(receive_exactly(source_of(b"123456"), 5)))
        with self.assertRaises(_frames.ProtocolError):
            receive_exactly(source_of(b"123"), 5)


class Disturbed(unittest.TestCase):
    """Signal handlers that raise where bytes are received or sent lose and repeat none."""

    def setUp(self):
        self.near, self.far = socket.socketpair()
        self.addCleanup(self.near.close)
        self.addCleanup(self.far.close)
        self.reported = 0
        # One at a time: in a worker, reporting the first one stops the timer.
        self.is_raised = False
        self.addCleanup(setattr, _receive, "report", _receive.report)
        self.addCleanup(setattr, _loop, "report", _loop.report)
        _receive.report = _loop.report = self.report
        before = signal.signal(signal.SIGALRM, self.handler)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)

    def report(self, error):
        self.assertIsInstance(error, TimeoutError)
        self.reported += 1
        self.is_raised = False

    def handler(self, _number, frame):
        # Where bytes are taken: during the system call, and before its result is looked at.
        code = frame.f_code
        if not self.is_raised and code.co_name in ("receive_into", "send_frame"):
            line = linecache.getline(code.co_filename, frame.f_lineno)
            if "extend(" in line or "append(" in line or "waiting" in line:
                self.is_raised = True
                raise TimeoutError("from a handler")

    def test_receiving(self):
        data = bytes(range(256)) * 4000
        sender = threading.Thread(target=self.far.sendall, args=(data,))
        sender.start()
        receive_into = _receive.shielded(self.near, _receive.Arrivals())
        received, buffer = bytearray(), bytearray(100)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        while len(received) < len(data):
            received += buffer[: receive_into(buffer)]
        signal.setitimer(signal.ITIMER_REAL, 0)
        sender.join()
        self.assertEqual(data, received)
        self.assertGreater(self.reported, 0)

    def test_receiving_descriptors(self):
        count = 2000
        one = os.memfd_create("one")
        self.addCleanup(os.close, one)
        before = len(os.listdir("/proc/self/fd"))

        def send():
            rights = ((socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", one)),)
            for _ in range(count):
                self.far.sendmsg((b"begins", b"x" * 100), rights)

        sender = threading.Thread(target=send)
        sender.start()
        arrivals = _receive.Arrivals()
        receive_into = _receive.shielded(self.near, arrivals)
        received, claimed, buffer = 0, 0, bytearray(70)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        while received < count * 106:
            received += receive_into(buffer)
            while arrivals.waiting:
                numbers, is_cut = arrivals.claim(1)
                self.assertFalse(is_cut)
                claimed += len(numbers)
                _receive.close_all(numbers)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sender.join()
        self.assertEqual((count * 106, count), (received, claimed))
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
        self.assertGreater(self.reported, 0)

    def test_sending_descriptors(self):
        count, received = 500, []

        def read():
            for _ in range(count):
                numbers = []
                kind, *_, payload = support.read_frame(self.far, received=numbers)
                received.append((kind, len(numbers), len(payload)))
                while numbers:
                    os.close(numbers.pop())

        reader = threading.Thread(target=read)
        reader.start()
        send = _loop.make_send(self.near)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        before = len(os.listdir("/proc/self/fd"))
        expected = []
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        for number in range(count):
            size = number % 90 * 997
            body = _outgoing.Outgoing(b"", [])
            body.payload = b"p" * size
            body.descriptors.append(os.memfd_create("one"))
            send(_frames.header_bytes(6, 1, 0, size, support.ATTACHED, 1, 1), body)
            expected.append((6, 1, size))
            del body
        signal.setitimer(signal.ITIMER_REAL, 0)
        reader.join()
        self.assertEqual(expected, received)
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
        self.assertGreater(self.reported, 0)

    def test_sending(self):
        frames = [bytes([n % 256]) * (n % 90 * 997) for n in range(800)]
        received = []
        whole = sum(map(len, frames)) + 32 * len(frames)
        read = lambda: received.append(support.read_exactly(self.far, whole, support.DEADLINE_S))
        reader = threading.Thread(target=read)
        reader.start()
        send = _loop.make_send(self.near)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        for body in frames:
            send(b"h" * 32, body)
        signal.setitimer(signal.ITIMER_REAL, 0)
        reader.join()
        self.assertEqual(b"".join(b"h" * 32 + body for body in frames), received[0])
        self.assertGreater(self.reported, 0)


if __name__ == "__main__":
    unittest.main()
