"""Runs a coroutine that a call's function returned, as `asyncio.run` does, on the main thread.

So an `async def` is called like any other function. A cancel is raised where the event loop
waits; `asyncio.run` then cancels the coroutine, whose `finally` blocks run as usual. Imported when
the first coroutine appears: `asyncio` costs more than the whole worker.
"""

import asyncio

__all__ = ["SKIP", "run"]

run = asyncio.run

# The event loop's own frames, which a traceback of the coroutine begins with.
SKIP = (asyncio.__file__ or "asyncio/__init__.py").rpartition("/")[0] + "/"
