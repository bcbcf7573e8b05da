"""What is not the same in a worker as in plain python, one function for each thing.

As a script it calls what it is told to, and prints what came of it.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import warnings

main_block = "not run"


def reads_input():
    """A line of standard input."""
    try:
        return input()
    except EOFError:
        return "EOFError"


def main_guard():
    """Whether the block at the end of this file has run."""
    return main_block


def fork_warns():
    """How many warnings a fork costs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    return len(caught)


def crash_handler():
    """Whether a crash leaves Python's stack."""
    return faulthandler.is_enabled()


def system_threads():
    """How many threads the system sees."""
    return len(os.listdir("/proc/self/task"))


def frames_below():
    """How many frames are below a function that was called by nobody else."""
    depth, frame = 0, sys._getframe(1)
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


def line_buffered():
    """Whether each line that is printed is written at once, also into a pipe."""
    return sys.stdout.line_buffering


def change_process():
    """Go elsewhere, set an alarm, print to a file; all as a script does that has the process."""
    os.chdir("/")
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    sys.stdout = None
    return "changed"


def changed_process():
    """What is left of these changes: none, or all."""
    return [os.getcwd() == "/", signal.getitimer(signal.ITIMER_REAL)[0] > 0, sys.stdout is None]


def leave_program():
    """Leave a program behind in a session of its own, as daemons do; its process id."""
    null = subprocess.DEVNULL
    program = subprocess.Popen(
        ["sleep", "1000"], stdin=null, stdout=null, stderr=null, start_new_session=True
    )
    # Nobody waits for it.
    program.returncode = 0
    return program.pid


if __name__ == "__main__":
    main_block = "run"
    out = sys.stdout
    for name in sys.argv[1:]:
        answer = globals()[name]()
        out.write(json.dumps(answer) + "\n")
