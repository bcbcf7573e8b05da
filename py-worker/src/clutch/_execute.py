"""Runs one call: finds its function, decodes its arguments, calls it, encodes what came back.

`Executor.execute` is what every call goes through, and costs microseconds. What a call that fails
needs is `_failures`; each codec is loaded when it is first used.
"""

import sys
from _struct import Struct
from posix import getpid
from time import monotonic

from clutch._call import Cancelled, State, state
from clutch._frames import (
    CODEC_JSON,
    CODEC_NONE,
    CODEC_PLAIN,
    CODEC_RAW,
    FAILED,
    FLAG_ATTACHED,
    FLAG_ITEMS,
    FLAG_KEYWORDS,
    FLAG_STREAM,
    RESULT,
    ProtocolError,
    encode_exception,
    failed_cancelled,
    failed_raised,
    failed_too_large,
    header_bytes,
)
from clutch._pristine import load, pristine_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Protocol, Tuple, Union

    from clutch._failures import Attempt
    from clutch._items import Items
    from clutch._outgoing import Outgoing
    from clutch._receive import Payload
    from clutch._streams import Stream

    # A module's names and the function's own among them, so that a redefinition is seen.
    Place = Tuple[Dict[str, Any], str]
    Body = Union[bytes, memoryview, Outgoing]
    Answer = Tuple[bytes, Body]
    Decode = Callable[[memoryview], Any]
    # What runs a call that is more than one call of a function.
    Many = Union[Items, Stream]

    class Encode(Protocol):
        """How a codec writes a result; None when the value is not plain data as it is."""

        def __call__(
            self, value: object, wrapped: int, *, is_checked: bool = False
        ) -> "Optional[Body]": ...


__all__ = [
    "CALLING",
    "DECODING",
    "FINDING",
    "NAME_AT",
    "Coroutine",
    "Executor",
    "NoRecordsError",
]

# How far a call had come when something was raised.
FINDING = 0
DECODING = 1
CALLING = 2

# A caller who makes up names must not grow the cache for ever.
_FUNCTIONS_MAX = 4096

# Of an exception that cannot be described in full.
_BRIEF_CHARACTERS_MAX = 4096

# Behind the timeout and the length of the name.
NAME_AT = 16

_u64 = Struct("<Q").unpack_from
_import = __import__
_modules = sys.modules


class NoRecordsError(Exception):
    """No record of a file begins in the range that a call was to be made with."""


async def _nothing() -> None:
    """Only there for its type."""


_coroutine = _nothing()
_coroutine.close()
Coroutine = type(_coroutine)


def _never(value: object, wrapped: int, *, is_checked: bool = False) -> None:
    """The codec of a call that has none yet."""
    raise AssertionError((value, wrapped, is_checked))


