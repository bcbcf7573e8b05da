"""Does a library work here? The same checks as in any python, and the same answers."""

import importlib
import multiprocessing


def check(name, function=None, *args):
    """Import a library, call one of its functions, and start a process beside it."""
    report = {"library": name, "imported": False, "basic functionality": None}
    try:
        library = importlib.import_module(name)
        report["imported"] = True
        if function is not None:
            report["basic functionality"] = repr(getattr(library, function)(*args))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            report["multiprocessing"] = pool.apply(abs, (-1,)) == 1
    except Exception as error:
        report["error"] = "%s: %s" % (type(error).__name__, error)
    return report
