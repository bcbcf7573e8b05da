"""How deep a value nests, found breadth first at the speed of `set(map(type, ...))`.

The codecs ask only about values whose encoded bytes do not already prove them shallow.
"""

__all__ = ["nests_deeper_than"]

_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))


def nests_deeper_than(value: object, limit: int) -> bool:
    """Whether more than `limit` containers lie inside one another. A cycle nests for ever.

    A container that many others share is looked at once per level, so the time is bounded by its
    size times the limit, however many paths lead to it.
    """
    level = [value] if type(value) in _CONTAINERS else []
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            return True
        below: "dict[int, object]" = {}
        for container in level:
            if type(container) is dict:
                _collect(container.values(), below)
            # A dict's keys can be tuples and frozensets.
            _collect(container, below)  # type: ignore[arg-type]
        level = list(below.values())
    return False


def _collect(members: "object", below: "dict[int, object]") -> None:
    if not _CONTAINERS.isdisjoint(map(type, members)):  # type: ignore[call-overload]
        for member in members:  # type: ignore[attr-defined]
            if type(member) in _CONTAINERS:
                below[id(member)] = member
