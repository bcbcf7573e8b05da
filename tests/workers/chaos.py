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
