"""User code that takes the worker's own sockets and speaks in its name.

Nothing stops Python code from finding the descriptors of its process, so the daemon must survive
whatever comes through them. Every function here speaks first and then waits to be killed.
"""

import binascii
import os
import select
import signal
import stat
import struct
import time

KIND_RESULT = 6
KIND_PONG = 10
KIND_READY = 33
KIND_FAILED = 35


def header(kind, call_id, length, meta=0, codec=0):
    """A frame's header with a true checksum and whatever else is wanted."""
    head = struct.pack("<4sIQIBBBBI", b"CLU1", length, call_id, meta, kind, 0, codec, 0, 0)
    return head + struct.pack("<I", binascii.crc32(head))


def sockets():
    """The descriptors of this process that are sockets: the call and the control socket."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(int(name))
        except OSError:
            pass  # The descriptor of the listing itself.
    if len(found) < 2:
        raise RuntimeError("a worker has a call and a control socket, found %r" % (found,))
    return sorted(found)


def send(fd, data):
    """Send all of it, however the socket is set."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [], 1)


def say(data):
    """Send to both sockets, then wait to be killed."""
    for fd in sockets():
        send(fd, data)
    time.sleep(60)


def call_socket():
    """The number the interpreter was started with: the first of its two numeric arguments."""
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    numbers = [int(word) for word in words if word.isdigit()]
    mine = sockets()
    return next((number for number in numbers if number in mine), mine[0])


def answer_others(first, last):
    """Answer calls that are somebody else's, or nobody's."""
    frames = [header(KIND_RESULT, i, 8, 0, 2) + b'"forged"' for i in range(first, last)]
    send(call_socket(), b"".join(frames))
    time.sleep(60)


def speak(kind):
    """Send one frame of a kind a worker has no business sending."""
    say(header(kind, 1, 0))


def text(value):
    """A text as it stands in a meta."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def ready_again():
    """Say once more that this worker is ready, in the middle of a call."""
    meta = struct.pack("<HI", 1, os.getpid()) + text("3.99.0") + text("/usr/bin/other")
    send(call_socket(), header(KIND_READY, 0, len(meta), len(meta)) + meta)
    time.sleep(60)


def fail_the_start():
    """Say that the start failed, long after it succeeded."""
    meta = struct.pack("<II", 1, 1) + text("no module named reason") + text("")
    send(call_socket(), header(KIND_FAILED, 0, len(meta), len(meta)) + meta)
    time.sleep(60)


def claim(kind, length, meta):
    """Claim a frame of a length, and send none of it."""
    say(header(kind, 1, length, meta))


def garbage(text):
    """Send something that is no frame at all."""
    say(text.encode("latin-1") * 4)


def flood(kind, stubborn):
    """Send frames for ever, as fast as they go; when stubborn, ignore polite signals too."""
    if stubborn:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    block = header(kind, 1 << 40, 0) * 1000
    fd = call_socket()
    while True:
        try:
            send(fd, block)
        except OSError:
            time.sleep(60)


def flood_from_the_grave():
    """Leave a child in a session of its own that floods the call socket, and end."""
    if os.fork() == 0:
        os.setsid()
        flood(KIND_PONG, True)
    os._exit(3)


def flood_control():
    """Answer pings nobody sent, for ever."""
    mine = sockets()
    control = next(fd for fd in mine if fd != call_socket())
    block = header(KIND_PONG, 1 << 40, 0) * 1000
    while True:
        try:
            send(control, block)
        except OSError:
            time.sleep(60)


def hang_up():
    """Close both sockets and live on."""
    for fd in sockets():
        os.close(fd)
    time.sleep(60)


def open_descriptors():
    """What this process has open, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name)
        except OSError:
            pass  # The descriptor of the listing itself.
    return found


def shout(mebibytes):
    """Write that much to standard error, past Python's own buffers, with no newline at all."""
    block = b"z" * (1 << 20)
    for _ in range(mebibytes):
        send(2, block)
    return mebibytes


def record(call, dropped, size):
    """A log record with a text of that size, in the name of a call."""
    meta = struct.pack("<I", 20) + text("INFO") + text("forger")
    meta += struct.pack("<QQQ", 0, call, dropped) + text("x" * size)
    return header(39, 0, len(meta), len(meta)) + meta


def control_socket():
    """The socket that is not the one for calls."""
    return next(fd for fd in sockets() if fd != call_socket())


def forge_record(call, size):
    """Send a log record, and wait for what comes of it."""
    send(control_socket(), record(call, 0, size))
    time.sleep(60)


def lose_records():
    """Say more than once that more records were left out than there can be."""
    send(control_socket(), record(0, 2**64 - 1, 1) * 3)
