"""What a value becomes on the wire, and what may come in: plain, json, raw, and the slow pass."""

import array
import collections
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import os
import pathlib
import pickle
import random
import sys
import types
import typing
import unittest
import uuid

import support
from clutch import _json_codec, _plain, _pristine, _raw
from clutch._convert import UnserializableError, convert
from clutch._nesting import nests_deeper_than

sys.path.insert(0, support.SOURCE)
import boot  # noqa: E402

_pristine.configure(boot.pristine_path(support.SOURCE))

NAMES = {
    "__builtins__": {},
    "set": set,
    "frozenset": frozenset,
    "bytearray": bytearray,
    "nan": float("nan"),
    "inf": float("inf"),
}


def plain(value):
    """The pickle that a plain caller gets."""
    data = _plain.encode(value, 0)
    if data is None:
        data = _plain.encode(convert(value, for_json=False), 0, is_checked=True)
    return data


def through_plain(value):
    """What a plain caller gets."""
    return pickle.loads(plain(value))


def through_json(value):
    """What a JSON caller gets."""
    data = _json_codec.encode(value, 0)
    if data is None:
        data = _json_codec.encode(convert(value, for_json=True, depth_max=127), 0, is_checked=True)
    return json.loads(data)


def nested(levels, make=lambda inner: [inner]):
    value = 0
    for _ in range(levels):
        value = make(value)
    return value


