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
        try:
            # In C's order, whatever order the memory has: what numpy's `tobytes` gives.
            is_flat = view.c_contiguous and view.nbytes
            return view.cast("B") if is_flat else view.tobytes()
        except (TypeError, ValueError):
            # A format that cannot be cast, like numpy's big-endian or structured ones.
            return view.tobytes()
    except BaseException:  # noqa: BLE001 - no buffer, a released one, or `__buffer__` raised.
        return None
