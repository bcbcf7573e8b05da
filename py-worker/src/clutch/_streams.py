"""A call that answers with a stream: each item goes out as soon as there is leave for it.

The function gives an iterator or an async iterator, or a coroutine that gives one. It is asked for
its next item only when that may be sent, so it is never ahead of whoever takes the items. When a
stream ends before its iterator does, the iterator is closed, and its `finally` runs.

`Stream` takes the place that `_items.Items` has in a chunk. Loaded by the first such call.
"""

import sys
from _struct import Struct
from posix import getpid

from clutch._call import Cancelled, function_of
from clutch._convert import UnserializableError, attaching, convert, type_name
from clutch._errors import format_traceback, message_of
from clutch._execute import Coroutine
from clutch._failures import FailedError
from clutch._frames import (
    CODEC_JSON,
    CODEC_RAW,
    FLAG_ATTACHED,
    FLAG_ITEMS,
    FLAG_KEYWORDS,
    ITEM,
    failed_bad_arguments,
    failed_too_large,
    header_bytes,
)
from clutch._limits import DEPTH_MAX
from clutch._port import open_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Tuple

    from clutch._call import State
    from clutch._execute import Body, Encode
    from clutch._outgoing import Outgoing
    from clutch._port import Port

    # The codec and how it writes, the largest payload and the most beside it, files whose frames
    # are not the user's, what completes a coroutine, and where the executor's calls get their
    # ports.
    How = Tuple[int, Encode, Tuple[int, int], Tuple[str, ...], Callable[[Any], Any], Any]

__all__ = ["Stream", "unfold"]

_pack_item = Struct("<IQ").pack
_ITEM_META_BYTES = 12
# The stream that a call answers with.
_ANSWER = 0
# How many items in a row, before other calls on the same event loop have their turn.
_TURN_ITEMS = 16

_modules = sys.modules


def unfold(
    function: "Callable[..., Any]",
    flags: int,
    args: "Any",
    call_id: int,
    state: "State",
    how: "How",
) -> "Tuple[Any, Any, Stream]":
    """Arguments, keyword arguments, and what runs the call."""
    kwargs: "Any" = {}
    if flags & FLAG_ITEMS:
        raise TypeError("a chunk of items is answered as a whole, not as a stream")
    if flags & FLAG_KEYWORDS:
        if how[0] == CODEC_RAW:
            raise TypeError("raw bytes are one argument; use plain or json for more")
        args, kwargs = args
        if type(kwargs) is not dict:
            raise TypeError("they are no pair of a list and a dict")
    if type(args) not in (list, tuple):
        raise TypeError("they are no list")
    return args, kwargs, Stream(function, args, kwargs, call_id, state, how)