def typed(value):
    """The value with its types, and with NaN equal to itself."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted((typed(item) for item in value), key=repr)
    return type(value), repr(value)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Mode(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: int
    y: object
    scale: typing.ClassVar[int] = 7


@dataclasses.dataclass(frozen=True)
class Frozen:
    name: str


Pair = collections.namedtuple("Pair", "first second")


class Text(str):
    pass


class Number(int):
    pass


class Real(float):
    pass


class Names(dict):
    pass


class Rows(list):
    pass


class Lazy:
    """Not data, and its methods do harm when they are called."""

    def __reduce__(self):
        os._exit(3)


class GoldenPlain(unittest.TestCase):
    def lines(self, name):
        with open(os.path.join(support.TESTDATA, "plain", name), encoding="utf-8") as file:
            rows = [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]
        self.assertTrue(rows)
        return rows

    def test_every_value_is_read_and_written_again(self):
        for file in ("rust.txt", "cpython-3.8.txt", "cpython-3.13.txt"):
            for name, data, literal in self.lines(file):
                value = eval(literal, dict(NAMES))
                read = _plain.decode(memoryview(bytes.fromhex(data)))
                self.assertEqual(typed(value), typed(read), (file, name))
                self.assertEqual(typed(value), typed(through_plain(value)), (file, name))

    def test_what_is_too_deep_is_refused_f082(self):
        for depth in (128, 129, 100_000):
            data = b"\x80\x05" + b"]" * depth + b"a" * (depth - 1) + b"."
            if depth == 128:
                self.assertEqual([], _plain.decode(data)[0] * 0)
                continue
            with self.assertRaisesRegex(Exception, "at most 128 deep"):
                _plain.decode(memoryview(data))

    def test_no_pickle_that_is_code_is_read(self):
        refused = 0
        for name, data, _word in self.lines("refused.txt"):
            if name == "long-binput-of-four-gigabytes":
                # What it costs is memory, of a worker whose caller may use it up anyhow.
                continue
            try:
                value = _plain.decode(memoryview(bytes.fromhex(data)))
            except Exception:
                refused += 1
            else:
                # What Rust refuses for other reasons (age, size, depth), but data and no code.
                self.assertTrue(is_data(value), name)
        self.assertGreater(refused, 30)


def is_data(value):
    """Whether there is nothing but plain data in it."""
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            waiting += [*part, *part.values()]
        elif isinstance(part, (list, tuple, set, frozenset)):
            waiting += part
        elif type(part) not in (type(None), bool, int, float, str, bytes, bytearray):
            return False
    return True


class Plain(unittest.TestCase):
    def test_plain_data_passes_at_c_speed(self):
        values = [
            None,
            True,
            0,
            -1,
            2**40,
            2**3000,
            0.0,
            -0.0,
            math.inf,
            "",
            "text",
            "häß 한국어 \U0001f40d",
            b"",
            b"\xed\xa0\x80",
            bytearray(b"x"),
            [],
            (),
            {},
            set(),
            frozenset(),
            [1, "a", (2.5, None)],
            {"a": [1], 2: (3,), (4, 5): {6}},
            ["hello"] * 300,
            [{"name": "hhhh", "value": number} for number in range(300)],
            nested(128),
            nested(128, lambda inner: (inner,)),
            nested(128, lambda inner: {"h": inner}),
        ]
        for value in values:
            data = _plain.encode(value, 0)
            if value == b"\xed\xa0\x80":
                # Looks like a surrogate until the slow pass finds none.
                data = plain(value)
            self.assertIsNotNone(data, value)
            self.assertEqual(typed(value), typed(pickle.loads(data)))

    def test_random_values_are_encoded_rightly_whatever_bytes_they_have(self):
        dice = random.Random(20)

        def value(depth):
            kind = dice.randrange(9 if depth else 5)
            if kind == 0:
                return dice.randrange(-300, 300)
            if kind == 1:
                return dice.random()
            if kind == 2:
                return "".join(chr(dice.choice((104, 148, 0xD55C, 237))) for _ in range(5))
            if kind == 3:
                return bytes(dice.choices((0x68, 0x94, 0xED, 0xA0, 0), k=6))
            if kind == 4:
                return None
            members = [value(depth - 1) for _ in range(dice.randrange(6))]
            if kind == 5:
                return tuple(members)
            if kind == 6:
                return {str(member): member for member in members}
            shared = members[:1] * 3
            return members + shared

        for _ in range(1000):
            original = value(4)
            self.assertEqual(typed(original), typed(through_plain(original)))

    def test_an_unframed_pickle_is_read(self):
        data = pickle.dumps([1.5] * 1000, 5)
        unframed = data[:2] + data[11:]
        self.assertEqual([1.5] * 1000, _plain.decode(memoryview(unframed)))

    def test_too_deep_or_cyclic(self):
        loop = []
        loop.append(loop)
        ring = {}
        ring["again"] = [(ring,)]
        through_tuple = ([],)
        through_tuple[0].append(through_tuple)
        for value in (loop, ring, through_tuple, [["h", loop]]):
            self.assertIsNone(_plain.encode(value, 0))
            with self.assertRaisesRegex(UnserializableError, "contains itself"):
                convert(value, for_json=False)
        makers = [
            lambda inner: [inner],
            lambda inner: (inner,),
            lambda inner: {"key": inner},
        ]
        for make in makers:
            for levels in (129, 400):
                self.assertIsNone(_plain.encode(nested(levels, make), 0))
                with self.assertRaisesRegex(UnserializableError, "deeper than 128"):
                    convert(nested(levels, make), for_json=False)

    def test_a_hundred_thousand_levels_f060(self):
        for make in (lambda inner: [inner], lambda inner: (inner,), lambda inner: {1: inner}):
            value = nested(100_000, make)
            self.assertIsNone(_plain.encode(value, 0))
            with self.assertRaises(UnserializableError):
                convert(value, for_json=False)
            while value:
                # Taken apart by hand: Python's own way down can overflow the stack.
                value = value[1] if isinstance(value, dict) else value[0]

    def test_what_is_shared_stays_shared(self):
        value = Rows()
        for _ in range(100):
            value = Rows([value, value])
        # Written out in full it would have 2 ** 100 parts.
        converted = convert(value, for_json=False)
        self.assertIs(converted[0], converted[1])

    def test_lone_surrogates_have_no_bytes(self):
        for value in ("\ud800", ["a", {"b": "x\udfff"}], {"\udcff": 1}):
            self.assertIsNone(_plain.encode(value, 0))
            with self.assertRaisesRegex(UnserializableError, "surrogate"):
                convert(value, for_json=False)

    def test_no_code_of_the_value_runs(self):
        for value in (Lazy(), [Lazy()], {"a": (Lazy(),)}):
            self.assertIsNone(_plain.encode(value, 0))
            with self.assertRaises(UnserializableError):
                convert(value, for_json=False)


class Conversions(unittest.TestCase):
    def test_to_plain_values(self):
        utc = datetime.timezone.utc
        table = [
            (Point(1, [Point(2, None)]), {"x": 1, "y": [{"x": 2, "y": None}]}),
            (Pair(1, Pair(2, 3)), (1, (2, 3))),
            (Color.RED, "red"),
            (Level.HIGH, 3),
            (Mode.A | Mode.B, 3),
            ({Color.RED: Level.HIGH}, {"red": 3}),
            (pathlib.PurePosixPath("/a/b"), "/a/b"),
            (pathlib.Path("x"), "x"),
            (datetime.datetime(2026, 11, 3, 4, 5, 6, 7, utc), "2026-11-03T04:05:06.000007+00:00"),
            (datetime.date(2026, 11, 3), "2026-11-03"),
            (datetime.time(1, 2), "01:02:00"),
            (datetime.timedelta(minutes=1.5), 90.0),
            (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
            (decimal.Decimal("1.10"), "1.10"),
            (fractions.Fraction(1, 3), "1/3"),
            (Text("t"), "t"),
            (Number(4), 4),
            (Real(-0.0), -0.0),
            (Names(a=1), {"a": 1}),
            (Rows([1]), [1]),
            (collections.OrderedDict(a=1), {"a": 1}),
            (collections.defaultdict(list, a=[1]), {"a": [1]}),
            (collections.Counter("aab"), {"a": 2, "b": 1}),
            (memoryview(b"abc"), b"abc"),
            (array.array("d", [1.5, 2]), [1.5, 2.0]),
            ([{"deep": (Point(Text("x"), {Frozen}),)}][:0], []),
            ({Pair(1, 2): 3}, {(1, 2): 3}),
            ({uuid.UUID(int=1): 1}, {"00000000-0000-0000-0000-000000000001": 1}),
        ]
        for value, expected in table:
            self.assertEqual(typed(expected), typed(through_plain(value)), value)

    def test_to_json_values(self):
        table = [
            (None, None),
            (2**70, 2**70),
            (1.5, 1.5),
            ('ü\x00\n"', 'ü\x00\n"'),
            ((1, [2]), [1, [2]]),
            ({3, 1, 2}, [1, 2, 3]),
            (frozenset("a"), ["a"]),
            ({1: 2, None: 3, True: 4, 1.5: 5}, {"1": 4, "null": 3, "1.5": 5}),
            ({Level.HIGH: Pair(1, Color.RED)}, {"3": [1, "red"]}),
            ({datetime.date(2026, 1, 2): Point(1, 2)}, {"2026-01-02": {"x": 1, "y": 2}}),
            (Text("t"), "t"),
            (nested(127), nested(127)),
            ([["["] * 200], [["["] * 200]),
        ]
        for value, expected in table:
            self.assertEqual(typed(expected), typed(through_json(value)), value)

    def test_where_and_what_and_why_f040(self):
        import threading

        loop = [1]
        loop.append(loop)
        table = [
            (lambda: 1, False, "result", "function", "function"),
            ({"a": [1, threading.Lock()]}, False, "result['a'][1]", "_thread.lock", "plain data"),
            (Point(1, Pair(2, open)), False, "result.y.second", "builtin_function_or_method", ""),
            ((item for item in ()), False, "result", "generator", "list"),
            (1j, False, "result", "complex", "real"),
            ([range(3)], False, "result[0]", "range", "list"),
            ({"k": {1, Frozen("x")}}, False, "result['k']", "set", "hashable"),
            ({Frozen("x"): 1}, False, "result.key[Frozen(name='x')]", __name__ + ".Frozen", "key"),
            (b"x", True, "result", "bytes", "base64"),
            ([bytearray(b"x")], True, "result[0]", "bytearray", "base64"),
            ([1.5, math.nan], True, "result[1]", "float", "nan"),
            ({"a": -math.inf}, True, "result['a']", "float", "inf"),
            ({(1, 2): 3}, True, "result.key[(1, 2)]", "tuple", "pairs"),
            ({math.nan: 3}, True, "result.key[nan]", "float", "nan"),
            (["\ud800"], True, "result[0]", "str", "surrogate"),
            (nested(128), True, "result" + "[0]" * 127, "list", "deeper than 127"),
            (loop, True, "result[1]", "list", "contains itself"),
            (object, False, "result", "type", ""),
            (sys, False, "result", "module", ""),
        ]
        for value, for_json, path, name, word in table:
            encode = _json_codec.encode if for_json else _plain.encode
            self.assertIsNone(encode(value, 0), value)
            with self.assertRaises(UnserializableError) as caught:
                convert(value, for_json=for_json, depth_max=127 if for_json else 128)
            error = caught.exception
            self.assertEqual((path, name), (error.path, error.type_name))
            self.assertIn(word, error.message)

    def test_numpy_without_numpy(self):
        # What makes a numpy value is its module's name and `tolist`; tests with numpy come after.
        module = types.ModuleType("numpy")
        exec(
            "class float64(float):\n def tolist(self): return float(self)\n"
            "class longdouble:\n def tolist(self): return self\n def __float__(self): return 2.5\n"
            "class ndarray:\n def tolist(self): return [[1, 2], [3, 4]]\n",
            {"__name__": "numpy"},
            module.__dict__,
        )
        value = [module.float64(1.5), module.longdouble(), module.ndarray()]
        self.assertEqual([1.5, 2.5, [[1, 2], [3, 4]]], through_plain(value))

    def test_numpy(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("numpy is not installed here")
        value = {
            "scalar": numpy.float32(0.5),
            "int": numpy.int64(7),
            "bool": numpy.bool_(True),
            "zero": numpy.array(3),
            "matrix": numpy.arange(4).reshape(2, 2),
            "text": numpy.array(["a", "b"]),
            "long": numpy.longdouble(1.5),
            numpy.str_("key"): numpy.datetime64("2026-01-02"),
        }
        expected = {
            "scalar": 0.5,
            "int": 7,
            "bool": True,
            "zero": 3,
            "matrix": [[0, 1], [2, 3]],
            "text": ["a", "b"],
            "long": 1.5,
            "key": "2026-01-02",
        }
        self.assertEqual(typed(expected), typed(through_plain(value)))
        self.assertEqual(typed(expected), typed(through_json(value)))


class Json(unittest.TestCase):
    def test_it_reads_what_the_package_reads(self):
        texts = ["null", " [1, 2.5, -3e2]\n", '{"a": {"b": "\\u00fc"}}', '"x"', "[]", "{}", "0"]
        for text in texts:
            self.assertEqual(json.loads(text), _json_codec.decode(text.encode()))

    def test_it_refuses_what_is_not_json(self):
        for text in (
            b"",
            b"[1",
            b"[1] 2",
            b"nul",
            b"[NaN]",
            b"[Infinity]",
            b"\xff",
            b'{"a":}',
            b"'a'",
        ):
            with self.assertRaises(ValueError):
                _json_codec.decode(text)

    def test_numbers_too_long_for_text(self):
        if not hasattr(sys, "get_int_max_str_digits"):
            self.skipTest("this Python turns any int into text")
        with self.assertRaisesRegex(UnserializableError, "digits"):
            convert([10**5000], for_json=True)

    def test_numbers_too_large_for_a_float(self):
        for text in ("1e400", "-1e+400", "1E309", "9" * 320 + ".5", "12345678901" * 20 + "e99"):
            with self.assertRaisesRegex(ValueError, "too large for a float"):
                _json_codec.decode(b"[%s]" % text.encode())
        for text in ("1e308", '"e400"', "1e-400", "9" * 320, '[1.5, "1e999", 2e2]'):
            self.assertEqual(json.loads(text), _json_codec.decode(text.encode()))

    def test_keys_that_become_the_same_text(self):
        for value in (
            {1: "a", "1": "b"},
            [{"x": {"x": 0, True: "a", "true": "b"}}],
            {None: 1, "null": 2},
            {"-1.5": 1, -1.5: 2},
        ):
            self.assertIsNone(_json_codec.encode(value, 0), value)
            with self.assertRaisesRegex(UnserializableError, "another key"):
                convert(value, for_json=True)
        for value in ({1: "a", "2": "b"}, {"true": 1, False: 2}, [{"1": 0}, {1: 0}]):
            self.assertIsNotNone(_json_codec.encode(value, 0), value)
            convert(value, for_json=True)
        with self.assertRaisesRegex(UnserializableError, "another key"):
            convert({pathlib.PurePath("a"): 1, "a": 2}, for_json=False)

    def test_written_compactly_in_utf_8(self):
        self.assertEqual('{"ü":[1,2]}'.encode(), _json_codec.encode({"ü": [1, 2]}, 0))


class Raw(unittest.TestCase):
    def test_bytes_in_bytes_out(self):
        self.assertEqual((b"\x00\xff",), _raw.decode(memoryview(b"\x00\xff")))
        values = [
            (b"abc", b"abc"),
            (bytearray(b"abc"), b"abc"),
            (memoryview(b"abcdef")[::2], b"ace"),
            (memoryview(array.array("i", [1])), array.array("i", [1]).tobytes()),
            (memoryview(b""), b""),
            ((ctypes.c_uint16.__ctype_be__ * 2)(1, 2), b"\0\1\0\2"),
        ]
        for value, expected in values:
            body = _raw.encode(value, 0)
            self.assertEqual(expected, bytes(body))
            self.assertEqual(len(expected), len(body))
        released = memoryview(b"abc")
        released.release()
        for value in (None, "text", 3, [1], released):
            self.assertIsNone(_raw.encode(value, 0))

    def test_a_buffer_in_fortrans_order(self):
        try:
            import _testbuffer
        except ImportError:
            self.skipTest("this Python cannot make one")
        flags = _testbuffer.ND_FORTRAN
        value = _testbuffer.ndarray(list(range(6)), shape=[2, 3], format="B", flags=flags)
        self.assertEqual(memoryview(value).tobytes(), bytes(_raw.encode(value, 0)))


class Nesting(unittest.TestCase):
    def test_levels_are_counted(self):
        cases = [
            (1, 0),
            ([], 1),
            ([[], [[]]], 3),
            ({"a": (1, {2})}, 3),
            ({(1, (2,)): 3}, 3),
            ([frozenset({(1,)})], 3),
        ]
        for value, levels in cases:
            self.assertFalse(nests_deeper_than(value, levels), value)
            if levels:
                self.assertTrue(nests_deeper_than(value, levels - 1), value)

    def test_shared_parts_cost_no_more_than_their_number(self):
        value = []
        for _ in range(120):
            value = [value, value, value]
        self.assertFalse(nests_deeper_than(value, 128))


if __name__ == "__main__":
    unittest.main()
