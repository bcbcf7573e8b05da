"""Turns what went wrong in a call into the meta of its `Failed` frame.

Loaded by the first call that fails, or whose result is not plain data at once.
"""

import sys
from posix import _exit

from clutch._convert import UnserializableError, attaching, convert, type_name
from clutch._errors import advice, cut, describe, format_traceback, message_of
from clutch._execute import DECODING, FINDING
from clutch._frames import (
    CODEC_JSON,
    CODEC_RAW,
    ProtocolError,
    encode_exception,
    failed_bad_arguments,
    failed_cancelled,
    failed_raised,
    failed_unserializable,
)
from clutch._limits import DEPTH_MAX, FAILURE_TEXT_BYTES_MAX
from clutch._names import BadNameError, split_name
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Optional, Tuple

    from clutch._execute import Body, Encode

    # call id, key, stage, function, arguments, keyword arguments; the last three are None when
    # the call did not come that far.
    Attempt = Tuple[int, bytes, int, Any, Any, Any]

__all__ = ["FailedError", "encode_slowly", "failure", "leave_child", "raised"]


class FailedError(Exception):
    """What a call failed of, ready to be sent."""

    def __init__(self, meta: bytes) -> None:
        super().__init__(meta)
        self.meta = meta


def failure(error: "BaseException | None", attempt: "Attempt", skip: "tuple[str, ...]") -> bytes:
    """The meta for a call that raised, or that was interrupted whatever it did."""
    try:
        return _failure(error, attempt, skip)
    except ProtocolError:
        raise
    except BaseException as unexpected:  # noqa: BLE001 - odd modules and finders of a user's.
        return raised(unexpected if error is None else error, skip)


def _failure(error: "BaseException | None", attempt: "Attempt", skip: "tuple[str, ...]") -> bytes:
    _call_id, key, stage, function, args, kwargs = attempt
    if error is None:
        return failed_cancelled()
    if isinstance(error, ProtocolError):
        raise error
    if type(error) is FailedError:
        return error.meta
    if type(error) is UnserializableError:
        return failed_unserializable(error.path, error.type_name, error.message)
    if stage == FINDING:
        missing = load("clutch._missing")
        if isinstance(error, BadNameError):
            return missing.bad_name(message_of(error))
        return missing.not_found(*split_name(key), error, skip)
    if stage == DECODING:
        reason = cut(message_of(error), FAILURE_TEXT_BYTES_MAX // 2)
        return failed_bad_arguments(
            f"the arguments cannot be decoded: {type_name(type(error))}: {reason}"
        )
    if isinstance(error, TypeError) and args is not None:
        data = describe(error, skip)
        is_without_frames = not data[3]
        if is_without_frames and load("clutch._missing").arguments_misfit(
            function, args, kwargs or {}
        ):
            return failed_bad_arguments(data[1])
    return raised(error, skip)


def raised(error: BaseException, skip: "tuple[str, ...]") -> bytes:
    """The meta for an exception of a user's."""
    try:
        name, message, notes, frames, text, chain, bases = describe(error, skip)
        note = advice(text)
        if note:
            notes, text = [*notes, note], f"{text}{note}\n"
        return failed_raised(encode_exception(name, message, notes, frames, text, chain, bases))
    except BaseException as unexpected:  # noqa: BLE001 - an answer is owed, whatever happens.
        message = f"the exception could not be described: {type_name(type(unexpected))}"
        return failed_raised(encode_exception(type_name(type(error)), message, [], [], "", [], []))


def encode_slowly(value: object, codec: int, encode: "Encode") -> "tuple[Optional[Body], bytes]":
    """The payload of a result that is not plain data as it is; or None, and the failure's meta."""
    if codec == CODEC_RAW:
        advice = "the caller asked for raw bytes; return bytes, bytearray or memoryview"
        return None, failed_unserializable("result", type_name(type(value)), advice)
    for_json = codec == CODEC_JSON
    try:
        attach = attaching(codec, encode)
        plain = convert(value, for_json=for_json, depth_max=DEPTH_MAX - for_json, attach=attach)
        body = encode(plain, 0, is_checked=True)
    except UnserializableError as error:
        return None, failed_unserializable(error.path, error.type_name, error.message)
    except BaseException as error:  # noqa: BLE001 - a value's own code ran.
        reason = cut(message_of(error), FAILURE_TEXT_BYTES_MAX // 2)
        message = f"reading it raised {type_name(type(error))}: {reason}"
        return None, failed_unserializable("result", type_name(type(value)), message)
    if body is None:
        message = "it cannot be encoded; return simpler data"
        return None, failed_unserializable("result", type_name(type(value)), message)
    return body, b""


def leave_child(error: "BaseException | None", skip: "tuple[str, ...]") -> None:
    """Ends a child that a call made with `os.fork` and that returned to the worker's own code.

    It must never speak for its parent. It ends as a script would that has come to its end.
    """
    code = 1
    try:
        if error is None:
            code = 0
        elif not isinstance(error, SystemExit):
            sys.stderr.write(format_traceback(error, skip))
        elif error.code is None:
            code = 0
        elif isinstance(error.code, int):
            code = int.__and__(error.code, 0xFF)
        else:
            sys.stderr.write(f"{error.code}\n")
    finally:
        _flush_and_exit(code)


def _flush_and_exit(code: int) -> "NoReturn":
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        _exit(code)
