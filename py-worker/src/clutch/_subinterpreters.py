"""The mode `subinterpreters`: each call in an interpreter of its own, with its own global lock.

Loaded in the main interpreter only where a pool asks for it. There, nothing of a user's runs: its
main thread waits for the end, its control thread hears the daemon, and each other thread lives in
one of the interpreters, where `_inside` takes calls. They are made one after the other, since each
loads all that a worker loads, and the first one that fails speaks for all.

```text
   main interpreter                  an interpreter of a lane              shared
   create, exec ───────────────────► become; preload, main, warm
                ◄── STARTED ──────── or FAILED_TO_START, after `Failed`    call socket
   Ready                             turn: receive a call                  call socket
   Interrupt(id): the call's flag ─► current_call().cancelled              words
                                     gate: count, put back, send           descriptors 0 to 2
                ◄── ENDED ────────── no more calls
   destroy
```

The *turn* and the *gate* are pipes with one byte: whoever has read it has the lock, and gives it
back by writing it. A lock of Python's belongs to one interpreter.
"""

import faulthandler
import sys
import threading
from _socket import SHUT_RD
from fcntl import F_DUPFD_CLOEXEC, fcntl
from marshal import dumps
from posix import _exit, close, pipe, read, set_blocking, write
from select import POLLIN, poll
from time import monotonic

from clutch._call import state
from clutch._control import STACK_SIGNAL, die, is_of_system, report
from clutch._frames import FAILED, READY, Setup, header_bytes
from clutch._limits import CALL_ID_BITS, PLACE_WORDS
from clutch._pristine import load, pristine_imports
from clutch._words import FOLDER, STARTED, TAKEN, hear, make_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from signal import pthread_kill
    from typing import Any, Callable, Dict, Optional

    from clutch._call import State
    from clutch._execute import Body
    from clutch._stdio import PrivateDescriptors

    Send = Callable[[bytes, Body], None]
else:
    from _signal import pthread_kill

__all__ = ["Interpreters", "live"]

# Beside what `_words` has; then `error` says why.
_NOT_MADE = b"n"

_OLDEST = (3, 13)
_CALL_ID_MASK = (1 << CALL_ID_BITS) - 1

# How long the end of a worker waits for interpreters whose calls do not end.
_END_S = 1.0

# A thread writes its stacks when it gets its signal, and nothing tells when it has come to the
# end; this long without a word is taken for it. Pings wait meanwhile, so all of it has a bound.
_STACK_PAUSE_S = 0.02
_STACKS_S = 1.0
_STACK_BYTES = 64 << 10

# The first one is what shared memory is handed over by.
_PREPARE = "import _interpreters"
_LIVE = """
import marshal, sys
given = marshal.loads(given)
sys.path = list(given["pristine"])
from clutch import _no_faulthandler
_no_faulthandler.stand_in()
from clutch import _inside
_no_faulthandler.step_aside()
_inside.live(page, words, given)
"""


class Interpreters:
    """All lanes of a worker, as the main interpreter knows them."""

    def __init__(self, setup: Setup, given: "Dict[str, Any]", stack_fd: int) -> None:
        self._stack_fd = stack_fd
        self._stacks: "tuple[int, int]" = given["stacks"]
        # When the start has taken so long that the stack of the one that loads is written, once.
        self._stack_at: "Optional[float]" = None
        if setup.start_stack_ms:
            self._stack_at = monotonic() + setup.start_stack_ms / 1000
        self._words = make_words()
        self._threads: "list[threading.Thread]" = []
        # Only one interpreter at a time is made or taken down.
        self._making = threading.Lock()
        self._news, tell = given["news"]
        named = {name: getattr(setup, name) for name in Setup.__slots__}
        self._given: "Dict[str, Any]" = {**given, "setup": named, "news": tell}
        self.error: "Optional[BaseException]" = None

    def hear(self, call_id: int, interrupted: bool) -> None:
        """Tells a call that it was warned or interrupted, also one that is yet to come."""
        hear(self._words, call_id, interrupted)

    def told(self) -> str:
        """The stacks of calls, which are in none of this interpreter's.

        Each lane's thread writes those of its interpreter, into a pipe where what comes late is
        nobody's.
        """
        until = monotonic() + _STACKS_S
        told = ""
        _report_stacks(self._stacks[1])
        try:
            for place, thread in enumerate(self._threads):
                call = self._words[TAKEN + place] & _CALL_ID_MASK
                if not call or monotonic() > until:
                    continue
                _read_all(self._stacks[0], 0, until)
                pthread_kill(thread.ident or 0, STACK_SIGNAL)
                text = _read_all(self._stacks[0], until - monotonic(), until)
                told += f"{thread.name}: call {call}\n{text.decode('utf-8', 'replace')}\n"
        finally:
            _report_stacks(self._stack_fd)
        return told

    def find(self) -> "State":
        """No call runs in this interpreter."""
        return state

    def forget(self, page: memoryview) -> None:
        """In a forked child, which has no call."""

    def start(self, place: int) -> bool:
        """Makes one more interpreter, and loads everything there. Whether all went well."""
        thread = threading.Thread(
            target=self._live, args=(place,), name=f"clutch-{place + 1}", daemon=True
        )
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self.error = error
            return False
        self._threads.append(thread)
        if self._stack_at is not None and not self._is_news(self._stack_at - monotonic()):
            self._stack_at = None
            pthread_kill(thread.ident or 0, STACK_SIGNAL)
        return self._hear() == STARTED

    def serve(self, folder: int) -> None:
        """Lets all interpreters answer calls."""
        self._words[FOLDER] = folder
        write(self._given["gate"][1], b"x")

    def end(self, count: int) -> None:
        """Waits until so many interpreters have taken their last call and are no more."""
        until = None
        for _ in range(count):
            if until is not None and not self._is_news(max(0.0, until - monotonic())):
                # They cannot be taken down, nor can the main interpreter without them.
                _exit(0)
            self._hear()
            until = until or monotonic() + _END_S
        for thread in self._threads:
            while thread.is_alive():
                try:
                    # For as long as what was registered with `atexit` takes, as in any python.
                    thread.join()
                except BaseException as error:  # noqa: BLE001 - whatever a signal raises.
                    report(error)

    def _live(self, place: int) -> None:
        """The life of one interpreter, on its thread."""
        interpreters = load("_interpreters")
        given = {**self._given, "place": place}
        shared = {"page": state.page[place : place + PLACE_WORDS], "words": self._words}
        try:
            with self._making:
                number = interpreters.create("isolated")
            interpreters.exec(number, _PREPARE)
        except BaseException as error:  # noqa: BLE001 - no memory, or too many.
            self.error = error
            write(self._given["news"], _NOT_MADE)
            return
        # Its frame is one of ours to whoever looks at stacks and tracebacks.
        code = compile(_LIVE, __file__, "exec")
        failed = interpreters.exec(number, code, {**shared, "given": dumps(given)})
        if failed is not None:
            die(f"{given['place'] + 1}. interpreter: {failed.errdisplay}")
        try:
            with self._making:
                interpreters.destroy(number)
        except BaseException as error:  # noqa: BLE001 - it is the end anyway.
            report(error)

    def _is_news(self, seconds: float) -> bool:
        until = monotonic() + seconds
        waiting = poll()
        waiting.register(self._news, POLLIN)
        while True:
            try:
                return bool(waiting.poll(max(0.0, until - monotonic()) * 1000))
            except BaseException as error:  # noqa: BLE001 - whatever a signal raises.
                report(error)

    def _hear(self) -> bytes:
        news: "list[bytes]" = []
        while not news:
            try:
                # One step of C code, so that no handler can come between taking and keeping it.
                news.extend(map(read, (self._news,), (1,)))
            except BaseException as error:  # noqa: BLE001 - whatever a signal raises.
                if is_of_system(error):
                    die(f"a call closed descriptors of the worker ({error}); it can serve no other")
                report(error)
        return news[0]


