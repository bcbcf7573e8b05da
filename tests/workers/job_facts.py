"""What a program can find out about where and how it runs.

Run as a script it prints that as JSON; in a pool it is `main`, or a module.
"""

import json
import os
import resource
import signal
import stat
import sys

SIGNALS = ("SIGINT", "SIGPIPE", "SIGTERM", "SIGCHLD", "SIGUSR1", "SIGALRM", "SIGTSTP")


def status_line(name):
    """A line of /proc/self/status."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name + ":"):
                return line.split(":")[1].strip()
    return None


def kind(fd):
    """What sort of file a descriptor is."""
    mode = os.fstat(fd).st_mode
    for name in ("ISFIFO", "ISCHR", "ISREG", "ISSOCK", "ISDIR"):
        if getattr(stat, "S_" + name)(mode):
            return name[2:]
    return "?"


def inheritable_descriptors():
    """The descriptors that a program started from here would have."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            pass  # The descriptor of the listing itself.
    return sorted(found)


def handler(name):
    """What Python does about a signal, in words."""
    found = signal.getsignal(getattr(signal, name))
    return getattr(found, "name", None) or getattr(found, "__name__", None) or repr(found)


def limits():
    """The resource limits by name."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: list(resource.getrlimit(getattr(resource, name))) for name in names}


def facts():
    """Everything, as plain data."""
    main = sys.modules["__main__"]
    return {
        "executable": sys.executable,
        "prefixes": [sys.prefix, sys.base_prefix, sys.exec_prefix],
        "version": sys.version,
        "argv": sys.argv,
        "orig_argv": getattr(sys, "orig_argv", None),
        "flags": repr(sys.flags),
        "warnoptions": sys.warnoptions,
        "xoptions": {name: str(value) for name, value in sys._xoptions.items()},
        "path": sys.path,
        "main.file": getattr(main, "__file__", "none"),
        "main.name": main.__name__,
        "main.spec": repr(main.__spec__),
        "main.package": main.__package__,
        "main.doc": main.__doc__,
        "main.loader": getattr(main.__loader__, "__name__", type(main.__loader__).__name__),
        "main.names": sorted(name for name in vars(main) if name.startswith("__")),
        "PATH": os.environ["PATH"],
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "stdin.left": sys.stdin.read(),
        "stdin.kind": kind(0),
        "stdout.kind": kind(1),
        "stderr.kind": kind(2),
        "encodings": [
            [sys.stdin.encoding, sys.stdin.errors],
            [sys.stdout.encoding, sys.stdout.errors],
            [sys.stderr.encoding, sys.stderr.errors],
            sys.getfilesystemencoding(),
        ],
        "inheritable": inheritable_descriptors(),
        "handlers": {name: handler(name) for name in SIGNALS},
        "signals.ignored": status_line("SigIgn"),
        "signals.blocked": status_line("SigBlk"),
        "umask": status_line("Umask"),
        "users": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), sorted(os.getgroups())],
        "nice": os.nice(0),
        "limits": limits(),
        "recursion_limit": sys.getrecursionlimit(),
        "switch_interval": sys.getswitchinterval(),
    }


if __name__ == "__main__":
    print(json.dumps(facts()))
