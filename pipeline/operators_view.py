"""`malmoi operators`: what there is, from the operators themselves."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from malmoi.operators import OPERATORS
from malmoi.operators.config import load_class
from malmoi.operators.thresholds import FALLBACK, sets_of

from .errors import RecipeError


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def print_operators(console: Console) -> None:
    """One line an operator."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("operator", "kind", "what it does"):
        table.add_column(heading)
    for name, cls in OPERATORS.items():
        table.add_row(name, str(getattr(cls, "kind", "")), escape(_summary(cls)))
    console.print(table)
    console.print(
        "\nmalmoi operators NAME shows fields, defaults and source; docs/own_operator.md adds your own."
    )


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "(required)"


def print_operator(name: str, console: Console) -> None:
    """Docstring, fields with defaults, columns and source of one operator."""
    try:
        cls: Any = load_class(name, OPERATORS, "malmoi operators")
    except ValueError as error:
        raise RecipeError(str(error)) from error
    console.print(f"[bold]{escape(name)}[/]  ({cls.kind}, version {cls.version})\n")
    console.print(escape(inspect.getdoc(cls) or ""), soft_wrap=True)
    console.print(f"\nsource: {escape(cls.reference)}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("field", "type", "default"):
        table.add_column(heading)
    for field in dataclasses.fields(cls):
        if field.init:
            table.add_row(field.name, escape(str(field.type)), escape(_default(field)))
    console.print(table)
    _print_languages(name, {field.name for field in dataclasses.fields(cls)}, console)
    try:
        made = cls()
    except TypeError:
        return
    console.print(f"\nneeds: {', '.join(made.needs)}\nadds: {', '.join(made.adds.names)}")


def _print_languages(name: str, fields: set[str], console: Console) -> None:
    """The values that stand in place of the defaults for documents of some languages."""
    own = {
        names: {key: value for key, value in settings.items() if key in fields}
        for names, settings in sets_of(name).items()
    }
    own = {names: settings for names, settings in own.items() if settings}
    if not own:
        return
    console.print("\nother defaults by language, which the field `languages` changes:")
    for names, settings in own.items():
        told = ", ".join(f"{key} {value}" for key, value in settings.items())
        shown = ", ".join("all others but en" if x == FALLBACK else x for x in names)
        console.print(f"  {shown}: {told}", soft_wrap=True)
