"""What user code may do to its worker, one row of README.md's table after another."""

import os
import pickle
import signal
import subprocess
import sys
import time
import unittest

import support
from support import Failed, wait_for

CODE = """
import os, sys, signal, socket, threading, time

def run(code):
    names = {}
    exec(code, names)
    return names.get("result")

def square(x):
    return x * x

def print_lines(*lines, end="\\n"):
    for line in lines:
        print(line, end=end)

def folder():
    return os.getcwd()

def streams():
    return [sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno(),
            sys.stdout is sys.__stdout__]

def fork_and_return():
    pid = os.fork()
    if pid:
        return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
    print("child prints", end="")
    return "from the child"

def fork_and(what):
    pid = os.fork()
    if pid:
        return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
    if what == "raise":
        raise ValueError("in the child")
    if what == "exit":
        sys.exit(7)
    sys.exit("said")

def descriptors():
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))
"""


class UserCode(support.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.one = self.worker(CODE, path=[self.folder])

    def run_code(self, code):
        return self.one.call("tasks:run", code)

    def still_works(self):
        """Whether the same process still serves, prints and is where it was."""
        one = self.one
        self.assertEqual(9, one.call("tasks:square", 3))
        one.call("tasks:print_lines", "still printing")
        self.assertTrue(one.stdout().endswith("still printing\n"), one.stdout())
        one.call("tasks:run", "import sys; print('still complaining', file=sys.stderr)")
        self.assertTrue(one.stderr().endswith("still complaining\n"), one.stderr())
        self.assertEqual(self.folder, one.call("tasks:folder"))
        self.assertEqual([0, 1, 2, True], one.call("tasks:streams"))
        self.assertIsNone(one.process.poll())


class Streams(UserCode):
    def test_prints_f045(self):
        one = self.one
        self.run_code("import os; os.write(1, b'CLU1' * 1000); os.system('echo from a shell')")
        self.run_code("print('x' * 10_000_000)")
        one.call("tasks:print_lines", "no", "newline", end="")
        self.assertTrue(one.stdout().endswith("from a shell\n" + "x" * 10_000_000 + "\nnonewline"))
        one.call("tasks:print_lines", "")
        self.still_works()

    def test_lines_appear_while_the_call_runs(self):
        code = "import sys, time; print('a line'); print('more', file=sys.stderr); time.sleep(60)"
        call_id = self.one.send("tasks:run", pickle.dumps([code], 5))
        wait_for(lambda: self.one.stdout() == "a line\n", "the line")
        wait_for(lambda: self.one.stderr() == "more\n", "the other line")
        self.one.interrupt(call_id)
        with self.assertRaises(Failed):
            self.one.answer(call_id)

    def test_replaced_streams(self):
        self.run_code("import io, sys; sys.stdout = sys.stderr = io.StringIO()")
        self.still_works()
        self.run_code("import sys; sys.stdout = None; sys.stdin = 5")
        self.still_works()

    def test_closed_streams(self):
        self.run_code("import sys; sys.stdout.close(); sys.stderr.close(); sys.stdin.close()")
        self.still_works()
        self.run_code("import sys; sys.stdout.close()")
        self.still_works()

    def test_closed_and_redirected_descriptors_f047(self):
        for code in (
            "import os; os.close(0); os.close(1); os.close(2)",
            "import os; os.closerange(0, 20)",
            "import os; os.dup2(os.open(os.devnull, os.O_RDWR), 1)",
            "import os, sys; print('pending', end=''); os.close(1)",
        ):
            self.run_code(code)
            self.still_works()

    def test_standard_input_is_empty_f063(self):
        self.assertEqual("EOFError", self.one.failure("builtins:input")["type_name"])
        self.assertEqual("", self.run_code("import sys; result = sys.stdin.read()"))
        code = "import subprocess as s; result = s.run('cat', shell=True, stdout=s.PIPE).stdout"
        self.assertEqual(b"", self.run_code(code))

    def test_broken_pipe_f065(self):
        code = "import os; r, w = os.pipe(); os.close(r); os.write(w, b'x')"
        self.assertEqual("BrokenPipeError", self.one.failure("tasks:run", code)["type_name"])
        code = (
            "import subprocess as s\n"
            "ask = 'grep SigIgn /proc/self/status'\n"
            "result = s.run(ask, shell=True, stdout=s.PIPE).stdout\n"
        )
        ignored = int(self.run_code(code).split()[1], 16)
        self.assertFalse(ignored & 1 << signal.SIGPIPE - 1)
        self.still_works()

    def test_what_main_arranged_stays(self):
        self.write(
            "main.py",
            "import os, sys\nos.chdir('/')\nclass Tee:\n"
            "  closed = False\n  def __init__(self, s): self.s = s\n"
            "  def write(self, t): return self.s.write('tee ' + t)\n"
            "  def flush(self): self.s.flush()\n"
            "sys.stdout = Tee(sys.stdout)\ndef where(): return os.getcwd()\n"
            "def say(): sys.stdout.write('said\\n')\n",
        )
        worker = self.worker(main="main.py")
        for _ in range(2):
            worker.call("os:chdir", "/tmp")
            self.assertEqual("/", worker.call("__main__:where"))
            worker.call("__main__:say")
        self.assertEqual("tee said\n" * 2, worker.stdout())

    def test_odd_streams_of_main(self):
        tee = (
            "class Tee:\n  def __init__(self, s): self.s = s\n"
            "  def write(self, t): return self.s.write(t)\n  def flush(self): self.s.flush()\n"
            "sys.stdout = Tee(sys.stdout)\n"
        )
        odd = (
            "class Odd:\n  def __getattr__(self, name): raise KeyError(name)\n"
            "sys.stdin = sys.stdout = sys.stderr = Odd()\n"
        )
        for code in (tee, odd, "sys.stdin = sys.stdout = sys.stderr = None\n"):
            kept = "kept = sys.stdout\ndef is_kept(): return sys.stdout is kept\n"
            self.write("main.py", "import sys\n" + code + kept)
            worker = self.worker(main="main.py")
            for _ in range(3):
                self.assertTrue(worker.call("__main__:is_kept"))
                worker.call("builtins:exec", "import sys; sys.stdout = 5")

    def test_detached_streams(self):
        self.run_code("import sys; sys.stdout.detach(); sys.stderr.detach()")
        self.still_works()


class Descriptors(UserCode):
    def test_only_the_known_ones_are_open_f169(self):
        # 0 to 2, the two sockets, copies of 0 to 2, the folder; and the listing itself.
        self.assertEqual(11, len(self.one.call("tasks:descriptors")))

    def test_none_is_inherited(self):
        code = (
            "import subprocess as s\n"
            "result = s.run('ls /proc/self/fd', shell=True, stdout=s.PIPE, close_fds=False).stdout"
        )
        self.assertEqual(b"0\n1\n2\n3\n", self.run_code(code))

    def test_closing_all_of_them_f046(self):
        started = time.monotonic()
        self.one.send("os:closerange", pickle.dumps([3, 1024], 5))
        self.assertEqual(70, self.one.process.wait(support.DEADLINE_S))
        self.assertLess(time.monotonic() - started, 10)
        self.assertIn("clutch worker: an answer could not be sent", self.one.stderr())

    def test_closing_the_private_ones(self):
        # The answer is still sent; then the worker says why it ends.
        numbers = [n for n in self.one.call("tasks:descriptors") if n >= 100]
        code = "import os; [os.close(n) for n in %r]" % numbers[2:]
        self.run_code(code)
        self.assertEqual(70, self.one.process.wait(support.DEADLINE_S))
        self.assertIn("closed descriptors", self.one.stderr())

    def test_garbage_in_the_call_socket_f048(self):
        numbers = [n for n in self.one.call("tasks:descriptors") if n >= 100]
        self.one.send("os:write", pickle.dumps([numbers[0], b"garbage" * 9], 5))
        with self.assertRaises(AssertionError):
            support.read_frame(self.one.call_socket)

    def test_exec_f054(self):
        self.one.send("os:execv", pickle.dumps(["/bin/sleep", ["sleep", "30"]], 5))
        self.assertIsNone(support.read_frame(self.one.call_socket))


class Processes(UserCode):
    def test_sys_exit_f009(self):
        self.assertEqual("SystemExit", self.one.failure("sys:exit", 3)["type_name"])
        self.still_works()

    def test_os_exit_f008(self):
        self.one.send("os:_exit", pickle.dumps([42], 5))
        self.assertEqual(42, self.one.process.wait(support.DEADLINE_S))
        self.assertIsNone(support.read_frame(self.one.call_socket))

    def test_a_segfault_leaves_a_stack_f006(self):
        self.run_code("import os; os.close(2); os.dup2(1, 2)")
        code = "import os, ctypes; os.dup2(1, 2); ctypes.string_at(0)"
        self.one.send("tasks:run", pickle.dumps([code], 5))
        self.assertEqual(-signal.SIGSEGV, self.one.process.wait(support.DEADLINE_S))
        self.assertIn("Fatal Python error: Segmentation fault", self.one.stack())
        self.assertIn('tasks.py"', self.one.stack())

    def test_a_signal_that_is_waited_for(self):
        # To the process: another thread that does not block it would run in its place.
        code = (
            "import os, signal\n"
            "all_ = {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGRTMIN}\n"
            "before = signal.pthread_sigmask(signal.SIG_BLOCK, all_)\n"
            "assert not before, before\n"
            "for number in all_:\n"
            "    os.kill(os.getpid(), number)\n"
            "    assert signal.sigwait({number}) == number\n"
            "signal.pthread_sigmask(signal.SIG_SETMASK, before)\n"
        )
        for _ in range(20):
            self.run_code(code)
        self.still_works()

    def test_fork_f052(self):
        self.assertEqual(0, self.one.call("tasks:fork_and_return"))
        self.assertTrue(self.one.is_quiet())
        self.assertEqual("child prints", self.one.stdout())
        self.assertEqual(1, self.one.call("tasks:fork_and", "raise"))
        self.assertIn("ValueError: in the child", self.one.stderr())
        self.assertEqual(7, self.one.call("tasks:fork_and", "exit"))
        self.assertEqual(1, self.one.call("tasks:fork_and", "say"))
        self.assertIn("said\n", self.one.stderr())
        self.one.call("tasks:print_lines", "")
        self.still_works()

    def test_a_fork_in_an_item_runs_no_other_item(self):
        by_c = "ctypes.CDLL(None).fork()"
        for fork in ("os.fork()", by_c):
            self.run_code(
                "import os, sys\n%s\ntasks = sys.modules['tasks']\n"
                "def forks(x):\n"
                "    with open('runs', 'a') as file: file.write('x')\n"
                "    pid = %s\n"
                "    if pid: os.waitpid(pid, 0)\n"
                "    return x\n"
                "tasks.forks = forks\n" % ("import ctypes" if fork is by_c else "", fork)
            )
            self.assertEqual(([1, 2, 3], []), self.one.map("tasks:forks", [1, 2, 3]))
            runs = os.path.join(self.folder, "runs")
            self.assertEqual(3, os.path.getsize(runs))
            os.unlink(runs)
            self.still_works()

    def test_a_child_without_standard_error_f052(self):
        code = (
            "import atexit, os, sys\n"
            "pid = os.fork()\n"
            "if pid: result = os.WEXITSTATUS(os.waitpid(pid, 0)[1])\n"
            "else:\n"
            "    atexit.register(os.mkdir, 'ran')\n"
            "    sys.stdout = sys.stderr = None\n"
            "    sys.exit('text')\n"
        )
        self.assertEqual(1, self.run_code(code))
        self.assertFalse(os.path.exists(os.path.join(self.folder, "ran")))
        self.still_works()

    def test_few_descriptors_f050(self):
        code = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (3, r.getrlimit(7)[1]))"
        self.run_code(code)
        failure = self.one.failure("builtins:int", "x")
        self.assertEqual(("Raised", "ValueError"), (failure["kind"], failure["type_name"]))
        self.assertIn("invalid literal", failure["message"])
        self.assertEqual(9, self.one.call("tasks:square", 3))

    def test_a_fork_that_python_does_not_see(self):
        code = (
            "import ctypes, os\n"
            "pid = ctypes.CDLL(None).fork()\n"
            "result = os.waitpid(pid, 0)[1] if pid else 'from the child'\n"
        )
        self.assertEqual(0, self.run_code(code))
        self.assertTrue(self.one.is_quiet())
        self.still_works()

    def test_a_child_holds_no_socket(self):
        code = (
            "import os, time\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    time.sleep(30)\n"
            "    os._exit(0)\n"
        )
        self.run_code(code)
        self.one.process.kill()
        self.assertIsNone(support.read_frame(self.one.call_socket, 10))

    def test_another_folder_f050(self):
        self.run_code("import os; os.chdir('/')")
        self.still_works()
        os.mkdir(os.path.join(self.folder, "gone"))
        self.run_code("import os; os.chdir('gone'); os.rmdir(os.getcwd())")
        self.still_works()

    def test_timers_are_stopped_f049(self):
        code = (
            "import signal\n"
            "def handler(*_): raise RuntimeError('from a handler')\n"
            "for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):\n"
            "    signal.signal(number, handler)\n"
            "for timer in range(3): signal.setitimer(timer, 60, 0.0005)\n"
        )
        self.run_code(code)
        code = "import signal; result = [signal.getitimer(timer) for timer in range(3)]"
        self.assertEqual([(0.0, 0.0)] * 3, self.run_code(code))

    def test_signals_between_calls_cost_no_call(self):
        self.run_code(
            "import signal\n"
            "def handler(*_): raise TimeoutError('from a handler')\n"
            "signal.signal(signal.SIGALRM, handler)\n"
        )
        for _ in range(20):
            before = self.one.stderr().count("TimeoutError: from a handler")
            os.kill(self.one.process.pid, signal.SIGALRM)
            wait_for(
                lambda: self.one.stderr().count("TimeoutError: from a handler") > before,
                "the handler",
            )
            self.assertEqual(9, self.one.call("tasks:square", 3))
        self.still_works()

    def test_signal_handlers_f049(self):
        code = (
            "import signal\n"
            "def handler(*_): raise RuntimeError('from a handler')\n"
            "signal.signal(signal.SIGALRM, handler)\n"
        )
        self.run_code(code)
        os.kill(self.one.process.pid, signal.SIGALRM)
        wait_for(lambda: "from a handler" in self.one.stderr(), "the handler")
        self.assertIn("a signal handler raised between two calls", self.one.stderr())
        self.still_works()

    def test_a_thread_that_goes_on_f057(self):
        code = (
            "import threading, time\n"
            "def work():\n"
            "    time.sleep(0.1)\n"
            "    print('late', flush=True)\n"
            "    raise ValueError('in a thread')\n"
            "threading.Thread(target=work).start()\n"
        )
        self.run_code(code)
        self.still_works()
        wait_for(lambda: "ValueError: in a thread" in self.one.stderr(), "the thread")
        self.assertEqual(0, self.one.finish())
        self.assertIn("late\n", self.one.stdout())


