"""Runs a function once for each item of a list, in one call: what `map` sends in chunks.

An item that raises costs only itself. An interrupt ends the whole chunk. Items whose function
returns `clutch.SKIP` have no result. Where the caller names a fold, the results of all items become
one, from left to right.
"""

import sys
from _functools import reduce  # pyright: ignore[reportMissingImports]
from _operator import is_, not_, setitem
from itertools import compress, count, repeat, starmap
from posix import getpid

from clutch._call import SKIP, Cancelled
from clutch._convert import UnserializableError, attaching, convert, type_name
from clutch._errors import as_dict, describe
from clutch._failures import FailedError
from clutch._frames import (
    CODEC_JSON,
    FLAG_ITEMS,
    MetaReader,
    ProtocolError,
    failed_bad_arguments,
)
from clutch._limits import DEPTH_MAX, FAILURE_TEXT_BYTES_MAX, PLACE_WORDS
from clutch._names import split_name
from clutch._pristine import load, pristine_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

    from clutch._call import State
    from clutch._convert import Attach
    from clutch._execute import Body, Encode

    Failures = List[Tuple[int, Dict[str, Any]]]

__all__ = ["Items"]

# Around an item: the list of results, and the triple of results, failures and what was skipped.
_WRAPPED = 2
# The first failures are told in full; a chunk in which all fail must still fit a payload.
_FULL_FAILURES_MAX = 16
_SHORT_TEXT_BYTES_MAX = 4 << 10

# What is done with an item: it is the argument, the list of arguments, or only folded.
_ITEM, _STAR, _NOTHING = 0, 1, 2

# On the page, where it says how many items have begun.
_BEGUN = PLACE_WORDS - 1


class _BadItemError(Exception):
    """An item is not what the function is to be called with."""


