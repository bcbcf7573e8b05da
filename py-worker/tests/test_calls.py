"""Conversations: calls, answers, failures, items, cancelling. One worker process per test."""

import json
import os
import pickle
import struct
import sys
import time
import unittest

import support
from support import ITEMS, JSON, KEYWORDS, NONE, PLAIN, RAW, Failed, wait_for

CODE = """
import os, sys, time, threading
import clutch

def echo(*args, **kwargs):
    return [list(args), kwargs]

def square(x):
    return x * x

def fail(message="no"):
    raise ValueError(message)

def fits(a, b, *, c=3):
    return a + b + c

def inner_misfit():
    return fits(1)

def ask():
    call = clutch.current_call()
    assert call is clutch.current_call()
    return [call.id, call.function, call.pool, call.slot, call.generation, call.cancelled,
            call.time_left() is None or 0 < call.time_left() <= 5, call.deadline is None]

class Deep:
    class Er:
        @staticmethod
        def down(x):
            return x + 1
        @classmethod
        def made(cls, x):
            return x + 2
    data = 5
    def method(self):
        return "method"

deep = Deep()
NOT_CALLABLE = 5

log = []

def logged():
    return log

def sleep(seconds):
    log.append("sleeping")
    try:
        print("ready", flush=True)
        time.sleep(seconds)
    finally:
        log.append("woken")

def spin():
    with open(os.devnull) as resource:
        log.append("spinning")
        try:
            print("ready", flush=True)
            while True:
                pass
        finally:
            log.append("stopped")

def swallow():
    try:
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
    except BaseException as error:
        log.append(type(error).__name__)
        return "swallowed"

def not_by_except_exception():
    try:
        print("ready", flush=True)
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                log.append("caught")
    except clutch.Cancelled:
        log.append("passed")
        raise RuntimeError("something else")

def cooperative():
    call = clutch.current_call()
    seen = []
    def watch():
        print("ready", flush=True)
        while not clutch.current_call().cancelled:
            time.sleep(0.001)
        seen.append(clutch.current_call().id)
    thread = threading.Thread(target=watch)
    try:
        thread.start()
        while True:
            time.sleep(0.01)
    finally:
        thread.join()
        log.append([seen == [call.id], call.cancelled])

def read_pipe():
    read, write = os.pipe()
    print("ready", flush=True)
    os.read(read, 1)

def wait_for_lock():
    lock = threading.Lock()
    lock.acquire()
    print("ready", flush=True)
    lock.acquire()

def wait_in_item(item):
    log.append(item)
    if item == 2:
        print("ready", flush=True)
        time.sleep(1000)
    return item

def nothing():
    pass

async def nap_for_nothing():
    pass

def calls_badly(item):
    return nothing(item)

def until_told():
    call = log[:] = [clutch.current_call()]
    print("ready", flush=True)
    while not call[0].cancelled:
        time.sleep(0.001)
    return "told"

def who_was_told():
    return [clutch.current_call().cancelled, log.pop().cancelled]

def which():
    call = clutch.current_call()
    assert not call.cancelled
    return [call.id, call.attempt]

def odd_item(item):
    if item == 1:
        raise StopIteration("odd")
    if item == 2:
        raise SystemExit(4)
    if item == 3:
        return threading.Lock()
    if item == 4:
        return {"inner": [open(os.devnull)]}
    return item

async def nap(seconds):
    import asyncio
    await asyncio.sleep(seconds)
    return clutch.current_call().function

async def long_nap():
    import asyncio
    try:
        print("ready", flush=True)
        await asyncio.sleep(1000)
    finally:
        log.append("async woken")

async def async_fail():
    raise KeyError("async")

def wrapped():
    return nap(0)

def big(size):
    return b"x" * size

def long(size):
    return "x" * size
"""


