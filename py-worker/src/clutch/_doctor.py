"""What `clutch doctor` asks of a worker: one function for each check, called like any other.

Each runs in a fresh worker of the pool it is about, and answers with a finding. What raises, dies
or hangs is judged by the one who called. Nothing here is imported by a worker that is not asked.

Checks that load code of the user's are in `_doctor_loads`.
"""
# ruff: noqa: PLC0415, S602, S603 - what is checked is imported and started by its own check.

import _imp
import os
import sys
from time import monotonic

from clutch._doctor_findings import (
    fail,
    mebibytes,
    ok,
    skipped,
    stand_for,
    warn,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "environment",
    "interpreter",
    "limits",
    "shadowed",
    "shared_memory",
    "start_method",
    "subprocesses",
    "temporary",
]

# Modules of the standard library that nothing in it imports: a namesake does no harm.
_UNUSED = frozenset(("antigravity", "idlelib", "lib2to3", "test", "this", "turtledemo"))
# A folder with more entries is looked at no further.
_ENTRIES_MAX = 20_000
# How many findings one text names.
_NAMED_MAX = 5
# How long a child may take to say something.
_CHILD_S = 15.0
# What no program exits with by accident.
_ODD_CODE = 77
_TEMPORARY_FREE_LEAST = 64 << 20
_SHARED_LEAST = 64 << 20
_OPEN_FILES_LEAST = 1024
_ADDRESS_SPACE_LEAST = 1 << 30
_PROCESSES_LEAST = 64


def interpreter() -> "dict[str, Any]":
    """Which Python this is, and what binary packages have to be built for."""
    import platform
    import sysconfig

    abi = sysconfig.get_config_var("SOABI") or "unknown ABI"
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    words = [
        "%s %d.%d.%d" % (platform.python_implementation(), *sys.version_info[:3]),
        sys.executable or "an executable that it does not know itself",
        abi,
        platform.machine(),
    ]
    if free_threaded:
        words.append("free-threaded")
    text = ", ".join(words)
    if sys.version_info.releaselevel == "final":
        finding = ok(text)
    else:
        finding = warn(
            f"{text}: a pre-release ({sys.version_info.releaselevel})",
            "use a released version of Python, since binary packages may not fit this one",
        )
    finding["executable"] = sys.executable or ""
    return finding


def environment() -> "dict[str, Any]":
    """Whether the virtual environment and the Python it was made of are whole."""
    if not os.path.isdir(os.path.dirname(os.__file__)):
        return fail(
            f"the standard library of {sys.base_prefix} is gone",
            "install that Python again, or name another one with `python`",
        )
    where = sys.prefix
    if sys.prefix == sys.base_prefix:
        text = f"{where}, no virtual environment"
    else:
        version = "%d.%d" % sys.version_info[:2]
        folders = [path for path in sys.path if path.startswith(sys.prefix + os.sep)]
        if not any(os.path.isdir(path) for path in folders):
            return fail(
                f"the virtual environment {where} has no packages for Python {version}: was it "
                "made by another version?",
                f"make it anew: {getattr(sys, '_base_executable', '') or 'python3'} -m venv "
                f"--clear {where}",
            )
        text = f"virtual environment {where} of {sys.base_prefix}"
    return ok(text)


def shadowed(script: str = "") -> "dict[str, Any]":
    """Files that are imported in place of modules of the standard library."""
    stand_for(script)
    library = os.path.dirname(os.__file__)
    names = _library_names(library)
    found: "list[tuple[str, str]]" = []
    for entry in sys.path:
        folder = os.path.realpath(entry or ".")
        if folder == os.path.realpath(library):
            break
        for name, file in _importable(folder):
            built_in = name in sys.builtin_module_names or _imp.is_frozen(name)
            if name in names and name not in _UNUSED and not built_in:
                found.append((name, file))
    if not found:
        return ok("no file stands in for a module of the standard library")
    listed = [f"{file} is imported in place of `{name}`" for name, file in found[:_NAMED_MAX]]
    if len(found) > _NAMED_MAX:
        listed.append(f"and {len(found) - _NAMED_MAX} more")
    return fail(
        ", ".join(listed) + ", a module of the standard library",
        f"rename {found[0][1]}, or take its folder out of `path` (or of `cwd`)",
    )


def start_method(method: str) -> "dict[str, Any]":
    """Whether a `multiprocessing` child started this way answers."""
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        return skipped(f"this Python has no start method {method}")
    context: "Any" = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    begun = monotonic()
    child = context.Process(target=_answer, args=(theirs,))
    child.start()
    theirs.close()
    answer = None
    try:
        if ours.poll(_CHILD_S):
            answer = ours.recv()
    except EOFError:
        # It ended without a word; its exit code says more.
        answer = None
    if answer is None:
        child.kill()
    child.join(_CHILD_S)
    if answer != child.pid or child.exitcode != 0:
        return fail(
            f"a child started by {method} did not answer (exit code {child.exitcode})",
            "call the function `multiprocessing.Process` by itself in this environment, and look "
            "at what it prints; a module that stands in for one of the standard library, or too "
            "low a limit of processes, does this",
        )
    finding = ok("a child answered")
    finding["time_ms"] = round((monotonic() - begun) * 1000)
    return finding


