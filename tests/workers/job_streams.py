"""Generators of every kind, and what becomes of them."""

import array
import asyncio
import os
import sys
import threading
import time

import clutch
import hostile


def count(items):
    """The numbers up to there; their sum is returned."""
    total = 0
    for number in range(items):
        total += number
        yield number
    return total


async def count_async(items):
    """The same, asynchronously."""
    for number in range(items):
        await asyncio.sleep(0)
        yield number


def raises(items):
    """Some items, and then an exception."""
    yield from range(items)
    raise ValueError(f"after {items} items")


def dies(items):
    """Some items, and then the end of the process."""
    yield from range(items)
    os.abort()


def marked(path, items):
    """Tells a file how many were made, and that `finally` has run."""
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        try:
            for number in range(items):
                file.write(f"made {number}\n")
                yield number
        finally:
            file.write("closed\n")


async def marked_async(path, items):
    """The same, asynchronously."""
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        try:
            for number in range(items):
                file.write(f"made {number}\n")
                yield number
        finally:
            file.write("closed\n")


def stuck(path, items):
    """Some items, and then none for very long."""
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        try:
            yield from range(items)
            time.sleep(600)
        finally:
            file.write("closed\n")


def steps(path, items):
    """An item each time a line is in the file."""
    for number in range(items):
        while True:
            with open(path, encoding="utf-8") as file:
                if len(file.readlines()) > number:
                    break
            time.sleep(0.01)
        yield number


def where(items):
    """The thread that makes the items."""
    for _ in range(items):
        yield threading.current_thread() is threading.main_thread()


def big(items, length):
    """Items of so many characters."""
    for _ in range(items):
        yield "x" * length


def unserializable():
    """An item that cannot travel, behind one that can."""
    yield 1
    yield threading.Lock()


def no_stream():
    """Nothing that could be iterated."""
    return 7


def pid_and_wait(items):
    """The worker's process, and then numbers without end."""
    yield os.getpid()
    yield from range(items)


def lies(kind):
    """Speaks over the worker's own socket, as no worker may."""
    yield 0
    stream, index, times = {"unasked": (0, 1, 100), "index": (0, 7, 1), "stream": (3, 1, 1)}[kind]
    for number in range(times):
        _send_item(stream, index + number)
    time.sleep(60)


def lies_outside():
    """Sends an item of a call that is no stream."""
    _send_item(0, 0)
    time.sleep(60)


def _send_item(stream, index):
    meta = stream.to_bytes(4, "little") + index.to_bytes(8, "little")
    run = clutch.current_call().id
    head = hostile.header(28, run, len(meta) + 1, len(meta), 2)
    hostile.send(hostile.call_socket(), head + meta + b"1")


def says(text):
    """Prints between its items."""
    for number in range(3):
        print(text, number)
        sys.stdout.flush()
        yield number


def total(numbers):
    """The sum of a stream, and how many there were."""
    count = result = 0
    for number in numbers:
        result += number
        count += 1
    return result, count


async def total_async(numbers):
    """The same, asynchronously."""
    count = result = 0
    async for number in numbers:
        result += number
        count += 1
    return result, count


def first(numbers, count):
    """The first few of a stream, and no more."""
    return [next(numbers) for _ in range(count)]


def doubled(numbers):
    """Both ways at once."""
    for number in numbers:
        yield 2 * number
    return "doubled"


def zipped(left, right):
    """Two streams at once."""
    yield from zip(left, right)


def lengths(texts, path):
    """The lengths of the items of a stream, each when a file says so; reads slowly."""
    result = []
    for text in texts:
        while not os.path.exists(path):
            time.sleep(0.01)
        result.append(len(text))
    return result


def dies_of(numbers):
    """Takes one, and the process ends."""
    next(numbers)
    os.abort()


def works(steps, path=None, rest=0.02):
    """Says how far it is; at the end it waits for a file."""
    for step in range(steps + 1):
        clutch.progress(step, steps, f"step {step}")
        if step < steps:
            time.sleep(rest)
    while path and not os.path.exists(path):
        time.sleep(0.01)
    return steps


def says_between(begin, end):
    """Says how far it is when a file is there, and waits for another."""
    for path, done in ((begin, 1), (end, 2)):
        while not os.path.exists(path):
            time.sleep(0.01)
        clutch.progress(done, 2, f"saw {done}")
        time.sleep(0.11)
    return "done"


def works_and_gives(steps):
    """The same beside items."""
    for step in range(steps):
        clutch.progress(step + 1, None, "giving")
        yield step


def arrays(items):
    """Each is in memory of its own."""
    for number in range(items):
        yield array.array("d", [number]) * 20_000


def blocks():
    """Items with three large blocks each, which travel beside them."""
    for number in range(600):
        yield [bytes([number % 256]) * 100_000, bytes(100_000), bytes(100_001)]


def takes_late(path, streams):
    """Takes one item of each stream, reads nothing until a file is there, then takes the rest."""
    count = sum(1 for stream in streams for _ in [next(stream)])
    while not os.path.exists(path):
        time.sleep(0.01)
    return count + sum(1 for stream in streams for _ in stream)


def sums(arrays):
    """The sum of each array of a stream."""
    for numbers in arrays:
        yield float(sum(memoryview(numbers).cast("B").cast("d")))
