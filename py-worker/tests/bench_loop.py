"""Measures what a null call costs in the worker: `python tests/bench_loop.py [CALLS]`.

Three numbers in microseconds per call, best of five rounds, over a real socketpair: one call at a
time, many calls sent together (what the worker alone costs, without waiting and waking), and the
processor time of the worker for those. And the start: `python boot.py` against `python -c pass`.
"""

import os
import pickle
import subprocess
import sys
import threading
import time

import support

CALLS = int(sys.argv[1]) if len(sys.argv) > 1 else 20000
ROUNDS = 5
STARTS = 15


def one_by_one(worker, payload, calls):
    """Seconds for calls that each wait for their answer."""
    receive, send = worker.call_socket.recv, worker.call_socket.sendall
    meta = support.struct.pack("<Q", 0) + support.text("math:sqrt") + b"\0"
    request = support.frame(support.RUN, 1, meta, payload, 0, support.PLAIN)
    worker.call_socket.settimeout(None)
    started = time.perf_counter()
    for _ in range(calls):
        send(request)
        receive(4096)
    return time.perf_counter() - started


def together(worker, payload, calls):
    """Seconds for calls that are all sent at once."""
    meta = support.struct.pack("<Q", 0) + support.text("math:sqrt") + b"\0"
    request = support.frame(support.RUN, 1, meta, payload, 0, support.PLAIN)
    answer = 32 + len(pickle.dumps(1.5, 5))
    sender = threading.Thread(target=worker.call_socket.sendall, args=(request * calls,))
    started = time.perf_counter()
    sender.start()
    missing = answer * calls
    while missing:
        missing -= len(worker.call_socket.recv(1 << 20))
    sender.join()
    return time.perf_counter() - started


def processor_seconds(pid):
    """Processor time a process has used."""
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_seconds(arguments, function):
    """The median time of several starts."""
    times = []
    for _ in range(STARTS):
        started = time.perf_counter()
        function(arguments)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def start_worker(_arguments):
    """From exec to Ready, without the kill."""
    worker = support.Worker()
    worker.close()


def main():
    """Prints the numbers."""
    payload = pickle.dumps([2.25], 5)
    with support.Worker() as worker:
        one_by_one(worker, payload, 2000)
        single = min(one_by_one(worker, payload, CALLS) for _ in range(ROUNDS)) / CALLS
        before = processor_seconds(worker.process.pid)
        many = min(together(worker, payload, CALLS) for _ in range(ROUNDS)) / CALLS
        spent = (processor_seconds(worker.process.pid) - before) / CALLS / ROUNDS
        rss = open("/proc/%d/status" % worker.process.pid).read().split("VmRSS:")[1].split()[0]
    bare = start_seconds([sys.executable, "-c", "pass"], subprocess.check_call)
    ready = start_seconds([], start_worker)
    print(
        "python %s: one at a time %.1f us, together %.1f us (worker's processor %.1f us) a call; "
        "start and stop %.1f ms, bare python %.1f ms; worker's memory %s kB"
        % (
            sys.version.split()[0],
            single * 1e6,
            many * 1e6,
            spent * 1e6,
            ready * 1e3,
            bare * 1e3,
            rss,
        )
    )


if __name__ == "__main__":
    main()
