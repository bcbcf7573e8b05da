"""What ordinary Python programs do, one function for each thing. Nothing here knows of Clutch.

In a pool each is called as a function of a module, and of the pool's `main` script. As a script,
or imported by one, `tell` calls all of them, and prints what came of each as a line of JSON: what
a pool has to answer, too. Every result is the same each time.
"""

import concurrent.futures
import contextlib
import contextvars
import ctypes
import fcntl
import io
import json
import logging
import mmap
import multiprocessing
import os
import pickle
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref

METHODS = ("fork", "spawn", "forkserver")
# No step of a check takes longer, unless it hangs.
BOUND_S = 60

_remembered = None


def square(x):
    """What a process of a pool does."""
    return x * x


def fail(text):
    """What a process of a pool may do as well."""
    raise ValueError(text)


def remember(text):
    """Prepare a process of a pool."""
    global _remembered
    _remembered = text


def recall():
    """What a process of a pool was prepared with."""
    return _remembered


def mp_pool(method):
    """`multiprocessing.Pool`: map, starmap, imap, apply_async, an initializer, an exception."""
    with multiprocessing.get_context(method).Pool(2, remember, ("ü",)) as pool:
        found = [pool.map(square, range(5)), pool.starmap(pow, [(2, 3), (3, 2)])]
        found.append(sorted(pool.imap_unordered(square, range(5), 2)))
        found.append(pool.apply_async(square, (7,)).get(BOUND_S))
        found.append(pool.apply(recall))
        try:
            pool.apply(fail, ("on purpose",))
        except ValueError as error:
            found.append(str(error))
    return found


def _talk(answers, pipe, go):
    go.wait(BOUND_S)
    answers.put([pipe.recv(), multiprocessing.current_process().name])
    pipe.send(multiprocessing.current_process().daemon)


def _kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def mp_process(method):
    """`multiprocessing.Process`: queues, pipes, events, exit codes, a kill."""
    context = multiprocessing.get_context(method)
    answers, go = context.Queue(), context.Event()
    here, there = context.Pipe()
    process = context.Process(target=_talk, args=(answers, there, go), name="talker")
    process.start()
    go.set()
    here.send({"a": [1, 2.5, None]})
    found = [answers.get(timeout=BOUND_S), here.recv()]
    process.join(BOUND_S)
    found.append(process.exitcode)
    for target, args in ((sys.exit, (3,)), (_kill_self, ())):
        process = context.Process(target=target, args=args)
        process.start()
        process.join(BOUND_S)
        found.append(process.exitcode)
    return found


def _count(lock, number, numbers, barrier):
    barrier.wait(BOUND_S)
    for index in range(len(numbers)):
        with lock:
            number.value += 1
            numbers[index] += index


