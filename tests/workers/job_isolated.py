"""Functions for workers that run each call in a subinterpreter."""

import os
import threading
import time

import clutch

_counted = 0


def _which():
    """This interpreter: its own module is nobody else's."""
    return threading.get_ident()


def meet(folder, place):
    """Wait for the other one without a pause; which interpreter and which process ran it."""
    with open(os.path.join(folder, "met-%d" % place), "w", encoding="ascii"):
        pass
    while not os.path.exists(os.path.join(folder, "met-%d" % (1 - place))):
        pass
    return _which(), os.getpid()


def count(_folder, _place):
    """Which interpreter ran it, and how many calls of this that had."""
    global _counted
    _counted += 1
    return _which(), _counted


def pid():
    """The process that ran it."""
    return os.getpid()


def until_flagged():
    """Until nobody waits for it."""
    while not clutch.current_call().cancelled:
        time.sleep(0.005)


def hang():
    """For a minute, whatever is wanted."""
    time.sleep(60)
