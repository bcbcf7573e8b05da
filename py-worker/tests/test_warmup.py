"""What a worker calls before it is ready: the initializer and the functions of `warm`."""

import os
import shutil
import tempfile
import unittest

import support
from support import Failed, Worker

TASKS = """
import os, signal, sys, threading
seen = ["imported"]
class Model:
    loaded = 0
    @classmethod
    def load(cls):
        cls.loaded += 1
        seen.append("class")
def connect(*args):
    seen.append(list(args))
    os.chdir(os.path.dirname(__file__))
    print("connected")
def load():
    seen.append("load")
    return threading.Lock()
async def later():
    import asyncio
    await asyncio.sleep(0)
    seen.append("later")
async def fail_later():
    raise ValueError("later")
def report():
    return seen, Model.loaded, os.getcwd()
def fail():
    raise RuntimeError("no model today")
def leave():
    sys.exit(3)
def fork_and_return():
    if os.fork() == 0:
        return
    seen.append(os.WEXITSTATUS(os.wait()[1]))
def fork_and_raise():
    if os.fork() == 0:
        raise RuntimeError("in the child")
    seen.append(os.WEXITSTATUS(os.wait()[1]))
def hang():
    import time
    time.sleep(1000)
not_callable = 1
"""


class WarmUp(unittest.TestCase):
    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.write("tasks.py", TASKS)

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w") as file:
            file.write(text)

    def worker(self, **keys):
        worker = Worker(folder="/", path=[self.folder], **keys)
        self.addCleanup(worker.close)
        return worker

    def failed(self, **keys):
        with self.assertRaises(Failed) as caught:
            self.worker(**keys)
        return caught.exception.failure

    def test_all_of_it_once_and_in_order(self):
        worker = self.worker(
            preload=["tasks"],
            initializer="tasks:connect",
            initargs='["gr\u00f6\u00dfe", 1, null, {"a": [true, 2.5]}]',
            warm=["tasks:load", "tasks:Model.load", "tasks:later"],
        )
        args = ["gr\u00f6\u00dfe", 1, None, {"a": [True, 2.5]}]
        seen = ["imported", args, "load", "class", "later"]
        for _ in range(2):
            self.assertEqual([seen, 1, self.folder], list(worker.call("tasks:report")))
        self.assertEqual("connected\n", worker.stdout())

    def test_without_an_initializer(self):
        worker = self.worker(warm=["tasks:load"])
        self.assertEqual(["imported", "load"], list(worker.call("tasks:report"))[0])

    def test_functions_of_the_script(self):
        self.write("main.py", "seen = [__name__]\ndef go(): seen.append(__name__)\n")
        script = os.path.join(self.folder, "main.py")
        worker = self.worker(main=script, initializer="__main__:go", initargs="[]")
        self.assertEqual(["__mp_main__", "__main__"], worker.call("__main__:seen.copy"))

    def test_what_raises_is_the_starts_failure_with_what_was_called(self):
        failure = self.failed(warm=["tasks:load", "tasks:fail"])
        self.assertEqual(("Raised", "RuntimeError"), (failure["kind"], failure["type_name"]))
        first, second = failure["traceback"].splitlines()[:2]
        self.assertEqual("`warm` called tasks:fail, which raised", first)
        self.assertEqual("Traceback (most recent call last):", second)
        self.assertIn("in fail\n", failure["traceback"])
        self.assertNotIn("_warmup", failure["traceback"])
        failure = self.failed(initializer="math:sqrt", initargs='["x"]')
        self.assertIn("`initializer` called math:sqrt, which raised", failure["traceback"])
        self.assertIn("TypeError: must be real number, not str", failure["traceback"])
        failure = self.failed(warm=["tasks:fail_later"])
        self.assertIn("in fail_later\n", failure["traceback"])
        self.assertNotIn("asyncio", failure["traceback"])
        failure = self.failed(initializer="tasks:leave", initargs="[]")
        self.assertEqual("SystemExit", failure["type_name"])

    def test_what_is_not_there_is_named(self):
        failure = self.failed(warm=["tasks:laod"])
        self.assertEqual(("NotFound", "function"), (failure["kind"], failure["what"]))
        self.assertIn("did you mean 'load'?", failure["message"])
        failure = self.failed(initializer="taks:load", initargs="[]")
        self.assertEqual(("NotFound", "module"), (failure["kind"], failure["what"]))
        failure = self.failed(warm=["tasks:not_callable"])
        self.assertEqual("not_callable", failure["what"])

    def test_a_forked_child_never_speaks_for_the_worker(self):
        worker = self.worker(warm=["tasks:fork_and_return", "tasks:fork_and_raise"])
        self.assertEqual(["imported", 0, 1], list(worker.call("tasks:report"))[0])
        self.assertIn("RuntimeError: in the child", worker.stderr())

    def test_one_that_hangs_shows_its_stack_f021(self):
        worker = self.worker(warm=["tasks:hang"], ready=False, start_stack_ms=1500)
        support.wait_for(lambda: "in hang" in worker.stack(), "the stack")


if __name__ == "__main__":
    unittest.main()