class Stream:
    """The call of a function whose items are sent one by one."""

    def __init__(
        self,
        function: "Callable[..., Any]",
        args: "Any",
        kwargs: "Any",
        call_id: int,
        state: "State",
        how: "How",
    ) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._call_id = call_id
        self._state = state
        self._codec, self._encode, self._limits, self._skip, self._complete, line = how
        # What the iterator returned.
        self._value: object = None
        self._pid = getpid()
        self._port: "Port" = open_port(line, call_id, state)
        # What is told whether the call may be interrupted where it is.
        self._armable: "State | Port" = state

    def run(self) -> None:
        """Calls the function, and sends its items."""
        try:
            self._run()
        except BaseException:
            self._forget()
            raise

    def _run(self) -> None:
        value = self._function(*self._args, **self._kwargs)
        if type(value) is Coroutine:
            value = self._on_loop(self._follow(value))
            if value is self:
                return
        kind = type(value)
        if hasattr(kind, "__next__"):
            self._value = self._pump(value)
        elif hasattr(kind, "__anext__"):
            self._on_loop(self._pump_async(value))
        else:
            raise self._no_iterator(value)

    async def run_on_loop(self) -> None:
        """The same, where the whole call runs on an event loop."""
        try:
            value = self._function(*self._args, **self._kwargs)
            if not hasattr(type(value), "__anext__"):
                raise self._no_iterator(value)
            await self._pump_async(value)
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        """Lets go of what was attached: whoever keeps the exception has this in its traceback."""
        self._args, self._kwargs = (), {}
        self._encode: "Any" = None

    def _on_loop(self, coroutine: "Any") -> "Any":
        port = self._port
        if not port.is_shared:
            return self._complete(coroutine)
        # On another thread than its own.
        self._armable = port
        try:
            return port.complete(coroutine)
        finally:
            self._armable = self._state

    async def _follow(self, coroutine: "Any") -> "Any":
        """What a coroutine gives; an async iterator is run to its end here, on the same loop."""
        value = await coroutine
        if not hasattr(type(value), "__anext__"):
            return value
        await self._pump_async(value)
        return self

    def _pump(self, iterator: "Any") -> "Any":
        """Sends all items; what the iterator returned."""
        try:
            try:
                return self._send_all(iterator)
            except BaseException:
                self._state.armed = False
                raise
        except BaseException:
            # Also when the only `Cancelled` came before the disarming above.
            self._state.armed = False
            if getpid() == self._pid:
                self._close(iterator)
            raise

    def _send_all(self, iterator: "Any") -> "Any":
        state, port, call_id = self._state, self._port, self._call_id
        index = 0
        while True:
            while index >= port.given or port.is_choked:
                port.wait(self._may_send)
            try:
                value = next(iterator)
            except StopIteration as end:
                return end.value
            state.armed = False
            if getpid() != self._pid:
                # A child that the iterator forked. It must not speak for its parent.
                return None
            self._send(index, value)
            # Large ones do not wait for the next one.
            del value
            index += 1
            state.armed = True
            if state.interrupted == call_id:
                raise Cancelled

    async def _pump_async(self, iterator: "Any") -> None:
        """The same of an async iterator, on an event loop."""
        try:
            try:
                await self._send_all_async(iterator)
            except BaseException:
                self._arm(False)
                raise
        except BaseException as error:
            self._arm(False)
            if getpid() == self._pid and type(error) is not GeneratorExit:
                await self._close_async(iterator)
            raise

    async def _send_all_async(self, iterator: "Any") -> None:
        port = self._port
        index = 0
        while True:
            while index >= port.given or port.is_choked:
                await port.awaited(self._may_send)
            try:
                value = await iterator.__anext__()
            except StopAsyncIteration:
                return
            self._arm(False)
            if getpid() != self._pid:
                return
            self._send(index, value)
            del value
            index += 1
            self._arm(True)
            if self._state.interrupted == self._call_id:
                raise Cancelled
            if port.is_shared and index % _TURN_ITEMS == 0:
                # Others want their turn, also when this one never has to wait.
                await _modules["asyncio"].sleep(0)

    def _may_send(self) -> bool:
        port = self._port
        return port.sent < port.given and not port.is_choked

    def _send(self, index: int, value: object) -> None:
        body = self._encode(value, 0)
        if body is None:
            body = self._encoded_slowly(value, f"item[{index}]")
        size, flags, descriptors = len(body), 0, 0
        if size > self._limits[0]:
            body = self._sealed(body, index)
            size, flags, descriptors = len(body.payload), FLAG_ATTACHED, len(body.descriptors)
        self._port.sent = index + 1
        head = header_bytes(
            ITEM, self._call_id, _ITEM_META_BYTES, size, flags, self._codec, descriptors
        )
        self._port.send(head + _pack_item(_ANSWER, index), body)

    def _sealed(self, body: "Body", index: int) -> "Outgoing":
        """A payload that parts have left; all others of that length are too large."""
        if isinstance(body, (bytes, memoryview)):
            raise FailedError(failed_too_large(len(body), self._limits[0]))
        failed = body.seal(*self._limits, f"item[{index}]")
        if failed:
            raise FailedError(failed)
        return body

    def _encoded_slowly(self, value: object, name: str) -> "Body":
        """The payload of what is not plain data as it is."""
        codec = self._codec
        try:
            if codec == CODEC_RAW:
                advice = "the caller asked for raw bytes; give bytes, bytearray or memoryview"
                raise UnserializableError(None, type(value), advice)
            for_json = codec == CODEC_JSON
            attach = attaching(codec, self._encode)
            plain = convert(value, for_json=for_json, depth_max=DEPTH_MAX - for_json, attach=attach)
            body = self._encode(plain, 0, is_checked=True)
            if body is None:
                message = "it cannot be encoded; give simpler data"
                raise UnserializableError(None, type(value), message)
        except UnserializableError as error:
            error.path = name + error.path[len("result") :]
            raise
        except BaseException as error:  # noqa: BLE001 - a value's own code ran.
            message = f"reading it raised {type_name(type(error))}: {message_of(error)[:1000]}"
            unserializable = UnserializableError(None, type(value), message)
            unserializable.path = name
            raise unserializable from None
        return body

    def _close(self, iterator: "Any") -> None:
        """Closes an iterator that will be asked for no more."""
        try:
            self._arm(self._state.interrupted != self._call_id)
            close = getattr(iterator, "close", None)
            if callable(close):
                close()
            self._arm(False)
        except BaseException as error:  # noqa: BLE001 - whatever its `finally` raises.
            self._tell(error)

    async def _close_async(self, iterator: "Any") -> None:
        try:
            self._arm(self._state.interrupted != self._call_id)
            close = getattr(iterator, "aclose", None)
            if callable(close):
                closing: "Any" = close()
                await closing
            self._arm(False)
        except BaseException as error:  # noqa: BLE001 - whatever its `finally` raises.
            self._tell(error)

    def _arm(self, armed: bool) -> None:
        """Lets what runs be interrupted, or not. Not `finally`, if an interrupt has led to it."""
        self._armable.armed = armed

    def _tell(self, error: BaseException) -> None:
        """Says what closing raised: the call fails for another reason, which its caller is told."""
        self._arm(False)
        if getpid() != self._pid or (
            isinstance(error, Cancelled) and self._state.interrupted == self._call_id
        ):
            return
        try:
            text = format_traceback(error, self._skip)
            sys.stderr.write(f"clutch worker: closing the iterator of a stream raised\n{text}")
        except BaseException:  # noqa: BLE001, S110 - a user's stream, or a handler.
            pass

    def _no_iterator(self, value: object) -> FailedError:
        name = function_of(self._state.key)
        return FailedError(
            failed_bad_arguments(
                f"{name} returned {_a(type_name(type(value)))}, which is no iterator; "
                "call it without a stream"
            )
        )

    def encode(self, codec: int, encode: "Encode") -> "Tuple[Body, int]":
        """The payload with what the iterator returned, and its flags."""
        del codec
        body = encode(self._value, 0)
        if body is None and self._value is None:
            # `raw` has no bytes that say None.
            return b"", 0
        return self._encoded_slowly(self._value, "result") if body is None else body, 0


def _a(name: str) -> str:
    if name == "NoneType":
        return "None"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
