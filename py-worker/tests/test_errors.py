"""Exceptions as data: what arrives of usual ones, and that unusual ones stay within bounds."""

import dataclasses
import os
import subprocess
import sys
import time
import traceback
import unittest
import urllib.error

import support
from clutch import _errors
from clutch._frames import encode_exception
from clutch._limits import META_BYTES_MAX

HERE = os.path.abspath(__file__)


def raised(function):
    """What a function raises."""
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def describe(error):
    """The description of an exception, which must fit a meta, and be described quickly (F037)."""
    started = time.monotonic()
    data = _errors.describe(error, ())
    seconds = time.monotonic() - started
    assert seconds < 2.5, "describing took %.3f s" % seconds
    meta = encode_exception(*data)
    assert len(meta) < META_BYTES_MAX
    failure = support.read_failure(b"\0\0\0\0" + meta)
    assert failure.pop("kind") == "Raised"
    assert failure == _errors.as_dict(data)
    for text in (failure["message"], failure["traceback"]):
        assert len(text.encode()) <= 64 << 10
    assert len(failure["frames"]) <= 64 and len(failure["chain"]) <= 16
    return failure


def fail(message="no"):
    raise ValueError(message)


class NeedsArguments(Exception):
    def __init__(self, one, two):
        super().__init__("%s and %s" % (one, two))


class Usual(unittest.TestCase):
    def test_type_message_frames_and_traceback(self):
        error = raised(lambda: fail("no ü"))
        failure = describe(error)
        self.assertEqual("ValueError", failure["type_name"])
        self.assertEqual("no ü", failure["message"])
        frame = failure["frames"][-1]
        self.assertEqual((HERE, "fail"), (frame["file"], frame["function"]))
        self.assertEqual("raise ValueError(message)", frame["source"])
        self.assertEqual(fail.__code__.co_firstlineno + 1, frame["line"])
        expected = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.assertEqual(expected, failure["traceback"])

    def test_chains_are_as_python_prints_them(self):
        def caused():
            try:
                fail("first")
            except ValueError as error:
                raise KeyError("second") from error

        def in_context():
            try:
                caused()
            except KeyError:
                int("third")

        def suppressed():
            try:
                fail()
            except ValueError:
                raise KeyError("alone") from None

        error = raised(in_context)
        failure = describe(error)
        self.assertEqual(
            [("context", "KeyError", "'second'"), ("cause", "ValueError", "first")],
            [tuple(link.values()) for link in failure["chain"]],
        )
        expected = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.assertEqual(expected, failure["traceback"])
        self.assertEqual([], describe(raised(suppressed))["chain"])

    def test_names_of_types(self):
        class Inner(Exception):
            pass

        name = __name__ + ".Usual.test_names_of_types.<locals>.Inner"
        self.assertEqual(name, describe(Inner())["type_name"])
        for module in ("__main__", "__mp_main__", "builtins"):
            Inner.__module__ = module
            self.assertEqual(name.partition(".")[2], describe(Inner())["type_name"])

    def test_syntax_errors_show_their_line(self):
        failure = describe(raised(lambda: compile("a = = 1", "typed.py", "exec")))
        self.assertIn("a = = 1", failure["traceback"])
        self.assertIn("SyntaxError", failure["traceback"])

    def test_leading_frames_of_ours_are_left_out(self):
        error = raised(fail)
        data = _errors.describe(error, (os.path.dirname(HERE) + "/",))
        self.assertEqual([], data[3])
        self.assertEqual("ValueError: no\n", data[4])

    def test_required_arguments_f033(self):
        failure = describe(NeedsArguments(1, 2))
        self.assertEqual("1 and 2", failure["message"])
        error = urllib.error.HTTPError("http://x", 404, "Not Found", {}, None)
        failure = describe(error)
        self.assertEqual("urllib.error.HTTPError", failure["type_name"])
        self.assertEqual("HTTP Error 404: Not Found", failure["message"])

    @unittest.skipIf(sys.version_info < (3, 11), "notes came with 3.11")
    def test_notes(self):
        error = ValueError("no")
        for number in range(40):
            error.add_note("note %d" % number)
        notes = describe(error)["notes"]
        self.assertEqual("note 14", notes[14])
        self.assertEqual("... [cut, 40 notes in all]", notes[15])
        self.assertEqual(16, len(notes))


