"""Checks of `clutch doctor` that load code of the user's: what a pool loads and calls at its start.

Each runs in a fresh worker that has loaded nothing yet. What raises, dies or hangs is judged by the
one who called.
"""

import os
import sys
from time import monotonic

from clutch._doctor_findings import milliseconds, ok, stand_for, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["main", "module", "threads", "warm_up"]

_MIB = 1 << 20
# What numeric libraries ask how many threads they may start, in each worker.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
# How libraries that are loaded say how many threads they use, by what their files are named like.
# Those of numpy's and scipy's own wheels have names of their own.
_THREAD_FUNCTIONS = (
    (
        "openblas",
        (
            "openblas_get_num_threads",
            "openblas_get_num_threads64_",
            "scipy_openblas_get_num_threads",
            "scipy_openblas_get_num_threads64_",
        ),
    ),
    ("mkl_rt", ("MKL_Get_Max_Threads",)),
    ("blis", ("bli_thread_get_num_threads",)),
    ("omp", ("omp_get_max_threads",)),
)


class _Script:
    """What `load_main` is told of a script."""

    def __init__(self, file: str) -> None:
        self.main = os.fsencode(file)


def module(name: str, script: str = "") -> "dict[str, Any]":
    """Imports a module: how long that takes, and what it costs."""
    stand_for(script)
    _value, took, grown = _measure(lambda: __import__(name))
    imported = sys.modules.get(name)
    version = getattr(imported, "__version__", None)
    shown = f"{name} {version}" if isinstance(version, str) else name
    file = getattr(imported, "__file__", None) or "built in"
    return _measured(f"{shown} from {file}", took, grown)


def main(file: str, arguments: "list[str]", preload: "list[str]") -> "dict[str, Any]":
    """Loads the pool's script as its workers do, after what is preloaded."""
    _preload(file, arguments, preload)
    _value, took, grown = _measure(lambda: _load_main(file))
    return _measured(file, took, grown)


def warm_up(
    file: str,
    arguments: "list[str]",
    preload: "list[str]",
    steps: "list[list[Any]]",
    one_loop: bool = False,
) -> "dict[str, Any]":
    """Calls the last of some functions, each with its arguments, after everything before it.

    On `one_loop`, where the pool's workers have one for all coroutines.
    """
    from clutch._warmup import run  # noqa: PLC0415 - a worker that is not asked has no use for it.

    if one_loop:
        from clutch._tasks import make_loop  # noqa: PLC0415 - as above.

        make_loop(0)
    _preload(file, arguments, preload)
    if file:
        _load_main(file)
    for name, values in steps[:-1]:
        run(name, values)
    name, values = steps[-1]
    _value, took, grown = _measure(lambda: run(name, values))
    return _measured(name, took, grown)


def threads(workers: int, cpus: int, loaded: "list[str]", script: str = "") -> "dict[str, Any]":
    """Whether the workers' numeric libraries together start more threads than there are cpus."""
    stand_for(script)
    for name in loaded:
        __import__(name)
    said = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    counts = [int(value) for value in said.values() if value.isdigit()]
    seen = sorted(_libraries())
    if seen:
        each = max(count for _name, count in seen)
        why = ", ".join(f"{name} uses {count}" for name, count in seen)
    elif said:
        each = max(counts) if counts else cpus
        why = f"only the environment was read, since no such library was loaded: {_listed(said)}"
    else:
        each = cpus
        why = "no variable says how many, and no such library was loaded; each takes all cpus"
    text = f"{workers} worker{'s' * (workers != 1)} on {cpus} cpu{'s' * (cpus != 1)}"
    if workers > 1 and each * workers > max(cpus, workers):
        share = max(1, cpus // workers)
        return warn(
            f"{text}: numeric libraries may start {each * workers} threads ({why})",
            f'leave `compute.threads` at "auto" and the variables of threads out of `env`, or set '
            f'OMP_NUM_THREADS = "{share}" in `env.set`',
        )
    return ok(f"{text}: {each} thread{'s' * (each != 1)} in each ({why})")


def _listed(said: "dict[str, str]") -> str:
    first, *others = said
    if others and len(set(said.values())) == 1:
        return f"{first}={said[first]}, and {len(others)} others alike"
    return ", ".join(f"{name}={value}" for name, value in said.items())


def _preload(file: str, arguments: "list[str]", preload: "list[str]") -> None:
    stand_for(file)
    if file:
        sys.argv = arguments
    for name in preload:
        __import__(name)


def _load_main(file: str) -> None:
    from clutch._setup import load_main  # noqa: PLC0415 - as above.

    sys.modules["__main__"].__dict__["__file__"] = file
    setup: "Any" = _Script(file)
    load_main(setup)


def _libraries() -> "set[tuple[str, int]]":
    """Numeric libraries in this process, and how many threads each uses."""
    import ctypes  # noqa: PLC0415 - as above.

    found: "set[tuple[str, int]]" = set()
    for file in _mapped_files():
        name = os.path.basename(file)
        functions = next((names for mark, names in _THREAD_FUNCTIONS if mark in name), ())
        if not functions or ".so" not in name:
            continue
        try:
            # It is there already: this is another handle of it.
            library = ctypes.CDLL(file)
        except OSError:
            # Its file was replaced since, and what is loaded has no other handle.
            continue
        function: "Any" = next((it for it in map(_function_of(library), functions) if it), None)
        if function is not None:
            found.add((name, int(function())))
    return found


def _function_of(library: "Any") -> "Callable[[str], Any]":
    return lambda name: getattr(library, name, None)


def _mapped_files() -> "list[str]":
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        names = {line.partition("/")[2].rstrip("\n") for line in file}
    return sorted("/" + name for name in names if name)


def _measure(action: "Callable[[], Any]") -> "tuple[Any, float, int]":
    """What an action gives, how long it takes, and how much memory is kept after it."""
    before, begun = _resident_bytes(), monotonic()
    value = action()
    took = monotonic() - begun
    return value, took, max(0, _resident_bytes() - before)


def _measured(text: str, seconds: float, grown: int) -> "dict[str, Any]":
    finding = ok(f"{text}: {milliseconds(seconds)}, {grown / _MIB:.1f} MiB")
    finding["time_ms"] = round(seconds * 1000)
    finding["memory_bytes"] = grown
    return finding


def _resident_bytes() -> int:
    import resource  # noqa: PLC0415 - as above.

    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
