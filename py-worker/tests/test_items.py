"""Chunks of items: how the function is called with each, what is skipped, what is folded."""

import os
import pickle
import struct
import sys
import unittest

import support
from support import (
    ASYNC,
    ITEMS,
    JSON,
    NOTHING,
    ONE,
    PLAIN,
    STAR,
    SUBINTERPRETERS,
    THREADS,
    Failed,
)

TASKS = """
import os, time
import clutch

calls = []

def add(a, b):
    calls.append((a, b))
    return a + b

def forgotten():
    made = list(calls)
    calls.clear()
    return made

async def add_soon(a, b):
    return a + b

def odd(item):
    return item if item % 2 else clutch.SKIP

def odd_or_fail(item):
    return 1 // (item - 4) and odd(item)

def odd_path(item):
    import pathlib
    return pathlib.Path(str(item)) if item % 2 else clutch.SKIP

def always(_):
    return clutch.SKIP

def in_a_list(_):
    return [clutch.SKIP]

def joined(so_far, more):
    return f"({so_far}{more})"

def text(item):
    return str(item)

def no_fold(so_far, more):
    raise ValueError("no fold")

def fold_to_nothing(so_far, more):
    return clutch.SKIP

def fork(item):
    if item == 1 and os.fork() == 0:
        return os.getpid()
    if item == 1:
        os.wait()
    return item

def wait_at(item):
    if item == "wait":
        print("ready", flush=True)
        time.sleep(600)
    return item

def die_at(item):
    if item == "die":
        os.kill(os.getpid(), 9)
    return item

def equal(_):
    class Same:
        def __eq__(self, other):
            raise AssertionError("nobody may compare it")
    return Same()

not_callable = 5
"""


def begun(worker):
    """How many items the first place of the page has begun."""
    return struct.unpack("=Q", os.pread(worker.page, 8, 8 * 256))[0]


