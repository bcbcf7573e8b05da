"""Values that a client put with the daemon before: what they are to a call, and what is refused."""

import os
import struct
import sys
import unittest

import attachments
import support
from attachments import (
    BYTES,
    FUTURE_WRITE,
    GROW,
    HERE,
    SEAL,
    SHRINK,
    STREAM,
    VALUE,
    entry,
    memfd,
    value_with,
)
from test_attached import DATA, DOUBLES, NO_NUMPY, Base

sys.path.insert(0, support.SOURCE)

from clutch import _receive  # noqa: E402


class Handles(Base):
    """With numpy, where it is installed."""

    def kept(self, value, entries=(), data=b"", **options):
        """The memory of a value that was put, and the entry that names it."""
        payload = attachments.payload(entries, value_with(value))
        size = len(data) + -len(data) % 64
        number = self.memory(data.ljust(size, b"\0") + payload, **options)

        def named(descriptor=0):
            return entry(VALUE, descriptor, size, len(payload))

        return number, named

    def doubles(self, descriptor=0):
        return attachments.array("<f8", [len(DOUBLES)], descriptor=descriptor)

    def test_it_is_the_value_any_number_of_times_and_new_each_time(self):
        number, named = self.kept({"a": [1, "b"], "data": HERE}, [entry(BYTES, size=3)], b"xyz")
        value = {"a": [1, "b"], "data": b"xyz"}
        before = self.call("descriptors", [], [], [])
        self.assertEqual(value, self.call("same", (HERE,), [named()], [number]))
        twice = self.call("same", (HERE, [HERE]), [named(), named()], [number])
        self.assertEqual([value, [value]], twice)
        self.rest(before)

    def test_an_array_in_it_lies_where_it_was_put(self):
        number, named = self.kept(("a", HERE), [self.doubles()], DATA)
        before = self.call("descriptors", [], [], [])
        found = self.call("same", (HERE,), [named()], [number])
        self.assertEqual(["a", DATA], [found[0], bytes(found[1].data)])
        self.rest(before)

    def test_descriptors_count_from_its_own(self):
        own = self.memory(b"own")
        beside = self.memory(DATA)
        number, named = self.kept([HERE], [self.doubles(1)])
        entries = [named(1), entry(BYTES, 0, 0, 3)]
        found = self.call("same", (HERE, HERE), entries, [own, number, beside])
        self.assertEqual((DATA, b"own"), (bytes(found[0][0].data), found[1]))

    def test_what_no_value_can_be_is_refused(self):
        number, named = self.kept([HERE], [entry(STREAM, details=struct.pack("<I", 1))])
        self.refused((HERE,), [named()], [number], "stream")
        number, named = self.kept([HERE], [entry(VALUE)])
        self.refused((HERE,), [named()], [number], "another value")
        number, named = self.kept(1, seals=SEAL | SHRINK | GROW | FUTURE_WRITE)
        self.refused((HERE,), [named()], [number], "still change")
        number, named = self.kept([HERE], [self.doubles(1)], DATA)
        self.refused((HERE,), [named()], [number], "descriptor 1")
        number, named = self.kept(1)
        self.refused((HERE,), [entry(VALUE, 0, 0, 1 << 20)], [number], "ends at byte")
        self.refused((HERE,), [entry(VALUE, 0, 0, 2)], [number], "inside its table")


class WithoutNumpy(Handles):
    """Arrays are views."""

    def setUp(self):
        super().setUp()
        with open(os.path.join(self.folder, "numpy.py"), "w", encoding="utf-8") as file:
            file.write(NO_NUMPY)


class Kept(unittest.TestCase):
    """How long maps wait for the next call."""

    def setUp(self):
        class Sock:
            def setsockopt(self, *_option):
                pass

        self.now = 0.0
        before = _receive.monotonic
        _receive.monotonic = lambda: self.now
        self.addCleanup(setattr, _receive, "monotonic", before)
        self.arrivals = _receive.Arrivals(Sock())

    def test_other_calls_let_go_of_them_after_a_time(self):
        arrivals = self.arrivals
        arrivals.keep({(1, 2, False): "map"})
        arrivals.keep({(1, 2, False): "map"})
        self.assertTrue(arrivals.waiting, "whoever waits next is reminded")
        arrivals.refuse()
        self.now = 0.9
        self.assertEqual(([], False), arrivals.claim(0))
        self.assertTrue(arrivals.maps and arrivals.waiting)
        self.now = 1.0
        arrivals.refuse()
        self.assertFalse(arrivals.maps or arrivals.waiting, "and nothing is looked at any more")

    def test_descriptors_are_claimed_and_refused_beside_the_reminder(self):
        arrivals = self.arrivals
        arrivals.keep({(1, 2, False): "map"})
        number = memfd(b"x")
        rights = (_receive.SOL_SOCKET, _receive.SCM_RIGHTS, struct.pack("i", number))
        arrivals.waiting.append(([rights], 0))
        self.assertEqual(([number], False), arrivals.claim(1))
        self.assertTrue(arrivals.maps and len(arrivals.waiting) == 1)
        arrivals.waiting.append(([rights], 0))
        with self.assertRaises(_receive.ProtocolError):
            arrivals.refuse()
        with self.assertRaises(OSError):
            os.fstat(number)


if __name__ == "__main__":
    unittest.main()