def mp_locks(method):
    """`multiprocessing`: Value, Array, Lock and Barrier, shared by processes."""
    context = multiprocessing.get_context(method)
    number, numbers = context.Value("i", 0), context.Array("d", 5)
    args = (context.Lock(), number, numbers, context.Barrier(2))
    processes = [context.Process(target=_count, args=args) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(BOUND_S)
    return [number.value, list(numbers), [process.exitcode for process in processes]]


def _fill(things, names, lock):
    with lock:
        things["child"] = [1, 2]
        names.append("child")


def mp_manager(method):
    """`multiprocessing.Manager`: dict, list, Namespace, Queue and Lock by proxies."""
    with multiprocessing.get_context(method).Manager() as manager:
        things, names, space = manager.dict(a=1), manager.list(["parent"]), manager.Namespace()
        space.x, lock = 5, manager.Lock()
        context = multiprocessing.get_context(method)
        process = context.Process(target=_fill, args=(things, names, lock))
        process.start()
        process.join(BOUND_S)
        line = manager.Queue()
        line.put("first")
        return [dict(things), list(names), space.x, line.get(timeout=BOUND_S), process.exitcode]


def _double(name, size):
    from multiprocessing import shared_memory

    block = shared_memory.SharedMemory(name)
    for index in range(size):
        block.buf[index] *= 2
    block.close()


def mp_shared_memory(method):
    """`multiprocessing.shared_memory`: one block, changed by another process; a ShareableList."""
    from multiprocessing import shared_memory

    block = shared_memory.SharedMemory(create=True, size=8)
    shared = shared_memory.ShareableList(["ü", 1, None])
    try:
        block.buf[:4] = bytes([1, 2, 3, 4])
        context = multiprocessing.get_context(method)
        process = context.Process(target=_double, args=(block.name, 4))
        process.start()
        process.join(BOUND_S)
        again = shared_memory.ShareableList(name=shared.shm.name)
        found = [list(block.buf[:4]), list(again), process.exitcode]
        again.shm.close()
        return found
    finally:
        block.close()
        block.unlink()
        shared.shm.close()
        shared.shm.unlink()


def _square_all(numbers):
    with multiprocessing.Pool(2) as pool:
        return pool.map(square, numbers)


def mp_nested(method):
    """A process that is no daemon has a pool of its own."""
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(_square_all, [1, 2, 3]).result(BOUND_S)


def mp_self():
    """What `multiprocessing` says of the process itself."""
    current = multiprocessing.current_process()
    return [
        current.name,
        current.daemon,
        multiprocessing.parent_process() is None,
        multiprocessing.get_start_method(),
        multiprocessing.active_children(),
    ]


def executor(method):
    """`ProcessPoolExecutor`: map, submit, an exception, a pool that breaks, and the next."""
    context = multiprocessing.get_context(method)
    make = concurrent.futures.ProcessPoolExecutor
    with make(2, mp_context=context, initializer=remember, initargs=("ü",)) as pool:
        found = [list(pool.map(square, range(5), chunksize=2))]
        found.append(pool.submit(recall).result(BOUND_S))
        found.append(repr(pool.submit(fail, "on purpose").exception(BOUND_S)))
    with make(1, mp_context=context) as pool:
        found.append(type(pool.submit(_kill_self).exception(BOUND_S)).__name__)
    with make(1, mp_context=context) as pool:
        found.append(pool.submit(square, 9).result(BOUND_S))
    return found


def executor_default():
    """`ProcessPoolExecutor` as it is without any option."""
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        return sorted(future.result() for future in map(lambda x: pool.submit(square, x), [3, 4]))


def sub_run():
    """`subprocess.run`: output, errors, exit codes, input, `check`."""
    script = "read line; echo out $line; echo err >&2; exit 3"
    done = subprocess.run(
        ["sh", "-c", script], input="ü\n", stdout=-1, stderr=-1, universal_newlines=True
    )
    try:
        subprocess.run(["false"], check=True)
    except subprocess.CalledProcessError as error:
        return [done.stdout, done.stderr, done.returncode, error.returncode]
    return None


def sub_shell():
    """`shell=True`, `os.system`, `os.popen`: pipes, variables, the shell that a person has."""
    output = subprocess.check_output("printf 'b\\na\\n' | sort | tr ab AB; echo $0", shell=True)
    with os.popen("echo $((6 * 7))") as pipe:
        answer = pipe.read()
    environment = dict(os.environ, NAME="value")
    named = subprocess.check_output("echo $NAME; pwd -P", shell=True, env=environment, cwd="/")
    return [output.decode(), os.system("exit 3") >> 8, answer, named.decode()]


def sub_path():
    """A program is found through PATH, also through a PATH that was changed a moment ago."""
    found = [shutil.which("sh") is not None, subprocess.call(["true"])]
    with tempfile.TemporaryDirectory() as folder:
        tool = os.path.join(folder, "my-own-tool")
        with open(tool, "w") as file:
            file.write("#!/bin/sh\necho found $1\n")
        os.chmod(tool, 0o755)
        before = os.environ["PATH"]
        os.environ["PATH"] = folder + os.pathsep + before
        try:
            found.append(subprocess.check_output(["my-own-tool", "it"]).decode())
        finally:
            os.environ["PATH"] = before
    try:
        subprocess.call(["my-own-tool"])
    except FileNotFoundError as error:
        found.append(error.filename)
    return found


def sub_pipes():
    """`Popen`: programs joined by pipes, megabytes both ways, a time limit."""
    source = subprocess.Popen(["seq", "200000"], stdout=subprocess.PIPE)
    sink = subprocess.Popen(["wc", "-l"], stdin=source.stdout, stdout=subprocess.PIPE)
    source.stdout.close()
    lines = int(sink.communicate(timeout=BOUND_S)[0])
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    data = bytes(range(256)) * 8192
    same = cat.communicate(data, timeout=BOUND_S)[0] == data
    try:
        subprocess.run(["sleep", "60"], timeout=0.1)
        late = False
    except subprocess.TimeoutExpired:
        late = True
    return [lines, same, late, source.wait(BOUND_S), cat.returncode]


def sub_python():
    """`sys.executable` is a python like this one, and finds what this one finds."""
    code = "import sys; print(list(sys.version_info), sys.argv, sys.prefix, sys.flags.isolated)"
    told = subprocess.check_output([sys.executable, "-c", code, "an argument"]).decode()
    here = "%s %s %s 0\n" % (list(sys.version_info), ["-c", "an argument"], sys.prefix)
    return [told == here, os.path.basename(sys.executable).startswith("python")]


def sub_signals():
    """What a program that was started here inherits: no blocked or ignored signal of ours."""
    text = subprocess.check_output(["cat", "/proc/self/status"]).decode()
    masks = dict(line.split(":\t") for line in text.splitlines() if line.startswith("Sig"))
    # The C library keeps two signals behind the usual 31 to itself.
    return [int(masks[name], 16) & 0x7FFFFFFF for name in ("SigBlk", "SigIgn")]


def os_fork():
    """`os.fork` with pipes and exit codes; `os.posix_spawn`; `os.wait`."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.write(there, b"from the child")
        os._exit(7)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        text = pipe.read().decode()
    found = [text, os.waitpid(child, 0)[1] >> 8]
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], os.environ)
    return [*found, os.waitpid(child, 0)[1] >> 8]


def pseudo_terminal():
    """`pty.fork`: a child with a terminal of its own."""
    import pty

    child, fd = pty.fork()
    if not child:
        os.execvp("sh", ["sh", "-c", "test -t 0 && test -t 1 && echo a terminal"])
    text = b""
    with contextlib.suppress(OSError):
        while True:
            part = os.read(fd, 1024)
            if not part:
                break
            text += part
    os.close(fd)
    return [text.decode(), os.waitpid(child, 0)[1]]


async def _with_programs():
    import asyncio

    run = asyncio.create_subprocess_exec
    pipe = asyncio.subprocess.PIPE
    cat = await run("cat", stdin=pipe, stdout=pipe)
    out, _ = await cat.communicate("größe".encode())
    shell = await asyncio.create_subprocess_shell("echo $((6 * 7)); exit 3", stdout=pipe)
    lines = [line.decode() async for line in shell.stdout]
    slow = await run("sleep", "60")
    slow.terminate()
    both = await asyncio.gather(*(run("sh", "-c", "exit %s" % code) for code in (4, 5)))
    codes = [await process.wait() for process in (cat, shell, slow, *both)]
    return [out.decode(), lines, codes]


def aio_programs():
    """`asyncio.run` with subprocesses: pipes, a shell, exit codes, a signal."""
    import asyncio

    return asyncio.run(_with_programs())


async def _with_tasks():
    import asyncio

    loop = asyncio.get_running_loop()
    found = list(await asyncio.gather(*(asyncio.sleep(0, x) for x in range(3))))
    try:
        await asyncio.wait_for(asyncio.sleep(BOUND_S), 0.01)
    except asyncio.TimeoutError:
        found.append("timed out")
    task = loop.create_task(asyncio.sleep(BOUND_S))
    await asyncio.sleep(0)
    task.cancel()
    found.append(len(await asyncio.gather(task, return_exceptions=True)))
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(heard.wait(), BOUND_S)
    found.append(loop.remove_signal_handler(signal.SIGUSR1))
    found.append(await loop.run_in_executor(None, square, 6))
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        found.append(await loop.run_in_executor(pool, square, 7))
    return found


def aio_tasks():
    """`asyncio.run`: tasks, time limits, cancelling, signals, threads and processes."""
    import asyncio

    return asyncio.run(_with_tasks())


async def _with_streams(path):
    import asyncio

    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    found = []
    for serve, connect in (
        (
            lambda: asyncio.start_server(answer, "127.0.0.1", 0),
            lambda server: asyncio.open_connection(*server.sockets[0].getsockname()),
        ),
        (
            lambda: asyncio.start_unix_server(answer, path),
            lambda _server: asyncio.open_unix_connection(path),
        ),
    ):
        server = await serve()
        reader, writer = await connect(server)
        writer.write(b"hello\n")
        found.append((await reader.read()).decode())
        writer.close()
        server.close()
        await server.wait_closed()
    return found


def aio_streams():
    """`asyncio` streams: a TCP server and a Unix server, and their clients."""
    import asyncio

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_with_streams(os.path.join(folder, "socket")))


def threads():
    """`threading`: locals, events, conditions, barriers, timers, names, the main thread."""
    local, found, barrier = threading.local(), [], threading.Barrier(3)
    local.value = "main"

    def work(number):
        local.value = number
        barrier.wait(BOUND_S)
        found.append((local.value, threading.current_thread().name))

    all_threads = [threading.Thread(target=work, args=(n,), name="t%d" % n) for n in range(3)]
    for thread in all_threads:
        thread.start()
    for thread in all_threads:
        thread.join(BOUND_S)
    rang = threading.Event()
    threading.Timer(0.01, rang.set).start()
    is_main = threading.current_thread() is threading.main_thread()
    before = [thread.name for thread in threading.enumerate() if thread.name == "MainThread"]
    return [sorted(found), local.value, rang.wait(BOUND_S), is_main, before]


def thread_errors():
    """`threading.excepthook`: what a thread raises is told as usual, and ends nothing else."""
    told = []
    before, threading.excepthook = threading.excepthook, lambda args: told.append(str(args[1]))
    try:
        thread = threading.Thread(target=fail, args=("in a thread",))
        thread.start()
        thread.join(BOUND_S)
    finally:
        threading.excepthook = before
    return told


def thread_pool():
    """`ThreadPoolExecutor`, `queue`, `contextvars`: work handed over between threads."""
    var = contextvars.ContextVar("var", default="none")
    var.set("here")
    line = queue.Queue(2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        feeding = pool.submit(lambda: [line.put(x) for x in range(5)])
        taken = [line.get(timeout=BOUND_S) for _ in range(5)]
        feeding.result(BOUND_S)
        bare = pool.submit(var.get).result(BOUND_S)
        carried = pool.submit(contextvars.copy_context().run, var.get).result(BOUND_S)
        return [taken, bare, carried, list(pool.map(square, range(4)))]


def log_files():
    """`logging`: files, rotation, dictConfig, queues, exceptions with their traceback."""
    import logging.config
    import logging.handlers

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "program.log")
        handler = {
            "class": "logging.handlers.RotatingFileHandler",
            "filename": path,
            "maxBytes": 100,
            "backupCount": 2,
            "formatter": "short",
        }
        config = {"version": 1, "disable_existing_loggers": False, "handlers": {"file": handler}}
        config["formatters"] = {"short": {"format": "%(name)s %(levelname)s %(message)s"}}
        config["loggers"] = {"compat": {"handlers": ["file"], "level": "INFO", "propagate": False}}
        logging.config.dictConfig(config)
        logger = logging.getLogger("compat")
        for number in range(8):
            logger.info("line %d of the log", number)
        logger.debug("unseen")
        line = queue.Queue()
        listener = logging.handlers.QueueListener(line, *logger.handlers)
        listener.start()
        logging.handlers.QueueHandler(line).handle(
            logging.LogRecord("compat", 40, "f", 1, "by %s", ("queue",), None)
        )
        listener.stop()
        files = sorted(os.listdir(folder))
        with open(path) as file:
            text = file.read()
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
    return [files, text, logging.getLogger("compat").level]


def log_in_processes():
    """`logging` in a child process, to a file that the parent opened."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "child.log")
        process = multiprocessing.get_context("spawn").Process(target=_log_to, args=(path,))
        process.start()
        process.join(BOUND_S)
        with open(path) as file:
            return [file.read(), process.exitcode]


def _log_to(path):
    logging.basicConfig(filename=path, format="%(name)s: %(message)s", level="INFO")
    logging.getLogger("child").info("here")


@contextlib.contextmanager
def _handled(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def signals():
    """`signal`: handlers, also of SIGINT, SIGTERM and SIGCHLD; alarms; waiting; masks."""
    found = []

    def note(number, frame):
        found.append([signal.Signals(number).name, frame is not None])

    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with _handled(number, note):
            os.kill(os.getpid(), number)
    with _handled(signal.SIGCHLD, note):
        subprocess.call(["true"])
    with _handled(signal.SIGALRM, note):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        signal.pause()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(BOUND_S)
    except KeyboardInterrupt:
        found.append("KeyboardInterrupt")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    found.append(int(signal.sigwait([signal.SIGUSR1])) == signal.SIGUSR1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    return found


def signal_dispositions():
    """Every signal is as python leaves it at its start, but for one real-time signal."""
    ours = signal.SIGRTMIN + 11
    all_signals = (number for number in range(1, signal.NSIG) if number not in (32, 33, ours))
    usual = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
    kinds = [usual.index(signal.getsignal(number)) for number in all_signals]
    return [kinds[:31], sorted(set(kinds[31:])), sorted(signal.pthread_sigmask(0, []))]


def temporary():
    """`tempfile`: files, directories, spooled ones; all in one place, and gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        with tempfile.NamedTemporaryFile("w+", dir=folder, suffix=".txt") as file:
            file.write("größe")
            file.seek(0)
            found = [file.read(), os.listdir(folder) == [os.path.basename(file.name)]]
        found.append(os.listdir(folder))
    with tempfile.SpooledTemporaryFile(10) as file:
        file.write(b"x" * 100)
        found.append(file.tell())
    fd, path = tempfile.mkstemp()
    os.close(fd)
    os.unlink(path)
    return [*found, os.path.dirname(path) == tempfile.gettempdir(), os.path.exists(folder)]


def _insert(path, start):
    import sqlite3

    with contextlib.closing(sqlite3.connect(path, timeout=BOUND_S)) as database, database:
        database.executemany("INSERT INTO t VALUES (?, ?)", [(start + n, "ü") for n in range(50)])


def sqlite():
    """`sqlite3`: a file that threads and processes write to, a function, a row by name, backup."""
    import sqlite3

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data.db")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, name TEXT)")
            thread = threading.Thread(target=_insert, args=(path, 0))
            process = multiprocessing.get_context("spawn").Process(target=_insert, args=(path, 100))
            thread.start()
            process.start()
            thread.join(BOUND_S)
            process.join(BOUND_S)
            database.create_function("double", 1, lambda n: n * 2)
            database.row_factory = sqlite3.Row
            row = database.execute("SELECT count(*) AS c, sum(double(n)) AS s FROM t").fetchone()
            copy = sqlite3.connect(":memory:")
            database.backup(copy)
            copied = copy.execute("SELECT max(n), name FROM t").fetchone()
            copy.close()
            return [row["c"], row["s"], list(copied)]


class _Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


def c_code():
    """`ctypes`: the C library, a callback, a structure, errno, the interpreter's own functions."""
    library = ctypes.CDLL(None, use_errno=True)
    numbers = (ctypes.c_int * 5)(3, 1, 5, 2, 4)
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)
    )
    library.qsort(numbers, 5, ctypes.sizeof(ctypes.c_int), kind(lambda a, b: a[0] - b[0]))
    library.close(-1)
    point = _Point(1, 2.5)
    version = ctypes.pythonapi.Py_GetVersion
    version.restype = ctypes.c_char_p
    return [
        list(numbers),
        library.strlen(b"four"),
        ctypes.get_errno(),
        [point.x, point.y],
        version().decode() == sys.version,
    ]


def maps_and_locks():
    """`mmap` shared with a child; `fcntl.flock` against another process; `select.epoll`."""
    shared = mmap.mmap(-1, 16)
    child = os.fork()
    if not child:
        shared[:5] = b"child"
        os._exit(0)
    os.waitpid(child, 0)
    found = [shared[:5].decode()]
    with tempfile.NamedTemporaryFile() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        held = subprocess.call([sys.executable, "-c", code, file.name], stderr=-3)
        fcntl.flock(file, fcntl.LOCK_UN)
        found.append([held, subprocess.call([sys.executable, "-c", code, file.name], stderr=-3)])
    here, there = socket.socketpair()
    with here, there, select.epoll() as poll:
        poll.register(here, select.EPOLLIN)
        there.send(b"x")
        found.append(len(poll.poll(BOUND_S)))
    return found


def web():
    """`http.server` in a thread, and `urllib` against it."""
    import http.server
    import urllib.request

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open("http://127.0.0.1:%d/a/path" % server.server_port) as answer:
            found = [answer.status, answer.read().decode()]
        server.shutdown()
        thread.join(BOUND_S)
    return found


class Pair:
    """An object of this module's own."""

    def __init__(self, left, right):
        self.left, self.right = left, right


def pickles():
    """`pickle` of functions, classes and objects of this module; also to another process."""
    function, pair = pickle.loads(pickle.dumps((square, Pair(1, [2]))))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        swapped = pool.apply(_swap, (pair,))
    return [function is square, type(pair) is Pair, [swapped.left, swapped.right]]


def _swap(pair):
    return Pair(pair.right, pair.left)


def introspection():
    """`inspect.getsource`, `traceback`, `warnings`, `runpy`, `cProfile`, `sys.settrace`."""
    import cProfile
    import inspect
    import pstats
    import runpy

    source = inspect.getsource(square).splitlines()[0]
    try:
        fail("here")
    except ValueError:
        told = traceback.format_exc().splitlines()[-1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "script.py")
        with open(path, "w") as file:
            file.write("if __name__ == '__main__':\n    answer = 42\n")
        answer = runpy.run_path(path, run_name="__main__")["answer"]
    profile = cProfile.Profile()
    profile.runcall(square, 3)
    calls = pstats.Stats(profile, stream=io.StringIO()).total_calls
    lines = []
    before = sys.gettrace()
    sys.settrace(lambda frame, event, _arg: lines.append((event, frame.f_code.co_name)))
    square(2)
    sys.settrace(before)
    return [source, told, str(caught[0].message), answer, calls >= 1, lines[:1]]


def standard_streams():
    """Standard input is empty; output and errors can be written to, by children as well."""
    try:
        text = input()
    except EOFError:
        text = "EOFError"
    buffer = io.StringIO()
    with contextlib.redirect_stdout(buffer):
        print("redirected")
    found = [text, sys.stdin.read(), buffer.getvalue()]
    return [*found, [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]]


def at_exit(folder):
    """`atexit`, `weakref.finalize`, `threading`: what a python does at its end."""
    import atexit

    def note(name):
        with open(os.path.join(folder, name), "w") as file:
            file.write(name)

    holder = Pair(1, 2)
    atexit.register(note, "atexit")
    weakref.finalize(holder, note, "finalize")
    sys.modules["kept-until-the-end"] = holder
    thread = threading.Thread(target=lambda: (time.sleep(0.05), note("thread")))
    thread.start()
    return "registered"


# Which check stands in which row of docs/COMPATIBILITY.md; whether it is tried in a script, too.
CHECKS = (
    [("multiprocessing", f, (m,), True) for f in (mp_pool, mp_process) for m in METHODS]
    + [("multiprocessing", f, (m,), False) for f in (mp_locks, mp_manager) for m in METHODS]
    + [("multiprocessing", mp_shared_memory, (m,), False) for m in METHODS]
    + [("multiprocessing", mp_nested, (m,), True) for m in METHODS[1:]]
    + [("multiprocessing", mp_self, (), True)]
    + [("concurrent.futures", executor, (m,), True) for m in METHODS]
    + [("concurrent.futures", executor_default, (), True)]
    + [
        ("subprocess", sub_run, (), False),
        ("subprocess", sub_shell, (), False),
        ("subprocess", sub_path, (), False),
        ("subprocess", sub_pipes, (), False),
        ("subprocess", sub_python, (), True),
        ("subprocess", sub_signals, (), False),
        ("os", os_fork, (), True),
        ("os", pseudo_terminal, (), False),
        ("asyncio", aio_programs, (), True),
        ("asyncio", aio_tasks, (), True),
        ("asyncio", aio_streams, (), False),
        ("threading", threads, (), True),
        ("threading", thread_errors, (), False),
        ("threading", thread_pool, (), False),
        ("logging", log_files, (), False),
        ("logging", log_in_processes, (), True),
        ("signal", signals, (), True),
        ("signal", signal_dispositions, (), True),
        ("tempfile", temporary, (), False),
        ("sqlite3", sqlite, (), True),
        ("ctypes", c_code, (), False),
        ("mmap, fcntl, select", maps_and_locks, (), False),
        ("http, urllib", web, (), False),
        ("pickle", pickles, (), True),
        ("inspect, runpy, cProfile", introspection, (), True),
        ("standard streams", standard_streams, (), True),
    ]
)


def tell(file=sys.stdout):
    """Calls everything, and prints a line of JSON for each."""
    for group, function, args, in_script in CHECKS:
        line = {"group": group, "what": function.__doc__.strip(), "script": in_script}
        line.update(function=function.__name__, args=list(args))
        begun = time.monotonic()
        try:
            line["result"] = function(*args)
        except Exception as error:
            line["raised"] = type(error).__name__
            traceback.print_exc()
        line["took"] = round(time.monotonic() - begun, 3)
        file.write(json.dumps(line) + "\n")
        file.flush()


if __name__ == "__main__":
    tell()