class Monkeys(UserCode):
    def test_patched_libraries_f051(self):
        code = (
            "import builtins, io, json, os, pickle, select, signal, socket, struct, sys, time\n"
            "import threading, traceback, linecache, inspect, difflib, binascii, faulthandler\n"
            "def broken(*_args, **_kwargs): raise RuntimeError('patched')\n"
            "for module, names in [\n"
            "    (pickle, 'dumps loads Pickler Unpickler'), (socket, 'socket'),\n"
            "    (os, 'write read fork getpid chdir fchdir dup2 _exit getcwd'),\n"
            "    (time, 'time monotonic sleep'), (struct, 'pack unpack Struct'),\n"
            "    (builtins, 'open'), (json, 'dumps loads'),\n"
            "    (io, 'BytesIO'), (signal, 'signal'), (binascii, 'crc32'),\n"
            "    (traceback, 'format_exception TracebackException extract_tb walk_tb'),\n"
            "    (linecache, 'getline getlines'), (inspect, 'signature'), (sys, 'excepthook')]:\n"
            "    for name in names.split(): setattr(module, name, broken)\n"
        )
        self.run_code(code)
        self.assertEqual(9, self.one.call("tasks:square", 3))
        call_id = self.one.send("tasks:square", b"[2]", 0, support.JSON)
        self.assertEqual(b"4", self.one.answer(call_id)[2])
        failure = self.one.failure("tasks:square", "x")
        self.assertEqual("TypeError", failure["type_name"])
        self.assertLess(self.one.ping(), 10)
        self.assertEqual("Unserializable", self.one.failure("_thread:allocate_lock")["kind"])

    def test_odd_modules(self):
        self.run_code(
            "import sys\n"
            "class Weird:\n"
            "    def __getattr__(self, name): raise RuntimeError(name)\n"
            "class Worse:\n"
            "    def __getattribute__(self, name): raise SystemExit(name)\n"
            "sys.modules.update({'weird': Weird(), 'worse': Worse(), 5: Worse(), 'none': None})\n"
        )
        for _ in range(2):
            self.assertEqual("ValueError", self.one.failure("math:sqrt", -1)["type_name"])
        self.assertEqual("NotFound", self.one.failure("tsks:square")["kind"])
        self.assertEqual(
            [(0, "ValueError"), (1, "ValueError")],
            [
                (index, failure["type_name"])
                for index, failure in self.one.map("math:sqrt", [-1, -1])[1]
            ],
        )
        self.still_works()

    def test_emptied_modules(self):
        self.run_code(
            "import sys\nfor name in list(sys.modules):\n"
            "    if name.startswith('clutch'): del sys.modules[name]\n"
        )
        self.assertEqual("ValueError", self.one.failure("math:sqrt", -1)["type_name"])
        self.assertEqual(9, self.one.call("tasks:square", 3))

    def test_a_trace_function(self):
        self.run_code("import sys; sys.settrace(lambda *_: None); sys.setprofile(lambda *_: None)")
        self.still_works()

    def test_exceptions_thrown_into_every_thread(self):
        code = (
            "import ctypes, sys, threading\n"
            "mine = threading.get_ident()\n"
            "for ident in sys._current_frames():\n"
            "    if ident != mine:\n"
            "        ctypes.pythonapi.PyThreadState_SetAsyncExc(\n"
            "            ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt))\n"
        )
        self.run_code(code)
        for _ in range(3):
            self.assertLess(self.one.ping(), 10)


