"""Several calls at once in one worker: on threads, and on one event loop."""

import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import textwrap
import unittest

import support

TASKS = """
    import asyncio, contextvars, logging, os, sys, threading, time
    import clutch

    gates = {}

    def gate(name):
        return gates.setdefault(name, threading.Event())

    def wait(name):
        return gate(name).wait(60)

    def open_gate(name):
        gate(name).set()

    def me():
        call = clutch.current_call()
        return call.id, call.function, threading.current_thread().name

    def wait_and_tell(name):
        before = me()
        wait(name)
        left = clutch.current_call().time_left()
        return before, me(), left

    def spin(seconds):
        end = time.monotonic() + seconds
        texts = []
        while time.monotonic() < end:
            texts.append(str(end))
            if len(texts) > 50:
                texts.clear()
        return "spun"

    def spin_until_flagged():
        call = clutch.current_call()
        while not call.cancelled:
            pass
        return "flagged"

    def swallow():
        try:
            spin(60)
        except BaseException:
            return "swallowed"

    def quick():
        return 5

    def boom():
        raise ValueError("x")

    def leave(code):
        sys.exit(code)

    class Own(BaseException):
        pass

    def own():
        raise Own("mine")

    def deep():
        return deep()

    def fork(how):
        pid = os.fork()
        if pid == 0:
            if how == "returns":
                return "the child's"
            if how == "raises":
                raise SystemExit(7)
            os._exit(9)
        return os.WEXITSTATUS(os.waitpid(pid, 0)[1])

    def in_a_copy_of_the_context():
        ids = []
        context = contextvars.copy_context()
        for target in (clutch.current_call, lambda: context.run(clutch.current_call)):
            thread = threading.Thread(target=lambda: ids.append(target().id))
            thread.start()
            thread.join()
        return ids

    def log(text):
        logging.warning(text)

    def go_to(folder):
        os.chdir(folder)

    def go_and_wait(folder, name):
        os.chdir(folder)
        wait(name)

    def loaded(*names):
        return [name for name in names if name in sys.modules]

    def import_it(name):
        return __import__(name).VALUE

    async def nap(seconds):
        await asyncio.sleep(seconds)
        return "slept"

    async def twice(item):
        await asyncio.sleep(0)
        if item == 2:
            raise ValueError(item)
        return 2 * item

    def hand_back():
        return nap(0)

    kept = {}

    async def begin():
        kept["loop"] = asyncio.get_running_loop()

    async def same_loop():
        return asyncio.get_running_loop() is kept["loop"]

    async def wait_async(name):
        event = kept.setdefault(name, asyncio.Event())
        await event.wait()
        return clutch.current_call().id

    async def open_async(name):
        kept.setdefault(name, asyncio.Event()).set()

    async def child():
        return clutch.current_call().id

    async def ask_a_child():
        await asyncio.sleep(0.001)
        return clutch.current_call().id, await asyncio.ensure_future(child())

    async def clean_up():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            print("cleaned up", flush=True)

    async def swallow_async():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "swallowed"

    async def boom_async():
        raise ValueError("y")

    async def leave_async():
        raise SystemExit(3)

    async def child_leaves():
        async def out():
            raise SystemExit(3)
        await asyncio.ensure_future(out())

    async def leave_behind():
        kept["task"] = asyncio.ensure_future(clean_up())

    async def is_behind():
        return not kept["task"].done()

    async def block(seconds):
        time.sleep(seconds)

    async def cancel_all():
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(60)

    async def items():
        yield 1

    async def big(size):
        return b"x" * size

    async def measure(data):
        return len(data)

    async def stop_the_loop():
        asyncio.get_event_loop().stop()
        return "on"

    class Service:
        async def __call__(self):
            return threading.current_thread() is threading.main_thread()

    service = Service()

    async def fork_async(how):
        pid = os.fork()
        if pid == 0:
            if how == "waits":
                await kept["never"]
            if how == "raises":
                raise SystemExit(7)
            return "the child's"
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.WEXITSTATUS(status)
            await asyncio.sleep(0.002)

    async def prepare_never():
        kept["never"] = asyncio.get_running_loop().create_future()
"""


