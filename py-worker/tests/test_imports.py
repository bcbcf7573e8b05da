"""Import times of slow starts. One worker process per test."""

import support
from support import IMPORTS, Failed, Reader, read_frame

OUTER = "import inner.part\nimport time\ntime.sleep(0.4)\n"
PART = "import leaf, time\ntime.sleep(0.3)\n"
LEAF = "import time\ntime.sleep(0.5)\n"


def read_imports(sock):
    """The next import times: whether they are the last, and by module both times."""
    received = read_frame(sock)
    assert received is not None and received[0] == IMPORTS, received
    reader = Reader(received[4])
    finished, elapsed_ms = reader.take("B"), reader.take("Q")
    count = reader.take("Q")
    times = {}
    for _ in range(count):
        name = reader.text()
        times[name] = (reader.take("Q"), reader.take("Q"))
    assert reader.at == len(reader.data), "a meta has bytes left over"
    return bool(finished), elapsed_ms, times


class ImportsTest(support.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.write("outer.py", OUTER)
        self.write("inner/__init__.py", "")
        self.write("inner/part.py", PART)
        self.write("leaf.py", LEAF)

    def assert_about(self, expected_ms, measured_ms, what):
        self.assertGreaterEqual(measured_ms, expected_ms - 1, what)
        # A busy machine makes everything longer, and not by much.
        self.assertLess(measured_ms, expected_ms + 400, what)

    def test_a_slow_start_tells_each_modules_time(self):
        with support.Worker(self.folder, path=[self.folder], preload=["outer"]) as worker:
            finished, elapsed_ms, times = read_imports(worker.control_socket)
            self.assertFalse(finished)
            # What is under way counts as far as it had come.
            self.assertGreaterEqual(times["outer"][0], 500)
            while not finished:
                finished, elapsed_ms, times = read_imports(worker.control_socket)
            self.assert_about(1200, elapsed_ms, "all")
            expected = {"outer": (1200, 400), "inner": (800, 300), "leaf": (500, 500)}
            for name, (total_ms, own_ms) in expected.items():
                self.assert_about(total_ms, times[name][0], name)
                self.assert_about(own_ms, times[name][1], name)
            self.assertEqual(["outer", "inner", "leaf"], list(times)[:3])
            self.assertLessEqual(len(times), 16)
            self.assertEqual(3.0, worker.call("math:sqrt", 9))

    def test_a_main_script_is_timed_as_well(self):
        self.write("main.py", "import leaf, time\ntime.sleep(0.1)\n")
        with support.Worker(self.folder, main="main.py") as worker:
            finished = False
            while not finished:
                finished, elapsed_ms, times = read_imports(worker.control_socket)
            self.assert_about(600, elapsed_ms, "all")
            self.assert_about(500, times["leaf"][0], "leaf")

    def test_a_quick_start_tells_nothing_and_leaves_nothing_behind(self):
        code = (
            "import sys, json\n"
            "def trace():\n"
            "    return sys.modules['_frozen_importlib']._find_and_load.__module__\n"
        )
        self.write("quick.py", code)
        with support.Worker(self.folder, path=[self.folder], preload=["quick"]) as worker:
            self.assertEqual("_frozen_importlib", worker.call("quick:trace"))
            worker.ping()

    def test_tracebacks_and_warnings_do_not_show_it(self):
        self.write("broken.py", "import deeper\n")
        self.write("deeper.py", "import no_such_module\n")
        with self.assertRaises(Failed) as caught:
            support.Worker(self.folder, path=[self.folder], preload=["broken"])
        traceback = str(caught.exception.failure)
        self.assertIn("deeper.py", traceback)
        self.assertNotIn("_imports", traceback)
        self.assertNotIn("_bootstrap", traceback)

        self.write("warns.py", "import warnings\nwarnings.warn('old', stacklevel=2)\n")
        self.write("imports_it.py", "\n\nimport warns\n")
        with support.Worker(
            self.folder, path=[self.folder], preload=["imports_it"], flags=["-Wdefault"]
        ) as worker:
            worker.finish()
            self.assertIn("imports_it.py:3: UserWarning: old", worker.stderr())
