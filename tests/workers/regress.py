"""Functions that did harm once, each to one fault that was found and repaired."""

import os
import signal
import time

import hostile
import job_stuck

KIND_CALL = 4


def murmur(secret):
    """Print a pipe full of short lines that are nobody else's business, and return at once."""
    for number in range(40):
        hostile.send(1, b"%s %d\n" % (secret.encode(), number))
    return secret


def shout_empty_lines():
    """Write empty lines to standard error for ever, as fast as anybody reads them."""
    block = b"\n" * (64 << 10)
    while True:
        hostile.send(2, block)


def flood_when_asked_to_go(path):
    """Hold on to the call, and answer the polite signal with frames of a wrong kind for ever."""

    def flood(_number, _frame):
        job_stuck.leave_mark(path, "asked to go")
        hostile.flood(KIND_CALL, False)

    signal.signal(signal.SIGTERM, flood)
    while True:
        try:
            while True:
                time.sleep(1)
        except BaseException:
            pass


def stay(path):
    """Say that the call has begun, and hold on to it whoever asks for what."""
    job_stuck.leave_mark(path, str(os.getpid()))
    job_stuck.ignore_everything()
