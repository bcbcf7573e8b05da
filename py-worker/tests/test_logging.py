"""Records of `logging` on their way to the daemon. One worker process per test."""

import pickle
import select
import time

import support
from support import PLAIN

CODE = """
import logging, os, signal, sys, threading, time

log = logging.getLogger("my.tasks")
log.info("imported")

def say(level, message, *args):
    log.log(level, message, *args)

def flood(count):
    for number in range(count):
        log.warning("record %d", number)

def fail_with_traceback():
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("it failed")

def long(size):
    log.error("a" * size + "\\N{SNOWMAN}" * size)

class Hostile:
    def __str__(self):
        raise RuntimeError("no text")
    __repr__ = __str__

class Chatty:
    def __str__(self):
        log.warning("from within")
        return "chatty"

def hostile():
    log.error("%s", Hostile())
    log.error("%d %d", 1)
    log.error("%s", Chatty())
    log.error("lone \\ud800 surrogate")
    log.log(10 ** 30, "too high")
    logging.getLogger("x" * 10_000).error("long name")

def from_a_thread():
    thread = threading.Thread(target=log.warning, args=("in a thread",))
    thread.start()
    thread.join()

def fork_and_log():
    pid = os.fork()
    if pid == 0:
        log.warning("of the child")
        os._exit(len(logging.getLogger().handlers))
    return os.waitpid(pid, 0)[1]

def from_a_signal_handler():
    signal.signal(signal.SIGUSR1, lambda *_: log.warning("handler"))
    for number in range(100):
        log.warning("record %d", number)
        os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)

def many_threads(count, each):
    def work(number):
        for index in range(each):
            log.warning("%d %d %s", number, index, "x" * (index * 37 % 9000))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def take_over():
    logging.basicConfig(force=True)
    log.warning("taken over")

def nothing():
    pass
"""


class Logging(support.FolderTestCase):
    def logging_worker(self, level=20, **options):
        return self.worker(CODE, log_level=level, path=[self.folder], **options)

    def no_record(self, worker):
        self.assertFalse(select.select([worker.control_socket], [], [], 0.1)[0])

    def test_a_record_says_what_where_and_when(self):
        worker = self.logging_worker(preload=["tasks"])
        record = worker.record()
        self.assertEqual(
            (20, "INFO", "my.tasks", 0, 0, "imported"),
            tuple(
                record[name]
                for name in ("level", "level_name", "logger", "call", "dropped", "text")
            ),
        )
        self.assertLess(abs(time.time() * 1000 - record["created_ms"]), 60_000)
        worker.call("tasks:nothing")
        call_id = worker.send("tasks:say", pickle.dumps([30, "%s and %s", 1, "two"], 5))
        worker.answer(call_id)
        record = worker.record()
        self.assertEqual((30, "WARNING", call_id), (record["level"], record["level_name"], call_id))
        self.assertEqual((call_id, "1 and two"), (record["call"], record["text"]))
        self.assertEqual("", worker.stderr())
        self.assertEqual(0, worker.finish())

    def test_only_from_the_level_on(self):
        worker = self.logging_worker(level=40)
        for level in (10, 20, 30, 39, 40, 45):
            worker.call("tasks:say", level, "text")
        self.assertEqual([40, 45], [worker.record()["level"] for _ in range(2)])
        self.no_record(worker)

    def test_without_it_logging_is_not_even_loaded(self):
        worker = self.worker("import sys\ndef f(): return 'logging' in sys.modules")
        self.assertFalse(worker.call("tasks:f"))

    def test_an_exception_comes_with_its_traceback(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        worker.call("tasks:fail_with_traceback")
        text = worker.record()["text"]
        self.assertTrue(text.startswith("it failed\nTraceback (most recent call last):"), text)
        self.assertTrue(text.endswith("ZeroDivisionError: division by zero"), text)

    def test_long_text_is_cut_in_the_middle(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        for size in (8000, 20_000, 10_000_000):
            worker.call("tasks:long", size)
            text = worker.record()["text"]
            self.assertTrue(text.startswith("aaa") and text.endswith("\N{SNOWMAN}"))
            self.assertIn("... (cut) ...", text)
            self.assertLessEqual(len(text.encode()), 16 << 10)
            self.assertGreater(len(text.encode()), 16_000)

    def test_nothing_that_is_logged_can_hurt(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        worker.call("tasks:hostile")
        texts = [worker.record()["text"] for _ in range(5)]
        self.assertEqual(
            ["from within", "chatty", "lone \\ud800 surrogate", "too high", "long name"], texts
        )
        self.assertEqual(2, worker.stderr().count("--- Logging error ---"))
        self.no_record(worker)

    def test_other_threads_belong_to_no_call(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        worker.call("tasks:from_a_thread")
        record = worker.record()
        self.assertEqual((0, "in a thread"), (record["call"], record["text"]))

    def test_a_forked_child_does_not_speak_for_its_parent(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        self.assertEqual(0, worker.call("tasks:fork_and_log"), "it has no handler any more")
        self.no_record(worker)
        self.assertIn("of the child", worker.stderr())
        worker.call("tasks:say", 30, "of the parent")
        self.assertEqual("of the parent", worker.record()["text"])

    def test_a_flood_is_limited_and_counted_f069(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        began = time.monotonic()
        call_id = worker.send("tasks:flood", pickle.dumps([100_000], 5), codec=PLAIN)
        sent, dropped = 0, 0
        while sent + dropped < 100_000:
            record = worker.record()
            sent += 1 if record["text"] else 0
            dropped += record["dropped"]
        seconds = time.monotonic() - began
        worker.answer(call_id)
        self.assertEqual(100_000, sent + dropped)
        self.assertLessEqual(sent, 2_100 + 1_100 * seconds)
        self.no_record(worker)

    def test_a_daemon_that_does_not_read_holds_nobody_up_f137(self):
        worker = self.logging_worker(preload=["tasks"])
        # More bytes than the socket takes.
        worker.call("tasks:many_threads", 4, 300)
        seen, dropped = 0, 0
        while select.select([worker.control_socket], [], [], 0.1)[0]:
            record = worker.record()
            seen += 1
            dropped += record["dropped"]
        worker.call("tasks:say", 30, "again")
        record = worker.record()
        self.assertEqual("again", record["text"])
        dropped += record["dropped"]
        # The first one is that of the import, and threads may count a loss twice or not at all.
        self.assertGreater(dropped, 0)
        self.assertAlmostEqual(1201, seen + dropped, delta=60)

    def test_signal_handlers_may_log_while_a_record_is_sent(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        worker.call("tasks:from_a_signal_handler")
        # As many as the socket takes before anybody reads.
        texts = [worker.record()["text"] for _ in range(200)]
        self.assertEqual(100, texts.count("handler"))

    def test_a_program_may_take_logging_over(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        worker.call("tasks:take_over")
        self.no_record(worker)
        self.assertIn("WARNING:my.tasks:taken over", worker.stderr())

    def test_pings_are_answered_between_records(self):
        worker = self.logging_worker(preload=["tasks"])
        worker.record()
        call_id = worker.send("tasks:many_threads", pickle.dumps([4, 20], 5))
        worker.control_socket.sendall(support.frame(support.PING, 9))
        kinds = [support.read_frame(worker.control_socket)[0] for _ in range(81)]
        self.assertEqual((80, 1), (kinds.count(support.LOG), kinds.count(support.PONG)))
        worker.answer(call_id)