class Items(support.FolderTestCase):
    def setUp(self):
        super().setUp()
        self.write("tasks.py", TASKS)

    def modes(self):
        """A worker of each mode."""
        modes = [ONE, THREADS, ASYNC]
        if sys.version_info >= (3, 13):
            modes.append(SUBINTERPRETERS)
        for mode in modes:
            with self.subTest(mode=mode), self.here(mode) as worker:
                yield worker

    def here(self, mode=ONE):
        return support.Worker(self.folder, path=[self.folder], mode=mode, lanes=1 + (mode != ONE))

    def failure(self, worker, *args):
        with self.assertRaises(Failed) as caught:
            worker.each(*args)
        return caught.exception.failure

    def test_an_item_is_the_list_of_arguments(self):
        for worker in self.modes():
            for codec in (PLAIN, JSON):
                for function in ("tasks:add", "tasks:add_soon"):
                    answer = worker.each(function, [[1, 2], ["a", "b"]], STAR, "", codec)
                    self.assertEqual(([3, "ab"], [], []), answer)
            self.assertEqual(([5], [], []), worker.each("tasks:add", [(2, 3)], STAR))

    def test_what_is_no_list_of_arguments_is_not_taken_apart(self):
        with self.here() as worker:
            results, failures, _ = worker.each("tasks:add", [[1, 2], "ab", 5, [3], [3, 4]], STAR)
            self.assertEqual([3, 7], results)
            self.assertEqual([1, 2, 3], [index for index, _ in failures])
            names = {failure["type_name"] for _, failure in failures}
            self.assertEqual({"clutch.BadArguments"}, names)
            messages = [failure["message"] for _, failure in failures]
            self.assertIn("an item is str", messages[0])
            self.assertIn("missing 1 required", messages[2])
            self.assertEqual(
                "BadArguments", self.failure(worker, "tasks:add", ["ab"], STAR)["kind"]
            )
            self.assertEqual("BadArguments", self.failure(worker, "tasks:add", [[1]], STAR)["kind"])

    def test_skipped_items_have_no_result(self):
        for worker in self.modes():
            for codec in (PLAIN, JSON):
                answer = worker.each("tasks:odd", range(5), codec=codec)
                self.assertEqual(([1, 3], [], [0, 2, 4]), answer)
            self.assertEqual(([], [], [0]), worker.each("tasks:always", [7]))
            self.assertEqual(([], [], [0, 1]), worker.each("tasks:always", [7, 8]))

    def test_skipping_failing_and_converting_do_not_mix_up(self):
        with self.here() as worker:
            results, failures, skipped = worker.each("tasks:odd_or_fail", range(7))
            self.assertEqual(([1, 3, 5, 0], [0, 2]), (results, skipped))
            self.assertEqual([4], [index for index, _ in failures])
            answer = worker.each("tasks:odd_path", range(4))
            self.assertEqual((["1", "3"], [], [0, 2]), answer)
            # Results are never compared with it.
            _, failures, _ = worker.each("tasks:equal", [1, 2])
            self.assertEqual(2, len(failures))

    def test_a_call_cannot_be_skipped(self):
        with self.here() as worker:
            for function in ("always", "in_a_list"):
                failure = worker.failure("tasks:" + function, 1)
                self.assertEqual("Unserializable", failure["kind"])
                self.assertEqual("clutch.SKIP", failure["type_name"])
                self.assertIn("only an item of a map", failure["message"])
            _, failures, _ = worker.each("tasks:in_a_list", [1, 2])
            self.assertEqual({"clutch.Unserializable"}, {it["type_name"] for _, it in failures})

    def test_it_is_the_only_one_of_its_kind(self):
        with self.here() as worker:
            code = (
                "import clutch, copy, pickle\n"
                "assert copy.deepcopy([clutch.SKIP])[0] is clutch.SKIP\n"
                "assert pickle.loads(pickle.dumps(clutch.SKIP)) is clutch.SKIP\n"
                "assert repr(clutch.SKIP) == 'clutch.SKIP'\n"
            )
            self.assertIsNone(worker.call("builtins:exec", code))

    def test_results_are_folded_from_left_to_right(self):
        for worker in self.modes():
            for codec in (PLAIN, JSON):
                answer = worker.each("tasks:text", range(4), 0, "tasks:joined", codec)
                self.assertEqual((["(((01)2)3)"], [], []), answer)
            # One is what it is, and none is none.
            self.assertEqual((["5"], [], []), worker.each("tasks:text", [5], 0, "tasks:joined"))
            self.assertEqual(([], [], []), worker.each("tasks:always", [5, 6], 0, "tasks:joined"))
            self.assertEqual(([4], [], []), worker.each("tasks:odd", range(4), 0, "operator:add"))
            answer = worker.each("tasks:add", [[1, 2], [3, 4]], STAR, "operator:mul")
            self.assertEqual(([21], [], []), answer)

    def test_partial_results_are_folded_as_they_are(self):
        with self.here() as worker:
            answer = worker.each("tasks:joined", ["a", "b", "c"], NOTHING, "tasks:joined")
            self.assertEqual((["((ab)c)"], [], []), answer)

    def test_a_failing_item_is_told_instead_of_a_fold(self):
        with self.here() as worker:
            results, failures, skipped = worker.each(
                "tasks:odd_or_fail", range(7), 0, "tasks:no_fold"
            )
            self.assertEqual(([], [4], []), (results, [index for index, _ in failures], skipped))

    def test_a_fold_that_fails(self):
        with self.here() as worker:
            for fold, kind in (
                ("tasks:no_fold", "Raised"),
                ("tasks:fold_to_nothing", "Unserializable"),
                ("tasks:is_not_there", "NotFound"),
                ("no_such_module:f", "NotFound"),
                ("tasks:not_callable", "NotFound"),
                ("math:sqrt", "BadArguments"),
            ):
                failure = self.failure(worker, "tasks:add", [[1, 2], [3, 4]], STAR, fold)
                self.assertEqual(kind, failure["kind"], fold)
                if kind == "NotFound":
                    self.assertIn(f"the fold {fold}: ", str(failure), fold)
                called = [] if kind == "NotFound" else [[1, 2], [3, 4]]
                self.assertEqual(called, list(map(list, worker.call("tasks:forgotten"))), fold)

    def test_a_child_that_an_item_forks_runs_no_other_item(self):
        with self.here() as worker:
            answer = worker.each("tasks:fork", range(5), 0, "operator:add")
            self.assertEqual(([10], [], []), answer)
            self.assertEqual(0, begun(worker))

    def test_the_page_says_how_many_items_have_begun(self):
        for worker in self.modes():
            items = pickle.dumps(["a", "b", "wait", "c"], 5)
            call_id = worker.send("tasks:wait_at", items, ITEMS)
            support.wait_for(lambda: "ready" in worker.stdout(), "the third item")
            places = struct.unpack("=512Q", os.pread(worker.page, 4096, 0))
            self.assertEqual(3, places[256 + places.index(call_id)])

    def test_no_item_has_begun_after_an_interrupt(self):
        with self.here() as worker:
            call_id = worker.send("tasks:wait_at", pickle.dumps(["a", "wait"], 5), ITEMS)
            support.wait_for(lambda: "ready" in worker.stdout(), "the second item")
            worker.interrupt(call_id)
            with self.assertRaises(Failed):
                worker.answer(call_id)
            self.assertEqual(0, begun(worker))

    def test_what_a_dead_worker_had_begun_stays_written(self):
        with self.here() as worker:
            worker.map("tasks:text", range(100))
            self.assertEqual(0, begun(worker))
            worker.send("tasks:die_at", pickle.dumps(["a", "die", "b"], 5), ITEMS)
            worker.process.wait(support.DEADLINE_S)
            self.assertEqual(2, begun(worker))


if __name__ == "__main__":
    unittest.main()