def subprocesses() -> "dict[str, Any]":
    """Whether other programs can be started, and which `python` they would find."""
    import shutil
    import subprocess

    python = sys.executable
    command = [python, "-c", "print(6 * 7)"]
    ended = subprocess.run(command, capture_output=True, timeout=_CHILD_S, check=False)
    if ended.returncode != 0 or ended.stdout.split() != [b"42"]:
        words = ended.stderr.decode("utf-8", "replace").strip()[-500:]
        return fail(
            f"{python}, started by a worker, exited with {ended.returncode}: {words}",
            "see what `env.set` does to the interpreter (PYTHONHOME, LD_LIBRARY_PATH)",
        )
    shell = subprocess.run(
        f"exit {_ODD_CODE}", shell=True, capture_output=True, timeout=_CHILD_S, check=False
    )
    if shell.returncode != _ODD_CODE:
        return fail(
            f"the shell /bin/sh does not work: it exited with {shell.returncode}",
            "install a shell at /bin/sh: `subprocess` with shell=True needs it",
        )
    on_path = shutil.which("python3")
    bin_folder = os.path.dirname(python)
    if sys.prefix != sys.base_prefix and on_path and os.path.dirname(on_path) != bin_folder:
        return warn(
            f"programs find {on_path} as python3, not the pool's own {python}",
            f"put {bin_folder} first in PATH, or leave PATH out of `env.set`",
        )
    return ok(f"programs start; python3 on PATH is {on_path or 'not there'}")


def temporary() -> "dict[str, Any]":
    """Whether temporary files can be written, and how much room there is."""
    import shutil
    import tempfile

    named = os.environ.get("TMPDIR") or os.environ.get("TEMP") or os.environ.get("TMP")
    advice = "make the folder writable for the workers' user, or set TMPDIR in `env.set`"
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        return fail(f"no folder for temporary files can be written: {error}", advice)
    if named and os.path.abspath(named) != folder:
        return fail(
            f"TMPDIR={named} cannot be written; temporary files would go to {folder}", advice
        )
    free = shutil.disk_usage(folder).free
    if free < _TEMPORARY_FREE_LEAST:
        return warn(
            f"{folder} has only {mebibytes(free)} left",
            "free space there, or set TMPDIR in `env.set` to a folder with more room",
        )
    return ok(f"{folder} is writable, {mebibytes(free)} free")


def shared_memory() -> "dict[str, Any]":
    """Whether `/dev/shm` is there: locks and shared memory of `multiprocessing` live in it."""
    folder = "/dev/shm"  # noqa: S108 - the place itself is what is looked at.
    advice = (
        "mount it: mount -t tmpfs -o mode=1777 tmpfs /dev/shm (or give the container one, with "
        "--shm-size); `multiprocessing` locks, queues and shared memory need it"
    )
    if not os.path.isdir(folder):
        return fail(f"there is no {folder}", advice)
    try:
        import multiprocessing

        multiprocessing.get_context("spawn").Lock()
    except (OSError, ImportError) as error:
        return fail(f"no lock can be made in {folder}: {error}", advice)
    room = os.statvfs(folder)
    size, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    if size and free < _SHARED_LEAST:
        return warn(
            f"{folder} has only {mebibytes(free)} of {mebibytes(size)} left",
            "give it more: mount -o remount,size=1g /dev/shm (a container: --shm-size=1g)",
        )
    return ok(f"{folder} is writable, {mebibytes(free)} of {mebibytes(size)} free")


def limits() -> "dict[str, Any]":
    """What the system lets one worker have."""
    import resource

    kinds = (
        ("open files", resource.RLIMIT_NOFILE, _OPEN_FILES_LEAST, "process.open_files"),
        ("processes", resource.RLIMIT_NPROC, _PROCESSES_LEAST, "process.processes"),
        ("address space", resource.RLIMIT_AS, _ADDRESS_SPACE_LEAST, "process.address_space"),
    )
    words: "list[str]" = []
    low: "list[str]" = []
    keys: "list[str]" = []
    for what, kind, least, key in kinds:
        soft = resource.getrlimit(kind)[0]
        if soft == resource.RLIM_INFINITY:
            words.append(f"{what} unlimited")
            continue
        count = mebibytes(soft) if kind == resource.RLIMIT_AS else str(soft)
        words.append(f"{what} {count}")
        if soft < least:
            low.append(f"{what} {count}")
            keys.append(f"`{key}`")
    if low:
        return warn(
            f"low for one worker: {', '.join(low)}",
            f"raise {', '.join(keys)}, or the limit (`ulimit -a`) the daemon starts with",
        )
    return ok(", ".join(words))


def _answer(connection: "Any") -> None:
    """What the child of `start_method` does."""
    connection.send(os.getpid())
    connection.close()


def _library_names(library: str) -> "frozenset[str]":
    names: "frozenset[str] | None" = getattr(sys, "stdlib_module_names", None)
    if names is not None:
        return names
    found = {name for name, _file in _importable(library)}
    found.update(name for name, _file in _importable(library + "/lib-dynload"))
    return frozenset(found - {"site-packages", "dist-packages"})


def _importable(folder: str) -> "list[tuple[str, str]]":
    """Names of modules that an import would find in a folder, each with its file."""
    suffixes = (*_imp.extension_suffixes(), ".py")
    found: "list[tuple[str, str]]" = []
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= _ENTRIES_MAX:
                    break
                suffix = next((end for end in suffixes if entry.name.endswith(end)), None)
                if suffix is not None:
                    found.append((entry.name[: -len(suffix)], entry.path))
                elif os.path.isfile(entry.path + "/__init__.py"):
                    found.append((entry.name, entry.path))
    except OSError:
        # An entry of `sys.path` that is no folder holds no file that shadows one.
        return []
    return sorted(found)
