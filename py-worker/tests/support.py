"""A daemon in miniature: starts `boot.py` over real sockets and speaks the protocol with it.

It has its own small codec, so that a mistake in the worker's is not made twice. Standard library
only, like the worker; the interpreter under test is the one that runs the tests.
"""

import array
import binascii
import fcntl
import json
import os
import pickle
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src")
BOOT = os.path.join(SOURCE, "boot.py")
TESTDATA = os.path.join(os.path.dirname(os.path.dirname(SOURCE)), "protocol", "testdata")

if SOURCE not in sys.path:
    sys.path.insert(0, SOURCE)

# A runner in a script's background ignores them, and so would every worker that it starts, which a
# guardian prevents.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

RESULT, PING, PONG, SETUP, READY, RUN, FAILED, INTERRUPT, EXIT = 6, 9, 10, 32, 33, 34, 35, 36, 37
WARN = 38
LOG = 39
STACK = 40
IMPORTS = 41
STAR, NOTHING = 1, 2
ITEM, CREDIT, ITEMS_END, PROGRESS = 28, 29, 30, 31
KEYWORDS, ITEMS, ATTACHED, STREAM = 1, 2, 8, 16
NONE, PLAIN, JSON, RAW = 0, 1, 2, 3
ONE, THREADS, ASYNC, SUBINTERPRETERS = 0, 1, 2, 3
PAYLOAD_BYTES_MAX = 1 << 20

HEAD = struct.Struct("<4sIQIBBBBI")
VARIANTS = ("Raised", "NotFound", "BadArguments", "Unserializable", "TooLarge", "Cancelled")
WHAT = ("pool", "module", "function", "not_callable", "name")

# How long anything may take before a test says that it hangs. The machine may be busy.
DEADLINE_S = 60.0


def frame(kind, call_id=0, meta=b"", payload=b"", flags=0, codec=0, descriptors=0):
    """A whole frame."""
    head = HEAD.pack(
        b"CLU1", len(meta) + len(payload), call_id, len(meta), kind, flags, codec, descriptors, 0
    )
    return head + struct.pack("<I", binascii.crc32(head)) + meta + payload


def text(value):
    """A text inside a meta."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def texts(values):
    """A list of texts inside a meta."""
    return struct.pack("<Q", len(values)) + b"".join(map(text, values))


class Reader:
    """Reads a meta field by field."""

    def __init__(self, data):
        self.data, self.at = bytes(data), 0

    def take(self, form):
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self):
        size = self.take("Q")
        value = self.data[self.at : self.at + size]
        assert len(value) == size
        self.at += size
        return value.decode()

    def many(self, read):
        return [read() for _ in range(self.take("Q"))]


def read_failure(meta):
    """A `WorkerFailure` as a dict whose `kind` is its variant."""
    reader = Reader(meta)
    kind = VARIANTS[reader.take("I")]
    failure = {"kind": kind}
    if kind == "Raised":
        failure.update(type_name=reader.text(), message=reader.text())
        failure["notes"] = reader.many(reader.text)
        failure["frames"] = reader.many(
            lambda: {
                "file": reader.text(),
                "line": reader.take("I"),
                "function": reader.text(),
                "source": reader.text(),
            }
        )
        failure["traceback"] = reader.text()
        failure["chain"] = reader.many(
            lambda: {
                "relation": ("cause", "context")[reader.take("I")],
                "type_name": reader.text(),
                "message": reader.text(),
            }
        )
        failure["bases"] = reader.many(reader.text)
    elif kind == "NotFound":
        failure.update(what=WHAT[reader.take("I")], message=reader.text(), traceback=reader.text())
    elif kind == "BadArguments":
        failure["message"] = reader.text()
    elif kind == "Unserializable":
        failure.update(path=reader.text(), type_name=reader.text(), message=reader.text())
    elif kind == "TooLarge":
        failure.update(bytes=reader.take("Q"), limit=reader.take("Q"))
    assert reader.at == len(reader.data), "a failure's meta has bytes left over"
    return failure


def setup_meta(
    argv=(),
    main="",
    path=(),
    preload=(),
    payload_bytes_max=PAYLOAD_BYTES_MAX,
    start_stack_ms=0,
    log_level=0,
    initializer="",
    initargs="",
    warm=(),
    mode=0,
    lanes=1,
    attached_bytes_max=16 << 30,
):
    """The meta of a `Setup`."""
    meta = struct.pack("<H", 1) + text("default") + struct.pack("<II", 3, 2)
    meta += texts(list(argv)) + text(main) + texts(list(path)) + texts(list(preload))
    meta += struct.pack("<IQI", payload_bytes_max, start_stack_ms, log_level)
    meta += text(initializer) + text(initargs) + texts(list(warm))
    return meta + struct.pack("<IIQ", mode, lanes, attached_bytes_max)


def read_log(meta):
    """A log record's meta."""
    reader = Reader(meta)
    record = {"level": reader.take("I"), "level_name": reader.text(), "logger": reader.text()}
    record.update(created_ms=reader.take("Q"), call=reader.take("Q"), dropped=reader.take("Q"))
    record["text"] = reader.text()
    assert reader.at == len(reader.data), "a log record's meta has bytes left over"
    return record


