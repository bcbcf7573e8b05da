"""The slow pass: makes plain data of a result that is not quite that, or says which part is not.

| what | becomes |
|---|---|
| dataclass instance | dict of its fields |
| named tuple, other subclasses of tuple | tuple |
| enum member | its value |
| numpy scalar, array | number, nested lists; in `plain`, large arrays are attached |
| `pathlib` path, `UUID`, `Decimal`, `Fraction` | text |
| `datetime`, `date`, `time` | text in ISO 8601 |
| `timedelta` | seconds, a float |
| memoryview, `array.array` | bytes, list; in `plain`, large ones are attached |
| pyarrow table, record batch | in `plain`, they are attached |
| subclasses of dict, list, set, str, int, float, bytes | the plain type |
| for JSON: set, frozenset | list, sorted where its members can be |

Types are known by their names, so that nothing is imported: numpy least of all.
"""

from clutch._frames import CODEC_PLAIN
from clutch._limits import DEPTH_MAX
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn, Optional, Tuple

    # Where a part is: the way to its parent, and its own step (`[3]`, `.lock`).
    Where = Optional[Tuple["Where", str]]

    # What stands for a value that leaves the payload; None if it is to become plain data.
    Attach = Callable[[Any, type, Where], Any]

    from clutch._execute import Encode

__all__ = [
    "UnserializableError",
    "attaching",
    "convert",
    "holds_objects",
    "raised_by",
    "type_name",
]

_KEY_CHARACTERS_MAX = 40
_RAISED_CHARACTERS_MAX = 1000


class UnserializableError(Exception):
    """A part of a result that no codec rule makes plain: where it is, what it is, what to do."""

    def __init__(self, where: "Where", part_type: type, message: str) -> None:
        super().__init__(message)
        steps = []
        while where is not None:
            where, step = where
            steps.append(step)
        self.path = _short("result" + "".join(reversed(steps)), 1000)
        self.type_name = type_name(part_type)
        self.message = message


def type_name(cls: type) -> str:
    """The type's name with its module, as Python's tracebacks print it."""
    try:
        # A metaclass or a class may have put anything there.
        module, name = str.__str__(cls.__module__), str.__str__(cls.__qualname__)
    except BaseException:  # noqa: BLE001 - anything.
        return "<unknown type>"
    if module in ("builtins", "__main__", "__mp_main__"):
        return name
    return f"{module}.{name}"


def raised_by(what: str, error: BaseException) -> str:
    """What is told of an exception that a value's own code, or that of its library, raised."""
    message = load("clutch._errors").message_of(error)
    return _short(f"{what} raised {type_name(type(error))}: {message}", _RAISED_CHARACTERS_MAX)


def convert(
    value: object, *, for_json: bool, depth_max: int = DEPTH_MAX, attach: "Optional[Attach]" = None
) -> "Any":
    """Plain data in place of `value`, or `UnserializableError`."""
    converter = _Converter(for_json, depth_max, attach)
    try:
        return converter.convert(value, None, depth_max)
    finally:
        converter.forget()


def attaching(codec: int, encode: "Encode") -> "Optional[Attach]":
    """What puts something in the place of what leaves one payload of this codec."""
    if codec != CODEC_PLAIN:
        return None
    counted: "Optional[Callable[[], Attach]]" = getattr(encode, "attaching", None)
    attach: "Attach" = load("clutch._plain").attach if counted is None else counted()
    return attach


