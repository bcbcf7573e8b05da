"""Exceptions as data: what a caller learns about an exception, bounded in size and time.

Nothing here pickles an exception, rebuilds one, or sets an attribute of one. Whatever an
exception's own methods do (raise, exit, return nonsense, cycles, 100 MB of text), a description
comes out. A usual exception's traceback is exactly what Python prints; one beyond the bounds is
put together here, with a visible mark where something was cut.
"""

import traceback

from clutch._convert import type_name
from clutch._limits import (
    CHAIN_LINKS_MAX,
    EXCEPTION_BASES_MAX,
    FAILURE_TEXT_BYTES_MAX,
    LINK_TEXT_BYTES_MAX,
    NAME_TEXT_BYTES_MAX,
    NOTES_MAX,
    SOURCE_TEXT_BYTES_MAX,
    TRACEBACK_FRAMES_MAX,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, List, Tuple

    FrameData = Tuple[str, int, str, str]
    LinkData = Tuple[int, str, str]
    # type name, message, notes, frames, traceback, chain, bases.
    ExceptionData = Tuple[str, str, List[str], List[FrameData], str, List[LinkData], List[str]]

__all__ = ["advice", "as_dict", "cut", "describe", "format_traceback", "message_of"]

_CAUSE = 0
_CONTEXT = 1
_RELATIONS = ("cause", "context")
_HEADINGS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
# What Python says of a module written for one interpreter in a process.
_REFUSED = "does not support loading in subinterpreters"
_UNPRINTABLE = "<exception str() failed>"

# Up to here an exception is formatted by Python's own code. Default recursion ends at 1000 frames.
_USUAL_EXCEPTIONS_MAX = 32
_USUAL_FRAMES_MAX = 3000
_GROUP_MEMBERS_SHOWN = 8


def describe(
    error: BaseException,
    skip: "tuple[str, ...]",
    text_bytes_max: int = FAILURE_TEXT_BYTES_MAX,
) -> "ExceptionData":
    """All that travels of an exception. Leading frames of files below `skip` are left out."""
    frames = _user_frames(error, skip)
    return (
        cut(type_name(type(error)), NAME_TEXT_BYTES_MAX),
        cut(message_of(error), text_bytes_max),
        _notes(error),
        _frames(frames),
        cut(format_traceback(error, skip), text_bytes_max),
        _links(error),
        _bases(type(error)),
    )


def as_dict(data: "ExceptionData") -> "dict[str, Any]":
    """The exception with the field names it has in JSON and in Rust."""
    name, message, notes, frames, text, chain, bases = data
    keys = ("file", "line", "function", "source")
    return {
        "type_name": name,
        "message": message,
        "notes": notes,
        "frames": [dict(zip(keys, frame)) for frame in frames],
        "traceback": text,
        "chain": [
            {"relation": _RELATIONS[relation], "type_name": link_type, "message": link_message}
            for relation, link_type, link_message in chain
        ],
        "bases": bases,
    }


def advice(text: str) -> str:
    """What to do about what this text tells, where Python's own words do not say it."""
    if _REFUSED not in text:
        return ""
    return (
        "this pool has the key `subinterpreters`, which needs modules that can be loaded in them: "
        "take the key away, or send the call to a pool without it (`threads` and more `workers` "
        "work with any module)"
    )


def message_of(error: BaseException) -> str:
    """`str(error)`, or what Python prints when that fails."""
    try:
        text = str(error)
        return str.__str__(text)
    except BaseException:  # noqa: BLE001 - SystemExit included: it is the exception's own code.
        return _UNPRINTABLE


def cut(text: str, bytes_max: int) -> str:
    """The text as valid UTF-8 of at most so many bytes; its middle goes, and a mark says so."""
    characters = len(text)
    if characters > bytes_max:
        # Encoding only what can be kept: a text of 100 MB costs two slices.
        text = text[:bytes_max] + text[-bytes_max:]
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= bytes_max and characters <= bytes_max:
        return data.decode()
    mark = f"... [cut, {_size(characters)} in all] ..."
    head = (bytes_max - len(mark)) // 2
    tail = bytes_max - len(mark) - head
    return data[:head].decode("utf-8", "ignore") + mark + data[-tail:].decode("utf-8", "ignore")


def format_traceback(error: BaseException, skip: "tuple[str, ...]") -> str:
    """The exception with its causes, as Python prints it."""
    frames = _user_frames(error, skip)
    try:
        if _is_usual(error):
            formatter = traceback.TracebackException(type(error), error, frames)
            return "".join(formatter.format())
    except BaseException:  # noqa: BLE001, S110 - the exception's own code runs in there.
        pass
    try:
        return _bounded(error, frames)
    except BaseException:  # noqa: BLE001 - for the same reason.
        return f"{type_name(type(error))}: {cut(message_of(error), LINK_TEXT_BYTES_MAX)}\n"


def _bases(cls: type) -> "list[str]":
    """The names of the classes it is derived from, nearest first; `object` is every class's."""
    classes = type.__dict__["__mro__"].__get__(cls)[1 : EXCEPTION_BASES_MAX + 1]
    return [cut(type_name(base), NAME_TEXT_BYTES_MAX) for base in classes if base is not object]


def _size(characters: int) -> str:
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if characters >= size:
            return f"{characters // size} {unit}"
    return f"{characters} characters"


def _user_frames(error: BaseException, skip: "tuple[str, ...]") -> "TracebackType | None":
    """The traceback without the worker's own frames at its outer end."""
    frames = _get(error, "__traceback__")
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(skip):
        frames = frames.tb_next
    return frames


def _get(error: BaseException, name: str) -> "Any":
    """An attribute as BaseException stores it, whatever a subclass puts in front of it."""
    return BaseException.__dict__[name].__get__(error)


def _next_link(error: BaseException) -> "tuple[int, BaseException] | None":
    cause = _get(error, "__cause__")
    if cause is not None:
        return _CAUSE, cause
    context = _get(error, "__context__")
    if context is not None and not _get(error, "__suppress_context__"):
        return _CONTEXT, context
    return None


def _chain(error: BaseException) -> "tuple[list[tuple[int, BaseException]], bool]":
    """What led to the exception, nearest first, and whether there is more than that."""
    seen = {id(error)}
    links: "list[tuple[int, BaseException]]" = []
    link = _next_link(error)
    while link is not None and id(link[1]) not in seen:
        if len(links) == CHAIN_LINKS_MAX:
            return links, True
        links.append(link)
        seen.add(id(link[1]))
        link = _next_link(link[1])
    return links, False


def _links(error: BaseException) -> "list[LinkData]":
    chain, more = _chain(error)
    links: "list[LinkData]" = []
    for relation, link in chain:
        message = message_of(link)
        if more and len(links) == CHAIN_LINKS_MAX - 1:
            message += " ... [cut, the chain goes on]"
        name = cut(type_name(type(link)), NAME_TEXT_BYTES_MAX)
        links.append((relation, name, cut(message, LINK_TEXT_BYTES_MAX)))
    return links


def _notes(error: BaseException) -> "list[str]":
    try:
        notes = error.__notes__  # type: ignore[attr-defined]
        found = [str.__str__(str(note)) for note in notes[: NOTES_MAX + 1]]
        more = len(notes) - NOTES_MAX
    except BaseException:  # noqa: BLE001 - the attribute can be anything.
        return []
    if more > 0:
        found[NOTES_MAX - 1 :] = [f"... [cut, {len(notes)} notes in all]"]
    return [cut(note, LINK_TEXT_BYTES_MAX) for note in found]


def _count(frames: "TracebackType | None", limit: int) -> int:
    count = 0
    while frames is not None and count <= limit:
        count += 1
        frames = frames.tb_next
    return count


def _halves(
    frames: "TracebackType | None", frames_max: int
) -> "tuple[traceback.StackSummary, int, traceback.StackSummary]":
    """The outermost and innermost frames, and how many were left out between them."""
    total = 0
    at = frames
    while at is not None:
        total += 1
        at = at.tb_next
    if total <= frames_max:
        return traceback.extract_tb(frames), 0, traceback.StackSummary()
    half = (frames_max - 1) // 2
    return (
        traceback.extract_tb(frames, half),
        total - 2 * half,
        traceback.extract_tb(frames, -half),
    )


def _frames(frames: "TracebackType | None") -> "list[FrameData]":
    try:
        outer, dropped, inner = _halves(frames, TRACEBACK_FRAMES_MAX)
    except BaseException:  # noqa: BLE001 - e.g. a loader's get_source that raises.
        return []
    data = [_frame(frame) for frame in outer]
    if dropped:
        data.append(("", 0, f"... [cut, {dropped} frames]", ""))
    return data + [_frame(frame) for frame in inner]


def _frame(frame: "traceback.FrameSummary") -> "FrameData":
    return (
        cut(frame.filename, NAME_TEXT_BYTES_MAX),
        frame.lineno or 0,
        cut(frame.name, NAME_TEXT_BYTES_MAX),
        cut(frame.line or "", SOURCE_TEXT_BYTES_MAX),
    )


def _is_usual(error: BaseException) -> bool:
    """Whether formatting everything that hangs on the exception takes little time and text."""
    waiting, seen, frames = [error], {id(error)}, 0
    while waiting:
        current = waiting.pop()
        frames += _count(_get(current, "__traceback__"), _USUAL_FRAMES_MAX)
        if (
            frames > _USUAL_FRAMES_MAX
            or len(seen) > _USUAL_EXCEPTIONS_MAX
            or len(message_of(current)) > FAILURE_TEXT_BYTES_MAX
        ):
            return False
        members = _members(current)
        if len(members) > _USUAL_EXCEPTIONS_MAX:
            return False
        for other in (_get(current, "__cause__"), _get(current, "__context__"), *members):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)
    return True