class Unusual(unittest.TestCase):
    def test_methods_that_raise_f034(self):
        class Bad(Exception):
            def __str__(self):
                raise SystemExit(3)

            __repr__ = __reduce__ = __str__

        class NoText(Exception):
            def __str__(self):
                return 5

        for make in (Bad, NoText):
            failure = describe(raised(lambda make=make: (_ for _ in ()).throw(make())))
            self.assertEqual("<exception str() failed>", failure["message"])
            self.assertTrue(failure["type_name"].endswith(make.__name__))

    def test_frozen_dataclass_f035(self):
        @dataclasses.dataclass(frozen=True)
        class Frozen(Exception):
            code: int

        def from_cause():
            try:
                fail("cause")
            except ValueError as error:
                frozen = Frozen(3)
                BaseException.__dict__["__cause__"].__set__(frozen, error)
                object.__setattr__(frozen, "code", 4)
                raise frozen

        failure = describe(BaseException.__new__(Frozen, 3))
        self.assertTrue(failure["type_name"].endswith("Frozen"))
        # Python itself cannot set a traceback on it; what it raises instead must arrive.
        self.assertIn("Frozen", describe(raised(from_cause))["traceback"])

    def test_cause_cycle_f037(self):
        one, two = ValueError("one"), ValueError("two")
        one.__cause__, two.__cause__ = two, one
        failure = describe(one)
        self.assertEqual(["two"], [link["message"] for link in failure["chain"]])
        alone = ValueError("alone")
        alone.__cause__ = alone
        self.assertEqual([], describe(alone)["chain"])

    def test_long_chain_f037(self):
        error = ValueError(0)
        for number in range(1, 10_000):
            newer = ValueError(number)
            newer.__cause__ = error
            error = newer
        failure = describe(error)
        self.assertEqual("9999", failure["message"])
        self.assertEqual(16, len(failure["chain"]))
        self.assertIn("[cut, the chain goes on]", failure["chain"][-1]["message"])
        self.assertIn("[cut, the chain goes on]", failure["traceback"])
        self.assertTrue(failure["traceback"].endswith("ValueError: 9999\n"))
        while error.__cause__:
            # Python's own destruction of such a chain overflows the stack on some versions.
            error.__cause__, error = None, error.__cause__

    def test_long_message_f038(self):
        failure = describe(raised(lambda: fail("head" + "x" * 100_000_000 + "tail")))
        self.assertTrue(failure["message"].startswith("headxxx"))
        self.assertTrue(failure["message"].endswith("xxxtail"))
        self.assertIn("... [cut, 100 MB in all] ...", failure["message"])
        self.assertIn("ValueError: head", failure["traceback"])

    def test_texts_are_cut_between_characters(self):
        for text in ("ü" * 100_000, "\U0001f40d" * 70_000, "\ud800" * 20_000):
            part = _errors.cut(text, 1000)
            self.assertLessEqual(len(part.encode()), 1000)
            self.assertIn("cut", part)
        self.assertEqual("\\ud800 ü", _errors.cut("\ud800 ü", 1000))

    def test_deep_tracebacks(self):
        source = "".join(
            "def f%d(n):\n    return f%d(n - 1)\n" % (n, (n + 1) % 7) for n in range(7)
        )
        names = {}
        exec(compile(source, "seven.py", "exec"), names)
        failure = describe(raised(lambda: names["f0"](1)))
        self.assertEqual("RecursionError", failure["type_name"])
        self.assertEqual(63, len(failure["frames"]))
        self.assertRegex(failure["frames"][31]["function"], r"\[cut, \d+ frames\]")
        self.assertTrue(failure["traceback"].rstrip().endswith(failure["message"]))

    def test_very_deep_tracebacks(self):
        code = (
            "import sys, threading\n"
            "sys.path[:0] = [%r]\n"
            "from clutch import _errors\n"
            "sys.setrecursionlimit(30000)\n"
            "threading.stack_size(512 << 20)\n"
            "def down(n):\n    return down(n - 1) if n else 1 // 0\n"
            "def work():\n"
            "    try:\n        down(20000)\n"
            "    except ZeroDivisionError as error:\n"
            "        sys.setrecursionlimit(1000)\n"
            "        print(_errors.describe(error, ())[4])\n"
            "thread = threading.Thread(target=work)\n"
            "thread.start()\nthread.join()\n"
        ) % support.SOURCE
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, timeout=60
        )
        self.assertRegex(done.stdout.decode(), r"\[cut, \d+ frames\]")
        self.assertIn("ZeroDivisionError", done.stdout.decode())

    @unittest.skipIf(sys.version_info < (3, 11), "groups came with 3.11")
    def test_groups(self):
        group = ExceptionGroup  # noqa: F821
        error = raised(
            lambda: (_ for _ in ()).throw(
                group("both", [ValueError(1), group("in", [KeyError(2)])])
            )
        )
        failure = describe(error)
        self.assertEqual("both (2 sub-exceptions)", failure["message"])
        expected = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.assertEqual(expected, failure["traceback"])
        many = describe(group("many", [ValueError(number) for number in range(100_000)]))
        self.assertIn("[cut, 100000 exceptions in all]", many["traceback"])

    def test_odd_attributes(self):
        class Odd(Exception):
            __notes__ = property(lambda self: 1 / 0)
            exceptions = 5
            __cause__ = property(lambda self: 1 / 0)

        self.assertEqual("odd", describe(Odd("odd"))["message"])

    def test_odd_types(self):
        class Meta(type):
            __module__ = property(lambda cls: 1 / 0)

        odd = Meta("Odd", (Exception,), {})
        self.assertEqual("<unknown type>", describe(odd("odd"))["type_name"])


if __name__ == "__main__":
    unittest.main()