class _Converter:
    def __init__(self, for_json: bool, depth_max: int, attach: "Optional[Attach]") -> None:
        self._for_json = for_json
        self._attach = attach
        self._depth_max = depth_max
        # Containers being converted, to find cycles; and those that were, so that what a value
        # shares stays shared. Their originals are kept: an id is only theirs while they live.
        self._open: "set[int]" = set()
        self._done: "dict[int, tuple[object, object]]" = {}
        self._handlers: "dict[type, Callable[[Any, Where, int], Any]]" = {}

    def forget(self) -> None:
        """Lets go of values now: its handlers are its own methods, and so it is part of a cycle."""
        self._handlers.clear()
        self._done.clear()

    def convert(self, value: "Any", where: "Where", levels: int) -> "Any":
        """Dispatches on the exact type first; `levels` is how many more containers may follow."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return self._int(value, where)
        if kind is float:
            return self._float(value, where)
        if kind is str:
            return self._str(value, where)
        if kind is bytes or kind is bytearray:
            return self._bytes(value, where)
        handler = self._handlers.get(kind)
        if handler is None:
            handler = self._handlers[kind] = self._handler(kind)
        if handler in (self._simplify, self._leave):
            return handler(value, where, levels)
        known = self._done.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._open:
            raise UnserializableError(where, kind, "it contains itself, and data cannot")
        if levels <= 0:
            raise UnserializableError(
                where, kind, f"the result nests deeper than {self._depth_max} levels; return less"
            )
        self._open.add(id(value))
        converted = handler(value, where, levels - 1)
        self._open.discard(id(value))
        self._done[id(value)] = (value, converted)
        return converted

    def _handler(self, kind: type) -> "Callable[[Any, Where, int], Any]":
        """What converts the values of this type."""
        if hasattr(kind, "__dataclass_fields__"):
            return self._dataclass
        names = _names(kind)
        if ("enum", "Enum") in names:
            return self._simplify
        if issubclass(kind, dict):
            return self._dict
        if issubclass(kind, tuple):
            return self._tuple
        if issubclass(kind, list):
            return self._list
        if issubclass(kind, (set, frozenset)):
            return self._set
        if self._attach is not None and not names.isdisjoint(_LEAVING):
            return self._leave
        return self._simplify

    def _list(self, value: "list[Any]", where: "Where", levels: int) -> "list[Any]":
        convert = self.convert
        return [convert(item, (where, f"[{at}]"), levels) for at, item in enumerate(value)]

    def _tuple(self, value: "tuple[Any, ...]", where: "Where", levels: int) -> "tuple[Any, ...]":
        fields = getattr(type(value), "_fields", None)
        if not isinstance(fields, tuple) or len(fields) != len(value):
            return tuple(self._list(value, where, levels))  # type: ignore[arg-type]
        return tuple(
            self.convert(item, (where, f".{name}"), levels) for name, item in zip(fields, value)
        )

    def _dataclass(self, value: "Any", where: "Where", levels: int) -> "dict[str, Any]":
        converted = {}
        for name, field in type(value).__dataclass_fields__.items():
            # The pseudo-fields for ClassVar and InitVar are no data of the instance.
            if getattr(getattr(field, "_field_type", None), "name", "") == "_FIELD":
                step = (where, f".{name}")
                converted[str(name)] = self.convert(getattr(value, name), step, levels)
        return converted

    def _dict(self, value: "dict[Any, Any]", where: "Where", levels: int) -> "dict[Any, Any]":
        converted: "dict[Any, Any]" = {}
        texts: "set[str]" = set()
        for key, item in value.items():
            step = f"[{_short(_repr(key), _KEY_CHARACTERS_MAX)}]"
            plain = self._key(key, where, step, levels)
            text = _json_key(plain) if self._for_json else ""
            if plain in converted or text in texts:
                message = "as plain data it is equal to another key of the same dict; return pairs"
                raise UnserializableError((where, f".key{step}"), type(key), message)
            if self._for_json:
                texts.add(text)
            converted[plain] = self.convert(item, (where, step), levels)
        return converted

    def _key(self, key: "Any", where: "Where", step: str, levels: int) -> "Any":
        if type(key) is str and key.isascii():
            return key
        place = (where, f".key{step}")
        plain = self.convert(key, place, levels)
        if self._for_json and not (plain is None or isinstance(plain, (str, int, float))):
            message = "a JSON object's keys are text; make it one, or return pairs"
            raise UnserializableError(place, type(key), message)
        try:
            hash(plain)
        except TypeError:
            message = "as plain data it cannot be a dict's key; return pairs"
            raise UnserializableError(place, type(key), message) from None
        return plain

    def _set(self, value: "Any", where: "Where", levels: int) -> "Any":
        members = [self.convert(item, (where, "{...}"), levels) for item in value]
        if self._for_json:
            try:
                return sorted(members)
            except TypeError:
                return members
        try:
            return frozenset(members) if isinstance(value, frozenset) else set(members)
        except TypeError:
            message = "as plain data a member of it is not hashable; return a list"
            raise UnserializableError(where, type(value), message) from None

    def _int(self, value: int, where: "Where") -> int:
        if self._for_json and value.bit_length() > 10_000:  # noqa: PLR2004 - 640 digits are free.
            try:
                int.__repr__(value)
            except ValueError as error:
                raise UnserializableError(where, int, str(error)) from None
        return value

    def _float(self, value: float, where: "Where") -> float:
        # NaN minus itself is NaN, infinity minus itself too.
        if self._for_json and value - value != 0:
            message = f"JSON has no {value!r}; return None or a text instead"
            raise UnserializableError(where, float, message)
        return value

    def _str(self, value: str, where: "Where") -> str:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                message = (
                    "the text holds a lone surrogate, which UTF-8 has no bytes for; "
                    "return os.fsencode(...) of it"
                )
                raise UnserializableError(where, str, message) from None
        return value

    def _bytes(self, value: "bytes | bytearray", where: "Where") -> "bytes | bytearray":
        if self._for_json:
            message = "JSON has no bytes; return text (.decode(), .hex(), base64)"
            raise UnserializableError(where, type(value), message)
        return value

    def _leave(self, value: "Any", where: "Where", levels: int) -> "Any":
        """Puts something in the place of what leaves the payload, if it is to leave."""
        assert self._attach is not None
        known = self._done.get(id(value))
        if known is not None:
            return known[1]
        try:
            stand_in = self._attach(value, type(value), where)
        except Exception as error:  # noqa: BLE001 - a buffer of another library may do anything.
            raise UnserializableError(where, type(value), raised_by("reading it", error)) from None
        if stand_in is None:
            return self._simplify(value, where, levels)
        self._done[id(value)] = (value, stand_in)
        return stand_in

    def _simplify(self, value: "Any", where: "Where", levels: int) -> "Any":
        """Replaces what is no container by something simpler, and converts that."""
        kind = type(value)
        try:
            simpler = _simpler(value, kind)
        except Exception as error:  # noqa: BLE001 - a subclass may do anything.
            raise UnserializableError(where, kind, raised_by("reading it", error)) from None
        if type(simpler) is kind:
            _refuse(where, kind)
        return self.convert(simpler, where, levels)


def _json_key(key: "Any") -> str:
    """The text that JSON's encoder makes of a key."""
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    return key if isinstance(key, str) else repr(key)


