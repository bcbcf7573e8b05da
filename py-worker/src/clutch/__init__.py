"""What code that runs inside a Clutch worker may use.

    import clutch

    def work(items):
        call = clutch.current_call()
        for item in items:
            if call.cancelled:
                break
            ...

What a function of a map returns `clutch.SKIP` for has no result.

Everything whose name starts with an underscore is the worker itself and none of a user's business.
"""

from clutch._call import SKIP, Call, Cancelled, current_call

__all__ = ["SKIP", "Call", "Cancelled", "current_call"]
__version__ = "0.1.0"