class Failed(Exception):
    """A call failed; `failure` says how."""

    def __init__(self, failure):
        super().__init__(failure)
        self.failure = failure


def read_frame(sock, deadline_s=DEADLINE_S, received=None):
    """The next frame as (kind, flags, codec, id, meta, payload), or None at the end.

    Its descriptors go to the end of the list `received`; without one there must be none.
    """
    came = [] if received is None else received
    before = len(came)
    head = read_exactly(sock, 32, deadline_s, came)
    if head is None:
        return None
    magic, length, call_id, meta, kind, flags, codec, descriptors, reserved = HEAD.unpack(head[:28])
    assert magic == b"CLU1" and reserved == 0
    assert descriptors == len(came) - before, (descriptors, came)
    assert not descriptors or (flags & ATTACHED and received is not None), (kind, flags)
    assert struct.unpack("<I", head[28:])[0] == binascii.crc32(head[:28])
    body = read_exactly(sock, length, deadline_s) if length else b""
    return kind, flags, codec, call_id, body[:meta], body[meta:]


def read_exactly(sock, size, deadline_s, received=None):
    sock.settimeout(deadline_s)
    parts, missing = [], size
    space = socket.CMSG_SPACE(4 * 253)
    while missing:
        part, ancillary, _, _ = sock.recvmsg(min(missing, 1 << 20), space, socket.MSG_CMSG_CLOEXEC)
        for _, _, data in ancillary:
            assert received is not None, "descriptors came with bytes that begin no frame"
            received.extend(array.array("i", data))
        if not part:
            assert missing == size, "the worker ended inside a frame"
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def send_with(sock, data, descriptors):
    """Sends bytes, and descriptors with the first of them."""
    sent = 0
    if descriptors:
        rights = array.array("i", descriptors).tobytes()
        sent = sock.sendmsg((data,), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, rights),))
    if sent < len(data):
        sock.sendall(data[sent:])