def _refuse(where: "Where", kind: type) -> "NoReturn":
    hint = load("clutch._hints").hint_for(type_name(kind), _names(kind), kind)
    raise UnserializableError(where, kind, hint)


def _simpler(value: "Any", kind: type) -> "Any":
    """The value one step closer to plain data; the value itself when there is no rule for it."""
    names = _names(kind)
    if ("enum", "Enum") in names:
        return value.value
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(kind, "tolist"):
        plain = value.tolist()
        return _double(plain) if type(plain) is kind else plain
    if issubclass(kind, int):
        return int.__pos__(value)
    if issubclass(kind, float):
        return float.__pos__(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, bytes):
        return bytes(memoryview(value))
    if issubclass(kind, bytearray):
        return bytearray(memoryview(value))
    if kind is memoryview:
        if holds_objects(value):
            raise TypeError("its elements are Python objects; return a list of them")
        return value.tobytes()
    if ("array", "array") in names:
        return value.tolist()
    if not names.isdisjoint(_ISO_8601):
        return value.isoformat()
    if ("datetime", "timedelta") in names:
        return value.total_seconds()
    if not names.isdisjoint(_TEXTS):
        return str.__str__(str(value))
    return value


def _double(value: "Any") -> float:
    """A `numpy.longdouble`, rounded."""
    number = float(value)
    if number - number != 0 and value - value == 0:
        raise OverflowError(f"{value} is more than a double can be")
    return number


def holds_objects(view: memoryview) -> bool:
    """Whether the bytes of a buffer are addresses, which mean nothing elsewhere."""
    # Of records, what is between colons is a name.
    return "O" in "".join(view.format.split(":")[::2])


_LEAVING = frozenset(
    (
        ("builtins", "memoryview"),
        ("array", "array"),
        ("numpy", "ndarray"),
        ("pyarrow.lib", "Table"),
        ("pyarrow.lib", "RecordBatch"),
    )
)
_ISO_8601 = frozenset((("datetime", "datetime"), ("datetime", "date"), ("datetime", "time")))
_TEXTS = frozenset(
    (
        ("pathlib", "PurePath"),
        ("pathlib._local", "PurePath"),
        ("uuid", "UUID"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
    )
)


def _names(kind: type) -> "set[tuple[str, str]]":
    """Module and name of the type and of everything it inherits from."""
    return {(cls.__module__, cls.__qualname__) for cls in kind.__mro__}


def _repr(value: object) -> str:
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001 - its repr may do anything.
        return f"<{type_name(type(value))}>"


def _short(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 3] + "..."
