"""Calls what a pool wants called in each worker before its first call.

Loaded only by pools that want that. What it calls is user code that runs outside of any call: it
cannot be cancelled, and what it prints is nobody's.
"""

import sys
from posix import getpid
from types import CoroutineType

from clutch._errors import describe
from clutch._frames import encode_exception, failed_raised
from clutch._pristine import load, pristine_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from clutch._frames import Setup

__all__ = ["run", "warm_up"]

_import = __import__


def warm_up(setup: "Setup", pid: int, skip: "tuple[str, ...]") -> "bytes | None":
    """Calls the initializer, then each function of `warm`. The first failure's meta, if any.

    What is raised in a child that user code forked goes on: `pid` is the worker.
    """
    steps = [("warm", name, b"[]") for name in setup.warm]
    if setup.initializer:
        steps.insert(0, ("initializer", setup.initializer, setup.initargs))
    for key, name, arguments in steps:
        failed = _call(key, name, arguments, pid, skip)
        if failed is not None:
            return failed
    return None


def run(name: str, args: "list[Any]") -> None:
    """Calls a function as for a pool's start. Whatever comes of it is the caller's."""
    module_name, _, qualname = name.partition(":")
    value = _found(module_name, qualname)(*args)
    if type(value) is CoroutineType:
        load("clutch._coroutine").run(value)


def _call(
    key: str, name: str, arguments: bytes, pid: int, skip: "tuple[str, ...]"
) -> "bytes | None":
    module_name, _, qualname = name.partition(":")
    try:
        function = _found(module_name, qualname)
    except BaseException as error:  # whatever an import raises.
        if getpid() != pid:
            raise
        with pristine_imports:
            return load("clutch._missing").not_found(module_name, qualname, error, skip)
    args = load("clutch._json_codec").decode(arguments)
    try:
        value = function(*args)
        if type(value) is CoroutineType:
            module = load("clutch._coroutine")
            skip = (*skip, module.SKIP)
            module.run(value)
    except BaseException as error:  # SystemExit included: no worker came of it.
        if getpid() != pid:
            raise
        with pristine_imports:
            return _raised(key, name, error, skip)
    return None


def _found(module_name: str, qualname: str) -> "Callable[..., Any]":
    """The function; raises what `_missing` can tell from one another."""
    _import(module_name)
    function: "Any" = sys.modules[module_name]
    for part in qualname.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError("not callable")
    return function


def _raised(key: str, name: str, error: BaseException, skip: "tuple[str, ...]") -> bytes:
    """The failure, which says first what was called: a builtin's traceback has no frames."""
    try:
        type_name, message, notes, frames, text, chain, bases = describe(error, skip)
    except BaseException:  # noqa: BLE001 - then as any exception that cannot be described.
        return load("clutch._failures").raised(error, skip)
    text = f"`{key}` called {name}, which raised\n{text}"
    data = encode_exception(type_name, message, notes, frames, text, chain, bases)
    return failed_raised(data)
