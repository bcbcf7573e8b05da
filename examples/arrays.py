"""Arrays that are changed in place: a list, which travels there and back, and shared memory."""


def process_array(data):
    """Every number, doubled where it stands."""
    for index, value in enumerate(data):
        data[index] = value * 2
    return data


def double_in_place(data):
    """The same in the caller's own memory: there is nothing to give back."""
    for index, value in enumerate(data):
        data[index] = value * 2


def same(data):
    """What came."""
    return data


def weighted(data, factor):
    """The sum of all numbers, times a factor."""
    return float(sum(data)) * factor