class Items:
    """A list of items, and then their results and failures."""

    def __init__(
        self,
        function: "Callable[..., Any]",
        named: "Callable[..., Any]",
        items: "Any",
        call_id: int,
        skip: "tuple[str, ...]",
        state: "State",
        find: "Callable[[bytes], Callable[..., Any]]",
    ) -> None:
        self._apply, self._fold = _each_of(state.key)
        self._state = state
        self._function = function
        # The function as the caller named it.
        self._named = named
        self._items = items
        self._call_id = call_id
        self._skip = skip
        self._find = find
        # Where an item has no result, `SKIP` stands.
        self._results: "list[Any]" = []
        self._failures: "Failures" = []

    def run(self) -> None:
        """Calls the function for each item, and folds. What it raises ends the chunk."""
        pid = getpid()
        try:
            # Before any item, so that a fold which is not there costs nothing but a look.
            fold = self._find_fold() if self._fold else None
            if self._apply == _NOTHING:
                self._results.extend(self._items)
            else:
                self._run(pid)
            if fold is not None and getpid() == pid:
                self._state.page[_BEGUN] = 0
                self._fold_results(fold)
        finally:
            self._state.end_items = int
            # A child has a page of its own, unless C code has made it.
            if getpid() == pid:
                self._state.page[_BEGUN] = 0

    def _find_fold(self) -> "Callable[..., Any]":
        key = len(self._fold).to_bytes(8, "little") + self._fold + b"\0"
        state = self._state
        try:
            try:
                return self._find(key)
            finally:
                # Looking for it has disarmed.
                state.armed = True
                if state.interrupted == self._call_id:
                    raise Cancelled
        except Cancelled:
            raise
        except BaseException as error:
            missing = load("clutch._missing")
            failure = missing.not_found(*split_name(key), error, self._skip, self._role())
            raise FailedError(failure) from error

    def _role(self) -> str:
        """What failures of the fold begin with: it is no item's fault."""
        return f"the fold {self._fold.decode('utf-8', 'replace')}: "

    def _run(self, pid: int) -> None:
        results, total = self._results, len(self._items)
        function, call = self._function, map
        if self._apply == _STAR:
            call = starmap  # type: ignore[assignment]
            if not set(map(type, self._items)) <= {list, tuple}:
                # Others could be taken apart as well: a text into letters.
                function, call = _spread(function), map
        remaining = self._remaining()
        while len(results) < total:
            try:
                # At C's speed; what was appended before an item raises stays in the list.
                results.extend(call(function, remaining))
                if getpid() != pid:
                    return
                if len(results) < total:
                    # To `map`, it was the end of the items.
                    raise StopIteration
            except BaseException as error:
                # An item alone is a call like any other, and so is its failure.
                if total == 1 and type(error) is _BadItemError:
                    raise FailedError(failed_bad_arguments(str(error))) from None
                if total == 1 or self._state.interrupted == self._call_id or getpid() != pid:
                    raise
                self._failed(error)

    def _remaining(self) -> "Iterator[Any]":
        """The items; none are left in a child that an item forks, which would fork again.

        Each is counted on the page before it is given, which costs 0.1 us.
        """
        remaining = iter(self._items)
        # Moves to its end, in every child made by Python.
        self._state.end_items = lambda: remaining.__setstate__(sys.maxsize)
        tell: "Any" = setitem
        begun = map(not_, map(tell, repeat(self._state.page), repeat(_BEGUN), count(1)))
        if "_ctypes" not in sys.modules and "_cffi_backend" not in sys.modules:
            return compress(remaining, begun)
        # C code may fork as well, and tells nobody. Asking for each item costs 0.3 us.
        is_ours = map(getpid().__eq__, starmap(getpid, repeat(())))
        return compress(compress(remaining, is_ours), begun)

    def _fold_results(self, fold: "Callable[..., Any]") -> None:
        results, self._results = self._results, []
        if self._failures:
            # Nobody wants what came of the others.
            return
        values = [value for value in results if value is not SKIP]
        del results
        remaining: "Any" = iter(values)
        self._state.end_items = lambda: remaining.__setstate__(sys.maxsize)
        if values:
            try:
                folded = reduce(fold, remaining)
            except TypeError as error:
                self._state.armed = False
                self._raise_misfit(fold, error)
                raise
            if folded is SKIP:
                message = "a fold has to give a result; give back what it had so far"
                raise UnserializableError(None, type(SKIP), message)
            self._results.append(folded)

    def _raise_misfit(self, fold: "Callable[..., Any]", error: TypeError) -> None:
        """Says so, if the fold could not even be called with two results."""
        with pristine_imports:
            data = describe(error, self._skip)
            if not data[3] and load("clutch._missing").arguments_misfit(fold, (None, None), {}):
                message = f"{self._role()}{data[1]}; it is called with two results"
                raise FailedError(failed_bad_arguments(message)) from None

    def encode(self, codec: int, encode: "Encode") -> "tuple[Body, int]":
        """The payload with the results, and its flags."""
        if not self._failures:
            body = encode(self._results, 1)
            if body is not None:
                return body, 0
        has_skipped = any(map(is_, self._results, repeat(SKIP)))
        if self._failures or has_skipped:
            # Where only some have none, the others are as fast as ever.
            body = encode(self._sorted_out(self._results), 0)
            if body is not None:
                return body, FLAG_ITEMS
        depth_max = DEPTH_MAX - _WRAPPED - (codec == CODEC_JSON)
        failed = {index for index, _ in self._failures}
        results: "list[Any]" = []
        attach = attaching(codec, encode)
        for index, value in enumerate(self._results):
            try:
                plain = value is SKIP or self._plain(value, attach, encode, depth_max, codec)
                results.append(SKIP if value is SKIP else plain)
            except UnserializableError as error:
                if len(self._items) == 1 or self._fold:
                    raise
                assert index not in failed
                self._unserializable(index, error)
                results.append(SKIP)
        if not self._failures and not has_skipped:
            return encode(results, 1, is_checked=True) or b"", 0
        return encode(self._sorted_out(results), 0, is_checked=True) or b"", FLAG_ITEMS

    def _sorted_out(self, results: "list[Any]") -> "tuple[list[Any], Failures, list[int]]":
        """The results of items that have one, the failures, and the indices of the others."""
        self._failures.sort(key=_index_of)
        failed = {index for index, _ in self._failures}
        skipped = [at for at, value in enumerate(results) if value is SKIP and at not in failed]
        return [value for value in results if value is not SKIP], self._failures, skipped

    def _plain(
        self,
        value: object,
        attach: "Optional[Attach]",
        encode: "Encode",
        depth_max: int,
        codec: int,
    ) -> "Any":
        if encode(value, _WRAPPED) is not None:
            return value
        try:
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
            if type(error) is _BadItemError or self._misfits(error, data[3]):
                failure = _failure("clutch.BadArguments", data[1], [])
            else:
                failure = as_dict(data)
        self._failures.append((len(self._results), failure))
        self._results.append(SKIP)
        state.armed = True
        if state.interrupted == self._call_id:
            state.armed = False
            raise Cancelled

    def _misfits(self, error: BaseException, frames: "List[Any]") -> bool:
        """Whether the function could not even be called with its item."""
        if frames or not isinstance(error, TypeError):
            return False
        item = self._items[len(self._results)]
        args = tuple(item) if self._apply == _STAR else (item,)
        misfit: bool = load("clutch._missing").arguments_misfit(self._named, args, {})
        return misfit

    def arguments(self) -> "Any":
        """What the function was called with, if there is one item."""
        if self._apply == _STAR and len(self._items) == 1:
            return self._items[0]
        return self._items

    def _unserializable(self, index: int, error: UnserializableError) -> None:
        message = f"{error.path}: {error.type_name} ({error.message})"
        parts = [error.path, error.type_name, error.message]
        self._failures.append((index, _failure("clutch.Unserializable", message, parts)))


def _each_of(key: bytes) -> "Tuple[int, bytes]":
    """What a call does with its items, and the name of their fold."""
    reader = MetaReader(key)
    reader.raw()
    if not reader.flag():
        return _ITEM, b""
    apply, fold = reader.u32(), reader.raw()
    if apply > _NOTHING:
        raise ProtocolError(f"nothing is known of the way {apply} to call a function")
    return apply, fold


def _spread(function: "Callable[..., Any]") -> "Callable[[Any], Any]":
    """Calls the function with the items of a list, and with nothing else."""

    def spread(item: "Any") -> "Any":
        if type(item) is not list and type(item) is not tuple:
            raise _BadItemError(
                f"an item is {type_name(type(item))}, but must be a list of the arguments"
            )
        return function(*item)

    return spread


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
