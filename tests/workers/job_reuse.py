"""Functions that are given arrays, and keep them or not. Works with numpy and without."""

kept = []


def total(numbers):
    """The sum, and which files in memory this process has mapped beside its page."""
    return float(sum(memoryview(numbers).cast("B").cast("d"))), _mapped()


def keep(numbers):
    """The same, and remembers the array."""
    kept.append(numbers)
    return total(numbers)


def kept_totals():
    """The sums of what was kept, as it is now."""
    return [float(sum(memoryview(numbers).cast("B").cast("d"))) for numbers in kept]


def forget():
    """Lets go of it."""
    kept.clear()


def same(numbers):
    """Sends back what came."""
    return numbers


def _mapped():
    with open("/proc/self/maps") as file:
        lines = [line.split() for line in file if "memfd:clutch" in line]
    return sorted({int(line[4]) for line in lines if line[-1] == "(deleted)"})
