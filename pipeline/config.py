"""From a YAML file and `key=value` overrides to a checked `Recipe` and its operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from malmoi.operators import OPERATORS
from malmoi.operators.config import build, load_class
from malmoi.operators.contract import Operator
from malmoi.operators.thresholds import SETS as THRESHOLD_SETS

from .errors import RecipeError
from .recipe import Recipe
from .yaml_file import check_model, read_yaml


def parse_recipe(data: Mapping[str, Any], name: str = "recipe", root: yaml.Node | None = None) -> Recipe:
    """A checked recipe from a mapping; every problem in one RecipeError, a line each."""
    recipe = check_model(Recipe, data, name, root)
    check_names(recipe, name)
    build_steps(recipe, name)
    return recipe


def check_names(recipe: Recipe, name: str = "recipe") -> None:
    """RecipeError where two sources have one name."""
    names = [source.name for source in recipe.sources]
    twice = sorted({x for x in names if names.count(x) > 1})
    if twice:
        raise RecipeError(f"{name}: source name given twice: {', '.join(twice)}")


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, apply `key.sub=value` overrides (values are YAML), check everything in it."""
    data, root = read_yaml(path, overrides)
    return parse_recipe(data, Path(path).name, root)


def build_steps(recipe: Recipe, name: str = "recipe") -> tuple[Operator, ...]:
    """The operators of `steps`, in order, with their columns checked along the chain."""
    operators = []
    for index, step in enumerate(recipe.steps):
        where = f"{name}: steps[{index}]"
        entry: Mapping[str, Any] = {step: None} if isinstance(step, str) else step
        if len(entry) != 1:
            raise RecipeError(f"{where}: want one operator a step, got {len(entry)}: {', '.join(entry)}")
        [(short, settings)] = entry.items()
        try:
            cls = load_class(short, OPERATORS, where)
            operator = build(cls, settings or {}, f"{where}.{short}")
            _check_limits(operator, f"{where}.{short}")
        except ValueError as error:
            raise RecipeError(str(error)) from error
        operators.append(operator)
    return tuple(operators)


def _check_limits(operator: Operator, where: str) -> None:
    """Make the limits of every language that has a set of its own, so that a wrong one is told now."""
    of: Callable[[str], object] | None = getattr(operator, "limits", None)
    if of is None:
        return
    named = [language for language, *_ in getattr(operator, "languages", ())]
    for language in ("", *THRESHOLD_SETS, *named):
        try:
            of(language)
        except ValueError as error:
            raise ValueError(f"{where}: limits of language {language!r}: {error}") from error


def check_columns(steps: tuple[Operator, ...], columns: set[str], name: str) -> None:
    """Every step's needs are met by the input or by an earlier step."""
    have = set(columns)
    for index, operator in enumerate(steps):
        for need in operator.needs:
            if need not in have:
                later = [x.name for x in steps[index + 1 :] if need in x.adds.names]
                hint = (
                    f"; {later[0]} adds it: move that step up"
                    if later
                    else f"; there: {', '.join(sorted(have))}"
                )
                raise RecipeError(f"{name}: steps[{index}].{operator.name} needs column {need!r}{hint}")
        have |= set(operator.adds.names)
