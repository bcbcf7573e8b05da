"""What leaves a payload for memory of its own: large bytes, arrays and tables of a result.

All that has to be copied goes into one sealed memfd. What came with the call, and nobody can
change, goes back as it came.

Loaded by the first result that has any.
"""

import sys
from _struct import Struct
from posix import ftruncate

from clutch._convert import UnserializableError, raised_by
from clutch._frames import failed_too_large, failed_unserializable
from clutch._limits import (
    ATTACH_BYTES_MIN,
    ATTACHMENT_ALIGNMENT,
    ATTACHMENTS_MAX,
    DESCRIPTORS_MAX,
    META_BYTES_MAX,
)
from clutch._parts import Part, attach
from clutch._pristine import load
from clutch._receive import close_all
from clutch._table import BYTE_ARRAY, BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _pickle import PickleBuffer
    from typing import Any, Dict, List, Optional, Tuple

    from clutch._attached import File, Incoming
    from clutch._convert import Attach, Where
    from clutch._execute import Body, Encode

__all__ = ["Encoder", "Outgoing", "gather"]

_ADD_SEALS = 1033
_ALL_SEALS = 15
_CLOEXEC, _ALLOW_SEALING = 1, 2
_DUPFD_CLOEXEC = 1030

# Opcodes of pickle: large objects are behind a head of one of these, outside of any frame.
_FRAME = 0x95
_FRAME_HEAD_BYTES = 9
_PROTO_BYTES = 2
_SHORT_HEAD_BYTES, _LONG_HEAD_BYTES = 5, 9
_NEXT_BUFFER = b"\x97"
_BYTES_OPCODES = {ord("B"): BYTES, 0x8E: BYTES, 0x96: BYTE_ARRAY}

# What goes back as it came is at least this part of its memory, which it keeps alive.
_ECHO_SHARE = 8

_U32 = Struct("<I").pack
_U64 = Struct("<Q").pack
_U64_AT = Struct("<Q").unpack_from


