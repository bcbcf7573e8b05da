"""Runs a coroutine that a call's function returned, as `asyncio.run` does, on the main thread.

So an `async def` is called like any other function. A cancel cancels the main task, as Ctrl-C does
in `asyncio.run`; and it is raised where code runs, since that code may never come back to the
loop. Only raised, it would end the task that happens to run, or a callback, and be logged away.
Imported when the first coroutine appears: `asyncio` costs more than the whole worker.
"""

import asyncio
from sys import _getframe

from clutch._call import State, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Coroutine

__all__ = ["SKIP", "cancel_tasks", "run", "run_on"]

_run, _current_task, _all_tasks = asyncio.run, asyncio.current_task, asyncio.all_tasks
_running_loop = asyncio.get_running_loop

# The event loop's own frames, which a traceback of the coroutine begins with.
SKIP = (asyncio.__file__ or "asyncio/__init__.py").rpartition("/")[0] + "/"


def run(coroutine: "Coroutine[Any, Any, Any]", now: State = state) -> "Any":
    """What the coroutine returns."""
    try:
        return _run(_interruptible(coroutine, now))
    finally:
        now.on_interrupt = None
        # For an interrupt that came before its first step.
        coroutine.close()


def run_on(loop: "asyncio.AbstractEventLoop") -> None:
    """Has coroutines run on this loop from now on, so that what they leave behind lives on."""
    global _run  # noqa: PLW0603 - one worker has one loop.
    _run = loop.run_until_complete


async def _interruptible(coroutine: "Coroutine[Any, Any, Any]", now: State) -> "Any":
    main, loop = _current_task(), _running_loop()

    def on_interrupt() -> bool:
        """Whether the interrupt shall also be raised where it came."""
        current = _current_task(loop)
        is_ours = _is_of_asyncio(_getframe(2))
        if main is not None and (is_ours or current is not main):
            main.cancel()
            # The loop may be about to wait.
            loop.call_soon_threadsafe(_nothing)
        return current is not None and not is_ours

    now.on_interrupt = on_interrupt if now is state else _from_afar(main, loop, now)
    try:
        return await coroutine
    finally:
        now.on_interrupt = None


def _from_afar(main: "Any", loop: "Any", now: State) -> "Callable[[], bool]":
    """How the control thread cancels a coroutine that runs on the loop of another thread."""

    def cancel() -> None:
        # Else it has seen by itself that it is to end, and is at what it does then.
        if now.armed:
            main.cancel()

    def on_interrupt() -> bool:
        try:
            loop.call_soon_threadsafe(cancel)
        except RuntimeError:
            # The loop has come to its end.
            pass
        return True

    return on_interrupt


def cancel_tasks() -> bool:
    """Cancels all tasks of a loop that user code runs, which ends it in an orderly way.

    Whether the interrupt shall also be raised where it came: in a task, since that may never come
    back to the loop, and where there are no tasks.
    """
    loop = _running_loop()
    tasks = [task for task in _all_tasks(loop) if not task.done()]
    for task in tasks:
        task.cancel()
    # The loop may be about to wait.
    loop.call_soon_threadsafe(_nothing)
    if not tasks:
        return True
    return _current_task(loop) is not None and not _is_of_asyncio(_getframe(2))


def _is_of_asyncio(frame: "FrameType") -> bool:
    """Whether the interrupt came in code of `asyncio`, which has to be spared.

    A task that has just come to an `await` is put back in line by code that counts as the task's,
    but where an exception is logged away, and the task is never run again.
    """
    return frame.f_code.co_filename.startswith(SKIP)


def _nothing() -> None:
    """Wakes the loop up."""
