"""What a call names: its function, and what kind of function that is.

Loaded by the first call; a function that was found once is found without it.
"""

from clutch._frames import MetaReader, ProtocolError
from clutch._limits import FUNCTION_NAME_BYTES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ASYNC_GENERATOR", "BadNameError", "is_coroutine_function", "split_name"]

# What `async def` sets in a function's code: without `yield`, and with it.
_COROUTINE = 0x80
ASYNC_GENERATOR = 0x200
_WRAPPERS_MAX = 16


class BadNameError(Exception):
    """A function's name is not `module:qualname`."""


def split_name(key: bytes) -> "tuple[str, str]":
    """Module and qualname of a call's function."""
    reader = MetaReader(key)
    raw = reader.raw()
    if reader.flag():
        # What is done with its items is read by `_items`.
        reader.u32()
        reader.raw()
    reader.end()
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError("a function's name is not UTF-8") from None
    module_name, _, qualname = name.partition(":")
    parts = f"{module_name}.{qualname}".split(".")
    if len(raw) > FUNCTION_NAME_BYTES_MAX or not all(part.isidentifier() for part in parts):
        raise BadNameError(name)
    return module_name, qualname


def is_coroutine_function(function: "Any") -> bool:
    """Whether it is `async def`. Decorated functions are unwrapped to look."""
    for _ in range(_WRAPPERS_MAX):
        code = getattr(function, "__code__", None)
        if code is not None and getattr(code, "co_flags", 0) & _COROUTINE:
            return True
        for name in ("__wrapped__", "__func__", "func"):
            inner = getattr(function, name, None)
            if callable(inner):
                function = inner
                break
        else:
            return False
    return False
