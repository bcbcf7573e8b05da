"""The smallest function there is to spread over workers."""


def worker(x):
    """The number, squared."""
    return x * x
