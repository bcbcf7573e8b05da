"""A large file, worked on where it lies: its path travels, not its bytes."""


def process_large_dataset(path):
    """The number of lines, and the sum of the numbers that stand alone in one."""
    lines, total = 0, 0
    with open(path) as file:
        for line in file:
            lines += 1
            if line.strip().lstrip("-").isdigit():
                total += int(line)
    return {"lines": lines, "total": total}


def process_item(item):
    """One item of a list, as `parallel_map(process_item, items)` would have it."""
    return item * 2
