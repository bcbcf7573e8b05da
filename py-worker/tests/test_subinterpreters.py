"""Several calls at once in one worker, each in an interpreter of its own."""

import os
import pickle
import random
import re
import signal
import struct
import sys
import time
import unittest

import support

CAN = sys.implementation.name == "cpython" and sys.version_info >= (3, 13)

TASKS = """
    import asyncio, atexit, concurrent.futures, logging, os, subprocess, sys, threading, time
    import clutch

    calls = 0
    kept = []

    def count():
        global calls
        calls += 1
        return calls

    def me():
        call = clutch.current_call()
        return call.id, call.function, call.pool, call.slot, call.time_left(), __name__

    def hold(path, *, flag=True):
        while not os.path.exists(path):
            if flag and clutch.current_call().cancelled:
                return "flagged"
            time.sleep(0.002)
        return count()

    def meet(one, other):
        open(one, "w").close()
        while not os.path.exists(other):
            pass
        return threading.get_ident()

    def keep():
        kept.append(clutch.current_call())

    def was_cancelled():
        return [call.cancelled for call in kept]

    def quick():
        return 5

    def boom():
        raise ValueError("x")

    def leave(code):
        sys.exit(code)

    def stop():
        raise KeyboardInterrupt

    def fork():
        return os.fork()

    def daemon_thread():
        threading.Thread(target=print, daemon=True).start()

    def pool():
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            return list(executor.map(lambda _: clutch.current_call().id, "ab"))

    def run_program():
        return subprocess.check_output(["echo", "hi"]).decode()

    def single_phase():
        import _testsinglephase

    def give_object():
        return object()

    async def nap():
        await asyncio.sleep(0.001)
        return "slept"

    def twice(item):
        return 2 * item

    def say(word):
        print(word)
        sys.stderr.write(word)

    def close_stdout(folder):
        os.chdir(folder)
        sys.stdout.close()

    def folder():
        return os.getcwd()

    def log(text):
        logging.warning(text)

    def big(size):
        return b"x" * size

    def long(size):
        return "x" * size

    def length(data):
        return len(data)

    def at_end(text):
        atexit.register(lambda: print("bye " + text))

    def argv():
        return sys.argv, sys.path, sys.modules["__main__"].__name__

    def loaded():
        return sorted(sys.modules)
"""


class Base(support.FolderTestCase):
    lanes = 2

    def start(self, **options):
        options.setdefault("lanes", self.lanes)
        return self.worker(TASKS, mode=support.SUBINTERPRETERS, **options)


@unittest.skipIf(CAN, "this python can")
class Refused(Base):
    def test_an_older_python_says_what_is_needed(self):
        with self.assertRaises(support.Failed) as caught:
            self.start()
        failure = caught.exception.failure
        self.assertEqual(("Raised", "RuntimeError"), (failure["kind"], failure["type_name"]))
        found = "%d.%d.%d" % sys.version_info[:3]
        for part in ("`subinterpreters` needs CPython 3.13 or newer", found, "the pool's `python`"):
            self.assertIn(part, failure["message"])


