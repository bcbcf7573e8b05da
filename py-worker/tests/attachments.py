"""Attachments as a client makes and reads them: tables, files in memory, values that refer to them.

It has its own small codec, so that a mistake in the worker's is not made twice.
"""

import fcntl
import mmap
import os
import pickle
import struct

import support

SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE = 1, 2, 4, 8, 16
BYTES, BYTE_ARRAY, ARRAY, ARROW, RANGE, ROW_GROUP, STREAM, VALUE = range(8)
ADD_SEALS, GET_SEALS = 1033, 1034


def memfd(data=b"", seals=SEAL | SHRINK | GROW | WRITE, size=None):
    """A file in memory; its descriptor, which the caller closes."""
    number = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    while view:
        view = view[os.write(number, view) :]
    if size is not None:
        os.ftruncate(number, size)
    fcntl.fcntl(number, ADD_SEALS, seals)
    return number


class Place:
    """Stands for an attachment in a value."""

    def __reduce_ex__(self, _protocol):
        raise AssertionError("only `value_with` can write it")


def entry(content, descriptor=0, offset=0, size=0, details=b""):
    """One entry of a table."""
    return struct.pack("<IQQI", descriptor, offset, size, content) + details


def array(dtype, shape, strides=(), writable=False, descriptor=0, offset=0, size=None):
    """The entry of an array."""
    if size is None:
        size = int(dtype[2:].partition("[")[0] or 8)
        for length in shape:
            size *= length
    details = support.text(dtype)
    details += struct.pack("<Q%dQ" % len(shape), len(shape), *shape)
    details += struct.pack("<Q%dq" % len(strides), len(strides), *strides)
    return entry(ARRAY, descriptor, offset, size, details + bytes([writable]))


def payload(entries, value):
    """A payload with a table in front."""
    table = struct.pack("<Q", len(entries)) + b"".join(entries)
    return struct.pack("<I", len(table)) + table + value


def value_with(value):
    """The pickle of a value in which each empty `bytearray` is an attachment."""
    return pickle.dumps(marked(value), 5, buffer_callback=lambda _: None)


def marked(value):
    if isinstance(value, bytearray):
        return pickle.PickleBuffer(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(marked, value))
    if isinstance(value, dict):
        return {key: marked(item) for key, item in value.items()}
    return value


HERE = bytearray()


class Arrived:
    """An array that came back, as bytes with what is known of them."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, shape, data

    def __eq__(self, other):
        return (self.dtype, self.shape, self.data) == (other.dtype, other.shape, other.data)

    def __repr__(self):
        return "Arrived(%r, %r, %d bytes)" % (self.dtype, self.shape, len(self.data))


def table_of(data):
    """A payload's entries as (content, descriptor, offset, bytes, details), and its value."""
    (length,) = struct.unpack_from("<I", data)
    table, value = data[4 : 4 + length], data[4 + length :]
    (count,) = struct.unpack_from("<Q", table)
    at, entries = 8, []
    for _ in range(count):
        descriptor, offset, size, content = struct.unpack_from("<IQQI", table, at)
        at += 24
        details = None
        if content == ARRAY:
            (size_of_name,) = struct.unpack_from("<Q", table, at)
            name = bytes(table[at + 8 : at + 8 + size_of_name]).decode()
            at += 8 + size_of_name
            lists = []
            for form in "Qq":
                (dimensions,) = struct.unpack_from("<Q", table, at)
                lists.append(struct.unpack_from("<%d%s" % (dimensions, form), table, at + 8))
                at += 8 + 8 * dimensions
            details = (name, *lists, bool(table[at]))
            at += 1
        elif content >= RANGE:
            (details,) = struct.unpack_from("<I", table, at)
            at += 4
        entries.append((content, descriptor, offset, size, details))
    assert at == len(table)
    return entries, value


def read_back(data, descriptors):
    """The value of an attached payload, with bytes, bytearrays and `Arrived` in it."""
    entries, value = table_of(data)
    objects = []
    for content, descriptor, offset, size, details in entries:
        number = descriptors[descriptor]
        seals = fcntl.fcntl(number, GET_SEALS)
        assert seals & ~FUTURE_WRITE | WRITE == SEAL | SHRINK | GROW | WRITE
        assert seals & (WRITE | FUTURE_WRITE)
        assert offset + size <= os.fstat(number).st_size
        found = bytes(
            mmap.mmap(number, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)[offset : offset + size]
        )
        if content == ARRAY:
            name, shape, strides, writable = details
            assert not strides and not writable
            objects.append(Arrived(name, shape, found))
        else:
            objects.append(bytearray(found) if content == BYTE_ARRAY else found)
    assert {entry[1] for entry in entries} == set(range(len(descriptors)))
    if not value:
        return objects[0]
    buffers = iter(objects)
    result = pickle.loads(value, buffers=buffers)
    assert not list(buffers)
    return result
