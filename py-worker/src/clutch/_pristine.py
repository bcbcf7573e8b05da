"""Imports for the worker itself, which no file of a user can shadow.

A pool's folders may hold a `types.py` or a `traceback.py`. A person's own imports find them, and
so must ours not: neither at the start (`boot.py` sees to that) nor when a module is first needed
after user code ran. `load` searches only this package and the standard library, for its own
thread only, so another thread's imports are not disturbed; and it leaves in `sys.modules` only
what a person's own import would have found there, so theirs are not bent either.
"""

import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter
from _frozen_importlib_external import PathFinder
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["configure", "load", "no_imports", "pristine_imports"]

_import = __import__


def configure(path: "list[str]") -> None:
    """Says where this package and the standard library are. Once, before any `load`."""
    pristine_imports.path = path
    pristine_imports.prefixes = tuple(entry + "/" for entry in path)


def load(name: str) -> "Any":
    """The module of this name from the standard library or this package, imported if need be."""
    module = _loaded.get(name)
    if module is None:
        module = _loaded[name] = pristine_imports.load(name)
    return module


class _NoImports:
    """While it is entered, this thread's imports fail. C code may import what we do not expect."""

    def __init__(self) -> None:
        self._thread = 0

    def __enter__(self) -> None:
        self._thread = get_ident()
        sys.meta_path.insert(0, self)  # pyright: ignore[reportArgumentType]

    def __exit__(self, *_error: object) -> None:
        self._thread = 0
        finders: "list[object]" = sys.meta_path  # type: ignore[assignment]
        if self in finders:
            finders.remove(self)

    def find_spec(
        self, name: str, path: "list[str] | None" = None, target: object = None
    ) -> "ModuleSpec | None":
        """Called by Python's import."""
        del path, target
        if get_ident() == self._thread:
            raise ModuleNotFoundError(f"nothing is imported here, not even {name}")
        return None


class _Importer(_NoImports):
    """While it is entered, this thread's imports find only our own paths.

    Entered around the worker's own imports, and around those slow paths of the standard library
    that import when they run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.path: "list[str]" = []
        self.prefixes: "tuple[str, ...]" = ()
        # What was found out about names; a program has a bounded number of modules.
        self._is_standard: "dict[str, bool]" = {}
        self._entered = 0
        # The `_mark` at which nothing was to be hidden: failing items enter this a lot.
        self._clean = _UNKNOWN
        self._before: "set[str] | None" = None
        self._hidden: "dict[str, ModuleType]" = {}

    def __enter__(self) -> None:
        if not self._entered:
            mark = _mark()
            if mark != self._clean:
                self._hidden = self._hide_foreign()
                self._clean = _UNKNOWN if self._hidden else mark
            self._before = None if mark == self._clean else set(sys.modules)
            super().__enter__()
        self._entered += 1

    def __exit__(self, *_error: object) -> None:
        self._entered -= 1
        if not self._entered:
            super().__exit__()
            if self._before is not None:
                self._forget_shadowing(set(sys.modules) - self._before)
            elif _mark() != self._clean:
                self._forget_shadowing(set(list(sys.modules)[self._clean[0] :]))
            sys.modules.update(self._hidden)
            self._hidden = {}

    def find_spec(
        self, name: str, path: "list[str] | None" = None, target: object = None
    ) -> "ModuleSpec | None":
        """Called by Python's import; submodules are found by their package's own path."""
        del target
        if path is not None or get_ident() != self._thread:
            return None
        return (
            BuiltinImporter.find_spec(name)
            or FrozenImporter.find_spec(name)
            or PathFinder.find_spec(name, self.path)
        )

    def load(self, name: str) -> "ModuleType":
        """Imports a module, whatever users have put into `sys.path` and `sys.modules`."""
        with self:
            _import(name)
            return sys.modules[name]

    def _hide_foreign(self) -> "dict[str, ModuleType]":
        """Takes out of `sys.modules` what users loaded under a name of the standard library."""
        modules = [entry for entry in list(sys.modules.items()) if type(entry[0]) is str]
        tops = {name for name, module in modules if "." not in name and self._hides(name, module)}
        if not tops:
            return {}
        hidden = {name: module for name, module in modules if name.partition(".")[0] in tops}
        for name in hidden:
            sys.modules.pop(name, None)
        return hidden

    def _forget_shadowing(self, added: "set[str]") -> None:
        """Takes out again what a person's own import of the same name would not have found."""
        added = {name for name in added if type(name) is str}
        for top in {name.partition(".")[0] for name in added}:
            spec = _names(sys.modules.get(top)).get("__spec__")
            origin = _names(spec).get("origin")
            if type(origin) is not str or not origin.startswith(self.prefixes):
                continue
            try:
                theirs = PathFinder.find_spec(top, sys.path)
            except BaseException:  # noqa: BLE001 - a finder of a user's; imports raise as well.
                theirs = None
            if top != __package__ and (theirs is None or theirs.origin != origin):
                for name in added:
                    if name.partition(".")[0] == top:
                        sys.modules.pop(name, None)

    def _hides(self, name: str, module: object) -> bool:
        """Whether the module is a user's with the name of one of the standard library."""
        file = _names(module).get("__file__")
        if type(file) is not str:
            return False
        if file.startswith(self.prefixes) and "-packages/" not in file:
            return False
        if name not in self._is_standard:
            self._is_standard[name] = name not in ("__main__", "__mp_main__") and (
                PathFinder.find_spec(name, self.path) is not None
            )
        return self._is_standard[name]


def _names(value: object) -> "dict[str, Any]":
    """What an object holds, without asking it: a lazy module's `__getattr__` may do anything."""
    try:
        names = object.__getattribute__(value, "__dict__")
    except BaseException:  # noqa: BLE001 - it has none, or a property of that name.
        return {}
    return names if type(names) is dict else {}


def _mark() -> "tuple[int, str]":
    """Changes when a module is added to `sys.modules`, which goes to its end, or taken out."""
    modules = sys.modules
    try:
        return len(modules), next(reversed(modules), "")
    except (RuntimeError, TypeError):
        # Changed meanwhile by another thread, or replaced by a mapping without an order.
        return -2, ""


_UNKNOWN = (-1, "")
_loaded: "dict[str, ModuleType]" = {}
pristine_imports = _Importer()
no_imports = _NoImports()