class Conversation(support.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.worker_here = self.worker(CODE, path=[self.folder])

    def call(self, *args, **kwargs):
        return self.worker_here.call(*args, **kwargs)

    def failure(self, *args, **kwargs):
        return self.worker_here.failure(*args, **kwargs)


class Calls(Conversation):
    def test_ready_says_who_it_is(self):
        python = "%d.%d.%d" % sys.version_info[:3]
        self.assertEqual(
            (1, self.worker_here.process.pid, python, sys.executable), self.worker_here.ready
        )

    def test_arguments_and_keywords(self):
        self.assertEqual([[1, "a", None], {}], self.call("tasks:echo", 1, "a", None))
        self.assertEqual([[1], {"b": 2}], self.call("tasks:echo", 1, b=2))
        worker = self.worker_here
        call_id = worker.send("tasks:echo", pickle.dumps(((), {}), 5), KEYWORDS)
        self.assertEqual([[], {}], pickle.loads(worker.answer(call_id)[2]))
        call_id = worker.send("tasks:echo", b'[[1],{"b":[2]}]', KEYWORDS, JSON)
        self.assertEqual((0, JSON, b'[[1],{"b":[2]}]'), worker.answer(call_id))
        call_id = worker.send("builtins:len", b"\x00\xff\x00", 0, RAW)
        with self.assertRaises(Failed):
            worker.answer(call_id)
        call_id = worker.send("binascii:hexlify", b"\x00\xff", 0, RAW)
        self.assertEqual((0, RAW, b"00ff"), worker.answer(call_id))

    def test_names_with_dots(self):
        self.assertEqual(4, self.call("tasks:Deep.Er.down", 3))
        self.assertEqual(5, self.call("tasks:Deep.Er.made", 3))
        self.assertEqual("method", self.call("tasks:deep.method"))
        self.assertEqual("/a/b", self.call("os.path:join", "/a", "b"))

    def test_a_redefinition_is_seen(self):
        self.assertEqual(9, self.call("tasks:square", 3))
        self.call("builtins:exec", "import tasks; tasks.square = lambda x: -x")
        self.assertEqual(-3, self.call("tasks:square", 3))
        self.call("builtins:exec", "import tasks; del tasks.square")
        self.assertEqual("function", self.failure("tasks:square", 3)["what"])

    def test_the_current_call(self):
        worker = self.worker_here
        pool = ["default", 3, 2]
        self.assertEqual([1, "tasks:ask", *pool, False, True, True], worker.call("tasks:ask"))
        call_id = worker.send("tasks:ask", pickle.dumps([], 5), timeout_ms=5000)
        answer = pickle.loads(worker.answer(call_id)[2])
        self.assertEqual([2, "tasks:ask", *pool, False, True, False], answer)

    def test_many_calls_sent_at_once(self):
        worker = self.worker_here
        ids = [worker.send("tasks:square", pickle.dumps([n], 5)) for n in range(100)]
        for n, call_id in enumerate(ids):
            self.assertEqual(n * n, pickle.loads(worker.answer(call_id)[2]))

    def test_coroutines_f058(self):
        self.assertEqual("tasks:nap", self.call("tasks:nap", 0))
        self.assertEqual("tasks:wrapped", self.call("tasks:wrapped"))
        failure = self.failure("tasks:async_fail")
        self.assertEqual("KeyError", failure["type_name"])
        self.assertEqual(["async_fail"], [frame["function"] for frame in failure["frames"]])
        self.assertEqual((["tasks:nap"] * 3, []), self.worker_here.map("tasks:nap", [0, 0, 0]))
        self.assertEqual(9, self.call("tasks:square", 3))

    def test_exit_and_end_of_stream(self):
        self.call("builtins:exec", "import atexit; atexit.register(print, 'at exit')")
        self.assertEqual(0, self.worker_here.finish())
        self.assertEqual("at exit\n", self.worker_here.stdout())
        other = self.worker()
        other.call_socket.shutdown(support.socket.SHUT_WR)
        self.assertEqual(0, other.process.wait(support.DEADLINE_S))
        self.assertEqual("", other.stderr())


class Failures(Conversation):
    def test_raised(self):
        failure = self.failure("tasks:fail", "häß")
        self.assertEqual("Raised", failure["kind"])
        self.assertEqual(("ValueError", "häß"), (failure["type_name"], failure["message"]))
        self.assertEqual(["fail"], [frame["function"] for frame in failure["frames"]])
        self.assertTrue(failure["traceback"].startswith("Traceback (most recent call last):\n"))
        self.assertNotIn(support.SOURCE, failure["traceback"])

    def test_base_exceptions_f009_f039(self):
        for name in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"):
            code = "raise %s(3)" % name
            self.assertEqual(name, self.failure("builtins:exec", code)["type_name"])
        code = "import asyncio; raise asyncio.CancelledError"
        self.assertIn("CancelledError", self.failure("builtins:exec", code)["type_name"])
        code = "import clutch; raise clutch.Cancelled"
        self.assertEqual("clutch.Cancelled", self.failure("builtins:exec", code)["type_name"])
        self.assertEqual("SystemExit", self.failure("sys:exit", 1)["type_name"])
        self.assertEqual(9, self.call("tasks:square", 3))

    def test_deep_recursion_f059(self):
        code = (
            "import sys; sys.setrecursionlimit(5000)\n"
            "f = lambda n: f(n + 1)\n"
            "f.__globals__['f'] = f\n"
            "f(0)"
        )
        self.assertEqual("RecursionError", self.failure("builtins:exec", code)["type_name"])
        self.assertEqual(9, self.call("tasks:square", 3))

    def test_no_such_module_f044(self):
        failure = self.failure("tsks:square", 3)
        self.assertEqual(("NotFound", "module"), (failure["kind"], failure["what"]))
        for part in (
            "no module named 'tsks'",
            "did you mean 'tasks'?",
            sys.executable,
            self.folder,
        ):
            self.assertIn(part, failure["message"])
        self.assertEqual("module", self.failure("os.pth:join")["what"])
        self.write("tsks.py", "def square(x): return -x * x")
        self.assertEqual(-9, self.call("tsks:square", 3))

    def test_a_module_that_cannot_be_imported_f020(self):
        self.write("broken.py", "import nothing_of_this_name\n")
        failure = self.failure("broken:f")
        self.assertEqual(("NotFound", "module"), (failure["kind"], failure["what"]))
        self.assertIn("ModuleNotFoundError", failure["message"])
        self.assertIn('broken.py", line 1', failure["traceback"])
        self.assertNotIn(support.SOURCE, failure["traceback"])
        self.write("broken.py", "def f(:\n")
        self.assertIn("SyntaxError", self.failure("broken:f")["traceback"])
        self.write("broken.py", "raise SystemExit(5)  # and this comment changes its size\n")
        self.assertIn("SystemExit", self.failure("broken:f")["message"])
        self.write(
            "broken.py", "def f(): return 'mended'\n# a comment that changes its size, too\n"
        )
        self.assertEqual("mended", self.call("broken:f"))

    def test_no_such_function(self):
        failure = self.failure("tasks:sqare")
        self.assertEqual("function", failure["what"])
        message = "module 'tasks' has no attribute 'sqare' (did you mean 'square'?)"
        self.assertEqual(message, failure["message"])
        failure = self.failure("tasks:Deep.Er.dwn")
        message = "'tasks:Deep.Er' has no attribute 'dwn' (did you mean 'down'?)"
        self.assertEqual(message, failure["message"])

    def test_not_callable(self):
        failure = self.failure("tasks:Deep.data")
        self.assertEqual("not_callable", failure["what"])
        self.assertEqual("tasks:Deep.data is no function, but of type int", failure["message"])

    def test_names_that_are_none(self):
        for name in ("tasks", "tasks:", ":f", "", "a b:c", "../x:y", "x" * 600 + ":f", "a:b\n"):
            failure = self.failure(name)
            self.assertEqual(("NotFound", "name"), (failure["kind"], failure["what"]), name)

    def test_arguments_that_do_not_fit(self):
        cases = [
            ("tasks:fits", (1,), {}),
            ("tasks:fits", (1, 2, 3), {}),
            ("tasks:fits", (1, 2), {"d": 1}),
            ("tasks:Deep", (1,), {}),
            ("math:sqrt", (), {}),
            ("builtins:int", (1, 2, 3), {}),
        ]
        for function, args, kwargs in cases:
            failure = self.failure(function, *args, **kwargs)
            self.assertEqual("BadArguments", failure["kind"], function)
            self.assertIn("argument", failure["message"])

    def test_type_errors_that_are_the_functions_own(self):
        failure = self.failure("tasks:inner_misfit")
        self.assertEqual(("Raised", "TypeError"), (failure["kind"], failure["type_name"]))
        self.assertEqual("Raised", self.failure("tasks:square", "x")["kind"])
        self.assertEqual("Raised", self.failure("math:sqrt", "x")["kind"])

    def test_arguments_that_cannot_be_decoded_f043(self):
        worker = self.worker_here
        code = b"cos\nsystem\n(S'touch smuggled'\ntR."
        cases = [
            (PLAIN, 0, b""),
            (PLAIN, 0, b"garbage"),
            (PLAIN, 0, code),
            (PLAIN, 0, pickle.dumps([os.system], 5)),
            (PLAIN, 0, pickle.dumps([ValueError("x")], 5)),
            (PLAIN, 0, pickle.dumps(5, 5)),
            (PLAIN, 0, pickle.dumps({"a": 1}, 5)),
            (PLAIN, KEYWORDS, pickle.dumps([1, 2, 3], 5)),
            (PLAIN, KEYWORDS, pickle.dumps([1, {}], 5)),
            (PLAIN, KEYWORDS, pickle.dumps([[], []], 5)),
            (PLAIN, KEYWORDS, pickle.dumps([[], {1: 2}], 5)),
            (PLAIN, ITEMS, pickle.dumps(5, 5)),
            (PLAIN, ITEMS | KEYWORDS, pickle.dumps([[], {}], 5)),
            (JSON, 0, b"[1"),
            (JSON, 0, b'{"a": 1}'),
            (JSON, 0, b"[NaN]"),
            (JSON, 0, b"\xff"),
            (RAW, KEYWORDS, b"x"),
            (RAW, ITEMS, b"x"),
            (NONE, 0, b""),
        ]
        for codec, flags, payload in cases:
            call_id = worker.send("tasks:echo", payload, flags, codec)
            with self.assertRaises(Failed, msg=(codec, payload)) as caught:
                worker.answer(call_id)
            self.assertEqual("BadArguments", caught.exception.failure["kind"])
        self.assertFalse(os.path.exists(os.path.join(self.folder, "smuggled")))

    def test_results_that_cannot_be_sent_f040(self):
        cases = [
            ("threading:Lock", (), "result", "_thread.lock"),
            ("builtins:iter", ([],), "result", "list_iterator"),
            ("builtins:open", (os.devnull,), "result", "_io.TextIOWrapper"),
            ("builtins:eval", ("{'a': [1, lambda: 2]}",), "result['a'][1]", "function"),
            ("builtins:eval", ("(i for i in ())",), "result", "generator"),
        ]
        for function, args, path, type_name in cases:
            failure = self.failure(function, *args)
            self.assertEqual("Unserializable", failure["kind"])
            self.assertEqual((path, type_name), (failure["path"], failure["type_name"]))

    def test_results_with_methods_that_do_harm_f041(self):
        code = (
            "import os, tasks\n"
            "class Bad:\n"
            "  def __reduce__(self): os._exit(3)\n"
            "  def __getattr__(self, name): raise SystemExit\n"
            "class Items(dict):\n"
            "  def items(self): raise SystemExit(4)\n"
            "class Meta(type):\n"
            "  def __getattribute__(self, name): raise KeyboardInterrupt\n"
            "tasks.bad, tasks.items, tasks.meta = Bad, Items, Meta('M', (), {})\n"
        )
        self.call("builtins:exec", code)
        for name in ("bad", "items", "meta"):
            self.assertEqual("Unserializable", self.failure("tasks:" + name)["kind"], name)
        self.assertEqual(9, self.call("tasks:square", 3))

    def test_results_whose_encoding_runs_code_f041(self):
        self.call(
            "builtins:exec",
            "import array, tasks\n"
            "class List(list):\n"
            "  def __iter__(self): raise KeyError('lazy')\n"
            "class Exits(list):\n"
            "  def __iter__(self): raise SystemExit(3)\n"
            "class Broken(dict):\n"
            "  def items(self): raise OSError(9, 'gone')\n"
            "tasks.made = {'List': List([1]), 'Exits': Exits([1])}\n"
            "tasks.made.update(Broken=Broken(a=1), ok=5)\n"
            "tasks.make = tasks.made.get\n"
            "def released(_):\n"
            "  view = memoryview(b'abc')\n"
            "  view.release()\n"
            "  return view\n"
            "tasks.released = released\n",
        )
        worker = self.worker_here
        for name in ("List", "Exits", "Broken"):
            call_id = worker.send("tasks:make", json.dumps([name]).encode(), 0, JSON)
            with self.assertRaises(Failed) as caught:
                worker.answer(call_id)
            self.assertEqual("Unserializable", caught.exception.failure["kind"], name)
            results, failures = worker.map("tasks:make", ["ok", name, "ok"], JSON)
            self.assertEqual([5, None, 5], results)
            self.assertEqual([1], [index for index, _ in failures])
        call_id = worker.send("tasks:released", b"", 0, RAW)
        with self.assertRaises(Failed) as caught:
            worker.answer(call_id)
        self.assertEqual("Unserializable", caught.exception.failure["kind"])
        self.assertEqual(9, self.call("tasks:square", 3))

    def test_a_json_number_too_large_for_a_float(self):
        worker = self.worker_here
        call_id = worker.send("tasks:echo", b"[1e400]", 0, JSON)
        with self.assertRaises(Failed) as caught:
            worker.answer(call_id)
        failure = caught.exception.failure
        self.assertEqual("BadArguments", failure["kind"])
        self.assertIn("too large for a float", failure["message"])

    def test_a_result_for_json_and_raw(self):
        worker = self.worker_here
        for codec, payload, function in (
            (JSON, b"[]", "builtins:bytes"),
            (JSON, b'["nan"]', "builtins:float"),
            (RAW, b"abc", "builtins:str"),
        ):
            call_id = worker.send(function, payload, 0, codec)
            with self.assertRaises(Failed) as caught:
                worker.answer(call_id)
            self.assertEqual("Unserializable", caught.exception.failure["kind"])

    def test_sizes_around_the_limits_f061(self):
        # Text stays in the payload, whatever its length.
        overhead = len(pickle.dumps("x" * 100_000, 5)) - 100_000
        limit = support.PAYLOAD_BYTES_MAX
        for size in (0, 1, 65_500, 65_535, 65_536, 65_537, 200_000, limit - overhead):
            self.assertEqual(size, len(self.call("tasks:big", size)))
            self.assertEqual(size, len(self.call("tasks:long", size)))
        failure = self.failure("tasks:long", limit - overhead + 1)
        expected = {"kind": "TooLarge", "bytes": limit + 1, "limit": limit}
        self.assertEqual(expected, failure)
        argument = b"y" * (limit - 1000)
        self.assertEqual(len(argument), self.call("builtins:len", argument))


class ItemLists(Conversation):
    def test_in_order(self):
        worker = self.worker_here
        self.assertEqual(([0, 1, 4], []), worker.map("tasks:square", range(3)))
        self.assertEqual(([], []), worker.map("tasks:square", []))
        many = list(range(50_000))
        self.assertEqual(([n * n for n in many], []), worker.map("tasks:square", many))

    def test_json_items(self):
        worker = self.worker_here
        results, failures = worker.map("math:sqrt", [4, -1], JSON)
        self.assertEqual([2.0, None], results)
        self.assertEqual([[1, "ValueError"]], [[i, e["type_name"]] for i, e in failures])

    def test_failures_cost_only_themselves(self):
        results, failures = self.worker_here.map("tasks:odd_item", [0, 1, 2, 3, 4, 5, 1])
        self.assertEqual([0, None, None, None, None, 5, None], results)
        names = [(index, failure["type_name"]) for index, failure in failures]
        expected = [
            (1, "StopIteration"),
            (2, "SystemExit"),
            (3, "clutch.Unserializable"),
            (4, "clutch.Unserializable"),
            (6, "StopIteration"),
        ]
        self.assertEqual(expected, names)
        self.assertEqual(
            {"type_name", "message", "notes", "frames", "traceback", "chain", "bases"},
            set(failures[0][1]),
        )
        self.assertEqual("result['inner'][0]", failures[3][1]["message"].partition(":")[0])
        frame = failures[1][1]["frames"][0]
        self.assertEqual({"file", "line", "function", "source"}, set(frame))
        self.assertEqual("odd_item", frame["function"])

    def test_an_item_alone_fails_as_a_call_does(self):
        worker = self.worker_here
        for function, item, kind in (
            ("tasks:fail", "why", "Raised"),
            ("tasks:odd_item", 1, "Raised"),
            ("tasks:odd_item", 3, "Unserializable"),
            ("tasks:nothing", 1, "BadArguments"),
            ("tasks:nap_for_nothing", 1, "BadArguments"),
        ):
            with self.assertRaises(Failed) as caught:
                worker.map(function, [item])
            self.assertEqual(kind, caught.exception.failure["kind"], function)
        self.assertEqual(([9], []), worker.map("tasks:square", [3]))

    def test_items_that_do_not_fit_say_so_f062(self):
        for function in ("tasks:nothing", "tasks:nap_for_nothing"):
            results, failures = self.worker_here.map(function, [1, 2])
            self.assertEqual([None, None], results)
            for _, failure in failures:
                self.assertEqual("clutch.BadArguments", failure["type_name"], function)
                self.assertIn("takes 0 positional arguments", failure["message"])
        # A TypeError of the function's own is no such thing, even one about arguments.
        _, failures = self.worker_here.map("tasks:calls_badly", [1, 2])
        self.assertEqual({"TypeError"}, {failure["type_name"] for _, failure in failures})

    def test_all_fail(self):
        results, failures = self.worker_here.map("tasks:fail", ["m" * 10_000] * 100)
        self.assertEqual([None] * 100, results)
        self.assertEqual(list(range(100)), [index for index, _ in failures])

    def test_results_that_need_conversion(self):
        self.call("builtins:exec", "import tasks, pathlib; tasks.Path = pathlib.Path")
        self.assertEqual((["a", "b"], []), self.worker_here.map("tasks:Path", ["a", "b"]))

    def test_an_interrupt_ends_the_chunk(self):
        worker = self.worker_here
        call_id = worker.send("tasks:wait_in_item", pickle.dumps([1, 2, 3], 5), ITEMS)
        wait_for(lambda: "ready" in worker.stdout(), "the second item")
        worker.interrupt(call_id)
        with self.assertRaises(Failed) as caught:
            worker.answer(call_id)
        self.assertEqual({"kind": "Cancelled"}, caught.exception.failure)
        self.assertEqual([1, 2], worker.call("tasks:logged"))


class Cancelling(Conversation):
    def cancel(self, function, *args):
        """Calls, interrupts when the function says it is ready, and gives the log."""
        worker = self.worker_here
        call_id = worker.send("tasks:" + function, pickle.dumps(list(args), 5))
        wait_for(lambda: "ready" in worker.stdout(), function)
        started = time.monotonic()
        worker.interrupt(call_id)
        with self.assertRaises(Failed) as caught:
            worker.answer(call_id)
        self.assertEqual({"kind": "Cancelled"}, caught.exception.failure)
        self.assertLess(time.monotonic() - started, 10)
        self.assertLess(worker.ping(), 10)
        return worker.call("tasks:logged")

    def test_sleep(self):
        self.assertEqual(["sleeping", "woken"], self.cancel("sleep", 1000))

    def test_a_loop(self):
        self.assertEqual(["spinning", "stopped"], self.cancel("spin"))

    def test_a_swallowed_interrupt(self):
        self.assertEqual(["Cancelled"], self.cancel("swallow"))

    def test_except_exception_does_not_swallow_it(self):
        self.assertEqual(["passed"], self.cancel("not_by_except_exception"))

    def test_cooperation_between_threads(self):
        self.assertEqual([[True, True]], self.cancel("cooperative"))

    def test_a_blocking_read(self):
        self.cancel("read_pipe")

    def test_a_lock(self):
        self.cancel("wait_for_lock")

    def test_a_coroutine(self):
        self.assertEqual(["async woken"], self.cancel("long_nap"))

    def test_a_coroutine_while_another_task_runs(self):
        self.write(
            "others.py",
            "import asyncio, time\nlog = []\nasync def other():\n"
            "    print('ready', flush=True)\n"
            "    try:\n        time.sleep(1000)\n"
            "    finally:\n        log.append('other')\n"
            "async def main():\n"
            "    task = asyncio.ensure_future(other())\n"
            "    try:\n        await asyncio.sleep(1000)\n"
            "    finally:\n        log.append('main')\n",
        )
        worker = self.worker_here
        call_id = worker.send("others:main", pickle.dumps([], 5))
        wait_for(lambda: "ready" in worker.stdout(), "the other task")
        worker.interrupt(call_id)
        with self.assertRaises(Failed) as caught:
            worker.answer(call_id)
        self.assertEqual({"kind": "Cancelled"}, caught.exception.failure)
        log = worker.call("builtins:eval", "__import__('others').log")
        self.assertEqual(["other", "main"], log)
        self.assertEqual("tasks:nap", worker.call("tasks:nap", 0))

    def event_loop_of_users(self, name):
        self.write(
            "loops.py",
            """
            import asyncio, time
            log = []
            async def child():
                try:
                    print("ready", flush=True)
                    time.sleep(1000)
                except BaseException as error:
                    log.append("child " + type(error).__name__)
                    raise
            async def waits():
                try:
                    print("ready", flush=True)
                    await asyncio.sleep(1000)
                finally:
                    log.append("waiter")
            async def _with_child():
                task = asyncio.ensure_future(child())
                try:
                    await asyncio.sleep(1000)
                finally:
                    log.append("parent")
            async def _two():
                await asyncio.gather(waits(), asyncio.sleep(1000))
            def waiting():
                asyncio.run(waits())
            def with_child():
                asyncio.run(_with_child())
            def two():
                asyncio.run(_two())
            """,
        )
        worker = self.worker_here
        call_id = worker.send("loops:" + name, pickle.dumps([], 5))
        wait_for(lambda: "ready" in worker.stdout(), name)
        worker.interrupt(call_id)
        with self.assertRaises(Failed) as caught:
            worker.answer(call_id)
        self.assertEqual({"kind": "Cancelled"}, caught.exception.failure)
        return worker.call("builtins:eval", "__import__('loops').log")

    def test_a_loop_of_users_that_waits(self):
        self.assertEqual(["waiter"], self.event_loop_of_users("waiting"))

    def test_a_loop_of_users_in_another_task(self):
        self.assertEqual(["child Cancelled", "parent"], self.event_loop_of_users("with_child"))

    def test_a_loop_of_users_with_two_tasks(self):
        self.assertEqual(["waiter"], self.event_loop_of_users("two"))

    def test_a_warning_only_sets_the_flag(self):
        worker = self.worker_here
        call_id = worker.send("tasks:until_told", pickle.dumps([], 5))
        wait_for(lambda: "ready" in worker.stdout(), "until_told")
        worker.warn(call_id + 1)
        worker.ping()
        self.assertTrue(worker.is_quiet())
        worker.warn(call_id)
        self.assertEqual("told", pickle.loads(worker.answer(call_id)[2]))
        # The next call is not told, and one that was told in time can still return.
        self.assertEqual([False, True], worker.call("tasks:who_was_told"))

    def test_a_warning_and_then_an_interrupt(self):
        worker = self.worker_here
        call_id = worker.send("tasks:spin", pickle.dumps([], 5))
        wait_for(lambda: "ready" in worker.stdout(), "spin")
        worker.warn(call_id)
        worker.ping()
        self.assertTrue(worker.is_quiet())
        worker.interrupt(call_id)
        with self.assertRaises(Failed) as caught:
            worker.answer(call_id)
        self.assertEqual({"kind": "Cancelled"}, caught.exception.failure)

    def test_attempts_of_a_call_are_told_apart(self):
        worker = self.worker_here
        worker.next_id = (2 << 48) + 6
        first = worker.send("tasks:which", pickle.dumps([], 5))
        self.assertEqual([7, 3], pickle.loads(worker.answer(first)[2]))
        # An interrupt of the attempt before, or of the same attempt of another call.
        worker.interrupt(first)
        worker.ping()
        worker.next_id = (3 << 48) + 6
        self.assertEqual([7, 4], worker.call("tasks:which"))

    def test_an_import(self):
        self.write("slow.py", "import time\nprint('ready', flush=True)\ntime.sleep(1000)\n")
        worker = self.worker_here
        call_id = worker.send("slow:f", pickle.dumps([], 5))
        wait_for(lambda: "ready" in worker.stdout(), "the import")
        worker.interrupt(call_id)
        with self.assertRaises(Failed) as caught:
            worker.answer(call_id)
        self.assertEqual({"kind": "Cancelled"}, caught.exception.failure)

    def test_an_interrupt_that_comes_before_its_call(self):
        worker = self.worker_here
        worker.interrupt(1)
        worker.ping()
        self.assertEqual({"kind": "Cancelled"}, worker.failure("tasks:square", 3))
        self.assertEqual(9, worker.call("tasks:square", 3))

    def test_an_interrupt_for_another_call_does_nothing(self):
        worker = self.worker_here
        call_id = worker.send("time:sleep", pickle.dumps([0.2], 5))
        worker.interrupt(call_id + 1000)
        worker.interrupt(0)
        self.assertIsNone(pickle.loads(worker.answer(call_id)[2]))

    def test_interrupts_at_every_moment_hit_only_their_call(self):
        worker = self.worker_here
        cancelled = 0
        for number in range(600):
            call_id = worker.send("tasks:square", pickle.dumps([number], 5))
            if number % 3:
                # At another moment each time: in the call, after it, before the next.
                end = time.perf_counter() + number % 50 * 4e-6
                while time.perf_counter() < end:
                    pass
            worker.interrupt(call_id)
            try:
                self.assertEqual(number**2, pickle.loads(worker.answer(call_id)[2]))
            except Failed as failed:
                self.assertEqual({"kind": "Cancelled"}, failed.failure)
                cancelled += 1
            if number % 5 == 0:
                self.assertEqual(4, worker.call("tasks:square", 2))
        self.assertEqual(4, worker.call("tasks:square", 2))
        self.assertGreater(cancelled, 0)

    def test_pings_are_answered_during_a_call(self):
        worker = self.worker_here
        call_id = worker.send("time:sleep", pickle.dumps([0.5], 5))
        for _ in range(10):
            self.assertLess(worker.ping(), 10)
        worker.answer(call_id)

    def test_a_reset_signal_handler_costs_no_life(self):
        code = (
            "import signal\n"
            "for number in range(1, 65):\n"
            "    try: signal.signal(number, signal.SIG_DFL)\n"
            "    except (OSError, ValueError): pass\n"
        )
        worker = self.worker_here
        worker.call("builtins:exec", code)
        call_id = worker.send("time:sleep", pickle.dumps([0.3], 5))
        worker.ping()
        worker.interrupt(call_id)
        with self.assertRaises(Failed):
            worker.answer(call_id)
        # And after the call the handler is back.
        self.assertEqual(["sleeping", "woken"], self.cancel("sleep", 1000))


class BadDaemon(support.FolderTestCase):
    """A worker does not guess: bytes that cannot be are its end, with a sentence."""

    def ends(self, worker, word):
        self.assertEqual(70, worker.process.wait(support.DEADLINE_S))
        self.assertIn(word, worker.stderr())
        self.assertIn("clutch worker: ", worker.stderr())

    def test_on_the_call_socket(self):
        run = struct.pack("<Q", 0) + support.text("math:sqrt") + b"\0"
        cases = [
            (b"GET / HTTP/1.1\r\n\r\n" + bytes(32), "not a Clutch frame"),
            (support.frame(support.RUN, 1, b"short"), "short"),
            (support.frame(support.RUN, 1, run[:-1]), "too early"),
            (support.frame(support.RUN, 1, run[:-1] + b"\2"), "0 or 1"),
            (support.frame(support.RUN, 1, run + b"x"), "too many"),
            (support.frame(99, 1), "kind 99"),
            (support.frame(support.SETUP, 0), "kind 32"),
            (support.frame(support.RUN, 1, run, b"", 64), "flags"),
            (support.frame(support.RUN, 1, run, b"", 0, 9), "codec"),
        ]
        for data, word in cases:
            worker = self.worker()
            worker.call_socket.sendall(data)
            self.ends(worker, word)

    def test_a_frame_cut_off(self):
        worker = self.worker()
        worker.call_socket.sendall(support.frame(support.RUN, 1, b"", bytes(100))[:50])
        worker.call_socket.shutdown(support.socket.SHUT_WR)
        self.ends(worker, "inside a frame")

    def test_on_the_control_socket(self):
        for data in (bytes(32), support.frame(support.RUN, 1), support.frame(9, 1, b"m")):
            worker = self.worker()
            worker.control_socket.sendall(data)
            self.ends(worker, "on the control socket")

    def test_a_setup_that_is_none(self):
        newer = support.setup_meta()
        newer = struct.pack("<H", 9) + newer[2:]
        cases = [
            (support.frame(support.EXIT), "kind 37"),
            (support.frame(support.SETUP, 0, b"\x01\x00"), "too early"),
            (support.frame(support.SETUP, 0, newer), "version 9"),
            (support.frame(support.SETUP, 0, support.setup_meta(), b"payload"), "kind 32"),
        ]
        for data, word in cases:
            self.ends(self.worker(first=data, ready=False), word)


if __name__ == "__main__":
    unittest.main()
