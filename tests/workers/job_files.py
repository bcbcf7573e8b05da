"""Functions over chunks of a file, and what they can tell about what they are given."""

import csv
import io
import mmap
import os
import sys
import time

SLICE_BYTES = 1 << 20


def count_lines(chunk):
    """How many line feeds there are, a little of the chunk at a time."""
    starts = range(0, len(chunk), SLICE_BYTES)
    return sum(bytes(chunk[start : start + SLICE_BYTES]).count(b"\n") for start in starts)


async def count_lines_async(chunk):
    """The same in a task."""
    return count_lines(chunk)


def text(chunk):
    """All of it."""
    return str(chunk, "latin-1")


def facts(chunk):
    """What it is."""
    return [type(chunk).__name__, chunk.readonly, chunk.format, chunk.ndim, len(chunk)]


def rows(chunk, header=None):
    """The records of CSV, each as a dict where the columns have names."""
    records = csv.reader(io.StringIO(str(chunk, "utf-8"), newline=""))
    return [dict(zip(header, record)) if header else record for record in records]


def refuse_b(chunk):
    """The length; raises for a chunk with a b in it."""
    if b"b" in bytes(chunk):
        raise ValueError("there is a b in it")
    print("fine", file=sys.stderr)
    return len(chunk)


def secret(chunk):
    """What JSON has no word for."""
    return bytes(chunk)


def _named(chunk):
    first = bytes(chunk[:4096]).split(b"\n")[0].decode()
    os.close(os.open(first + ".begun", os.O_WRONLY | os.O_CREAT, 0o600))
    return first


def hold(chunk):
    """Make the file that the first line names with .begun, wait for .go, and look at all of it."""
    first = _named(chunk)
    while not os.path.exists(first + ".go"):
        time.sleep(0.005)
    return sum(chunk[::4096])


def die_once(chunk):
    """Die, but not where that was done already."""
    path = bytes(chunk[:4096]).split(b"\n")[0].decode() + ".begun"
    if not os.path.exists(path):
        _named(chunk)
        os.abort()
    return len(chunk)


KEPT = []


def keep(chunk):
    """Keep it for ever."""
    KEPT.append(chunk)
    return len(chunk)


def held(name):
    """How many mappings and descriptors of a file there are in this process."""
    with open("/proc/self/maps") as maps:
        mapped = sum(name in line for line in maps)
    numbers = os.listdir("/proc/self/fd")
    paths = []
    for number in numbers:
        try:
            paths.append(os.readlink("/proc/self/fd/" + number))
        except OSError:
            continue
    return [mapped, sum(name in path for path in paths)]


def peak_bytes():
    """The most memory that was resident, the pages of files included."""
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def table_facts(table):
    """What the stand-in for pyarrow gives."""
    return [type(table).__name__, table.index, table.source_bytes, table.tail]


def touch_cut(path):
    """Touch memory of a file behind its end."""
    with open(path, "r+b") as file:
        file.truncate(100_000)
        memory = mmap.mmap(file.fileno(), 100_000)
        file.truncate(10)
    return memory[90_000]
