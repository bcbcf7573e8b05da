"""The ports of calls that share their worker: others read the socket, and hand on what comes.

See `_port`. Loaded by the first call that streams in the modes `threads` and `async`.
"""

import threading
from _thread import get_ident

from clutch._call import Cancelled
from clutch._port import Port
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any, Callable, Tuple

    from clutch._call import State
    from clutch._execute import Body
    from clutch._mailbox import Outbox

__all__ = ["LanePort", "LoopPort"]

# How many items a thread may be ahead of the event loop that sends them.
_AHEAD_MAX = 32


class LanePort(Port):
    """That of a call on a thread, or on an event loop of its thread's own."""

    __slots__ = ("_changed", "_is_over", "_waiters")

    def __init__(self, call_id: int, state: "State", send: "Callable[[bytes, Body], None]") -> None:
        super().__init__(call_id, state, send)
        self._changed = threading.Condition(threading.Lock())
        # Whether nothing will come any more.
        self._is_over = False
        # Those who wait on an event loop.
        self._waiters: "list[Tuple[Any, asyncio.Future[None]]]" = []

    def deliver(self, kind: int, meta: memoryview, payload: "Any") -> None:
        """Takes a frame that is for this call. What is given stays as it is."""
        super().deliver(kind, meta, payload)
        self.wake()

    def hang_up(self) -> None:
        """Nothing will come any more."""
        self._is_over = True
        self.wake()

    def wake(self) -> bool:
        """Has all who wait look again."""
        with self._changed:
            self._changed.notify_all()
            waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:
                # The loop has come to its end.
                pass
        return True

    def wait(self, is_ready: "Callable[[], object]") -> None:
        """Waits until it is ready."""
        state = self.state
        is_armed = state.armed
        # No exception is raised while the lock is held; an interrupt wakes it up instead.
        state.armed = False
        before, state.on_interrupt = state.on_interrupt, self.wake
        with self._changed:
            while not (is_ready() or self._is_to_end()):
                self._changed.wait()
        state.on_interrupt = before
        self._end()
        if is_armed:
            state.armed = True
            self._end()

    async def awaited(self, is_ready: "Callable[[], object]") -> None:
        """The same on an event loop, which goes on meanwhile."""
        loop = load("asyncio").get_running_loop()
        future = loop.create_future()
        waiter = (loop, future)
        with self._changed:
            if not (is_ready() or self._is_to_end()):
                self._waiters.append(waiter)
            else:
                future.set_result(None)
        try:
            await future
        finally:
            with self._changed:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        self._end()

    def _is_to_end(self) -> bool:
        return self._is_over or self.state.interrupted == self.call_id

    def _end(self) -> None:
        if self._is_to_end():
            self.state.armed = False
            if self._is_over:
                raise Cancelled("the daemon waits for this call no more")
            raise Cancelled


class LoopPort(LanePort):
    """That of a call in the mode `async`: the worker's event loop reads and sends for all."""

    __slots__ = ("_done", "_flush", "_is_blocked", "_loop", "_outbox", "_queued")

    is_shared = True

    def __init__(
        self,
        call_id: int,
        state: "State",
        flush: "Callable[[], None]",
        outbox: "Outbox",
        loop: "asyncio.AbstractEventLoop",
    ) -> None:
        super().__init__(call_id, state, self._send)
        self.loop_thread = get_ident()
        self._flush = flush
        self._outbox = outbox
        self._loop = loop
        # How many frames a thread has given to the loop, and the loop has taken.
        self._queued = self._done = 0
        # Whether the socket takes no more.
        self._is_blocked = False

    @property
    def is_choked(self) -> bool:  # type: ignore[override]
        """Whether what was sent has to get away first."""
        return self._is_blocked or self._queued - self._done > _AHEAD_MAX

    def complete(self, coroutine: "Any") -> "Any":
        """What a coroutine gives on the event loop that all calls share.

        Called on a thread beside it, which waits until the coroutine has really come to its end.
        """
        state = self.state
        state.armed = False
        self.armed = True
        tasks: "list[Any]" = []

        async def run() -> "Any":
            tasks.append(load("asyncio").current_task())
            if self._is_to_end():
                # It was told before there was a task.
                coroutine.close()
                self._end()
            return await coroutine

        def cancel() -> None:
            # Else it has seen by itself that it is to end, and is at what it does then.
            if self.armed and tasks:
                tasks[0].cancel()

        future = load("asyncio").run_coroutine_threadsafe(run(), self._loop)
        before, state.on_interrupt = (
            state.on_interrupt,
            lambda: bool(self._loop.call_soon_threadsafe(cancel)),
        )
        try:
            return future.result()
        finally:
            state.on_interrupt = before
            state.armed = True

    def _send(self, head: bytes, body: "Body") -> None:
        self._flush()
        if get_ident() == self.loop_thread:
            self._put(head, body)
            return
        if type(body) is memoryview:
            # Of memory that user code goes on with.
            body = bytes(body)
        self._queued += 1
        self._loop.call_soon_threadsafe(self._put_for_thread, head, body)

    def _put_for_thread(self, head: bytes, body: "Body") -> None:
        self._put(head, body)
        was_choked = self.is_choked
        self._done += 1
        if was_choked:
            self.wake()

    def _put(self, head: bytes, body: "Body") -> None:
        if not self._outbox.send(head, body) and not self._is_blocked:
            self._is_blocked = True
            self._outbox.when_empty(self._unblock)

    def _unblock(self) -> None:
        self._is_blocked = False
        self.wake()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
