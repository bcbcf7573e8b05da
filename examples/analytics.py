"""Computations that another program wants to have done."""

import math


def complex_calculation(value):
    """Something that takes Python a while: how many primes there are below the value."""
    sieve = bytearray([1]) * max(value, 2)
    sieve[0:2] = b"\0\0"
    for number in range(2, math.isqrt(len(sieve)) + 1):
        if sieve[number]:
            multiples = range(number * number, len(sieve), number)
            sieve[number * number :: number] = bytes(len(multiples))
    return sum(sieve[:value])


def process_task(task_id):
    """A task that is told apart from others by its number."""
    return {"task": task_id, "result": math.factorial(task_id % 10)}
