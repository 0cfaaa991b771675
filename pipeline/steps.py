"""An operator object as a step of a recipe: `{name: settings}`, as it would stand in the file."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from malmoi.operators import OPERATORS
from malmoi.operators.contract import Operator


def as_steps(value: Any) -> Any:
    """A recipe's `steps` with operator objects replaced by their entries; everything else as it is."""
    if isinstance(value, str) or _is_operator(value):
        raise ValueError(f"want a list of steps, got one {type(value).__name__}")
    if not isinstance(value, list | tuple):
        return value
    for step in value:
        if isinstance(step, type):
            raise ValueError(f"want operators, got the class {step.__name__}; write {step.__name__}()")
    return [step_entry(step) if _is_operator(step) else step for step in value]


def step_entry(operator: Operator) -> dict[str, dict[str, Any]]:
    """`{name: settings}` with the settings that are not the defaults.

    The name is the short one of an operator of ours, else `package.module:Class`.
    """
    cls = type(operator)
    short = [name for name, known in OPERATORS.items() if known is cls]
    name = short[0] if short else f"{cls.__module__}:{cls.__qualname__}"
    fields = [field for field in dataclasses.fields(cast(Any, operator)) if field.init]
    values = {field.name: getattr(operator, field.name) for field in fields}
    return {
        name: {
            field.name: _plain(values[field.name]) for field in fields if values[field.name] != field.default
        }
    }


def _is_operator(step: Any) -> bool:
    is_object = dataclasses.is_dataclass(step) and not isinstance(step, type)
    return is_object and hasattr(step, "adds") and callable(step)


def _plain(value: Any) -> Any:
    """Pairs as a mapping (how operators keep one), tuples as lists, 30.0 as 30."""
    if isinstance(value, tuple):
        pairs = [x for x in value if isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str)]
        if value and len(pairs) == len(value):
            return {key: _plain(inner) for key, inner in pairs}
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
