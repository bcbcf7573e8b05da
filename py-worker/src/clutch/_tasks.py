"""The mode `async`: calls of `async def` functions are tasks on one event loop, on the main thread.

Any other function goes to a thread, so that the loop goes on; there are at most as many as calls.
What a plain function returns that is a coroutine after all, and the items of a list for an
`async def`, come back to the loop from there.

```text
   call socket ─► Service.read ─► a task: find, decode ─► async def? ─ yes ─► await ─► answer
                                                             no ─► a thread: execute ─► answer
   Interrupt ──► the call's lane ──► task.cancel(), or as in the mode `threads`
```
"""

import asyncio
from _queue import SimpleQueue
from posix import close, dup, getpid, register_at_fork

from clutch import _coroutine
from clutch._call import state
from clutch._cancel import Lane
from clutch._control import die, report
from clutch._frames import (
    EXIT,
    FAILED,
    FLAGS_OF_PORTS,
    READY,
    RUN,
    ProtocolError,
    header_bytes,
)
from clutch._lanes import LaneExecutor
from clutch._mailbox import Inbox, Outbox
from clutch._pristine import load
from clutch._task_executors import TaskExecutor, ThreadExecutor
from clutch._threads import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, Optional, Tuple

    from clutch._execute import Body, Executor
    from clutch._lanes import Lanes, Send
    from clutch._receive import Payload

    # flags, codec, id, meta, payload.
    Frame = Tuple[int, int, int, memoryview, Payload]

__all__ = ["live", "make_loop"]

# How long the end of a worker waits for the tasks that calls have left behind.
_END_S = 1.0

# How often the loop may fail without an answer in between: when a call has closed its descriptors,
# or has put something else in the place of what it needs, it never works again.
_FAILURES_MAX = 10


def make_loop(beyond: int) -> asyncio.AbstractEventLoop:
    """The loop of this worker's life; what is called before the first call runs on it, too.

    Its descriptors have numbers `beyond` that one, out of the way of user code.
    """
    occupied: "list[int]" = []
    try:
        while not occupied or occupied[-1] < beyond:
            occupied.append(dup(0))
    except OSError:
        # Numbers that high are not allowed here, or there is no number 0.
        pass
    try:
        loop = asyncio.SelectorEventLoop()
    finally:
        for number in occupied:
            close(number)
    try:
        asyncio.set_event_loop(loop)
    except ImportError:
        # A user has a file of the name `asyncio`, and will never ask for this one's loop.
        pass
    _coroutine.run_on(loop)

    def forget() -> None:
        # The loop's descriptors are the parent's, too. What a child still runs, it runs to the
        # next `await`; other calls it must not run at all.
        ready = getattr(loop, "_ready", None)
        if ready is not None:
            ready.clear()
        loop.stop()

    register_at_fork(after_in_child=forget)
    return loop


