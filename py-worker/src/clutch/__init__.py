"""What code that runs inside a Clutch worker may use.

    import clutch

    def work(items):
        call = clutch.current_call()
        for item in items:
            if call.cancelled:
                break
            ...
            clutch.progress(len(done), len(items), item.name)

An argument that its caller feeds bit by bit is a `clutch.Stream`, an iterator; it raises
`clutch.StreamFailed` when the caller cannot go on.

What a function of a map returns `clutch.SKIP` for has no result.

Everything whose name starts with an underscore is the worker itself and none of a user's business.
"""

from clutch._call import SKIP, Call, Cancelled, current_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from clutch._inputs import Stream, StreamFailed
    from clutch._progress import progress

__all__ = [
    "SKIP",
    "Call",
    "Cancelled",
    "Stream",
    "StreamFailed",
    "current_call",
    "progress",
]
__version__ = "0.1.0"

# What few calls need is loaded when it is first asked for.
_LATER = {"Stream": "_inputs", "StreamFailed": "_inputs", "progress": "_progress"}


def __getattr__(name: str) -> object:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'clutch' has no attribute {name!r}")
    from clutch._pristine import load  # noqa: PLC0415 - most never come here.

    value = globals()[name] = getattr(load("clutch." + module), name)
    return value