class Several(support.FolderTestCase):
    """A worker that runs several calls."""

    mode = support.THREADS
    lanes = 4

    def start(self, **options):
        options.setdefault("mode", self.mode)
        options.setdefault("lanes", self.lanes)
        return self.worker(TASKS, **options)

    def ask(self, worker, function, *args):
        return worker.send("tasks:" + function, pickle.dumps(list(args), 5))

    def next(self, worker):
        """The id of the next answer, and its value or the kind of its failure."""
        worker.drop_received()
        received = support.read_frame(worker.call_socket, received=worker.received)
        self.assertIsNotNone(received, worker.stderr())
        kind, flags, _, call_id, meta, payload = received
        if kind == support.FAILED:
            return call_id, support.read_failure(meta)["kind"]
        return call_id, worker.decoded(flags, payload)

    def begun(self, worker, call_id, lanes):
        """Waits until a call has begun; its place."""

        def places():
            page = struct.unpack("=%dQ" % lanes, os.pread(worker.page, 8 * lanes, 0))
            return call_id in page and (page,)

        (page,) = support.wait_for(places, "call %d to begin" % call_id)
        return page.index(call_id)

    def storm(self, calls, functions):
        """Cancels at every moment there is: each call is answered once, and the worker lives."""
        dice = random.Random(7)
        worker = self.start()
        open_calls, seen = set(), set()

        def receive():
            call_id, value = self.next(worker)
            open_calls.remove(call_id)
            seen.add(value if type(value) is str else type(value).__name__)

        for number in range(1, calls + 1):
            if dice.random() < 0.1:
                worker.interrupt(number)
            function, *args = dice.choice(functions)
            self.assertEqual(number, self.ask(worker, function, *args))
            open_calls.add(number)
            for call_id in list(open_calls):
                if dice.random() < 0.3:
                    worker.interrupt(call_id)
            if dice.random() < 0.1:
                worker.interrupt(dice.randrange(1, number + 1))
            while len(open_calls) >= self.lanes:
                receive()
        while open_calls:
            receive()
        self.assertLessEqual({"Cancelled", "int"}, seen)
        # None is late.
        for _ in range(20):
            self.assertEqual(5, worker.call("tasks:quick"))
        self.assertEqual(0, worker.finish(), worker.stderr())
        # A coroutine may be cut off before its first step, which Python mentions.
        self.assertNotIn("clutch worker:", worker.stderr())


class GivenAway(unittest.TestCase):
    """A call of the mode `async` that goes from the loop to a thread while it is cancelled."""

    def test_a_cancel_is_not_lost_on_the_way(self):
        script = """
            import sys
            sys.path.insert(0, sys.argv[1])
            from clutch._call import no_page
            from clutch._cancel import Lane
            from clutch._frames import MODE_ASYNC
            from clutch._lanes import Lanes

            class Leaving(Lane):
                # The control thread has just told the task, when the loop gives the call away.
                def hear(self, *told):
                    heard = super().hear(*told)
                    self.leave(lanes.early)
                    return heard

            lanes = Lanes(type("Setup", (), {"lanes": 2, "mode": MODE_ASYNC}))
            page = no_page()
            task, thread = Leaving("task", page), Lane("thread", page)
            task.begin(7, lanes.early)
            lanes.tasks[7] = task
            lanes.lanes.append(thread)
            lanes.hear(7, True)
            del lanes.tasks[7]
            thread.begin(7, lanes.early)
            assert thread.interrupted == 7, (thread.interrupted, lanes.early)
            assert not lanes.early, lanes.early
        """
        command = [sys.executable, "-c", textwrap.dedent(script), support.SOURCE]
        subprocess.check_call(command, timeout=support.DEADLINE_S)


