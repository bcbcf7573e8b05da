"""What the daemon can learn from a worker that cannot answer: which call has begun, and stacks."""

import pickle
import signal
import unittest

import support
from support import wait_for

CODE = """
import os, sys, time

def bomb():
    return Answer()

class Answer(str):
    def __del__(self):
        os.kill(os.getpid(), 9)

def nap():
    time.sleep(1000)

def begun():
    return os.getpid()

def fork():
    pid = os.fork()
    if pid == 0:
        import clutch._call
        clutch._call.state.page[0] = 1 << 40
        os.kill(os.getpid(), 11)
    return os.waitpid(pid, 0)[1]
"""

STACK_SIGNAL = signal.SIGRTMIN + 12


class Page(support.FolderTestCase):
    def test_a_call_has_begun_when_user_code_can_run_f003(self):
        worker = self.worker(CODE)
        self.assertEqual(0, worker.begun())
        worker.call("tasks:begun")
        self.assertEqual(1, worker.begun())
        call_id = worker.send("tasks:begun", b"no pickle")
        with self.assertRaises(support.Failed):
            worker.answer(call_id)
        self.assertEqual(1, worker.begun())
        worker.call("tasks:begun")
        self.assertEqual(3, worker.begun())
        worker.failure("nowhere:function")
        self.assertEqual(4, worker.begun(), "an import may run anything")

    def test_a_stopped_worker_has_not_begun_f003(self):
        worker = self.worker(CODE)
        worker.call("tasks:begun")
        worker.process.send_signal(signal.SIGSTOP)
        worker.send("tasks:begun", pickle.dumps([], 5))
        worker.process.kill()
        worker.process.wait()
        self.assertEqual(1, worker.begun())

    def test_what_frees_a_result_costs_no_answer_f023(self):
        worker = self.worker(CODE)
        call_id = worker.send("tasks:bomb", pickle.dumps([], 5))
        self.assertEqual("", pickle.loads(worker.answer(call_id)[2]))
        self.assertEqual(-signal.SIGKILL, worker.process.wait(support.DEADLINE_S))

    def test_a_forked_child_speaks_for_nobody(self):
        worker = self.worker(CODE)
        status = worker.call("tasks:fork")
        self.assertEqual(signal.SIGSEGV, status & 0x7F)
        self.assertEqual(1, worker.begun())
        self.assertEqual("", worker.stack())
        self.assertIn("Segmentation fault", worker.stderr())

    def test_the_end_of_a_worker_frees_nobody_elses_descriptor(self):
        code = """
        import os, sys
        def keep():
            sys.kept = [open("/dev/null") for _ in range(8)]
            return [file.fileno() for file in sys.kept][0]
        """
        worker = self.worker(code)
        self.assertEqual(3, worker.call("tasks:keep"))
        self.assertEqual(0, worker.finish())
        self.assertEqual("", worker.stderr())


class Stacks(support.FolderTestCase):
    def test_a_stack_is_written_when_asked_for_f011(self):
        worker = self.worker(CODE)
        worker.call("tasks:begun")
        call_id = worker.send("tasks:nap", pickle.dumps([], 5))
        wait_for(lambda: worker.begun() == call_id, "the call")
        support.time.sleep(0.05)
        worker.process.send_signal(STACK_SIGNAL)
        wait_for(lambda: "in <module>" in worker.stack(), "the stack")
        main = worker.stack().rpartition("Current thread")[2]
        self.assertIn('tasks.py", line 12 in nap', main)
        last = main.rstrip().rpartition("\n")[2]
        self.assertIn('boot.py", line', last)
        worker.interrupt(call_id)
        with self.assertRaises(support.Failed):
            worker.answer(call_id)

    def test_a_full_pipe_blocks_nobody(self):
        worker = self.worker(CODE)
        for _ in range(400):
            worker.process.send_signal(STACK_SIGNAL)
            worker.call("tasks:begun")
        self.assertGreater(len(worker.stack()), 60_000)


if __name__ == "__main__":
    unittest.main()
