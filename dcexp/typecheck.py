"""Check the values of a dataclass against its annotations, with a message for whoever wrote the config."""

import math
import types
from dataclasses import Field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_types(thing: Any) -> None:
    """Raise ValueError when a field of the dataclass instance ``thing`` holds a value of another type."""
    hints = get_type_hints(type(thing))
    for f in fields(thing):
        value = getattr(thing, f.name)
        if not fits(value, hints[f.name]):
            raise ValueError(_complaint(thing, f, value, hints[f.name]))


def fits(value: Any, hint: Any) -> bool:
    """True when ``value`` may stand where ``hint`` is written (an int may stand for a float, a bool may not)."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, str):
        return True
    if origin is Literal:
        return value in args and type(value) in {type(a) for a in args}
    if origin in (Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return all(fits(v, args[0]) for v in value) if args else True
    if origin is dict or (origin is not None and isinstance(value, dict)):
        return isinstance(value, dict) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _complaint(thing: Any, f: Field[Any], value: Any, hint: Any) -> str:
    return f"{type(thing).__name__}.{f.name}: wanted {_said(hint)}, got {value!r}"


def _said(hint: Any) -> str:
    """The values that may stand where ``hint`` is written, for people."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(map(repr, args))
    if origin in (Union, types.UnionType):
        return " | ".join(map(_said, args))
    return hint.__name__ if isinstance(hint, type) and not args else str(hint)
