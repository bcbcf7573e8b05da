"""The ways of Python to run things elsewhere, all inside a call, with functions of `main`.

`multiprocessing` with every start method, `concurrent.futures`, `threading`, `subprocess` with a
shell; and none of them starts a second worker.
"""

import unittest

import support

MAIN = """
import concurrent.futures, multiprocessing, os, pickle, queue, subprocess, sys, threading
import dataclasses, enum, functools

print("loading", __name__, flush=True)

def square(x):
    return x * x

def add(a, b):
    return a + b

def who(_):
    return [os.getpid(), __name__, square.__module__, sys.argv, os.getcwd(),
            sys.modules["__main__"].__dict__.get("__file__") is not None]

@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    class Inner(enum.Enum):
        A = 1
    def double(self):
        return Point(self.x * 2)

@functools.lru_cache(maxsize=None)
def cached(x):
    return x + 1

def double(point):
    assert type(point) is Point, type(point)
    return point.double()

def pool(method, processes=2):
    with multiprocessing.get_context(method).Pool(processes) as workers:
        squares = workers.map(square, [1, 2, 3, 4])
        points = workers.map(double, [Point(1), Point(2)])
        assert all(type(point) is Point for point in points)
        return [squares, [point.x for point in points], workers.apply(add, (3, 4)),
                workers.map(cached, [1]), workers.map(who, range(1))[0]]

def process(method):
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=put, args=(answers, 5))
    child.start()
    answer = answers.get(timeout=60)
    child.join(60)
    return [answer, child.exitcode]

def put(answers, value):
    answers.put(value)

def nested(method):
    with multiprocessing.get_context(method).Pool(1) as workers:
        return workers.apply(sum, ([1, 2],))

def manager(method):
    with multiprocessing.get_context(method).Manager() as manager:
        shared = manager.dict(a=1)
        return shared["a"]

def executor(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as workers:
        return list(workers.map(square, range(4)))

def threads():
    with concurrent.futures.ThreadPoolExecutor(3) as workers:
        return list(workers.map(square, range(4)))

def thread_queue():
    work, done = queue.Queue(), queue.Queue()
    def serve():
        while True:
            item = work.get()
            if item is None:
                return
            done.put(item * item)
    crew = [threading.Thread(target=serve) for _ in range(3)]
    for thread in crew:
        thread.start()
    for item in [1, 2, 3, 4, None, None, None]:
        work.put(item)
    for thread in crew:
        thread.join()
    return sorted(done.get() for _ in range(4))

def shell():
    out = subprocess.run("echo $((6 * 7)); pwd", shell=True, stdout=subprocess.PIPE, check=True)
    mine = subprocess.run([sys.executable, "-c", "print(6 * 7)"], stdout=subprocess.PIPE)
    return [out.stdout.decode().split("\\n")[:2], mine.stdout.decode()]

def pickled():
    values = [square, Point, Point(1), Point.Inner.A, Point.double]
    names = [value.__module__ for value in (square, Point, Point.Inner, Point.double, cached)]
    same = all(pickle.loads(pickle.dumps(value)) == value for value in values)
    return [same, names, b"__mp_main__" in pickle.dumps(values)]

def main_threads():
    return [threading.current_thread() is threading.main_thread(), threading.active_count(),
            multiprocessing.current_process().name, multiprocessing.current_process().daemon,
            multiprocessing.parent_process() is None]

def fails_in_child(method):
    with multiprocessing.get_context(method).Pool(1) as workers:
        workers.apply(square, ("x",))

if __name__ == "__main__":
    raise AssertionError("the main block must not run in a worker")
"""

METHODS = ("fork", "spawn", "forkserver")


class Processes(support.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.write("my main.py", MAIN)
        self.one = self.worker(main="my main.py", argv=["--flag"])

    def check_still_one_worker(self):
        self.assertEqual(9, self.one.call("__main__:square", 3))
        self.assertTrue(self.one.is_quiet(0.05))
        self.assertNotIn("worker", self.one.stderr())
        self.assertEqual(0, self.one.finish())

    def test_pools(self):
        for method in METHODS:
            with self.subTest(method):
                squares, points, added, cached, who = self.one.call("__main__:pool", method)
                self.assertEqual([[1, 4, 9, 16], [2, 4], 7, [2]], [squares, points, added, cached])
                pid, _name, module, argv, folder, has_file = who
                self.assertNotEqual(self.one.process.pid, pid)
                self.assertIn(module, ("__main__", "__mp_main__"))
                self.assertEqual(["my main.py", "--flag"], argv)
                self.assertEqual(self.folder, folder)
                self.assertTrue(has_file)
        self.check_still_one_worker()

    def test_processes_and_queues(self):
        for method in METHODS:
            with self.subTest(method):
                self.assertEqual([5, 0], self.one.call("__main__:process", method))
        self.check_still_one_worker()

    def test_executors(self):
        for method in METHODS:
            with self.subTest(method):
                self.assertEqual([0, 1, 4, 9], self.one.call("__main__:executor", method))
        self.assertEqual([0, 1, 4, 9], self.one.call("__main__:threads"))
        self.check_still_one_worker()

    def test_managers(self):
        for method in METHODS:
            with self.subTest(method):
                self.assertEqual(1, self.one.call("__main__:manager", method))
        self.check_still_one_worker()

    def test_functions_of_a_module_and_no_main(self):
        self.write("tasks.py", MAIN)
        worker = self.worker(path=[self.folder])
        for method in METHODS:
            with self.subTest(method):
                squares = worker.call("tasks:pool", method)[0]
                self.assertEqual([1, 4, 9, 16], squares)
                self.assertEqual([0, 1, 4, 9], worker.call("tasks:executor", method))
        self.assertEqual(0, worker.finish())

    def test_threads_and_queues(self):
        self.assertEqual([1, 4, 9, 16], self.one.call("__main__:thread_queue"))
        self.check_still_one_worker()

    def test_a_shell_and_a_python(self):
        (answer, folder), mine = self.one.call("__main__:shell")
        self.assertEqual(("42", self.folder, "42\n"), (answer, folder, mine))

    def test_pickles_name_main(self):
        self.assertEqual([True, ["__main__"] * 5, False], self.one.call("__main__:pickled"))

    def test_it_looks_like_a_main_process(self):
        name = ["MainProcess", False, True]
        self.assertEqual([True, 1, *name], self.one.call("__main__:main_threads"))

    def test_an_exception_of_a_child(self):
        for method in METHODS:
            with self.subTest(method):
                failure = self.one.failure("__main__:fails_in_child", method)
                self.assertEqual("TypeError", failure["type_name"])
                self.assertIn("RemoteTraceback", failure["traceback"])
                self.assertTrue(failure["chain"][0]["type_name"].endswith("RemoteTraceback"))

    def test_a_pool_that_outlives_its_call(self):
        code = (
            "import multiprocessing, sys\n"
            "main = sys.modules['__main__']\n"
            "main.kept = multiprocessing.get_context('fork').Pool(1)\n"
        )
        self.one.call("builtins:exec", code)
        code = "import sys; m = sys.modules['__main__']; assert m.kept.apply(m.square, (3,)) == 9"
        self.one.call("builtins:exec", code)
        self.check_still_one_worker()


if __name__ == "__main__":
    unittest.main()