class Threads(Several):
    def test_answers_come_as_calls_end(self):
        worker = self.start()
        waiting = [self.ask(worker, "wait", name) for name in "abc"]
        places = {self.begun(worker, call_id, 4) for call_id in waiting}
        self.assertEqual(3, len(places))
        for name, call_id in zip("cab", (waiting[2], waiting[0], waiting[1])):
            opening = self.ask(worker, "open_gate", name)
            answers = {self.next(worker)[0] for _ in range(2)}
            self.assertEqual({opening, call_id}, answers)
        self.assertEqual(0, worker.finish())

    def test_each_call_is_told_of_itself(self):
        worker = self.start()
        calls = [self.ask(worker, "wait_and_tell", "a") for _ in range(3)]
        for call_id in calls:
            self.begun(worker, call_id, 4)
        opening = self.ask(worker, "open_gate", "a")
        answers = dict(self.next(worker) for _ in range(4))
        del answers[opening]
        names = set()
        for call_id, (before, after, left) in answers.items():
            self.assertEqual(before, after)
            self.assertEqual((call_id, "tasks:wait_and_tell"), before[:2])
            self.assertIsNone(left)
            names.add(before[2])
        self.assertEqual(3, len(names))
        self.assertTrue(names < {"clutch-%d" % number for number in range(1, 5)}, names)

    def test_other_threads_know_the_call_by_its_context(self):
        worker = self.start()
        ids = worker.call("tasks:in_a_copy_of_the_context")
        # From 3.14 on, threads may inherit the context by themselves.
        self.assertIn(ids[0], (0, worker.next_id))
        self.assertEqual(worker.next_id, ids[1])

    def test_a_cancel_hits_its_call_alone(self):
        worker = self.start()
        waiting = self.ask(worker, "wait", "a")
        spinning = [self.ask(worker, "spin", 60) for _ in range(2)]
        for call_id in (waiting, *spinning):
            self.begun(worker, call_id, 4)
        worker.interrupt(spinning[1])
        self.assertEqual((spinning[1], "Cancelled"), self.next(worker))
        swallowing = self.ask(worker, "swallow")
        self.begun(worker, swallowing, 4)
        worker.interrupt(swallowing)
        self.assertEqual((swallowing, "Cancelled"), self.next(worker))
        worker.interrupt(spinning[0])
        self.assertEqual((spinning[0], "Cancelled"), self.next(worker))
        self.ask(worker, "open_gate", "a")
        self.assertIn((waiting, True), [self.next(worker) for _ in range(2)])

    def test_a_warned_call_sees_its_flag(self):
        worker = self.start()
        calls = [self.ask(worker, "spin_until_flagged") for _ in range(2)]
        for call_id in calls:
            self.begun(worker, call_id, 4)
        worker.warn(calls[1])
        self.assertEqual((calls[1], "flagged"), self.next(worker))
        worker.warn(worker.next_id + 1)
        self.assertEqual("flagged", worker.call("tasks:spin_until_flagged"))
        worker.warn(calls[0])
        self.assertEqual((calls[0], "flagged"), self.next(worker))

    def test_a_coroutine_is_cancelled_while_it_waits(self):
        worker = self.start()
        self.assertEqual("slept", worker.call("tasks:nap", 0))
        # Also while its loop is being made.
        for _ in range(30):
            call_id = self.ask(worker, "clean_up")
            self.begun(worker, call_id, 4)
            worker.interrupt(call_id)
            self.assertEqual((call_id, "Cancelled"), self.next(worker))

    def test_what_is_raised_is_told_as_ever(self):
        worker = self.start()
        failure = worker.failure("tasks:boom")
        self.assertEqual(("ValueError", "x"), (failure["type_name"], failure["message"]))
        self.assertEqual(["boom"], [frame["function"] for frame in failure["frames"]])
        self.assertEqual("SystemExit", worker.failure("tasks:leave", 3)["type_name"])
        self.assertEqual("tasks.Own", worker.failure("tasks:own")["type_name"])
        self.assertEqual("RecursionError", worker.failure("tasks:deep")["type_name"])
        self.assertEqual("NotFound", worker.failure("tasks:none")["kind"])
        self.assertEqual("BadArguments", worker.failure("tasks:quick", 1)["kind"])
        self.assertEqual("Unserializable", worker.failure("tasks:items")["kind"])
        results, failures = worker.map("tasks:twice", [1, 2, 3])
        self.assertEqual(([2, None, 6], 1), (results, len(failures)))
        self.assertEqual(0, worker.finish())

    def test_a_forked_child_never_speaks_for_the_worker(self):
        worker = self.start()
        other = self.ask(worker, "wait", "a")
        self.begun(worker, other, 4)
        codes = [worker.call("tasks:fork", how) for how in ("returns", "raises", "ends")]
        self.assertEqual([0, 7, 9], codes)
        self.ask(worker, "open_gate", "a")
        self.assertIn((other, True), [self.next(worker) for _ in range(2)])
        self.assertEqual(0, worker.finish())

    def test_cancels_at_every_moment(self):
        self.storm(
            3000,
            [
                ("spin", 0.001),
                ("quick",),
                ("quick",),
                ("boom",),
                ("deep",),
                ("log", "x"),
                ("nap", 0.001),
                ("import_it", "late"),
            ],
        )

    def start(self, **options):
        self.write("late.py", "import random, decimal, fractions\nVALUE = 1\n")
        return super().start(**options)

    def test_an_import_is_not_cut_off(self):
        self.write(
            "slow.py",
            """
            import os, time
            os.mkdir("importing")
            while not os.path.exists("go on"):
                time.sleep(0.001)
            VALUE = 7
            """,
        )
        worker = self.start()
        calls = [self.ask(worker, "import_it", "slow") for _ in range(2)]
        support.wait_for(lambda: os.path.exists(os.path.join(self.folder, "importing")), "it")
        for call_id in calls:
            self.begun(worker, call_id, 4)
        worker.interrupt(calls[0])
        worker.ping()
        self.assertTrue(worker.is_quiet())
        self.write("go on", "")
        # One of the two imports it, the other waits; both come out of it whole.
        self.assertEqual(
            {calls[0]: "Cancelled", calls[1]: 7}, dict(self.next(worker) for _ in calls)
        )
        self.assertEqual(7, worker.call("tasks:import_it", "slow"))

    def test_what_calls_changed_is_put_back_when_none_runs(self):
        worker = self.start()
        worker.call("tasks:go_to", "/")
        self.assertEqual(self.folder, worker.call("os:getcwd"))
        waiting = self.ask(worker, "go_and_wait", "/", "a")
        self.begun(worker, waiting, 4)
        support.wait_for(lambda: worker.call("os:getcwd") == "/", "the other folder")
        self.ask(worker, "open_gate", "a")
        for _ in range(2):
            self.next(worker)
        self.assertEqual(self.folder, worker.call("os:getcwd"))

    def test_a_record_belongs_to_the_call_of_its_thread(self):
        worker = self.start(log_level=10)
        self.ask(worker, "wait", "a")
        logging = self.ask(worker, "log", "here")
        record = worker.record()
        self.assertEqual((logging, "here"), (record["call"], record["text"]))

    def test_too_few_threads_are_a_failed_start(self):
        self.write(
            "main.py",
            """
            import resource
            with open("/proc/self/statm") as file:
                size = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (40 << 20), size + (40 << 20)))
            """,
        )
        with self.assertRaises(support.Failed) as caught:
            self.start(main="main.py", lanes=256)
        self.assertIn("`threads` smaller", caught.exception.failure["message"])

    def test_stacks_name_the_calls(self):
        worker = self.start()
        call_id = self.ask(worker, "wait", "a")
        self.begun(worker, call_id, 4)
        worker.control_socket.sendall(support.frame(40))
        support.wait_for(lambda: "(all)" in worker.stack(), "the stacks")
        self.assertRegex(
            worker.stack(), r"clutch-\d \(thread 0x[0-9a-f]+\): call %d, tasks:wait\n" % call_id
        )

    def test_signals_and_the_end_are_the_main_threads(self):
        self.write(
            "main.py",
            """
            import atexit, signal
            def handle(number, frame):
                print("heard", flush=True)
                raise ValueError("from a handler")
            signal.signal(signal.SIGUSR1, handle)
            atexit.register(print, "bye", flush=True)
            """,
        )
        worker = self.start(main="main.py")
        os.kill(worker.process.pid, signal.SIGUSR1)
        support.wait_for(lambda: "from a handler" in worker.stderr(), "the handler's error")
        self.assertEqual(5, worker.call("tasks:quick"))
        self.assertEqual(0, worker.finish())
        self.assertEqual("heard\nbye\n", worker.stdout())


