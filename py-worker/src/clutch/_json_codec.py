"""The `json` codec, on the C code below the `json` package.

Importing the package costs more than a worker's whole start (it needs `re`); the two C types it
is built on are enough. Stricter than the package: no NaN, no infinity, no lone surrogates, since
whoever reads the bytes may not be Python.
"""

import _json
import sys

from clutch._limits import DEPTH_MAX
from clutch._nesting import nests_deeper_than
from clutch._pristine import load, no_imports, pristine_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["decode", "encode"]

_WHITESPACE = " \t\n\r"
# Rust's JSON reader refuses the 128th level.
_LEVELS_MAX = DEPTH_MAX - 1


def _refuse_constant(name: str) -> "NoReturn":
    raise ValueError(f"JSON has no {name}")


class _ScannerOptions:
    """What the C scanner asks of a `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


if hasattr(sys, "gettotalrefcount"):
    # A debug build would abort on that SystemError.
    load("json.decoder")
_scan = _json.make_scanner(_ScannerOptions())  # pyright: ignore[reportArgumentType]


def decode(payload: "memoryview | bytes") -> "Any":
    """The value of a JSON text in UTF-8; any exception means that it is not one."""
    text = str(payload, "utf-8").strip(_WHITESPACE)
    try:
        # To name an error, the C code would import `json.decoder`: perhaps a user's file.
        with no_imports:
            value, end = _scan(text, 0)
    except (ImportError, StopIteration, SystemError):
        # The package's own words for what is wrong with the text. (3.10 and 3.11 raise nothing
        # when the module is not loaded, which Python reports as a SystemError.)
        with pristine_imports:
            load("json.decoder").JSONDecoder().decode(text)
        raise
    if end != len(text):
        raise ValueError(f"something follows the JSON value at character {end}")
    return value


def _not_data(value: object) -> "NoReturn":
    raise TypeError(f"{type(value).__name__} is not JSON")


def encode(value: object, wrapped: int, *, is_checked: bool = False) -> "bytes | None":
    """The JSON text of a value, or None when the value is not (only) what JSON can say.

    `wrapped` is how many containers the caller may still put around the value.
    """
    del is_checked
    encoder = _json.make_encoder(
        {}, _not_data, _json.encode_basestring, None, ":", ",", False, False, False
    )
    try:
        text = "".join(encoder(value, 0))
        payload = text.encode()
    except (TypeError, ValueError, RecursionError):
        return None
    levels = payload.count(b"[") + payload.count(b"{")
    if levels > _LEVELS_MAX - wrapped and nests_deeper_than(value, _LEVELS_MAX - wrapped):
        return None
    return payload
