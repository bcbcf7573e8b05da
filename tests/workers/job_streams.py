"""Generators of every kind, and what becomes of them."""

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
