"""Turns a fresh interpreter that runs `boot.py` into what a person's `python main.py` would be.

Afterwards `sys.argv`, `sys.path`, `sys.orig_argv` and `__main__` are as that python's, of the same
version, would be. What the operating system sees (environment, directory, descriptors) the
guardian prepared.
"""

import sys
from _frozen_importlib import BuiltinImporter
from posix import getcwd, stat
from posixpath import dirname, isabs, join, realpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from clutch._frames import Setup

__all__ = ["become", "load_main"]

_Module = type(sys)
_MAIN = "__main__"
# What multiprocessing calls the main module of its children, while and after they load it.
_LOADING = "__mp_main__"
# boot.py and its four arguments, which a person did not type.
_BOOT_ARGUMENTS = 5


def become(setup: "Setup", here: str, inherited: "list[str]") -> None:
    """Sets `sys` up, and an empty `__main__`. `inherited` is `sys.path` as python computed it."""
    argv = [_decoded(argument) for argument in setup.argv]
    main = _decoded(setup.main)
    is_safe = bool(getattr(sys.flags, "safe_path", False) or sys.flags.isolated)
    # Python put boot.py's folder first, unless it was told not to.
    rest = inherited if is_safe else inherited[1:]
    first = [] if is_safe else [dirname(realpath(main)) if main else ""]
    extra = [_decoded(entry) for entry in setup.path]
    # Our folder last: a multiprocessing child inherits the path, and may import what a call uses.
    sys.path = [*first, *extra, *rest, here]
    sys.argv = argv if main else [""]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = [*sys.orig_argv[:-_BOOT_ARGUMENTS], *(argv if main else [])]
    template = sys.modules[_MAIN].__dict__
    module = _Module(_MAIN)
    names = module.__dict__
    for name in ("__annotations__", "__builtins__"):
        if name in template:
            names[name] = template[name]
    if "__annotations__" in names:
        names["__annotations__"] = {}
    if main:
        file = _main_file(main, argv[0] if argv else main)
        names["__file__"] = file
        names["__loader__"] = type(template["__loader__"])(_MAIN, file)
        if "__cached__" in template:
            names["__cached__"] = None
    else:
        names["__loader__"] = BuiltinImporter
    sys.modules[_MAIN] = module


def load_main(setup: "Setup") -> None:
    """Runs the pool's script as multiprocessing does in its children: not as `__main__`.

    So a block under `if __name__ == "__main__"` does not run. Afterwards the module and what it
    defines are `__main__`'s, so that pickles of them mean the same in children and parents.
    """
    module = sys.modules[_MAIN]
    names = module.__dict__
    with open(_decoded(setup.main), "rb") as file:
        source = file.read()
    code = compile(source, names["__file__"], "exec", dont_inherit=True)
    sys.modules[_LOADING] = module
    names["__name__"] = _LOADING
    exec(code, names)  # noqa: S102 - that is the job.
    names["__name__"] = _MAIN
    _rename(list(names.values()), set())


def _decoded(data: bytes) -> str:
    """A text of the setup as python would have decoded the same bytes of its argv."""
    return data.decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def _main_file(main: str, typed: str) -> str:
    """`__main__.__file__`: until 3.8 the script as it was typed, then made absolute."""
    if not _is_same_file(typed, main):
        return main
    if sys.version_info < (3, 9) or isabs(typed):
        return typed
    return join(getcwd(), typed)


def _is_same_file(one: str, other: str) -> bool:
    try:
        return stat(one)[1:3] == stat(other)[1:3]
    except OSError:
        return False


def _rename(values: "list[Any]", seen: "set[int]") -> None:
    """Says `__main__` where functions and classes say they were defined in `__mp_main__`."""
    for value in values:
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__  # noqa: PLW2901 - what it wraps is what was defined.
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, property):
            _rename([value.fget, value.fset, value.fdel], seen)
        elif isinstance(value, type):
            if type.__getattribute__(value, "__dict__").get("__module__") == _LOADING:
                _rename(list(value.__dict__.values()), seen)
                _rename_class(value)
        elif _says_loading(value):
            try:
                value.__module__ = _MAIN
            except (AttributeError, TypeError):
                # Something whose module cannot be changed; children know the other name too.
                continue


def _rename_class(value: type) -> None:
    """Says so of a class, without asking what a user's metaclass does about attributes.

    One of C code has to be asked: `ctypes.Structure` has one, and lets nobody pass it by.
    """
    for base in type.mro(type(value)):
        set_attribute: "Any" = base.__dict__.get("__setattr__")
        if type(set_attribute) is _Slot:
            try:
                set_attribute(value, "__module__", _MAIN)
            except (AttributeError, TypeError):
                # Children know the other name too.
                pass
            return


def _says_loading(value: object) -> bool:
    try:
        names = object.__getattribute__(value, "__dict__")
    except (AttributeError, TypeError):
        names = {}
    if type(value) is _Function:
        return value.__module__ == _LOADING
    return isinstance(names, dict) and names.get("__module__") == _LOADING


_Function = type(become)
# What a method is that C code defines for one of Python's operators.
_Slot = type(type.__setattr__)