class Shadows(support.FolderTestCase):
    """Files of a user's named like modules of the standard library (F153)."""

    NAMES = (
        "socket pickle types traceback json struct signal threading inspect difflib linecache "
        "tokenize token re enum asyncio selectors string random copyreg functools collections "
        "keyword operator reprlib heapq textwrap ast dis opcode contextlib logging queue"
    ).split()

    def setUp(self):
        super().setUp()
        for name in self.NAMES:
            self.write(
                name + ".py", "import sys\nsys.stderr.write('shadow %s\\n')\nmine = 1\n" % name
            )
        self.write("tasks.py", "def square(x): return x * x\ndef fail(): raise ValueError('no')\n")

    def test_none_is_imported_by_us(self):
        for options in ({}, {"env": {"PYTHONPATH": self.folder}}):
            worker = self.worker(**options)
            # Python itself imports some before any code of ours, where PYTHONPATH says so.
            before = worker.stderr()
            if options:
                self.assertLessEqual(before.count("\n"), 12)
            else:
                worker = self.worker(path=[self.folder])
                before = ""
            self.assertEqual(9, worker.call("tasks:square", 3))
            self.assertEqual("ValueError", worker.failure("tasks:fail")["type_name"])
            self.assertIn("tasks.py", worker.failure("tasks:fail")["traceback"])
            self.assertEqual("BadArguments", worker.failure("tasks:square")["kind"])
            self.assertEqual("NotFound", worker.failure("tasks:sqare")["kind"])
            self.assertEqual("Unserializable", worker.failure("builtins:object")["kind"])
            call_id = worker.send("tasks:square", b"[3", 0, support.JSON)
            with self.assertRaises(Failed) as caught:
                worker.answer(call_id)
            self.assertIn("delimiter", caught.exception.failure["message"])
            self.assertEqual(0, worker.finish())
            self.assertEqual(before, worker.stderr())

    def test_they_are_found_by_their_user(self):
        worker = self.worker(path=[self.folder])
        self.assertEqual("ValueError", worker.failure("tasks:fail")["type_name"])
        for name in ("traceback", "json", "socket", "difflib"):
            code = "import %s as m; assert m.mine" % name
            self.assertIsNone(worker.call("builtins:exec", code), name)
        # And ours are not bent by theirs.
        self.assertIn("tasks.py", worker.failure("tasks:fail")["traceback"])
        self.assertEqual("BadArguments", worker.failure("tasks:square")["kind"])


