"""What a check of `clutch doctor` answers: `{"status", "text", "advice"}`.

That is how it went, what was found, for a person, and what to do about it.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["fail", "mebibytes", "milliseconds", "ok", "skipped", "stand_for", "warn"]

_MIB = 1 << 20


def ok(text: str) -> "dict[str, Any]":
    """Nothing is wrong."""
    return {"status": "ok", "text": text, "advice": ""}


def skipped(text: str) -> "dict[str, Any]":
    """It could not be looked at, or does not apply here."""
    return {"status": "skipped", "text": text, "advice": ""}


def warn(text: str, advice: str) -> "dict[str, Any]":
    """It works, and may surprise."""
    return {"status": "warn", "text": text, "advice": advice}


def fail(text: str, advice: str) -> "dict[str, Any]":
    """It does not work."""
    return {"status": "fail", "text": text, "advice": advice}


def milliseconds(seconds: float) -> str:
    """A time in words."""
    return f"{seconds * 1000:.0f} ms"


def mebibytes(count: int) -> str:
    """A size in words."""
    return f"{count / _MIB:.0f} MiB"


def stand_for(script: str) -> None:
    """Puts the pool's script's folder where python would have put it."""
    if script and sys.path and sys.path[0] == "":
        sys.path[0] = os.path.dirname(os.path.realpath(script))