def live(
    setup: Setup,
    call: "socket",
    send: "Send",
    descriptors: "PrivateDescriptors",
    given: "Dict[str, Any]",
    ready: bytes,
) -> int:
    """Serves calls until there are no more."""
    error = _unfit()
    if error is not None:
        return _refuse(error, send, given["here"])
    given.update(
        pristine=pristine_imports.path,
        stdio=descriptors.stdio,
        turn=_token(descriptors.beyond()),
        gate=_token(descriptors.beyond()),
        news=_token(descriptors.beyond()),
        stacks=_token(descriptors.beyond()),
    )
    write(given["turn"][1], b"x")
    set_blocking(given["stacks"][1], False)
    interpreters = Interpreters(setup, given, given["stack"])
    state.lanes = interpreters
    for place in range(setup.lanes):
        if not interpreters.start(place):
            if interpreters.error is not None:
                told = _too_many(interpreters.error, place, setup.lanes)
                _refuse(told, send, given["here"])
            # Those that are there wait for a call, and see that none will come.
            call.shutdown(SHUT_RD)
            interpreters.end(place)
            return 1
    interpreters.serve(descriptors.folder())
    send(header_bytes(READY, 0, len(ready), 0), ready)
    interpreters.end(setup.lanes)
    return 0


def _unfit() -> "Optional[BaseException]":
    """Why the pool's interpreter cannot do this, if it cannot."""
    if sys.implementation.name == "cpython" and sys.version_info >= _OLDEST:
        return None
    found = "%s %d.%d.%d" % (sys.implementation.name, *sys.version_info[:3])
    return RuntimeError(
        f"the pool's `subinterpreters` needs CPython 3.13 or newer, and {sys.executable} is "
        f"{found}: name a newer one in the pool's `python`, or take `subinterpreters` away (more "
        "`workers` do the same for any version)"
    )


def _too_many(error: BaseException, made: int, wanted: int) -> BaseException:
    return RuntimeError(
        f"only {made} of {wanted} interpreters could be made ({type(error).__name__}: {error}): "
        "make the pool's `subinterpreters` smaller, or its `process.processes` or memory larger"
    )


def _refuse(error: BaseException, send: "Send", here: str) -> int:
    meta = load("clutch._failures").raised(error, (here + "/",))
    send(header_bytes(FAILED, 0, len(meta), 0), meta)
    return 1


def _report_stacks(descriptor: int) -> None:
    """Says where the signal for stacks shall write them."""
    faulthandler.register(STACK_SIGNAL, file=descriptor, all_threads=True, chain=False)


def _read_all(descriptor: int, seconds: float, until: float) -> bytes:
    """What comes within so many seconds, until there is a pause."""
    waiting = poll()
    waiting.register(descriptor, POLLIN)
    data = b""
    while waiting.poll(max(0.0, seconds) * 1000):
        data += read(descriptor, _STACK_BYTES)
        seconds = min(_STACK_PAUSE_S, until - monotonic())
    return data


def _token(beyond: int) -> "tuple[int, int]":
    """Both ends of a pipe, at numbers that are out of the way of user code."""
    ends = pipe()
    try:
        high = [fcntl(end, F_DUPFD_CLOEXEC, beyond) for end in ends]
    except OSError:
        # Numbers that high are not allowed here.
        return ends
    for end in ends:
        close(end)
    return high[0], high[1]
