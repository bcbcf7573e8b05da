"""Runs a function once for each item of a list, in one call: what `map` sends in chunks.

An item that raises costs only itself. An interrupt ends the whole chunk.
"""

import sys
from itertools import compress, repeat, starmap
from posix import getpid

from clutch._call import Cancelled
from clutch._convert import UnserializableError, attaching, convert
from clutch._errors import as_dict, describe
from clutch._frames import CODEC_JSON, FLAG_ITEMS
from clutch._limits import DEPTH_MAX, FAILURE_TEXT_BYTES_MAX
from clutch._pristine import load, pristine_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Tuple

    from clutch._call import State
    from clutch._execute import Body, Encode

    Failures = List[Tuple[int, Dict[str, Any]]]

__all__ = ["Items"]

# Around an item: the list of results, and the pair of results and failures.
_WRAPPED = 2
# The first failures are told in full; a chunk in which all fail must still fit a payload.
_FULL_FAILURES_MAX = 16
_SHORT_TEXT_BYTES_MAX = 4 << 10


class Items:
    """A list of items, and then their results and failures."""

    def __init__(
        self,
        function: "Callable[[Any], Any]",
        named: "Callable[..., Any]",
        items: "Any",
        call_id: int,
        skip: "tuple[str, ...]",
        state: "State",
    ) -> None:
        self._state = state
        self._function = function
        # The function as the caller named it.
        self._named = named
        self._items = items
        self._call_id = call_id
        self._skip = skip
        self._results: "list[Any]" = []
        self._failures: "Failures" = []

    def run(self) -> None:
        """Calls the function for each item. What it raises ends the chunk."""
        try:
            self._run()
        finally:
            self._state.end_items = int

    def _run(self) -> None:
        results, count = self._results, len(self._items)
        remaining, pid = self._remaining(), getpid()
        while len(results) < count:
            try:
                # At C's speed; what was appended before an item raises stays in the list.
                results.extend(map(self._function, remaining))
                if getpid() != pid:
                    return
                if len(results) < count:
                    # To `map`, it was the end of the items.
                    raise StopIteration
            except BaseException as error:
                # An item alone is a call like any other, and so is its failure.
                if count == 1 or self._state.interrupted == self._call_id or getpid() != pid:
                    raise
                self._failed(error)

    def _remaining(self) -> "Iterator[Any]":
        """The items; none are left in a child that an item forks, which would fork again."""
        remaining = iter(self._items)
        # Moves to its end, in every child made by Python.
        self._state.end_items = lambda: remaining.__setstate__(sys.maxsize)
        if "_ctypes" not in sys.modules and "_cffi_backend" not in sys.modules:
            return remaining
        # C code may fork as well, and tells nobody. Asking for each item costs 0.3 us.
        is_ours = map(getpid().__eq__, starmap(getpid, repeat(())))
        return compress(remaining, is_ours)

    def encode(self, codec: int, encode: "Encode") -> "tuple[Body, int]":
        """The payload with the results, and its flags."""
        if not self._failures:
            body = encode(self._results, 1)
            if body is not None:
                return body, 0
        depth_max = DEPTH_MAX - _WRAPPED - (codec == CODEC_JSON)
        results: "list[Any]" = []
        for value in self._results:
            try:
                results.append(self._plain(value, codec, encode, depth_max))
            except UnserializableError as error:
                if len(self._results) == 1:
                    raise
                self._unserializable(len(results), error)
                results.append(None)
        if not self._failures:
            return encode(results, 1, is_checked=True) or b"", 0
        self._failures.sort(key=_index_of)
        return encode((results, self._failures), 0, is_checked=True) or b"", FLAG_ITEMS

    def _plain(self, value: object, codec: int, encode: "Encode", depth_max: int) -> "Any":
        if encode(value, _WRAPPED) is not None:
            return value
        try:
            attach = attaching(codec, encode)
            for_json = codec == CODEC_JSON
            value = convert(value, for_json=for_json, depth_max=depth_max, attach=attach)
        except UnserializableError:
            raise
        except BaseException as error:  # noqa: BLE001 - a value's own code ran.
            message = f"reading it raised {type(error).__name__}"
            raise UnserializableError(None, type(value), message) from None
        if encode(value, _WRAPPED, is_checked=True) is None:
            raise UnserializableError(None, type(value), "it cannot be encoded")
        return value

    def _failed(self, error: BaseException) -> None:
        state = self._state
        # Describing runs the exception's own code and catches what that raises: an interrupt
        # must not be caught there.
        state.armed = False
        is_early = len(self._failures) < _FULL_FAILURES_MAX
        text_bytes_max = FAILURE_TEXT_BYTES_MAX if is_early else _SHORT_TEXT_BYTES_MAX
        with pristine_imports:
            data = describe(error, self._skip, text_bytes_max)
            if self._misfits(error, data[3]):
                failure = _failure("clutch.BadArguments", data[1], [])
            else:
                failure = as_dict(data)
        self._failures.append((len(self._results), failure))
        self._results.append(None)
        state.armed = True
        if state.interrupted == self._call_id:
            state.armed = False
            raise Cancelled

    def _misfits(self, error: BaseException, frames: "List[Any]") -> bool:
        """Whether the function could not even be called with its item."""
        if frames or not isinstance(error, TypeError):
            return False
        item = self._items[len(self._results)]
        misfit: bool = load("clutch._missing").arguments_misfit(self._named, (item,), {})
        return misfit

    def _unserializable(self, index: int, error: UnserializableError) -> None:
        message = f"{error.path}: {error.type_name} ({error.message})"
        parts = [error.path, error.type_name, error.message]
        self._failures.append((index, _failure("clutch.Unserializable", message, parts)))


def _failure(type_name: str, message: str, notes: "List[str]") -> "Dict[str, Any]":
    """A failure that is no exception, with the fields of one: its type says which it is."""
    return {
        "type_name": type_name,
        "message": message,
        "notes": notes,
        "frames": [],
        "traceback": "",
        "chain": [],
        "bases": [],
    }


def _index_of(failure: "Tuple[int, Dict[str, Any]]") -> int:
    return failure[0]
