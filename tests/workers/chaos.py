"""Calls that leave a line in a ledger when they begin, so that none can run twice unseen."""

import os
import time


def step(ledger, number, ms):
    """Writes down that call `number` began, takes `ms` milliseconds, and gives the number back."""
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, b"%d\n" % number)
    finally:
        os.close(fd)
    if ms:
        time.sleep(ms / 1000)
    if number % 17 == 0:
        raise ValueError(number)
    return number


def stepped(item):
    """`step`, for a map."""
    return step(*item)


def echo(ledger, number, text):
    """A large argument, given back."""
    return [step(ledger, number, 0), text]


def hoard(ledger, number, mib):
    """Holds much memory for a moment."""
    hoarded = bytearray(mib << 20)
    hoarded[::4096] = b"x" * len(hoarded[::4096])
    return step(ledger, number, 1)


def exhaust_descriptors(ledger, number):
    """Opens files until the system allows no more, and closes them again."""
    opened = []
    try:
        while len(opened) < 4096:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for fd in opened:
        os.close(fd)
    return step(ledger, number, 1)


def chatter(ledger, number, lines):
    """Prints much."""
    for _ in range(lines):
        print("words " * 20)
    return step(ledger, number, 0)


def die(ledger, number, how):
    """Ends its process: by a signal, or by itself, with children left behind."""
    try:
        step(ledger, number, 0)
    finally:
        if how == "orphans":
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(1000)
            os._exit(3)
        if how == "exit":
            os._exit(0)
        os.kill(os.getpid(), int(how))
        time.sleep(1000)
