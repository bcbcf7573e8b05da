"""Generators of every kind, and what becomes of them."""

import asyncio
import os
import sys
import threading
import time

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
    page = int.from_bytes(_run_id(), "little")
    meta = {
        "unasked": (0, 1),
        "index": (0, 7),
        "stream": (3, 1),
    }[kind]
    body = meta[0].to_bytes(4, "little") + meta[1].to_bytes(8, "little")
    for _ in range(100 if kind == "unasked" else 1):
        hostile.send(hostile.call_socket(), hostile.header(28, page, len(body) + 1, len(body), 2) + body + b"1")
        body = meta[0].to_bytes(4, "little") + (int.from_bytes(body[4:], "little") + 1).to_bytes(8, "little")
    time.sleep(60)


def _run_id():
    """The id of the run, as the page has it."""
    import clutch

    return clutch.current_call().id.to_bytes(8, "little")


def says(text):
    """Prints between its items."""
    for number in range(3):
        print(text, number)
        sys.stdout.flush()
        yield number
