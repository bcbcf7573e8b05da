"""A stand-in for the worker: it takes the call socket over as its pool's initializer, and does with
frames and descriptors what the names of the called functions say.

So tests see what the daemon hands on, byte for byte, and can answer it with anything.
"""

import array
import binascii
import ctypes
import fcntl
import importlib
import json
import os
import platform
import socket
import struct
import sys
import time

import hostile

KIND_RESULT = 6
KIND_READY = 33
KIND_RUN = 34
KIND_EXIT = 37
ATTACHED = 8
CODEC_JSON = 2
HEADER = struct.Struct("<4sIQIBBBBII")

ADD_SEALS = 1033
SEALED = 1 | 2 | 4  # Against seals, shrinking and growing.


def header(kind, call_id, length, flags=0, codec=CODEC_JSON, descriptors=0, meta=0):
    """A frame's header with everything to choose, and a true checksum."""
    head = struct.pack(
        "<4sIQIBBBBI", b"CLU1", length, call_id, meta, kind, flags, codec, descriptors, 0
    )
    return head + struct.pack("<I", binascii.crc32(head))


def memory(size, seals=SEALED, name="clutch-test"):
    """A memfd of a size, sealed or not."""
    fd = os.memfd_create(name, 2)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, ADD_SEALS, seals)
    return fd


class Wire:
    """The call socket, with the descriptors that came and that no frame has claimed."""

    def __init__(self, fd):
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(True)
        self.bytes = b""
        self.descriptors = []

    def take(self, count):
        """So many bytes, received one message at a time."""
        while len(self.bytes) < count:
            room = socket.CMSG_LEN(64 * 4)
            data, ancillary, flags, _ = self.sock.recvmsg(1 << 16, room, socket.MSG_CMSG_CLOEXEC)
            if not data or flags & socket.MSG_CTRUNC:
                os._exit(0)
            self.bytes += data
            for _, _, numbers in ancillary:
                self.descriptors.extend(array.array("i", numbers))
        taken, self.bytes = self.bytes[:count], self.bytes[count:]
        return taken

    def frame(self):
        """The next frame: its header's fields, its meta, its payload, its descriptors."""
        fields = HEADER.unpack(self.take(HEADER.size))
        length, meta, count = fields[1], fields[3], fields[7]
        body = self.take(length)
        own, self.descriptors = self.descriptors[:count], self.descriptors[count:]
        return fields, body[:meta], body[meta:], own

    def send(self, data, descriptors=()):
        """Bytes, with descriptors on the first of them."""
        sent = 0
        if descriptors:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
            sent = self.sock.sendmsg([data], [rights])
        self.sock.sendall(data[sent:])


def serve():
    """Be the worker, for as long as the daemon wants one."""
    wire = Wire(hostile.call_socket())
    python, executable = hostile.text(platform.python_version()), hostile.text(sys.executable)
    ready = struct.pack("<HI", 1, os.getpid()) + python + executable
    wire.send(header(KIND_READY, 0, len(ready), codec=0, meta=len(ready)) + ready)
    while True:
        fields, meta, payload, descriptors = wire.frame()
        if fields[4] == KIND_EXIT:
            os._exit(0)
        if fields[4] != KIND_RUN:
            os._exit(9)
        (length,) = struct.unpack_from("<Q", meta, 8)
        module, function = meta[16 : 16 + length].decode().split(":")
        if module == "carrier":
            globals()[function](wire, fields[2], fields[5], payload, descriptors)
        else:
            value = getattr(importlib.import_module(module), function)(*json.loads(payload))
            say(wire, fields[2], value)
        for fd in descriptors:
            os.close(fd)


def begin(run):
    """Say that a call has begun, so that its end is nobody else's."""
    with open("/proc/self/maps") as maps:
        page = next(line for line in maps if "/memfd:clutch-page" in line)
    ctypes.c_uint64.from_address(int(page.split("-")[0], 16)).value = run


def say(wire, run, value):
    """Answer with a value."""
    data = json.dumps(value).encode()
    wire.send(header(KIND_RESULT, run, len(data)) + data)


