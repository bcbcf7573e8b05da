"""Runs one of CPython's own regression tests in this very process.

As a script it prints for each module it is given one line of JSON: what a pool has to answer.
"""

import io
import json
import sys
import unittest


def run(name):
    """What came of each test that did not simply pass; and how many did."""
    try:
        suite = unittest.defaultTestLoader.loadTestsFromName("test." + name)
    except (ImportError, unittest.SkipTest) as error:
        return {"missing": str(error)}
    result = unittest.TextTestRunner(io.StringIO(), verbosity=0).run(suite)
    found = {"ran": result.testsRun, "unusual": {}}
    for kind in ("failures", "errors", "skipped", "expectedFailures"):
        for test, text in getattr(result, kind):
            last = text.strip().splitlines()[-1] if text.strip() else ""
            found["unusual"][str(test)] = [kind, last[:200]]
    for test in result.unexpectedSuccesses:
        found["unusual"][str(test)] = ["unexpected success", ""]
    return found


if __name__ == "__main__":
    for module in sys.argv[1:]:
        print(json.dumps(run(module)), flush=True)
