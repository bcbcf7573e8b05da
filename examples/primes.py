"""A generator that has no end, and one that says how far it is."""

import clutch


def without_end():
    """The prime numbers, as they are found."""
    found = []
    number = 2
    try:
        while True:
            if all(number % prime for prime in found):
                found.append(number)
                yield number
            number += 1
    finally:
        print(f"closed after {len(found)}", flush=True)


def up_to(limit):
    """Those below a limit; how many there are is returned."""
    primes = [number for number in range(2, limit) if all(number % i for i in range(2, number))]
    for done, prime in enumerate(primes, 1):
        clutch.progress(done, len(primes), f"found {prime}")
        yield prime
    return len(primes)
