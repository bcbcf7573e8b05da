"""An array that is changed in place. In this version it travels as a list, there and back."""


def process_array(data):
    """Every number, doubled where it stands."""
    for index, value in enumerate(data):
        data[index] = value * 2
    return data