class Executor:
    """Runs calls, one at a time. `now` is told what it is at."""

    __slots__ = (
        "_codecs",
        "_functions",
        "_payload_bytes_max",
        "_pid",
        "_skip",
        "_state",
        "kept",
        "line",
    )

    # The same for all calls of a worker.
    attached_bytes_max = 0

    def __init__(self, package: str, payload_bytes_max: int, now: State = state) -> None:
        self._state = now
        self._payload_bytes_max = payload_bytes_max
        self._pid = getpid()
        # Files whose frames are not the user's.
        self._skip: "tuple[str, ...]" = (package,)
        self._functions: "dict[bytes, Place]" = {}
        self._codecs: "dict[int, tuple[Decode, Encode]]" = {}
        # What came of the last call, until its answer was sent: what frees it may be user code,
        # which must not cost the caller the answer.
        self.kept: object = None
        # Where calls that stream get their ports. See `_port`.
        self.line: "Any" = None

    def execute(
        self, flags: int, codec: int, call_id: int, meta: memoryview, payload: "Payload"
    ) -> "Answer":
        """The header and body of the frame that answers a `Run`."""
        if len(meta) < NAME_AT:
            raise ProtocolError("the meta of a call is too short")
        state = self._state
        state.key = key = bytes(meta[8:])
        (state.timeout_ms,) = _u64(meta)
        state.started = monotonic()
        state.running = call_id
        stage = FINDING
        function = args = kwargs = value = items = error = None
        encode: "Encode" = _never
        try:
            try:
                place = self._functions.get(key)
                function = place[0].get(place[1]) if place else None
                if function is None:
                    function = self._find(key)
                stage = DECODING
                decode, encode = self._codecs.get(codec) or self._load_codec(codec)
                if flags:
                    args, encode = self._decode(flags, codec, payload, call_id)
                    args, kwargs, items = self._unfold(
                        flags, codec, function, args, call_id, encode
                    )
                else:
                    args = decode(payload)  # type: ignore[arg-type]
                    if type(args) is not list and type(args) is not tuple:
                        raise TypeError("they are no list")
                stage = CALLING
                # From here until it is disarmed, the control thread may have Cancelled raised.
                # An interrupt that came before was not heard.
                state.armed = True
                if state.interrupted == call_id:
                    raise Cancelled
                # From here on user code may run, and the daemon must know.
                state.page[0] = call_id
                if items is not None:
                    value = items.run()
                elif kwargs:
                    value = function(*args, **kwargs)
                else:
                    value = function(*args)
                if type(value) is Coroutine:
                    value = self._await(value)
                state.armed = False
            except BaseException as raised:  # noqa: BLE001 - whatever user code raises.
                state.armed = False
                error = raised
        except Cancelled as raised:
            # It came while another exception was being caught, before the disarming above.
            error = raised
        state.running = 0
        if getpid() != self._pid:
            with pristine_imports:
                load("clutch._failures").leave_child(error, self._skip)
        if error is not None or state.interrupted == call_id:
            answer = self._failed(error, (call_id, key, stage, function, args, kwargs))
            # The traceback holds this frame, and this frame would hold it. Whoever keeps it need
            # not keep what was attached.
            self.kept, error, encode = error, None, _never
            del args, kwargs, items, value, payload
            return answer
        self.kept = value
        return self._answered(call_id, codec, value, items, encode)

    def _answered(
        self,
        call_id: int,
        codec: int,
        value: object,
        items: "Optional[Many]",
        encode: "Encode",
    ) -> "Answer":
        """The answer with the result. What encoding it raises costs this call and no other."""
        try:
            if items is not None:
                return self._answer(call_id, codec, *items.encode(codec, encode))
            body = encode(value, 0)
            if body is None:
                return self._answer_slowly(call_id, codec, value, encode)
            return self._answer(call_id, codec, body, 0)
        except BaseException as error:  # noqa: BLE001 - a value's own code, or no memory.
            # Not as a call that came so far: what is told is what was raised.
            failed = self._failure(error, (call_id, self._state.key, CALLING, None, None, None))
            return header_bytes(FAILED, call_id, len(failed), 0), failed

    def _failed(self, error: "BaseException | None", attempt: "Attempt") -> "Answer":
        """The answer of a call that failed, or that there was nothing to make with."""
        call_id, _, stage = attempt[:3]
        is_nothing = type(error) is NoRecordsError and stage == DECODING
        if is_nothing and self._state.interrupted != call_id:
            return header_bytes(RESULT, call_id, 0, 0, 0, CODEC_NONE), b""
        body = self._failure(error, attempt)
        return header_bytes(FAILED, call_id, len(body), 0), body

    def _failure(self, error: "BaseException | None", attempt: "Attempt") -> bytes:
        # Also when it swallowed the interrupt and returned a value: nobody waits for that. Nothing
        # is loaded for it, since the daemon waits for an interrupted call only so long.
        state = self._state
        if state.interrupted == attempt[0] and not isinstance(error, ProtocolError):
            if state.call is not None:
                # A thread that holds the object must still see it when the next call runs.
                _ = state.call.cancelled
            return failed_cancelled()
        try:
            with pristine_imports:
                return load("clutch._failures").failure(error, attempt, self._skip)
        except ProtocolError:
            raise
        except BaseException as unexpected:  # noqa: BLE001 - e.g. no descriptor to import with.
            if error is None or state.interrupted == attempt[0]:
                return failed_cancelled()
            note = f"not told in full, since describing it raised {_brief(unexpected)}"
            name = type.__dict__["__name__"].__get__(type(error))
            return failed_raised(encode_exception(name, _brief(error), [note], [], "", [], []))

    def _answer(self, call_id: int, codec: int, body: "Body", flags: int) -> "Answer":
        if len(body) > self._payload_bytes_max:
            return self._answer_large(call_id, codec, body, flags)
        return header_bytes(RESULT, call_id, 0, len(body), flags, codec), body

    def _answer_large(self, call_id: int, codec: int, body: "Body", flags: int) -> "Answer":
        if isinstance(body, (bytes, memoryview)):
            failed = failed_too_large(len(body), self._payload_bytes_max)
        else:
            failed = body.seal(self._payload_bytes_max, self.attached_bytes_max)
            if not failed:
                size, count = len(body.payload), len(body.descriptors)
                flags |= FLAG_ATTACHED
                return header_bytes(RESULT, call_id, 0, size, flags, codec, count), body
        return header_bytes(FAILED, call_id, len(failed), 0), failed

    def _answer_slowly(self, call_id: int, codec: int, value: object, encode: "Encode") -> "Answer":
        failures = load("clutch._failures")
        body, failed = failures.encode_slowly(value, codec, encode)
        if failed:
            return header_bytes(FAILED, call_id, len(failed), 0), failed
        return self._answer(call_id, codec, body, 0)

    def _find(self, key: bytes) -> "Callable[..., Any]":
        """The function of this name, imported if need be; raises what the import raises."""
        module_name, qualname = load("clutch._names").split_name(key)
        # An import runs a user's code, and may be interrupted too.
        state = self._state
        state.armed = True
        if state.interrupted == state.running:
            raise Cancelled
        state.page[0] = state.running
        _import(module_name)
        module = _modules[module_name]
        names, name = module.__dict__, qualname
        function: "Any" = module
        for part in qualname.split("."):
            function = getattr(function, part)
        if not callable(function):
            raise TypeError("not callable")
        state.armed = False
        if names.get(name) is not function:
            # In a class, or made by the module's `__getattr__`.
            names = {name: function}
        if len(self._functions) >= _FUNCTIONS_MAX:
            self._functions.clear()
        self._functions[key] = names, name
        return function

    def _load_codec(self, codec: int) -> "tuple[Decode, Encode]":
        if codec == CODEC_NONE:
            raise TypeError("a call needs a codec: plain, json or raw")
        name = {CODEC_PLAIN: "_plain", CODEC_JSON: "_json_codec", CODEC_RAW: "_raw"}[codec]
        module = load("clutch." + name)
        self._codecs[codec] = module.decode, module.encode
        return self._codecs[codec]

    def _decode(
        self, flags: int, codec: int, payload: "Payload", call_id: int
    ) -> "Tuple[Any, Encode]":
        """What a payload says, whatever its flags, and what encodes the answer to it."""
        decode, encode = self._codecs[codec]
        if not flags & FLAG_ATTACHED:
            return decode(payload), encode  # type: ignore[arg-type]
        # From here on it is the call's own doing if the worker dies: for want of memory, say, or
        # while numpy is imported.
        self._state.page[0] = call_id
        incoming = load("clutch._attached").Incoming(payload, self._state, self.line)
        try:
            args = incoming.decode(codec)
        except BaseException:
            # Whoever holds the exception holds all that is here.
            incoming.close()
            raise
        return args, load("clutch._outgoing").Encoder(incoming, encode)

    def _unfold(
        self,
        flags: int,
        codec: int,
        function: "Callable[..., Any]",
        args: "Any",
        call_id: int,
        encode: "Encode",
    ) -> "tuple[Any, Any, Any]":
        """Arguments, keyword arguments, and what runs the items, as the flags say."""
        if flags & FLAG_STREAM:
            limits = self._payload_bytes_max, self.attached_bytes_max
            how = codec, encode, limits, self._skip, self._await, self.line
            streams = load("clutch._streams")
            return streams.unfold(function, flags, args, call_id, self._state, how)
        if codec == CODEC_RAW and flags & (FLAG_ITEMS | FLAG_KEYWORDS):
            raise TypeError("raw bytes are one argument; use plain or json for more")
        if flags & FLAG_ITEMS:
            if flags & FLAG_KEYWORDS or type(args) not in (list, tuple):
                raise TypeError("the items are no list")
            one = function
            # Looking at a function may be user code, too.
            self._state.page[0] = call_id
            if load("clutch._names").is_coroutine_function(function):
                self._asyncio()
                one = lambda *item: self._await(function(*item))  # noqa: E731 - one line says it.
            items = load("clutch._items").Items(
                one, function, args, call_id, self._skip, self._state, self._find
            )
            return items.arguments(), {}, items
        if flags & FLAG_KEYWORDS:
            args, kwargs = args
            if type(args) not in (list, tuple) or type(kwargs) is not dict:
                raise TypeError("they are no pair of a list and a dict")
            return args, kwargs, None
        if type(args) not in (list, tuple):
            raise TypeError("they are no list")
        return args, {}, None

    def _await(self, coroutine: "Any") -> "Any":
        state = self._state
        try:
            # What is ours must not be interrupted half-way.
            state.armed = False
            module = self._asyncio()
            state.armed = True
            if state.interrupted == state.running:
                raise Cancelled
        except BaseException:
            coroutine.close()
            raise
        return module.run(coroutine, state)

    def _asyncio(self) -> "Any":
        module = load("clutch._coroutine")
        if module.SKIP not in self._skip:
            self._skip = (*self._skip, module.SKIP)
        return module


def _brief(error: BaseException) -> str:
    name = type.__dict__["__name__"].__get__(type(error))
    try:
        return f"{name}: {str(error)[:_BRIEF_CHARACTERS_MAX]}"
    except BaseException:  # noqa: BLE001 - the exception's own code.
        return name
