"""The `raw` codec: the payload is the one argument, a bytes object; so is the result."""

from clutch._limits import ATTACH_BYTES_MIN
from clutch._pristine import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

    from clutch._execute import Body

__all__ = ["decode", "encode"]

# As in `_table`, which is loaded when something is attached.
_BYTES = 0


def decode(payload: memoryview) -> "Tuple[bytes]":
    """The argument. A copy, since the buffer is used again."""
    return (bytes(payload),)


def encode(value: object, wrapped: int, *, is_checked: bool = False) -> "Optional[Body]":
    """The bytes of a result, or None when it has none."""
    del wrapped, is_checked
    data = value if type(value) is bytes else _data(value)
    if data is None or len(data) < ATTACH_BYTES_MIN:
        return data
    part = load("clutch._parts").Part(_BYTES, data, len(data))
    body: "Body" = load("clutch._outgoing").Outgoing(b"", [part])
    return body


def _data(value: object) -> "bytes | memoryview | None":
    try:
        if any(cls.__name__ == "MaskedArray" for cls in type(value).__mro__):
            # Its bytes do not say which of them count.
            return None
        view = memoryview(value)  # type: ignore[arg-type]
        if load("clutch._convert").holds_objects(view):
            return None
        try:
            # In C's order, whatever order the memory has: what numpy's `tobytes` gives.
            is_flat = view.c_contiguous and view.nbytes
            return view.cast("B") if is_flat else view.tobytes()
        except (TypeError, ValueError):
            # A format that cannot be cast, like numpy's big-endian or structured ones.
            return view.tobytes()
    except BaseException:  # noqa: BLE001 - no buffer, a released one, or `__buffer__` raised.
        return None
