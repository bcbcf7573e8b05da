"""What to do about a value that is no plain data: a sentence for each type that is met often.

Loaded by the first value that cannot be sent.
"""

__all__ = ["hint_for"]

_ADVICE = (
    "return None, bool, int, float, str, bytes, list, tuple, dict, set, "
    "or a dataclass or enum of these"
)
_HINTS = {
    "generator": "a generator cannot be sent as a whole; return list(...) of it (all that works "
    "in a map), or call it as a stream (`clutch call --stream`, `client.stream`)",
    "async_generator": "an async generator cannot be sent as a whole; collect its items into a "
    "list (all that works in a map), or call it as a stream (`clutch call --stream`, "
    "`client.stream`)",
    "coroutine": "a coroutine cannot be sent; await it, and return what it gives",
    "function": "a function cannot be sent; return what it computes",
    "complex": "a complex number is no plain data; return [z.real, z.imag]",
    "range": "return list(...) of it",
    "dict_keys": "return list(...) of it",
    "dict_values": "return list(...) of it",
    "dict_items": "return dict(...) of it",
    "map": "return list(...) of it",
    "filter": "return list(...) of it",
    "zip": "return list(...) of it",
    "clutch.SKIP": "it stands for no result, and only an item of a map can have none; return None",
    "cupy.ndarray": "it is in the memory of a device; return cupy.asnumpy(...) of it",
    "torch.Tensor": "return tensor.detach().cpu().numpy()",
    "_io.TextIOWrapper": "an open file cannot be sent; return what it holds, or its name",
    "_io.BufferedReader": "an open file cannot be sent; return what it holds, or its name",
    "pandas.core.frame.DataFrame": "return frame.to_dict('records')",
    "pandas.DataFrame": "return frame.to_dict('records')",
}
_ARRAY_HINTS = {
    "ndarray": "what its class adds to an array would be lost; return numpy.array(...) of it",
    "__array__": "it is an array of another library; return numpy.asarray(...) of it",
    "__cuda_array_interface__": "it is in the memory of a device; return a numpy array of it",
}


def hint_for(name: str, names: "set[tuple[str, str]]", kind: type) -> str:
    """The sentence for a type of this name, with these base classes' names."""
    hint = _HINTS.get(name)
    if hint is None and ("numpy", "ndarray") in names:
        hint = _ARRAY_HINTS["ndarray"]
    for attribute in ("__cuda_array_interface__", "__array__"):
        if hint is None and hasattr(kind, attribute):
            hint = _ARRAY_HINTS[attribute]
    return hint or f"it is no plain data; {_ADVICE}"