class Tasks(Several):
    mode = support.ASYNC

    def test_answers_come_as_calls_end(self):
        worker = self.start()
        waiting = [self.ask(worker, "wait_async", name) for name in "abc"]
        places = {self.begun(worker, call_id, 4) for call_id in waiting}
        self.assertEqual(3, len(places))
        for name, call_id in zip("cab", (waiting[2], waiting[0], waiting[1])):
            opening = self.ask(worker, "open_async", name)
            answers = dict(self.next(worker) for _ in range(2))
            self.assertEqual({opening: None, call_id: call_id}, answers)
        self.assertEqual(0, worker.finish())

    def test_a_call_and_its_child_tasks_know_it(self):
        worker = self.start()
        calls = [self.ask(worker, "ask_a_child") for _ in range(4)]
        answers = dict(self.next(worker) for _ in calls)
        self.assertEqual({call_id: (call_id, call_id) for call_id in calls}, answers)

    def test_a_cancel_cancels_the_task(self):
        worker = self.start()
        other = self.ask(worker, "wait_async", "a")
        for function in ("clean_up", "swallow_async", "nap"):
            call_id = self.ask(worker, function, *([60] if function == "nap" else []))
            self.begun(worker, call_id, 4)
            worker.interrupt(call_id)
            self.assertEqual((call_id, "Cancelled"), self.next(worker))
        self.assertEqual("cleaned up\n", worker.stdout())
        self.ask(worker, "open_async", "a")
        self.assertIn((other, other), [self.next(worker) for _ in range(2)])

    def test_plain_functions_do_not_block_the_loop(self):
        worker = self.start()
        waiting = self.ask(worker, "wait", "a")
        self.begun(worker, waiting, 4)
        self.assertEqual("slept", worker.call("tasks:nap", 0))
        self.assertEqual(2.0, worker.call("math:sqrt", 4.0))
        spinning = self.ask(worker, "spin", 60)
        self.begun(worker, spinning, 4)
        worker.interrupt(spinning)
        self.assertEqual((spinning, "Cancelled"), self.next(worker))
        self.ask(worker, "open_gate", "a")
        self.assertIn((waiting, True), [self.next(worker) for _ in range(2)])

    def test_coroutines_of_plain_functions_and_items_run_on_the_loop(self):
        worker = self.start(initializer="tasks:begin", initargs="[]")
        self.assertIs(True, worker.call("tasks:same_loop"))
        self.assertEqual("slept", worker.call("tasks:hand_back"))
        results, failures = worker.map("tasks:twice", [1, 2, 3])
        self.assertEqual([2, None, 6], results)
        self.assertEqual("ValueError", failures[0][1]["type_name"])
        self.assertIs(True, worker.call("tasks:service"))
        self.assertEqual("slept", worker.call("tasks:nap", seconds=0))

    def test_what_is_raised_is_told_as_ever(self):
        worker = self.start()
        failure = worker.failure("tasks:boom_async")
        self.assertEqual(("ValueError", "y"), (failure["type_name"], failure["message"]))
        self.assertEqual(["boom_async"], [frame["function"] for frame in failure["frames"]])
        self.assertEqual("SystemExit", worker.failure("tasks:leave_async")["type_name"])
        self.assertEqual("SystemExit", worker.failure("tasks:child_leaves")["type_name"])
        self.assertEqual("NotFound", worker.failure("tasks:none")["kind"])
        self.assertEqual("BadArguments", worker.failure("tasks:nap")["kind"])
        self.assertEqual("Unserializable", worker.failure("tasks:items")["kind"])
        self.assertEqual("on", worker.call("tasks:stop_the_loop"))
        self.assertEqual("slept", worker.call("tasks:nap", 0))

    def test_calls_are_answered_when_user_code_cancels_all_tasks(self):
        worker = self.start()
        # Together, so that the second has not taken its first step when the first one cancels it.
        calls = [self.ask(worker, "cancel_all") for _ in range(2)]
        answers = dict(self.next(worker) for _ in calls)
        self.assertEqual(dict.fromkeys(calls, "Raised"), answers)
        self.assertEqual("slept", worker.call("tasks:nap", 0))

    def test_what_a_call_leaves_behind_lives_until_the_end(self):
        worker = self.start()
        worker.call("tasks:leave_behind")
        self.assertIs(True, worker.call("tasks:is_behind"))
        self.assertEqual(0, worker.finish())
        self.assertEqual("cleaned up\n", worker.stdout())

    def test_a_blocked_loop_still_answers_pings(self):
        worker = self.start()
        call_id = self.ask(worker, "block", 1)
        self.begun(worker, call_id, 4)
        self.assertLess(worker.ping(), 0.9)
        self.assertEqual((call_id, None), self.next(worker))

    def test_a_forked_child_never_speaks_for_the_worker(self):
        worker = self.start()
        other = self.ask(worker, "wait_async", "a")
        worker.call("tasks:prepare_never")
        codes = [worker.call("tasks:fork_async", how) for how in ("returns", "raises", "waits")]
        self.assertEqual([0, 7, 1], codes)
        self.assertEqual(
            [0, 7, 9], [worker.call("tasks:fork", how) for how in ("returns", "raises", "ends")]
        )
        self.ask(worker, "open_async", "a")
        self.assertIn((other, other), [self.next(worker) for _ in range(2)])
        self.assertEqual(0, worker.finish())

    def test_long_frames_come_and_go_beside_others(self):
        worker = self.start()
        size = support.PAYLOAD_BYTES_MAX - 100
        calls = [self.ask(worker, "big", size) for _ in range(4)]
        worker.ping()
        answers = dict(self.next(worker) for _ in calls)
        self.assertEqual(dict.fromkeys(calls, b"x" * size), answers)
        for length in (0, 60_000, 65_400, 65_500, 65_600, 200_000, size):
            self.assertEqual(length, worker.call("tasks:measure", b"x" * length))

    def test_cancels_at_every_moment(self):
        self.storm(
            2000,
            [("nap", 0.001), ("nap", 0), ("quick",), ("boom_async",), ("spin", 0.001), ("child",)],
        )

    def test_a_file_named_asyncio_is_the_users(self):
        self.write("asyncio.py", "mine = 1")
        self.write("mine.py", "async def f():\n    import asyncio\n    return asyncio.mine")
        worker = self.worker(mode=support.ASYNC, lanes=2)
        self.assertEqual(1, worker.call("mine:f"))
        self.assertEqual(0, worker.finish())

    def test_one_call_too_many_ends_the_worker(self):
        worker = self.start(lanes=1)
        for _ in range(2):
            self.ask(worker, "wait_async", "a")
        self.assertEqual(70, worker.process.wait(support.DEADLINE_S))
        self.assertIn("run 2 is one too many: 1 run already", worker.stderr())

    def test_a_record_belongs_to_the_call_of_its_task(self):
        worker = self.start(log_level=10)
        waiting = self.ask(worker, "wait_async", "a")
        logging = self.ask(worker, "log", "here")
        record = worker.record()
        self.assertEqual((logging, "here"), (record["call"], record["text"]))
        self.assertNotEqual(waiting, logging)


class Single(support.FolderTestCase):
    def test_it_pays_nothing_for_the_other_modes(self):
        worker = self.worker("import sys\ndef loaded(): return sorted(sys.modules)\n")
        loaded = set(worker.call("tasks:loaded"))
        bare = [sys.executable, "-c", "import sys; print(*sys.modules)"]
        expected = set(subprocess.check_output(bare, universal_newlines=True).split())
        others = {"threading", "asyncio", "ctypes", "_ctypes", "_contextvars", "_queue"} - expected
        others |= {"clutch." + name for name in ("_lanes", "_cancel", "_threads", "_tasks")}
        others |= {"clutch." + name for name in ("_subinterpreters", "_words", "_inside")}
        others.add("_interpreters")
        self.assertEqual(set(), loaded & others)


if __name__ == "__main__":
    unittest.main()
