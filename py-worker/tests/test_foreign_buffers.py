"""Arrays and buffers of other libraries in a result: they travel right, or it is said why not."""

import unittest

import support
from support import ITEM, RAW, Failed, read_frame

CODE = """
def released():
    view = memoryview(b"x" * 100_000)
    view.release()
    return {"rows": [1, view]}

def unlike():
    # As of other libraries: the name says nothing.
    class ndarray(list):
        pass
    class Device:
        __cuda_array_interface__ = {}
    class Foreign:
        def __array__(self):
            raise AssertionError
    return {"list": ndarray([1]), "device": Device, "foreign": Foreign}

def named(name):
    value = unlike()[name]
    return [value() if isinstance(value, type) else value]

def give(code):
    yield 1
    yield {"a": [evaluated(code)]}

def evaluated(code):
    import numpy
    class ndarray(numpy.ndarray):
        'Called as what it inherits from.'
    class Meters(numpy.ndarray):
        'An array with a unit.'
    return eval(code, dict(globals(), **locals()))

def broken(code):
    return {"rows": [1, evaluated(code)]}

def raw(code):
    return evaluated(code.decode())
"""

try:
    import numpy
except ImportError:
    numpy = None


class Case(support.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.one = self.worker(CODE)

    def refused(self, path, words, function, *args):
        failure = self.one.failure("tasks:" + function, *args)
        self.assertEqual(("Unserializable", path), (failure["kind"], failure["path"]), failure)
        self.assertIn(words, failure["message"])


class Buffers(Case):
    def test_a_buffer_that_cannot_be_read_is_named(self):
        words = "operation forbidden on released memoryview object"
        self.refused("result['rows'][1]", words, "released")

    def test_names_mean_nothing(self):
        self.assertEqual([[1]], self.one.call("tasks:named", "list"))
        self.refused("result[0]", "memory of a device", "named", "device")
        self.refused("result[0]", "numpy.asarray(...)", "named", "foreign")


@unittest.skipUnless(numpy, "numpy is not installed here")
class Arrays(Case):
    def there(self, code):
        """What arrives of an array: nested lists of what was attached, or of the lists."""
        there = self.one.call("tasks:evaluated", code)
        if type(there) is list:
            return there
        return numpy.frombuffer(there.data, there.dtype).reshape(there.shape).tolist()

    def test_what_travels_right(self):
        for code in (
            "numpy.arange(20000.0)[::-1]",
            "numpy.arange(40000.0).reshape(200, 200)[::-2, ::3].repeat(9, 0)",
            "numpy.broadcast_to(numpy.arange(10.0), (2000, 10))",
            "numpy.arange(20000, dtype='>i8').reshape(100, 200).T",
            "numpy.arange(20000, dtype='>c16').real",
            "numpy.asfortranarray(numpy.ones((200, 200), '>u2'))",
            "numpy.matrix(numpy.ones((100, 100)))",
            "numpy.array([[1, 'a', None]] * 100, object)",
            "numpy.zeros((0, 70000))",
            "numpy.zeros((3, 0))",
            "numpy.array([b'', b''], 'S')",
            "numpy.zeros(3, 'U0')",
            "numpy.rec.array([(1, 2.5)] * 9000, dtype=[('a', 'i4'), ('b', '>f8')])",
            "numpy.zeros(9000, 'i4,f8')[::-1]",
            "numpy.float64(0.5) * numpy.ones((9000,), numpy.longdouble)",
        ):
            there, local = self.there(code), eval(code).tolist()
            self.assertEqual(local, there, code)

    def test_masks_are_kept(self):
        for count in (3, 20_000):
            code = "numpy.ma.array(numpy.arange(%d), mask=[True, False, False])" % 3
            code = "numpy.ma.concatenate([%s] * %d)" % (code, count // 3)
            expected = [None, 1, 2] * (count // 3)
            self.assertEqual(expected, self.one.call("tasks:evaluated", code))
        self.assertIsNone(self.one.call("tasks:evaluated", "numpy.ma.masked"))

    def test_subclasses_of_others_are_refused(self):
        for kind in ("ndarray", "Meters"):
            for count in (3, 20_000):
                code = "numpy.arange(%d.0).view(%s)" % (count, kind)
                self.refused("result['rows'][1]", "numpy.array(...)", "broken", code)

    def test_numbers_that_no_double_can_be_are_refused(self):
        code = "numpy.array(['1e4000'], numpy.longdouble)"
        self.refused("result['rows'][1][0]", "more than a double", "broken", code)

    def test_addresses_never_leave(self):
        code = "memoryview(numpy.array([None] * 9000, object))"
        self.refused("result['rows'][1]", "Python objects", "broken", code)
        code = "memoryview(numpy.zeros(9000, [('Ox', 'O'), ('b', 'f8')]))"
        self.refused("result['rows'][1]", "Python objects", "broken", code)
        code = "memoryview(numpy.zeros(9000, [('Oh', 'f4'), ('b', 'f8')]))"
        self.assertEqual(9000 * 12, len(self.one.call("tasks:evaluated", code)))

    def test_raw_bytes_are_data(self):
        for code, is_data in (
            ("numpy.ma.array([1, 2], mask=[True, False])", False),
            ("numpy.array([None, 1], object)", False),
            ("numpy.array([1, 2])", True),
        ):
            call = self.one.send("tasks:raw", code.encode(), 0, RAW)
            if is_data:
                self.assertEqual(eval(code).tobytes(), self.one.answer(call)[2])
                continue
            with self.assertRaises(Failed) as caught:
                self.one.answer(call)
            self.assertEqual("Unserializable", caught.exception.failure["kind"])

    def test_items_of_streams_are_named(self):
        call = self.one.stream("tasks:give", "numpy.zeros(20000).view(ndarray)", credit=5)
        self.assertEqual(ITEM, read_frame(self.one.call_socket)[0])
        failure = support.read_failure(read_frame(self.one.call_socket)[4])
        self.assertEqual("item[1]['a'][0]", failure["path"], call)


if __name__ == "__main__":
    unittest.main()
