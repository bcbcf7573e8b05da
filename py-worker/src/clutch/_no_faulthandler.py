"""Stands for `faulthandler` while the worker's modules are loaded in a subinterpreter.

Python refuses to load the real one there; that of the main interpreter is the whole process's.
`_inside` takes this out again, so that user code is refused as in any other subinterpreter.
"""

import sys

__all__ = ["stand_in", "step_aside"]

_NAME = "faulthandler"


def _do_nothing(*_given: object, **_named: object) -> None:
    pass


def stand_in() -> None:
    """Before the worker's modules are loaded."""
    module = type(sys)(_NAME)
    names = ("dump_traceback", "dump_traceback_later", "cancel_dump_traceback_later")
    module.__dict__.update(dict.fromkeys(names, _do_nothing))
    sys.modules[_NAME] = module


def step_aside() -> None:
    """Afterwards."""
    del sys.modules[_NAME]
