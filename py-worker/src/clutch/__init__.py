"""What code that runs inside a Clutch worker may use.

    import clutch

    def work(items):
        call = clutch.current_call()
        for item in items:
            if call.cancelled:
                break
            ...

Everything whose name starts with an underscore is the worker itself and none of a user's business.
"""

from clutch._call import Call, Cancelled, current_call

__all__ = ["Call", "Cancelled", "current_call"]
__version__ = "0.1.0"