class Worker:
    """A worker process under test. Use as a context manager: it never outlives its block."""

    def __init__(
        self,
        folder=None,
        main=None,
        argv=(),
        path=(),
        preload=(),
        flags=(),
        env=None,
        payload_bytes_max=PAYLOAD_BYTES_MAX,
        start_stack_ms=0,
        log_level=0,
        initializer="",
        initargs="",
        warm=(),
        mode=0,
        lanes=1,
        attached_bytes_max=16 << 30,
        boot=BOOT,
        ready=True,
        executable=sys.executable,
        first=None,
    ):
        self.next_id = 0
        # The descriptors of the last answer.
        self.received = []
        self.call_socket, call = socket.socketpair()
        self.control_socket, control = socket.socketpair()
        self.page = page = os.memfd_create("page")
        os.ftruncate(page, 4096)
        self.stacks, stack = os.pipe()
        os.set_blocking(self.stacks, False)
        os.set_blocking(stack, False)
        ends = (call.fileno(), control.fileno(), page, stack)
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 100) for end in ends]
        call.close()
        control.close()
        os.close(stack)
        self.stack_text = b""
        self.output = tempfile.TemporaryFile()
        self.errors = tempfile.TemporaryFile()
        environment = dict(os.environ)
        environment.pop("PYTHONPATH", None)
        environment.update(env or {})
        self.process = subprocess.Popen(
            [executable, *flags, boot, *map(str, high)],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.errors,
            cwd=folder,
            env=environment,
            pass_fds=high,
        )
        for number in high:
            os.close(number)
        if first is None:
            script = os.path.join(folder or os.getcwd(), main) if main else ""
            meta = setup_meta(
                [main, *argv] if main else argv,
                script,
                path,
                preload,
                payload_bytes_max,
                start_stack_ms,
                log_level,
                initializer,
                initargs,
                warm,
                mode,
                lanes,
                attached_bytes_max,
            )
            first = frame(SETUP, 0, meta)
        self.call_socket.sendall(first)
        if ready:
            kind, _, _, call_id, meta, _ = read_frame(self.call_socket)
            assert call_id == 0
            if kind == FAILED:
                self.close()
                raise Failed(read_failure(meta))
            assert kind == READY, kind
            reader = Reader(meta)
            self.ready = (reader.take("H"), reader.take("I"), reader.text(), reader.text())

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()

    def close(self):
        """Kills what is left."""
        self.drop_received()
        self.call_socket.close()
        self.control_socket.close()
        try:
            self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()
        self.errors.close()
        os.close(self.page)
        os.close(self.stacks)

    def finish(self):
        """Asks the worker to end as any python does; its exit code."""
        self.call_socket.sendall(frame(EXIT))
        return self.process.wait(DEADLINE_S)

    def send(
        self, function, payload, flags=0, codec=PLAIN, timeout_ms=0, each=None, descriptors=()
    ):
        """Sends a call; its id."""
        self.next_id += 1
        meta = struct.pack("<Q", timeout_ms) + text(function)
        meta += b"\0" if each is None else b"\1" + struct.pack("<I", each[0]) + text(each[1])
        count = len(descriptors)
        data = frame(RUN, self.next_id, meta, payload, flags, codec, count)
        send_with(self.call_socket, data, descriptors)
        return self.next_id

    def drop_received(self):
        """Closes the descriptors of the last answer."""
        while self.received:
            os.close(self.received.pop())

    def answer(self, call_id):
        """The flags, codec and payload of a result, or raises `Failed`.

        Its descriptors are in `received` until the next one.
        """
        self.drop_received()
        received = read_frame(self.call_socket, received=self.received)
        assert received is not None, "the worker ended: " + self.stderr()
        kind, flags, codec, answered, meta, payload = received
        assert answered == call_id, (answered, call_id)
        if kind == FAILED:
            raise Failed(read_failure(meta))
        assert kind == RESULT and not meta
        return flags, codec, payload

    def call(self, function, *args, **kwargs):
        """Calls with plain data."""
        value = (list(args), kwargs) if kwargs else list(args)
        call_id = self.send(function, pickle.dumps(value, 5), KEYWORDS if kwargs else 0)
        flags, _, payload = self.answer(call_id)
        return self.decoded(flags, payload)

    def decoded(self, flags, payload):
        """What an answer in `plain` or `raw` says, with what travelled beside it."""
        if not flags & ATTACHED:
            return pickle.loads(payload)
        import attachments

        return attachments.read_back(payload, self.received)

    def failure(self, function, *args, **kwargs):
        """The failure of a call that must fail."""
        try:
            value = self.call(function, *args, **kwargs)
        except Failed as failed:
            return failed.failure
        raise AssertionError("it did not fail, but returned %r" % (value,))

    def each(self, function, items, apply=0, fold="", codec=PLAIN):
        """Calls with a chunk of items: results, failures, and what was skipped."""
        items = list(items)
        data = pickle.dumps(items, 5) if codec == PLAIN else json.dumps(items).encode()
        call_id = self.send(function, data, ITEMS, codec, each=(apply, fold))
        flags, answered, payload = self.answer(call_id)
        assert answered == codec
        value = self.decoded(flags, payload) if codec == PLAIN else json.loads(payload.decode())
        return tuple(value) if flags & ITEMS else (value, [], [])

    def map(self, function, items, codec=PLAIN):
        """Calls with a chunk of items: results, None for those that failed, and failures."""
        results, failures, skipped = self.each(function, items, codec=codec)
        assert not skipped, skipped
        for index, _ in failures:
            results.insert(index, None)
        return results, failures

    def stream(self, function, *args, codec=PLAIN, credit=0, **kwargs):
        """Sends a call that answers with a stream; its id."""
        value = (list(args), kwargs) if kwargs else list(args)
        payload = pickle.dumps(value, 5) if codec == PLAIN else args[0]
        call_id = self.send(function, payload, STREAM | (KEYWORDS if kwargs else 0), codec)
        if credit:
            self.credit(call_id, credit)
        return call_id

    def credit(self, call_id, items, stream=0):
        """Gives a call leave to send so many more items."""
        self.call_socket.sendall(frame(CREDIT, call_id, struct.pack("<II", stream, items)))

    def item(self, call_id, index, codec=PLAIN):
        """The next frame, which has to be this item."""
        received = read_frame(self.call_socket)
        assert received is not None, "the worker ended: " + self.stderr()
        kind, flags, got_codec, answered, meta, payload = received
        if kind == FAILED:
            raise Failed(read_failure(meta))
        assert (kind, flags, got_codec, answered) == (ITEM, 0, codec, call_id), received
        assert struct.unpack("<IQ", meta) == (0, index), (struct.unpack("<IQ", meta), index)
        return pickle.loads(payload) if codec == PLAIN else bytes(payload)

    def items(self, call_id, count, start=0):
        """The next items, which must be there or come."""
        return [self.item(call_id, index) for index in range(start, start + count)]

    def value(self, call_id):
        """The result of a call, in plain data."""
        flags, _, payload = self.answer(call_id)
        return self.decoded(flags, payload)

    def rest(self, call_id, codec=PLAIN):
        """The items that come before the answer, the answer's payload or failure."""
        items = []
        while True:
            kind, _, _, answered, meta, payload = read_frame(self.call_socket)
            assert answered == call_id
            if kind != ITEM:
                failure = read_failure(meta) if kind == FAILED else None
                return items, failure or bytes(payload)
            items.append(pickle.loads(payload) if codec == PLAIN else bytes(payload))

    def interrupt(self, call_id):
        """Tells the control thread to interrupt a call."""
        self.control_socket.sendall(frame(INTERRUPT, call_id))

    def warn(self, call_id):
        """Tells the control thread that nobody waits for a call any more."""
        self.control_socket.sendall(frame(WARN, call_id))

    def ping(self, ping_id=7):
        """Seconds until the pong."""
        started = time.monotonic()
        self.control_socket.sendall(frame(PING, ping_id))
        received = read_frame(self.control_socket)
        assert received is not None and received[0] == PONG and received[3] == ping_id
        return time.monotonic() - started

    def record(self):
        """The next log record."""
        received = read_frame(self.control_socket)
        assert received is not None and received[0] == LOG and received[3] == 0, received
        return read_log(received[4])

    def progress(self, call_id):
        """The next report of progress, which has to be this call's: done, total, message."""
        received = read_frame(self.control_socket)
        assert received is not None and received[0] == PROGRESS and received[3] == call_id, received
        reader = Reader(received[4])
        done = reader.take("d")
        total = reader.take("d") if reader.take("B") else None
        message = reader.text()
        assert reader.at == len(reader.data) and not received[5]
        return done, total, message

    def begun(self):
        """The call that the worker says it has begun last."""
        return struct.unpack("=Q", os.pread(self.page, 8, 0))[0]

    def stack(self):
        """All stacks that were written so far."""
        try:
            self.stack_text += os.read(self.stacks, 1 << 16)
        except BlockingIOError:
            pass
        return self.stack_text.decode()

    def stdout(self):
        """All that was printed so far."""
        return self._read(self.output)

    def stderr(self):
        """All that was printed to standard error so far."""
        return self._read(self.errors)

    @staticmethod
    def _read(file):
        # Read by position: the worker writes through the same offset.
        size = os.fstat(file.fileno()).st_size
        return os.pread(file.fileno(), size, 0).decode("utf-8", "replace")

    def is_quiet(self, seconds=0.2):
        """Whether the worker says nothing for so long."""
        return not select.select([self.call_socket], [], [], seconds)[0]


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """Waits until the condition holds, and fails loudly if it never does."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("in vain waited for " + what)
        time.sleep(0.005)


class FolderTestCase(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="clutch test "))
        self.addCleanup(shutil.rmtree, self.folder, True)

    def write(self, name, content):
        """Writes a file of user code; its path."""
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(content))
        return path

    def worker(self, code=None, **options):
        """A worker in the folder, with `code` as module `tasks` and closed after the test."""
        if code is not None:
            self.write("tasks.py", code)
        worker = Worker(self.folder, **options)
        self.addCleanup(worker.close)
        return worker
