"""What a call names: its function, what is done with its items, what kind of function it is.

Loaded by the first call; a function that was found once is found without it.
"""

from clutch._frames import MetaReader, ProtocolError
from clutch._limits import FUNCTION_NAME_BYTES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "APPLY_NOTHING",
    "APPLY_STAR",
    "ASYNC",
    "BadItemError",
    "BadNameError",
    "NoFoldError",
    "each_of",
    "is_coroutine_function",
    "split_name",
]

# `async def` sets it in a function's code. Decorated functions are unwrapped to look.
_CO_COROUTINE = 0x80
# That, or what it sets in that of an async generator.
ASYNC = _CO_COROUTINE | 0x200
_WRAPPERS_MAX = 16

# What a call does with each of its items: it is the argument, the arguments, or only folded.
APPLY_ITEM, APPLY_STAR, APPLY_NOTHING = 0, 1, 2


class BadNameError(Exception):
    """A function's name is not `module:qualname`."""


class BadItemError(Exception):
    """An item is not what the function is to be called with."""


class NoFoldError(Exception):
    """The function that folds could not be found."""

    def __init__(self, key: bytes, error: BaseException) -> None:
        super().__init__()
        self.key = key
        self.error = error


def each_of(key: bytes) -> "tuple[bytes, int, bytes]":
    """The name of a call's function, what is done with its items, and the name of their fold."""
    reader = MetaReader(key)
    name, apply, fold = reader.raw(), APPLY_ITEM, b""
    if reader.flag():
        apply, fold = reader.u32(), reader.raw()
        if apply > APPLY_NOTHING:
            raise ProtocolError(f"nothing is known of the way {apply} to call a function")
    reader.end()
    return name, apply, fold


def split_name(key: bytes) -> "tuple[str, str]":
    """Module and qualname of a call's function."""
    raw, _, _ = each_of(key)
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError("a function's name is not UTF-8") from None
    module_name, _, qualname = name.partition(":")
    parts = f"{module_name}.{qualname}".split(".")
    if len(raw) > FUNCTION_NAME_BYTES_MAX or not all(part.isidentifier() for part in parts):
        raise BadNameError(name)
    return module_name, qualname


def is_coroutine_function(function: "Any", kinds: int = _CO_COROUTINE) -> bool:
    for _ in range(_WRAPPERS_MAX):
        code = getattr(function, "__code__", None)
        if code is not None and getattr(code, "co_flags", 0) & kinds:
            return True
        for name in ("__wrapped__", "__func__", "func"):
            inner = getattr(function, name, None)
            if callable(inner):
                function = inner
                break
        else:
            return False
    return False