def _members(error: BaseException) -> "tuple[BaseException, ...]":
    """The exceptions of an ExceptionGroup."""
    members = getattr(error, "exceptions", ())
    if not isinstance(members, tuple):
        return ()
    is_group = any(cls.__name__ == "BaseExceptionGroup" for cls in type(error).__mro__)
    return members if is_group else ()


def _bounded(error: BaseException, frames: "TracebackType | None") -> str:
    """What Python prints, with what is beyond the bounds left out and marked."""
    chain, more = _chain(error)
    parts: "list[str]" = ["... [cut, the chain goes on]\n\n"] if more else []
    # Python prints the oldest first, and between two of them what ties the newer to it.
    newer = [error] + [link for _, link in chain]
    for at in range(len(chain), 0, -1):
        parts.append(_one(newer[at], _get(newer[at], "__traceback__")))
        parts.append(f"\n{_HEADINGS[chain[at - 1][0]]}\n\n")
    parts.append(_one(error, frames))
    return "".join(parts)


def _one(error: BaseException, frames: "TracebackType | None") -> str:
    parts: "list[str]" = []
    if frames is not None:
        outer, dropped, inner = _halves(frames, TRACEBACK_FRAMES_MAX)
        parts.append("Traceback (most recent call last):\n")
        parts.extend(outer.format())
        if dropped:
            parts.append(f"  ... [cut, {dropped} frames]\n")
            parts.extend(inner.format())
    message = cut(message_of(error), LINK_TEXT_BYTES_MAX)
    name = type_name(type(error))
    parts.append(f"{name}: {message}\n" if message else f"{name}\n")
    members = _members(error)
    for member in members[:_GROUP_MEMBERS_SHOWN]:
        text = cut(message_of(member), LINK_TEXT_BYTES_MAX // _GROUP_MEMBERS_SHOWN)
        parts.append(f"  - {type_name(type(member))}: {text}\n")
    if len(members) > _GROUP_MEMBERS_SHOWN:
        parts.append(f"  - ... [cut, {len(members)} exceptions in all]\n")
    return "".join(parts)
