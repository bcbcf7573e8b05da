"""Exceptions that a caller in another language can tell apart."""

SHELVES = {"egg": 3, "nest": 1}


class OutOfStock(Exception):
    """There is not as much as was asked for."""


class UnknownItem(LookupError):
    """There never was such a thing."""


def reserve(item, count):
    """How many are left afterwards."""
    try:
        left = SHELVES[item]
    except KeyError as error:
        raise UnknownItem(item) from error
    if count > left:
        raise OutOfStock("%d of %s asked for, %d left" % (count, item, left))
    return left - count