class Start(support.FolderTestCase):
    def test_main_runs_without_its_main_block(self):
        self.write(
            "main.py",
            "import sys\nprint('loading', __name__)\ndef f(): return __name__\n"
            "if __name__ == '__main__':\n    print('never')\n    sys.exit(3)\n",
        )
        worker = self.worker(main="main.py")
        self.assertEqual("__main__", worker.call("__main__:f"))
        self.assertEqual("loading __mp_main__\n", worker.stdout())

    def test_classes_of_main_whose_metaclass_is_special(self):
        self.write(
            "main.py",
            "import ctypes, enum\n"
            "class Point(ctypes.Structure):\n"
            "    _fields_ = [('x', ctypes.c_int)]\n"
            "    def double(self): return self.x * 2\n"
            "class Meta(type(ctypes.Structure)):\n"
            "    def __setattr__(cls, name, value): raise RuntimeError(name)\n"
            "class Guarded(ctypes.Structure, metaclass=Meta): pass\n"
            "class Frozen(type):\n"
            "    def __setattr__(cls, name, value): raise RuntimeError(name)\n"
            "class Plain(metaclass=Frozen): pass\n"
            "class Color(enum.Enum):\n"
            "    RED = 1\n"
            "def modules():\n"
            "    all_ = Point, Guarded, Plain, Color, type(Color.RED), Point.double\n"
            "    return [one.__module__ for one in all_]\n"
            "def double(): return Point(21).double()\n",
        )
        worker = self.worker(main="main.py")
        self.assertEqual(["__main__"] * 6, worker.call("__main__:modules"))
        self.assertEqual(42, worker.call("__main__:double"))

    def test_a_main_that_raises(self):
        self.write("main.py", "def f():\n    raise ValueError('at start')\nf()\n")
        with self.assertRaises(Failed) as caught:
            self.worker(main="main.py")
        failure = caught.exception.failure
        self.assertEqual(("Raised", "ValueError"), (failure["kind"], failure["type_name"]))
        names = [frame["function"] for frame in failure["frames"]]
        self.assertEqual(["<module>", "f"], names)
        self.assertNotIn(support.SOURCE, failure["traceback"])

    def test_mains_that_cannot_be(self):
        cases = [
            ("def f(:\n", "SyntaxError"),
            ("import nothing_here\n", "ModuleNotFoundError"),
            ("raise SystemExit(3)\n", "SystemExit"),
            ("# \xff coding: nothing\n", "SyntaxError"),
        ]
        for code, name in cases:
            self.write("main.py", code)
            with self.assertRaises(Failed) as caught:
                self.worker(main="main.py")
            self.assertEqual(name, caught.exception.failure["type_name"])
        with self.assertRaises(Failed) as caught:
            self.worker(main="absent.py")
        self.assertEqual("FileNotFoundError", caught.exception.failure["type_name"])

    def test_it_exits_with_one(self):
        self.write("main.py", "1 / 0\n")
        worker = self.worker(main="main.py", ready=False)
        self.assertEqual(support.FAILED, support.read_frame(worker.call_socket)[0])
        self.assertEqual(1, worker.process.wait(support.DEADLINE_S))

    def test_preload(self):
        self.write("early.py", "print('early')\n")
        worker = self.worker(path=[self.folder], preload=["early", "os.path"])
        self.assertEqual("early\n", worker.stdout())
        with self.assertRaises(Failed) as caught:
            self.worker(path=[self.folder], preload=["erly"])
        failure = caught.exception.failure
        self.assertEqual(("NotFound", "module"), (failure["kind"], failure["what"]))
        self.assertIn("did you mean 'early'?", failure["message"])
        self.write("bad.py", "import nothing_here\n")
        with self.assertRaises(Failed) as caught:
            self.worker(path=[self.folder], preload=["bad"])
        self.assertEqual("ModuleNotFoundError", caught.exception.failure["type_name"])

    def test_a_start_that_hangs_shows_its_stack_f021(self):
        self.write("main.py", "import time\ndef hang():\n    time.sleep(1000)\nhang()\n")
        worker = self.worker(main="main.py", ready=False, start_stack_ms=100)
        wait_for(lambda: "in hang" in worker.stack(), "the stack")
        self.assertLess(worker.ping(), 10)
        self.write("quick.py", "")
        worker = self.worker(main="quick.py", start_stack_ms=200)
        time.sleep(0.4)
        self.assertEqual(("", ""), (worker.stderr(), worker.stack()))

    def test_a_daemon_that_goes_away_at_once(self):
        worker = self.worker(ready=False, first=b"")
        worker.call_socket.close()
        self.assertEqual(0, worker.process.wait(support.DEADLINE_S))

    def test_names_that_are_not_utf_8_f157(self):
        folder = os.fsencode(self.folder) + b"/d\xff \xc3\xbc"
        try:
            os.mkdir(folder)
        except OSError:
            self.skipTest("this file system takes no such names")
        with open(folder + b"/m\xfe.py", "wb") as file:
            file.write(
                b"import os, sys\ndef f(): return [os.fsencode(t) for t in"
                b" (sys.argv[0], sys.argv[1], __file__, sys.path[0], sys.path[1])]\n"
                b"def fail(): raise ValueError(__file__)\n"
            )
        script = folder + b"/m\xfe.py"
        meta = support.setup_meta([script, b"a\xff"], script, [folder])
        worker = self.worker(first=support.frame(support.SETUP, 0, meta))
        self.assertEqual([script, b"a\xff", script, folder, folder], worker.call("__main__:f"))
        self.assertIn("\\udcfe", worker.failure("__main__:fail")["message"])

    def test_a_module_that_recurses_below_sitecustomize_f154(self):
        self.write("sitecustomize.py", "print('customized')\n")
        worker = self.worker(env={"PYTHONPATH": self.folder})
        self.assertEqual(2.0, worker.call("math:sqrt", 4))
        self.assertEqual("customized\n", worker.stdout())


