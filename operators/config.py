"""Building an operator from a mapping, strictly: unknown keys are refused with the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from .contract import Operator


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `known`, or the whole list where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


def load_class(name: str, known: Mapping[str, type], where: str) -> type:
    """The operator's class by its short name, or by a dotted path `package.module:Class`."""
    if name in known:
        return known[name]
    if ":" not in name:
        raise ValueError(f"{where}: unknown operator {name!r}{did_you_mean(name, list(known))}")
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ValueError(f"{where}: cannot import {module_name!r} ({error}); is it on PYTHONPATH?") from error
    except AttributeError as error:
        raise ValueError(f"{where}: module {module_name!r} has no {class_name!r}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{where}: {name!r} is not a dataclass; see docs/own_operator.md")
    for attribute in ("name", "version", "kind", "needs", "adds", "__call__"):
        if not hasattr(found, attribute):
            raise ValueError(f"{where}: {name!r} lacks {attribute!r}; see docs/own_operator.md")
    return found


def build(cls: type, settings: Mapping[str, Any], where: str) -> Operator:
    """Make the operator; every problem is a ValueError that begins with `where`."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in settings:
        if key not in fields:
            raise ValueError(
                f"{where}: unknown key {key!r} for {cls.__name__}{did_you_mean(str(key), list(fields))}"
            )
    try:
        made: Any = TypeAdapter(cls).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}{'.' + place if place else ''}: {message}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return cast(Operator, made)


def settings_of(operator: Operator) -> dict[str, Any]:
    """The operator's whole configuration as plain values, for the manifest."""
    return {
        field.name: getattr(operator, field.name)
        for field in dataclasses.fields(cast(Any, operator))
        if field.init
    }
