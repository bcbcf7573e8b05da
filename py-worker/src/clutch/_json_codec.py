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

_INFINITIES = (float("inf"), float("-inf"))
# Any digit looks like a zero, any exponent like a small one.
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
# With an exponent of two digits, a number overflows only if it has more digits than this.
_LONG_DIGITS = 200
_ZEROS = b"0" * _LONG_DIGITS
# How such keys begin or end, also the text of a list's, which then costs a look.
_ODD_KEYS = (b'{"0', b',"0', b'{"-0', b',"-0', b'"true":', b'"false":', b'"null":')


def _refuse_constant(name: str) -> "NoReturn":
    raise ValueError(f"JSON has no {name}")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in _INFINITIES:
        raise ValueError(f"the number {digits[:40]} is too large for a float; send it as text")
    return number


def _distinct(pairs: "list[tuple[str, Any]]") -> None:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("an object has two keys of one text")


class _ScannerOptions:
    """What the C scanner asks of a `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook: "Any" = None
    parse_float: "Any" = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


if hasattr(sys, "gettotalrefcount"):
    # A debug build would abort on that SystemError.
    load("json.decoder")


def _scanner(object_pairs_hook: "Any" = None, parse_float: "Any" = float) -> "Any":
    options = _ScannerOptions()
    options.object_pairs_hook, options.parse_float = object_pairs_hook, parse_float
    return _json.make_scanner(options)  # pyright: ignore[reportArgumentType]


_scan = _scanner()
# Python code for each float; only for texts that may hold one beyond the largest.
_scan_finite = _scanner(parse_float=_finite)
_scan_distinct = _scanner(object_pairs_hook=_distinct)


def decode(payload: "memoryview | bytes") -> "Any":
    """The value of a JSON text in UTF-8; any exception means that it is not one."""
    payload = bytes(payload)
    text = str(payload, "utf-8").strip(_WHITESPACE)
    try:
        # To name an error, the C code would import `json.decoder`: perhaps a user's file.
        with no_imports:
            value, end = (_scan_finite if _may_overflow(payload) else _scan)(text, 0)
    except (ImportError, StopIteration, SystemError):
        # The package's own words for what is wrong with the text. (3.10 and 3.11 raise nothing
        # when the module is not loaded, which Python reports as a SystemError.)
        with pristine_imports:
            load("json.decoder").JSONDecoder().decode(text)
        raise
    if end != len(text):
        raise ValueError(f"something follows the JSON value at character {end}")
    return value


def _may_overflow(payload: bytes) -> bool:
    """Whether the text may hold a number above 1e308: with an exponent or a size of 3 digits."""
    if len(payload) < _LONG_DIGITS and b"e" not in payload and b"E" not in payload:
        return False
    shape = payload.translate(_SHAPE)
    return b"e000" in shape or b"e+000" in shape or _ZEROS in shape


def _may_repeat_keys(payload: bytes) -> bool:
    """Whether a key may be the text of a number, of a bool or of None, and another the same."""
    if b"{" not in payload:
        return False
    shape = payload.translate(_SHAPE)
    return any(start in shape for start in _ODD_KEYS)


def _not_data(value: object) -> "NoReturn":
    raise TypeError(f"{type(value).__name__} is not JSON")


def encode(value: object, wrapped: int, *, is_checked: bool = False) -> "bytes | None":
    """The JSON text of a value, or None when the value is not (only) what JSON can say.

    `wrapped` is how many containers the caller may still put around the value.
    """
    encoder = _json.make_encoder(
        {}, _not_data, _json.encode_basestring, None, ":", ",", False, False, False
    )
    try:
        text = "".join(encoder(value, 0))
        payload = text.encode()
    except BaseException:  # noqa: BLE001 - a subclass of list or dict runs its own code here.
        return None
    if not is_checked and _may_repeat_keys(payload) and _repeats_keys(text):
        return None
    levels = payload.count(b"[") + payload.count(b"{")
    if levels > _LEVELS_MAX - wrapped and nests_deeper_than(value, _LEVELS_MAX - wrapped):
        return None
    return payload


def _repeats_keys(text: str) -> bool:
    """Whether an object has two keys of one text, as `{1: "a", "1": "b"}` would."""
    try:
        _scan_distinct(text, 0)
    except BaseException:  # noqa: BLE001 - only that, or it cannot be read for another reason.
        return True
    return False
