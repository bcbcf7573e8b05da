"""Finds out why a function could not be found, or why its arguments do not fit.

Only asked after something failed, so it may take milliseconds and import what it needs. Finding
a function that is there is `_execute`'s.
"""

import difflib
import inspect
import posix
import sys

from clutch._convert import type_name
from clutch._errors import advice, cut, format_traceback, message_of
from clutch._frames import encode_missing, failed_not_found
from clutch._limits import FAILURE_TEXT_BYTES_MAX, LINK_TEXT_BYTES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

__all__ = ["arguments_misfit", "bad_name", "bad_preload", "is_absent", "not_found"]

_MODULE = 1
_FUNCTION = 2
_NOT_CALLABLE = 3
_NAME = 4

_NAMES_MAX = 20_000
_PATHS_SHOWN = 4
# Comparing longer names takes long, and nobody mistypes one.
_NAME_CHARACTERS_MAX = 100


def bad_name(name: str) -> bytes:
    """The failure for a name that is not `module:qualname`."""
    message = f"{name!r} is no function's name; write MODULE:QUALNAME, like math:sqrt"
    return _failure(_NAME, message, "")


def not_found(
    module_name: str,
    qualname: str,
    error: BaseException,
    skip: "tuple[str, ...]",
    role: str = "",
) -> bytes:
    """The failure for `error`, raised by importing the module or by getting a part of the name.

    `role` stands before what is said: what the function was wanted for.

    An `error` that is a TypeError without frames, about something that is there, says that the
    thing cannot be called; `_execute` raises it.
    """
    _invalidate_finders()
    text = cut(format_traceback(error, skip), FAILURE_TEXT_BYTES_MAX)
    module = sys.modules.get(module_name)
    if module is None or isinstance(error, ImportError):
        return _failure(_MODULE, role + _module_message(module_name, error), text)
    owner: "Any" = module
    found: "list[str]" = []
    for part in qualname.split("."):
        try:
            owner = getattr(owner, part)
        except AttributeError:
            message = _attribute_message(module_name, found, owner, part)
            return _failure(_FUNCTION, role + message, "")
        except BaseException as raised:  # noqa: BLE001 - properties may do anything.
            message = f"reading {module_name}:{qualname} raised {_brief(raised)}"
            return _failure(_FUNCTION, role + message, text)
        found.append(part)
    message = f"{module_name}:{qualname} is no function, but of type {type_name(type(owner))}"
    return _failure(_NOT_CALLABLE, role + message, "")


def bad_preload(module_name: str, error: BaseException, skip: "tuple[str, ...]") -> bytes:
    """The failure for a module to preload that is not there."""
    text = cut(format_traceback(error, skip), FAILURE_TEXT_BYTES_MAX)
    message = _module_message(module_name, error)
    return _failure(_MODULE, f"the pool's `preload` names '{module_name}': {message}", text)


def is_absent(module_name: str, error: BaseException) -> bool:
    """Whether the error says that this module (not one that it imports) is not there."""
    absent = getattr(error, "name", None)
    return isinstance(error, ModuleNotFoundError) and (
        module_name == absent or module_name.startswith(f"{absent}.")
    )


def arguments_misfit(function: "Any", args: "Iterable[Any]", kwargs: "dict[str, Any]") -> bool:
    """Whether a TypeError without a user's frame came from the arguments not fitting."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # A builtin without a signature: it alone can have raised.
        return True
    except BaseException:  # noqa: BLE001 - `__signature__` may do anything.
        return False
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return True
    return False


def _invalidate_finders() -> None:
    """Forgets what folders held, so that a module written a moment ago is found next time."""
    for finder in list(sys.path_importer_cache.values()):
        invalidate = getattr(finder, "invalidate_caches", None)
        if invalidate is not None:
            invalidate()


def _failure(what: int, message: str, text: str) -> bytes:
    return failed_not_found(encode_missing(what, cut(message, FAILURE_TEXT_BYTES_MAX), text))


def _brief(error: BaseException) -> str:
    message = cut(message_of(error), LINK_TEXT_BYTES_MAX)
    return f"{type_name(type(error))}: {message}"


def _module_message(name: str, error: BaseException) -> str:
    if not is_absent(name, error):
        note = advice(message_of(error))
        return f"importing module '{name}' failed: {_brief(error)}{note and '; ' + note}"
    absent = getattr(error, "name", None) or name
    searched = ", ".join(repr(entry) for entry in sys.path[:_PATHS_SHOWN])
    return (
        f"no module named '{absent}'{_meant(absent.rpartition('.')[2], _module_names(absent))}: "
        f"{sys.executable} searched {searched} and its own library; "
        "add its folder to the pool's path, or install it there"
    )


def _attribute_message(module: str, found: "list[str]", owner: object, part: str) -> str:
    try:
        names = [str.__str__(name) for name in dir(owner)]
    except BaseException:  # noqa: BLE001 - `__dir__` may do anything.
        names = []
    meant = _meant(part, names)
    if not found:
        return f"module '{module}' has no attribute '{part}'{meant}"
    return f"'{module}:{'.'.join(found)}' has no attribute '{part}'{meant}"


def _meant(name: str, names: "Iterable[str]") -> str:
    if len(name) > _NAME_CHARACTERS_MAX:
        return ""
    close = difflib.get_close_matches(name, names, 1, 0.7)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _module_names(absent: str) -> "list[str]":
    """Names of modules that could have been meant: beside the absent one, or at the top."""
    package = absent.rpartition(".")[0]
    if package:
        paths = list(getattr(sys.modules.get(package), "__path__", ()))
        names: "set[str]" = set()
    else:
        paths = [entry or "." for entry in sys.path]
        names = {*sys.builtin_module_names}
        names.update(name for name in list(sys.modules) if type(name) is str)
        names.update(getattr(sys, "stdlib_module_names", ()))
    for path in paths:
        try:
            entries = posix.listdir(path)
        except OSError:
            continue
        names.update(entry.partition(".")[0] for entry in entries[:_NAMES_MAX])
        if len(names) > _NAMES_MAX:
            break
    return sorted(name for name in names if name.isidentifier())