class Outgoing:
    """A payload of which parts have left, first as it is to be, then as it can be sent.

    To `len` it is longer than any payload may be and than all that is sent in one piece, so that
    those who handle payloads find it where they look for large ones, and nobody else looks.
    """

    def __init__(self, value: bytes, parts: "List[Part]") -> None:
        self._value = value
        self._parts = parts
        self.incoming: "Optional[Incoming]" = None
        self.payload = b""
        self.descriptors: "List[int]" = []

    def __len__(self) -> int:
        return sys.maxsize

    def __del__(self) -> None:
        close_all(self.descriptors)

    def seal(self, payload_bytes_max: int, attached_bytes_max: int, name: str = "result") -> bytes:
        """Makes the payload and its descriptors; or the meta of the failure, if that fails."""
        try:
            return self._seal(payload_bytes_max, attached_bytes_max)
        except UnserializableError as error:
            path = name + error.path[len("result") :]
            return failed_unserializable(path, error.type_name, error.message)
        except (OSError, MemoryError) as error:
            kind = type(max(self._parts, key=_size_of).value).__name__
            return failed_unserializable(name, kind, _no_memory(error))
        finally:
            if not self.payload:
                close_all(self.descriptors)
            self._parts = []
            self._value = b""
            self.incoming = None

    def _seal(self, payload_bytes_max: int, attached_bytes_max: int) -> bytes:
        if len(self._parts) > ATTACHMENTS_MAX:
            kind = type(self._parts[0].value).__name__
            return failed_unserializable(
                "result",
                kind,
                f"it has {len(self._parts)} arrays, tables and large bytes, and at most "
                f"{ATTACHMENTS_MAX} can be attached to a result; return fewer, larger ones",
            )
        copied: "List[Tuple[Part, int]]" = []
        echoed: "Dict[int, File]" = {}
        places: "Dict[int, Tuple[int, int]]" = {}
        end = echoed_bytes = 0
        for part in self._parts:
            if id(part) in places:
                continue
            found = self._echo(part)
            if found is not None:
                file, offset = found
                is_new = file.number not in echoed
                if echoed_bytes + is_new * file.size <= attached_bytes_max and (
                    len(echoed) + is_new < DESCRIPTORS_MAX
                ):
                    echoed_bytes += is_new * file.size
                    echoed[file.number] = file
                    places[id(part)] = file.number, offset
                    continue
            offset = -(-end // ATTACHMENT_ALIGNMENT) * ATTACHMENT_ALIGNMENT
            places[id(part)] = -1, offset
            copied.append((part, offset))
            end = offset + part.size
        if end + echoed_bytes > attached_bytes_max:
            return failed_too_large(end + echoed_bytes, attached_bytes_max)
        order = {number: at for at, number in enumerate(echoed, bool(copied))}
        order[-1] = 0
        entries = [_U64(len(self._parts))]
        for part in self._parts:
            number, offset = places[id(part)]
            entries.append(part.entry(order[number], offset))
        table = b"".join(entries)
        payload = b"".join((_U32(len(table)), table, self._value))
        if len(table) > META_BYTES_MAX:
            return failed_too_large(len(table), META_BYTES_MAX)
        if len(payload) > payload_bytes_max:
            return failed_too_large(len(payload), payload_bytes_max)
        if copied:
            self.descriptors.append(_create())
            ftruncate(self.descriptors[0], max(end, 1))
            for part, offset in copied:
                _put(part, self.descriptors[0], offset)
            load("fcntl").fcntl(self.descriptors[0], _ADD_SEALS, _ALL_SEALS)
        for number in echoed:
            self.descriptors.append(load("fcntl").fcntl(number, _DUPFD_CLOEXEC, 0))
        self.payload = payload
        return b""

    def _echo(self, part: Part) -> "Optional[Tuple[File, int]]":
        """Where a part is already, if it can be sent from there."""
        if self.incoming is None or part.size < ATTACH_BYTES_MIN:
            return None
        found = self.incoming.find(part.value, part.address())
        if found is None:
            return None
        file, offset = found
        if not file.is_open():
            return None
        if offset % ATTACHMENT_ALIGNMENT or offset + part.size > file.size:
            return None
        return found if part.size * _ECHO_SHARE >= file.size else None


class Encoder:
    """Encodes the answer to a call that something was attached to."""

    def __init__(self, incoming: "Incoming", encode: "Encode") -> None:
        self._incoming = incoming
        self._encode = encode

    def __call__(
        self, value: object, wrapped: int, *, is_checked: bool = False
    ) -> "Optional[Body]":
        body = self._encode(value, wrapped, is_checked=is_checked)
        if type(body) is Outgoing:
            body.incoming = self._incoming
        return body

    def attaching(self) -> "Attach":
        """What came as an array goes as an array, whatever its size: as many as a frame takes."""
        has_views, count = self._incoming.has_views, 0

        def attach_counted(value: object, kind: type, where: "Where") -> "Optional[PickleBuffer]":
            nonlocal count
            bytes_min = 0 if count < ATTACHMENTS_MAX else ATTACH_BYTES_MIN
            stand_in = attach(value, kind, where, bytes_min, has_views)
            count += stand_in is not None
            return stand_in

        return attach_counted


def _put(part: Part, descriptor: int, offset: int) -> None:
    """Copies a part; what goes wrong with that is told of this one."""
    try:
        part.put(descriptor, offset)
    except UnserializableError:
        raise
    except (OSError, MemoryError) as error:
        raise UnserializableError(part.where, type(part.value), _no_memory(error)) from None
    except Exception as error:  # noqa: BLE001 - a buffer of another library may do anything.
        message = raised_by("copying it", error)
        raise UnserializableError(part.where, type(part.value), message) from None


def _no_memory(error: "OSError | MemoryError") -> str:
    return f"there is no memory or no descriptor to send it by: {error or 'no memory'}"


def _size_of(part: Part) -> int:
    return part.size


def _create() -> int:
    """A new file in memory."""
    create = getattr(load("posix"), "memfd_create", None)
    if create is not None:
        return create("clutch", _CLOEXEC | _ALLOW_SEALING)  # type: ignore[no-any-return]
    # A Python that was built for older systems than this one.
    ctypes = load("ctypes")
    library = ctypes.CDLL(None, use_errno=True)
    number: int = library.memfd_create(b"clutch", _CLOEXEC | _ALLOW_SEALING)
    if number < 0:
        raise OSError(ctypes.get_errno(), "memfd_create failed")
    return number


def gather(written: "List[Any]") -> "Tuple[bytes, List[Part]]":
    """The value without its large parts, and these, of what a pickler has written piece by piece.

    It writes a large object as it is, and its head at the end of the piece before. In each piece
    there is at most one frame, and such a head is behind it: so no data is taken for one. A part
    that `part_of` found stands before the piece in which it is referred to.
    """
    pieces: "List[Any]" = []
    parts: "List[Part]" = []
    # Of large bytes: which of the pieces is their head, and which of the parts they are.
    places: "List[Tuple[int, int]]" = []
    head = 0
    at = _PROTO_BYTES
    for piece in written:
        if type(piece) is Part:
            parts.append(piece)
            continue
        if head:
            head_bytes = pieces[-1][-head:]
            content = _BYTES_OPCODES.get(head_bytes[0])
            if content is not None:
                places.append((len(pieces), len(parts)))
                parts.append(Part(content, piece, len(piece)).held())
            pieces.append(piece)
            head = 0
            continue
        if len(piece) > at and piece[at] == _FRAME:
            at += _FRAME_HEAD_BYTES + _U64_AT(piece, at + 1)[0]
        rest, at = len(piece) - at, 0
        if rest >= _SHORT_HEAD_BYTES:
            head = _LONG_HEAD_BYTES if rest >= _LONG_HEAD_BYTES else _SHORT_HEAD_BYTES
        pieces.append(piece)
    if len(parts) > ATTACHMENTS_MAX:
        places = _largest(places, parts)
    for place, _ in places:
        is_long = len(pieces[place]) >> 32 or type(pieces[place]) is bytearray
        head = _LONG_HEAD_BYTES if is_long else _SHORT_HEAD_BYTES
        pieces[place - 1] = pieces[place - 1][:-head]
        pieces[place] = _NEXT_BUFFER
    return b"".join(pieces), parts


def _largest(places: "List[Tuple[int, int]]", parts: "List[Part]") -> "List[Tuple[int, int]]":
    """Leaves as many of the bytes in the value as there are attachments too many, the smallest."""
    excess = len(parts) - ATTACHMENTS_MAX
    by_size = sorted(places, key=lambda place: parts[place[1]].size)
    stay = {index for _, index in by_size[:excess]}
    parts[:] = [part for index, part in enumerate(parts) if index not in stay]
    return [place for place in places if place[1] not in stay]
