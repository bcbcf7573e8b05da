"""Writes cpython-X.Y.txt beside itself, with the CPython that runs it; see ../README.md.

The values are those of rust.txt, and a few whose parts occur twice. Under 3.13 it also writes
refused.txt: what a pickler can write and the Rust reader must refuse.
"""

import array
import collections
import datetime
import decimal
import enum
import fractions
import os
import pathlib
import pickle
import sys
import uuid

HERE = pathlib.Path(__file__).parent
NAMES = {"__builtins__": {}, "set": set, "frozenset": frozenset, "bytearray": bytearray,
         "nan": float("nan"), "inf": float("inf")}


def shared():
    one, pair, keyed, text = [1], (1, "one"), {"k": [1]}, "".join(["a", "gain"])
    array_of_bytes, five, two = bytearray(b"b"), frozenset([5]), [2]
    inner = [pair, two]
    many = ["s%d" % n for n in range(300)]
    yield "shared-list", [one, one]
    yield "shared-tuple", [pair, pair, pair]
    yield "shared-dict", {"a": keyed, "b": keyed}
    yield "shared-str", [text, text]
    yield "shared-bytearray", (array_of_bytes, array_of_bytes)
    yield "shared-frozenset", (five, five)
    yield "shared-nested", [inner, two, inner]
    yield "memo-beyond-255", many + [many[299], many[0]]


def write_values():
    name = "cpython-%d.%d.txt" % sys.version_info[:2]
    lines = ["# name, hex, literal; written by %s.%s.%s, see ../README.md" % sys.version_info[:3]]
    for line in (HERE / "rust.txt").read_text("utf-8").split("\n"):
        if line and not line.startswith("#"):
            name_of, _, literal = line.split("\t")
            value = eval(literal, dict(NAMES))
            lines.append("\t".join([name_of, pickle.dumps(value, 5).hex(), literal]))
    for name_of, value in shared():
        lines.append("\t".join([name_of, pickle.dumps(value, 5).hex(), repr(value)]))
    with open(HERE / name, "w", encoding="utf-8", newline="\n") as file:
        file.write("\n".join(lines) + "\n")


class Color(enum.Enum):
    RED = 1


class Plain:
    def __init__(self):
        self.field = 1


class Slotted:
    __slots__ = ("field",)


def refusals():
    circle, loop, knot = [], {}, []
    circle.append(circle)
    loop["self"] = loop
    knot.append((knot,))
    objects = {
        "object": Plain(), "slotted": Slotted(), "enum": Color.RED, "class": Plain,
        "function": print, "lambda-like": os.system, "complex": 1j, "range": range(3),
        "datetime": datetime.datetime(2020, 1, 1), "decimal": decimal.Decimal("1.5"),
        "fraction": fractions.Fraction(1, 3), "uuid": uuid.UUID(int=1),
        "ordered-dict": collections.OrderedDict(a=1), "deque": collections.deque([1]),
        "array": array.array("d", [1.0]), "exception": ValueError("x"),
        "path": pathlib.PurePosixPath("/x"),
    }
    for name, value in objects.items():
        yield name, pickle.dumps(value, 5), "STACK_GLOBAL"
    yield "recursive-list", pickle.dumps(circle, 5), "contains itself"
    yield "recursive-dict", pickle.dumps(loop, 5), "contains itself"
    yield "recursive-tuple", pickle.dumps(knot[0], 5), "contains itself"
    for protocol in range(4):
        yield "protocol-%d" % protocol, pickle.dumps([1, "a"], protocol), "does not start"
    for name, body, word in [
        ("global", b"cos\nsystem\n.", "GLOBAL"),
        ("reduce", b")R.", "REDUCE"),
        ("build", b"}b.", "BUILD"),
        ("inst", b"(ios\nsystem\n.", "INST"),
        ("obj", b"(o.", "OBJ"),
        ("newobj", b"))\x81.", "NEWOBJ"),
        ("newobj-ex", b"))}\x92.", "NEWOBJ_EX"),
        ("ext1", b"\x82\x01.", "EXT1"),
        ("ext2", b"\x83\x01\x00.", "EXT2"),
        ("ext4", b"\x84\x01\x00\x00\x00.", "EXT4"),
        ("persid", b"Pid\n.", "PERSID"),
        ("binpersid", b"K\x01Q.", "BINPERSID"),
        ("next-buffer", b"\x97.", "NEXT_BUFFER"),
        ("readonly-buffer", b"\x98.", "READONLY_BUFFER"),
        ("put", b"]p0\n.", "PUT"),
        ("binput", b"]q\x00.", "BINPUT"),
        ("long-binput-of-four-gigabytes", b"]r\xff\xff\xff\x0f.", "LONG_BINPUT"),
        ("get", b"g0\n.", "GET"),
        ("dup", b"]2.", "DUP"),
        ("pop", b"]0.", "POP"),
        ("pop-mark", b"(]1.", "POP_MARK"),
        ("int-as-text", b"I1\n.", "INT"),
        ("protocol-twice", b"\x80\x05N.", "PROTO"),
        ("memo-of-nothing", b"\x94.", "MEMOIZE"),
        ("get-of-nothing", b"h\x00.", "BINGET"),
        ("two-values", b"NN.", "STOP"),
        ("open-mark", b"(N.", "STOP"),
        ("nothing", b".", "STOP"),
        ("no-stop", b"N", "cut off"),
        ("bytes-after", b"N.N", "follow the end"),
        ("no-opcode", b"\xff.", "0xff"),
        ("append-to-tuple", b")Na.", "APPEND"),
        ("dict-without-value", b"}(Nu.", "SETITEMS"),
        ("claims-four-gigabytes", b"B\xff\xff\xff\xffab.", "cut off"),
        ("claims-all-there-is", b"\x8e" + b"\xff" * 8 + b"ab.", "cut off"),
        ("frame-beyond-the-end", b"\x95" + b"\xff" * 8 + b"N.", "cut off"),
    ]:
        yield name, b"\x80\x05" + body, word
    # Each list holds the one before it twice: the last would have 2**60 items.
    laughs = b"]\x94(Ne"
    for memo in range(60):
        laughs += b"]\x94(" + b"h" + bytes([memo]) + b"h" + bytes([memo]) + b"e"
    yield "billion-laughs", b"\x80\x05(" + laughs + b"t.", "parts"
    yield "too-deep", b"\x80\x05" + b"]" * 200 + b"a" * 199 + b".", "deeper"
    yield "too-deep-with-marks", b"\x80\x05" + b"](" * 200 + b"e" * 200 + b".", "deeper"


def write_refusals():
    lines = ["# name, hex, a word of the reader's error; see ../README.md"]
    for name, data, word in refusals():
        lines.append("\t".join([name, data.hex(), word]))
    with open(HERE / "refused.txt", "w", encoding="utf-8", newline="\n") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_values()
    if sys.version_info[:2] == (3, 13):
        write_refusals()