class Package(unittest.TestCase):
    def test_it_needs_nothing_but_the_standard_library(self):
        names = sorted(
            name[:-3]
            for name in os.listdir(os.path.join(support.SOURCE, "clutch"))
            if name.endswith(".py") and name != "__init__.py"
        )
        self.assertGreater(len(names), 10)
        code = "import sys; sys.path.insert(0, %r); import clutch\n" % support.SOURCE
        code += "".join("import clutch.%s\n" % name for name in names)
        code += "assert not any('packages' in (getattr(m, '__file__', '') or '')"
        code += " for m in list(sys.modules.values()))"
        subprocess.run([sys.executable, "-I", "-S", "-W", "error", "-c", code], check=True)

    def test_modules_are_looked_through_only_when_there_are_new_ones(self):
        code = (
            "import sys, types; sys.path.insert(0, %r)\n"
            "from clutch import _pristine as p\n"
            "p.configure([])\n"
            "looked, look = [], p.pristine_imports._hides\n"
            "p._Importer._hides = lambda *args: looked.append(args[1]) or args[1] == 'foreign'\n"
            "def enter():\n"
            "    looked.clear()\n"
            "    with p.pristine_imports: pass\n"
            "    return len(looked)\n"
            "assert enter() > 5\n"
            "assert enter() == 0\n"
            "sys.modules['new'] = types\n"
            "assert enter() > 5 and enter() == 0\n"
            "sys.modules['foreign'] = types\n"
            "for _ in range(3):\n"
            "    with p.pristine_imports: assert 'foreign' not in sys.modules\n"
            "    assert sys.modules['foreign'] is types\n"
        ) % support.SOURCE
        subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)

    def test_the_api_works_outside_a_worker(self):
        code = (
            "import sys; sys.path.insert(0, %r); import clutch\n"
            "call = clutch.current_call()\n"
            "assert (call.id, call.function, call.cancelled, call.time_left()) == "
            "(0, '', False, None)\n"
            "assert issubclass(clutch.Cancelled, BaseException)\n"
            "assert not issubclass(clutch.Cancelled, Exception)\n"
        ) % support.SOURCE
        subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)

    def test_every_private_module_says_what_it_gives(self):
        sys.path.insert(0, support.SOURCE)
        import importlib

        for name in os.listdir(os.path.join(support.SOURCE, "clutch")):
            if name.endswith(".py") and name not in ("__init__.py",):
                module = importlib.import_module("clutch." + name[:-3])
                self.assertTrue(module.__doc__)
                for public in module.__all__:
                    self.assertTrue(hasattr(module, public), (name, public))


if __name__ == "__main__":
    unittest.main()