def attach(wire, run, payload, descriptors, claimed=None, flags=ATTACHED, kind=KIND_RESULT):
    """Answer with descriptors, or with others than claimed."""
    count = len(descriptors) if claimed is None else claimed
    head = header(kind, run, len(payload), flags, CODEC_JSON, count)
    wire.send(head + payload, descriptors)


def look(wire, run, flags, payload, descriptors):
    """What came: the flags, the payload's length, and each descriptor's size and device."""
    stats = [os.fstat(fd) for fd in descriptors]
    sizes = [stat.st_size for stat in stats]
    inodes = [stat.st_ino for stat in stats]
    say(wire, run, [flags, len(payload), sizes, inodes])


def echo(wire, run, flags, payload, descriptors):
    """Answer with what came."""
    attach(wire, run, payload, descriptors, flags=flags)


def write(wire, run, _flags, payload, descriptors):
    """Write into the first one, which its sender sees."""
    os.pwrite(descriptors[0], b"from the worker", 0)
    attach(wire, run, payload, [])


def sleep(wire, run, _flags, payload, _descriptors):
    """Hold what came for as many seconds as the payload says."""
    time.sleep(float(json.loads(payload)[0]))
    say(wire, run, None)


def die(_wire, _run, _flags, _payload, _descriptors):
    """End with everything open."""
    os._exit(3)


def die_once(wire, run, flags, payload, descriptors):
    """End when the file of this name is not there yet, and make it; else answer."""
    try:
        os.close(os.open(json.loads(payload)[0], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        look(wire, run, flags, payload, descriptors)
        return
    os._exit(3)


def give(wire, run, _flags, payload, _descriptors):
    """Answer with so many memfds of a size."""
    count, size = json.loads(payload)
    own = [memory(size) for _ in range(count)]
    attach(wire, run, b"null", own)
    for fd in own:
        os.close(fd)


def give_late(wire, run, flags, payload, descriptors):
    """The same, after half a second, whoever still wants it."""
    begin(run)
    time.sleep(0.5)
    give(wire, run, flags, payload, descriptors)


def give_and_die(wire, run, flags, payload, descriptors):
    """Answer with memfds, and end at once."""
    give(wire, run, flags, payload, descriptors)
    os._exit(3)


def misbehave(wire, run, _flags, payload, _descriptors):
    """Answer against a rule, which the payload names."""
    rule = json.loads(payload)[0]
    side = hostile.control_socket()  # Before there are other sockets.
    good = memory(4096)
    reading, _writing = os.pipe()
    one, _other = socket.socketpair()
    cases = {
        "too many": lambda: attach(wire, run, b"0", [good, good], claimed=1),
        "too few": lambda: attach(wire, run, b"0", [good], claimed=2),
        "none at all": lambda: attach(wire, run, b"0", [], claimed=1),
        "unclaimed": lambda: attach(wire, run, b"0", [good], claimed=0),
        "without the flag": lambda: attach(wire, run, b"0", [good], flags=0),
        "in another frame": lambda: attach(wire, run, b"", [good], kind=KIND_READY),
        "a pipe": lambda: attach(wire, run, b"0", [reading]),
        "a socket": lambda: attach(wire, run, b"0", [one.fileno()]),
        "a directory": lambda: attach(wire, run, b"0", [os.open("/", os.O_RDONLY)]),
        "unsealed": lambda: attach(wire, run, b"0", [memory(4096, 0)]),
        "one bad of three": lambda: attach(wire, run, b"0", [good, reading, good]),
        "200 at once": lambda: attach(wire, run, b"0", [good] * 200, claimed=64),
        "on the control socket": lambda: control(side, good),
    }
    if rule == "rules":
        say(wire, run, sorted(set(cases) - {"on the control socket"}))
        return
    begin(run)
    cases[rule]()
    time.sleep(60)


def control(side, descriptor):
    """Send one with an answer to a ping, which nobody asked for."""
    sock = socket.socket(fileno=os.dup(side))
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
    sock.sendmsg([header(10, 1, 0, codec=0)], [rights])