class Service:
    """Takes calls from the socket, and sees to it that each is answered."""

    def __init__(self, lanes: "Lanes", call: "socket", package: str) -> None:
        assert lanes.loop is not None
        self._lanes = lanes
        self.loop = lanes.loop
        self._package = package
        self._payload_bytes_max = lanes.setup.payload_bytes_max
        self._descriptor = call.fileno()
        self._inbox = Inbox(call, self._payload_bytes_max)
        self._outbox = Outbox(call, self.loop)
        self._executor = TaskExecutor(package, self._payload_bytes_max, Lane("", memoryview(b"")))
        self._executor.line = lanes
        # Places of the page that no call has.
        self._places = list(range(lanes.count))
        self._tasks: "set[asyncio.Task[None]]" = set()
        self._jobs: "SimpleQueue[Tuple[Frame, int]]" = SimpleQueue()
        self._threads = self._idle = 0
        # How many calls were.
        self.answered = 0
        self.is_over = False
        # At the end, told when all calls that stream have been answered.
        self.quiet: "asyncio.Future[None]" = self.loop.create_future()
        self.loop.add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        try:
            letters = self._inbox.read()
            for kind, flags, codec, call_id, meta, payload in letters or ():
                if kind == RUN:
                    self._begin(flags, codec, call_id, meta, payload)
                elif kind == EXIT:
                    letters = None
                    break
                else:
                    self._lanes.deliver(kind, flags, call_id, meta, payload)
            if letters is None:
                self.is_over = True
                self._lanes.hang_up()
                self.loop.remove_reader(self._descriptor)
                self.loop.stop()
        except ProtocolError as error:
            die(f"on the call socket, {error}")
        except BaseException as error:  # noqa: BLE001 - a signal handler, or no memory.
            report(error)
            die(f"a call could not be taken: {type(error).__name__}")

    def _begin(self, *frame: "Any") -> None:
        call_id = frame[2]
        self._lanes.begin(call_id)
        if frame[0] & FLAGS_OF_PORTS:
            ports = load("clutch._lane_ports")
            self._lanes.ports[call_id] = ports.LoopPort(
                call_id, state, self._lanes.flush, self._outbox, self.loop
            )
        place = self._places.pop()
        lane = Lane(f"clutch-{place + 1}", self._lanes.page_of(place))
        task = self.loop.create_task(self._run(lane, place, frame))
        self._tasks.add(task)

        def cancel() -> None:
            # Before its first step, and after its last, it must not be thrown into.
            if lane.armed:
                task.cancel()

        lane.on_interrupt = lambda: bool(self.loop.call_soon_threadsafe(cancel))
        self._lanes.tasks[call_id] = lane
        lane.begin(call_id, self._lanes.early)

        def finish(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if self._lanes.tasks.pop(call_id, None) is not None:
                # User code has cancelled all tasks there are, this one before its first step.
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
                self._fail(call_id, error or AssertionError(task), place)

        task.add_done_callback(finish)

    async def _run(self, lane: Lane, place: int, frame: "Frame") -> None:
        call_id = frame[2]
        self._lanes.current.set(lane)
        try:
            answer = await self._executor.run(lane, *frame)
        except ProtocolError as error:
            die(f"on the call socket, {error}")
        del self._lanes.tasks[call_id]
        if answer is not None:
            self._answer(call_id, *answer, place)
            return
        lane.leave(self._lanes.early)
        if self._idle:
            self._idle -= 1
        else:
            error = self._add_thread()
            # If there are any, one of them will come to it.
            if error is not None and not self._threads:
                self._fail(call_id, error, place)
                return
        self._jobs.put((frame, place))

    def _fail(self, call_id: int, error: BaseException, place: int) -> None:
        body = load("clutch._failures").raised(error, (self._package,))
        self._answer(call_id, header_bytes(FAILED, call_id, len(body), 0), body, place)

    def _answer(self, call_id: int, head: bytes, body: "Body", place: int) -> None:
        try:
            if self._lanes.ports:
                self._lanes.ports.pop(call_id, None)
                if self.is_over and not self._lanes.ports:
                    self.quiet.set_result(None)
            self._lanes.end()
            self.answered += 1
            self._places.append(place)
            self._outbox.send(head, body)
        except BaseException as error:  # noqa: BLE001 - a signal handler, or no memory.
            report(error)
            die(f"an answer could not be sent: {type(error).__name__}")

    def _add_thread(self) -> "Optional[BaseException]":
        """Starts one more thread; or says why it could not."""

        def make(lane: Lane) -> LaneExecutor:
            executor = ThreadExecutor(self._package, self._payload_bytes_max, lane, self.loop)
            executor.line = self._lanes
            return executor

        try:
            start(self._lanes, self._threads, make, self._work)
        except (RuntimeError, MemoryError) as error:
            return RuntimeError(
                f"no thread could be started for a function that is not async ({error}): make the "
                "pool's `process.processes` larger, or whatever else limits its threads"
            )
        self._threads += 1
        return None

    def _work(self, lane: Lane, executor: "Executor") -> None:
        """A thread's life."""
        while True:
            frame, place = self._jobs.get()
            lane.page = self._lanes.page_of(place)
            lane.begin(frame[2], self._lanes.early)
            head, body = executor.execute(*frame)
            lane.taken = 0
            self.loop.call_soon_threadsafe(self._worked, frame[2], head, body, place)
            # What it frees may be user code, which must not cost the caller the answer.
            executor.kept = None
            del frame, head, body

    def _worked(self, call_id: int, head: bytes, body: "Body", place: int) -> None:
        self._idle += 1
        self._answer(call_id, head, body, place)


def live(lanes: "Lanes", call: "socket", send: "Send", package: str, ready: bytes) -> int:
    """Serves calls until there are no more."""
    pid = getpid()
    service = Service(lanes, call, package)
    loop = service.loop
    send(header_bytes(READY, 0, len(ready), 0), ready)
    answered = failures = 0
    while not service.is_over:
        error: "Optional[BaseException]" = None
        try:
            loop.run_forever()
        except BaseException as raised:  # noqa: BLE001 - a task's SystemExit, a signal handler's.
            error = raised
        if getpid() != pid:
            error = RuntimeError("a forked child came back to the event loop of its parent")
            load("clutch._failures").leave_child(error, (package,))
        if error is not None:
            report(error)
            failures = failures + 1 if answered == service.answered else 0
            answered = service.answered
            if failures > _FAILURES_MAX:
                die("the event loop fails again and again; it can serve no call")
    try:
        loop.run_until_complete(_end(loop, service if lanes.ports else None))
    except BaseException as raised:  # noqa: BLE001 - as above; the end comes anyway.
        report(raised)
    return 0


async def _end(loop: asyncio.AbstractEventLoop, service: "Optional[Service]") -> None:
    """Cancels what calls have left behind, and waits for it, but not for long."""
    if service is not None:
        await asyncio.wait([service.quiet], timeout=_END_S)
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_END_S)
    await asyncio.wait([loop.create_task(loop.shutdown_asyncgens())], timeout=_END_S)