@unittest.skipUnless(CAN, "subinterpreters need CPython 3.13 or newer")
class Subinterpreters(Base):
    def ask(self, worker, function, *args):
        return worker.send("tasks:" + function, pickle.dumps(list(args), 5))

    def next(self, worker):
        """The id of the next answer, and its value or its failure."""
        worker.drop_received()
        received = support.read_frame(worker.call_socket, received=worker.received)
        self.assertIsNotNone(received, worker.stderr())
        kind, flags, _, call_id, meta, payload = received
        if kind == support.FAILED:
            return call_id, support.read_failure(meta)
        return call_id, worker.decoded(flags, payload)

    def wait_begun(self, worker, call_id):
        def has_begun():
            return call_id in struct.unpack("=2Q", os.pread(worker.page, 16, 0))

        support.wait_for(has_begun, "call %d to begin" % call_id)

    def test_calls_compute_side_by_side_each_with_its_own_globals(self):
        worker = self.start()
        one, other = os.path.join(self.folder, "one"), os.path.join(self.folder, "other")
        # Each waits for the other without ever letting go of its interpreter.
        self.ask(worker, "meet", one, other)
        self.ask(worker, "meet", other, one)
        (_, first), (_, second) = self.next(worker), self.next(worker)
        self.assertNotEqual(first, second)
        holding = self.ask(worker, "hold", os.path.join(self.folder, "go"))
        self.wait_begun(worker, holding)
        self.assertEqual([1, 2, 3], [worker.call("tasks:count") for _ in range(3)])
        open(os.path.join(self.folder, "go"), "w").close()
        self.assertEqual((holding, 1), self.next(worker))

    def test_each_call_is_told_of_itself(self):
        worker = self.start()
        call_id = worker.send("tasks:me", pickle.dumps([], 5), timeout_ms=60_000)
        told = self.next(worker)[1]
        self.assertEqual((call_id, "tasks:me", "default", 3), told[:4])
        self.assertTrue(0 < told[4] <= 60)
        self.assertEqual("tasks", told[5])
        self.assertEqual([call_id + 1] * 2, worker.call("tasks:pool"))
        argv, path, main = worker.call("tasks:argv")
        self.assertEqual((["."], "", "__main__"), (argv and ["."], path[0], main))

    def test_the_page_and_stacks_say_what_runs(self):
        worker = self.start()
        call_id = self.ask(worker, "hold", os.path.join(self.folder, "go"))
        self.wait_begun(worker, call_id)
        stack = r"tasks\.py\", line \d+ in hold"

        def dumped():
            # It begins a moment before its own code does.
            before = len(worker.stack())
            worker.control_socket.sendall(support.frame(support.STACK))
            worker.ping()
            text = worker.stack()[before:]
            self.assertIn(": call %d\n" % call_id, text)
            self.assertTrue(text.endswith("(all)\n"), text)
            self.assertNotIn("<string>", text)
            return re.search(stack, text)

        support.wait_for(dumped, "the stack of the call")

    def test_a_slow_start_shows_where_it_is(self):
        self.write("slow.py", "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n")
        stack = r"slow\.py\", line 2 in <module>"

        def stack_after(start_stack_ms):
            worker = self.start(preload=["slow"], start_stack_ms=start_stack_ms, ready=False)
            support.wait_for(lambda: worker.stack().count(" File ") > 3, "the first of a stack")
            return worker, worker.stack()

        # It is written once, however far the start has come by then.
        for start_stack_ms in (200, 800, 3_200, 12_800):
            worker, text = stack_after(start_stack_ms)
            if re.search(stack, text):
                break
        open(os.path.join(self.folder, "go"), "w").close()
        self.assertEqual(support.READY, support.read_frame(worker.call_socket)[0])
        self.assertRegex(text, stack)

    def test_cancels_and_warnings_are_flags_also_when_they_come_early(self):
        worker = self.start()
        never = os.path.join(self.folder, "never")
        worker.interrupt(1)
        worker.ping()
        self.assertEqual("Cancelled", worker.failure("tasks:quick")["kind"])
        call_id = self.ask(worker, "hold", never)
        self.wait_begun(worker, call_id)
        self.assertEqual(5, worker.call("tasks:quick"))
        worker.warn(call_id)
        self.assertEqual((call_id, "flagged"), self.next(worker))
        call_id = self.ask(worker, "hold", never)
        self.wait_begun(worker, call_id)
        worker.interrupt(call_id)
        answered, failure = self.next(worker)
        self.assertEqual((call_id, "Cancelled"), (answered, failure["kind"]))

    def test_an_object_that_outlives_its_call_still_knows(self):
        worker = self.start(lanes=1)
        worker.warn(1)
        worker.ping()
        worker.call("tasks:keep")
        worker.call("tasks:keep")
        self.assertEqual([True, False], worker.call("tasks:was_cancelled"))

    def test_what_is_raised_is_told_as_ever(self):
        worker = self.start()
        failure = worker.failure("tasks:boom")
        self.assertEqual(("ValueError", "x"), (failure["type_name"], failure["message"]))
        self.assertEqual(["boom"], [frame["function"] for frame in failure["frames"]])
        self.assertEqual("SystemExit", worker.failure("tasks:leave", 3)["type_name"])
        self.assertEqual("KeyboardInterrupt", worker.failure("tasks:stop")["type_name"])
        self.assertEqual("Unserializable", worker.failure("tasks:give_object")["kind"])
        self.assertEqual("NotFound", worker.failure("tasks:absent")["kind"])
        self.assertEqual("BadArguments", worker.failure("tasks:quick", 1)["kind"])
        self.assertEqual("TooLarge", worker.failure("tasks:long", 2 << 20)["kind"])
        for function in ("fork", "daemon_thread"):
            self.assertEqual("RuntimeError", worker.failure("tasks:" + function)["type_name"])
        self.assertEqual("hi\n", worker.call("tasks:run_program"))
        self.assertEqual("slept", worker.call("tasks:nap"))
        self.assertEqual(([2, 4], []), worker.map("tasks:twice", [1, 2]))

    def test_a_module_that_cannot_be_loaded_names_the_key(self):
        worker = self.start()
        failure = worker.failure("tasks:single_phase")
        self.assertEqual("ImportError", failure["type_name"])
        self.assertIn("the key `subinterpreters`", failure["notes"][0])
        self.assertIn("the key `subinterpreters`", failure["traceback"])
        failure = worker.failure("_testsinglephase:f")
        self.assertEqual("NotFound", failure["kind"])
        self.assertIn("the key `subinterpreters`", failure["message"])
        with self.assertRaises(support.Failed) as caught:
            self.start(preload=["_testsinglephase"])
        self.assertIn("the key `subinterpreters`", caught.exception.failure["notes"][0])

    def test_a_start_that_fails_says_why_and_ends(self):
        # In the second interpreter only.
        self.write(
            "once.py",
            """
            import os, atexit
            atexit.register(lambda: print("bye"))
            if os.path.exists("seen"):
                raise ValueError("seen")
            open("seen", "w").close()
            """,
        )
        worker = self.start(preload=["once"], ready=False)
        answered, failure = self.next(worker)
        self.assertEqual((0, "ValueError"), (answered, failure["type_name"]))
        self.assertEqual(["<module>"], [frame["function"] for frame in failure["frames"]])
        self.assertEqual(1, worker.process.wait(support.DEADLINE_S), worker.stderr())
        self.assertEqual(["bye"] * 2, worker.stdout().split())

    def test_every_interpreter_is_prepared(self):
        self.write("main.py", "import tasks\nready = []\ndef add(what): ready.append(what)\n")
        self.write("tell.py", "import __main__, tasks\ndef warm(): __main__.add(tasks.count())\n")
        options = {"main": "main.py", "initializer": "tell:warm", "initargs": "[]"}
        worker = self.start(warm=["tell:warm"], **options)
        self.assertEqual(3, worker.call("tasks:count"))
        self.assertIn("tasks", worker.call("tasks:loaded"))

    def test_what_is_printed_comes_before_the_answer(self):
        worker = self.start()
        worker.call("tasks:say", "hello")
        self.assertEqual(("hello\n", "hello"), (worker.stdout(), worker.stderr()))

    def test_what_a_call_changed_is_put_back(self):
        worker = self.start(lanes=1)
        worker.call("tasks:close_stdout", "/")
        self.assertEqual(self.folder, worker.call("tasks:folder"))
        worker.call("tasks:say", "hello")
        self.assertEqual("hello\n", worker.stdout())

    def test_a_record_belongs_to_its_call(self):
        worker = self.start(log_level=30)
        for _ in range(3):
            worker.call("tasks:log", "text")
            record = worker.record()
            self.assertEqual(("text", worker.next_id), (record["text"], record["call"]))

    def test_the_end_is_that_of_each_interpreter(self):
        worker = self.start()
        go = os.path.join(self.folder, "go")
        first = self.ask(worker, "hold", go)
        self.wait_begun(worker, first)
        worker.call("tasks:at_end", "one")
        open(go, "w").close()
        self.next(worker)
        self.assertEqual(0, worker.finish(), worker.stderr())
        self.assertEqual(("bye one\n", ""), (worker.stdout(), worker.stderr()))

    def test_a_call_that_does_not_end_does_not_keep_the_worker(self):
        worker = self.start()
        call_id = self.ask(worker, "hold", os.path.join(self.folder, "never"))
        self.wait_begun(worker, call_id)
        started = time.monotonic()
        self.assertEqual(0, worker.finish())
        self.assertLess(time.monotonic() - started, 20)

    def test_the_end_of_the_stream_is_the_end(self):
        worker = self.start()
        worker.call("tasks:quick")
        worker.call_socket.shutdown(1)
        self.assertEqual(0, worker.process.wait(support.DEADLINE_S), worker.stderr())

    def test_a_signal_of_a_terminal_does_no_harm(self):
        worker = self.start()
        worker.process.send_signal(signal.SIGINT)
        support.wait_for(lambda: "KeyboardInterrupt" in worker.stderr(), "the report")
        self.assertEqual(5, worker.call("tasks:quick"))
        self.assertEqual(0, worker.finish())

    def test_long_frames_come_and_go_beside_others(self):
        worker = self.start()
        sizes = {self.ask(worker, "length", b"x" * size): size for size in (0, 70_000, 900_000)}
        for _ in sizes:
            call_id, value = self.next(worker)
            self.assertEqual(sizes[call_id], value)
        asked = [self.ask(worker, "big", 900_000) for _ in range(4)]
        answers = dict(self.next(worker) for _ in asked)
        self.assertEqual({call_id: b"x" * 900_000 for call_id in asked}, answers)

    def test_garbage_ends_the_worker(self):
        worker = self.start()
        worker.call_socket.sendall(b"x" * 64)
        self.assertEqual(70, worker.process.wait(support.DEADLINE_S))
        self.assertIn("on the call socket, ", worker.stderr())

    def test_a_storm_of_calls_and_cancels(self):
        dice = random.Random(7)
        worker = self.start(lanes=4)
        owed, seen = set(), set()

        def receive():
            call_id, value = self.next(worker)
            owed.remove(call_id)
            seen.add(value["kind"] if type(value) is dict else value)

        for number in range(1, 401):
            if dice.random() < 0.1:
                worker.interrupt(number)
            if dice.random() < 0.1:
                never = os.path.join(self.folder, "never")
                self.assertEqual(number, self.ask(worker, "hold", never))
                worker.interrupt(number)
            else:
                self.assertEqual(number, self.ask(worker, dice.choice(("quick", "boom", "nap"))))
            owed.add(number)
            while len(owed) >= 4:
                receive()
        while owed:
            receive()
        self.assertEqual({5, "Raised", "slept", "Cancelled"}, seen)
        self.assertEqual(0, worker.finish(), worker.stderr())
        self.assertEqual("", worker.stderr())


if __name__ == "__main__":
    unittest.main()
