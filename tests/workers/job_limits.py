"""Functions that tell what their process is made of, and functions that use up what they may."""

import os
import resource
import time

LIMITS = {
    "core": resource.RLIMIT_CORE,
    "open_files": resource.RLIMIT_NOFILE,
    "address_space": resource.RLIMIT_AS,
    "cpu_time": resource.RLIMIT_CPU,
    "file_size": resource.RLIMIT_FSIZE,
    "processes": resource.RLIMIT_NPROC,
}


def facts():
    """What this process is made of."""
    umask = os.umask(0)
    os.umask(umask)
    with open("/proc/self/oom_score_adj") as file:
        oom_score_adj = int(file.read())
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {
        "limits": {name: list(resource.getrlimit(number)) for name, number in LIMITS.items()},
        "cpus": sorted(os.sched_getaffinity(0)),
        "nice": os.nice(0),
        "umask": umask,
        "uids": list(os.getresuid()),
        "gids": list(os.getresgid()),
        "groups": sorted(os.getgroups()),
        "home": os.environ.get("HOME"),
        "user": os.environ.get("USER"),
        "oom_score_adj": oom_score_adj,
        "no_new_privs": status["NoNewPrivs"],
    }


def spin():
    """Use processor time without end."""
    while True:
        pass


def allocate(mebibytes):
    """Hold memory, and stay."""
    held = [bytearray(b"x") * (1 << 20) for _ in range(mebibytes)]
    time.sleep(1000)
    return len(held)


def hold(mebibytes, path):
    """Hold memory, say so, and stay."""
    held = [bytearray(b"x") * (1 << 20) for _ in range(mebibytes)]
    with open(path, "w"):
        pass
    time.sleep(1000)
    return len(held)
