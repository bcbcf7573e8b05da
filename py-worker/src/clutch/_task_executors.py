"""How the mode `async` runs a call: as a task of its loop, or on a thread beside it."""

import asyncio
from _struct import Struct
from posix import getpid
from time import monotonic

from clutch._call import Cancelled
from clutch._cancel import Lane
from clutch._execute import (
    CALLING,
    DECODING,
    FINDING,
    NAME_AT,
    Coroutine,
)
from clutch._frames import (
    FLAG_ITEMS,
    FLAG_STREAM,
    ProtocolError,
)
from clutch._lanes import LaneExecutor
from clutch._names import ASYNC_GENERATOR, is_coroutine_function
from clutch._pristine import load, pristine_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Tuple

    from clutch._execute import Answer
    from clutch._receive import Payload


__all__ = ["TaskExecutor", "ThreadExecutor"]

_u64 = Struct("<Q").unpack_from


class TaskExecutor(LaneExecutor):
    """Runs calls on the loop, many at once, but each step of ours for one of them alone."""

    __slots__ = ("_are_async",)

    def __init__(self, package: str, payload_bytes_max: int, lane: Lane) -> None:
        super().__init__(package, payload_bytes_max, lane)
        self._asyncio()
        self._are_async: "dict[bytes, Tuple[Any, bool]]" = {}

    async def run(
        self,
        lane: Lane,
        flags: int,
        codec: int,
        call_id: int,
        meta: memoryview,
        payload: "Payload",
    ) -> "Optional[Answer]":
        """The answer of a call; None if it has to go to a thread."""
        if len(meta) < NAME_AT:
            raise ProtocolError("the meta of a call is too short")
        self._state = lane
        lane.key = key = bytes(meta[8:])
        (lane.timeout_ms,) = _u64(meta)
        lane.started = monotonic()
        lane.running = call_id
        stage = FINDING
        function = args = kwargs = value = stream = error = None
        encode: "Any" = None
        try:
            place = self._functions.get(key)
            function = place[0].get(place[1]) if place else None
            if function is None:
                function = self._find(key)
            # Looking at a function may be user code, too.
            lane.page[0] = call_id
            if flags & FLAG_ITEMS or not self._is_async(key, function, flags):
                return None
            stage = DECODING
            decode, encode = self._codecs.get(codec) or self._load_codec(codec)
            if flags:
                args, encode = self._decode(flags, codec, payload, call_id)
                args, kwargs, stream = self._unfold(flags, codec, function, args, call_id, encode)
            else:
                args = decode(payload)  # type: ignore[arg-type]
            if type(args) is not list and type(args) is not tuple:
                raise TypeError("they are no list")
            stage = CALLING
            lane.armed = True
            if lane.interrupted == call_id:
                raise Cancelled
            if stream is not None:
                await stream.run_on_loop()
            else:
                value = function(*args, **(kwargs or {}))
                if type(value) is Coroutine:
                    value = await value
        except BaseException as raised:  # noqa: BLE001 - whatever user code raises.
            error = raised
        lane.armed = False
        lane.running = 0
        self._state = lane
        if getpid() != self._pid:
            with pristine_imports:
                load("clutch._failures").leave_child(error, self._skip)
        if error is not None or lane.interrupted == call_id:
            answer = self._failed(error, (call_id, key, stage, function, args, kwargs))
            # As in `Executor.execute`.
            error = encode = None
            del args, kwargs, stream, value, payload
            return answer
        return self._answered(call_id, codec, value, stream, encode)

    def _is_async(self, key: bytes, function: "Any", flags: int) -> bool:
        if flags & FLAG_STREAM:
            # What only gives an iterator may give a plain one, whose `next` would stop the loop:
            # it begins on a thread, which is left for what turns out to be of the loop.
            return _is_async_generator(function)
        known = self._are_async.get(key)
        if known is not None and known[0] is function:
            return known[1]
        is_async = _is_of_loop(function)
        if len(self._are_async) > len(self._functions):
            self._are_async.clear()
        self._are_async[key] = function, is_async
        return is_async


def _is_async_generator(function: "Any") -> bool:
    try:
        # As it is: whatever it is decorated with may give something else.
        return bool(function.__code__.co_flags & ASYNC_GENERATOR)
    except BaseException:  # noqa: BLE001 - it has no code of its own, or cannot be looked at.
        return False


def _is_of_loop(function: "Any") -> bool:
    try:
        return is_coroutine_function(function) or is_coroutine_function(type(function).__call__)
    except BaseException:  # noqa: BLE001 - it cannot be looked at, but perhaps called.
        return False


class ThreadExecutor(LaneExecutor):
    """Runs calls on a thread beside the loop; coroutines go back to it."""

    __slots__ = ("_loop",)

    def __init__(
        self, package: str, payload_bytes_max: int, lane: Lane, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(package, payload_bytes_max, lane)
        self._loop = loop
        self._asyncio()

    def _await(self, coroutine: "Any") -> "Any":
        lane = self._state
        # What is ours must not be interrupted half-way.
        lane.armed = False
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        lane.on_interrupt = future.cancel
        try:
            lane.armed = True
            if lane.interrupted == lane.running:
                raise Cancelled
            return future.result()
        finally:
            lane.on_interrupt = None
            future.cancel()
