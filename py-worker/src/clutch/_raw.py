"""The `raw` codec: the payload is the one argument, a bytes object; so is the result."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

__all__ = ["decode", "encode"]


def decode(payload: memoryview) -> "Tuple[bytes]":
    """The argument. A copy, since the buffer is used again."""
    return (bytes(payload),)


def encode(value: object, wrapped: int, *, is_checked: bool = False) -> "bytes | memoryview | None":
    """The bytes of a result, or None when it has none."""
    del wrapped, is_checked
    if type(value) is bytes:
        return value
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    if not view.contiguous:
        return view.tobytes()
    return view.cast("B") if view.nbytes else b""
