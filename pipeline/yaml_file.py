"""A YAML file with `key=value` overrides, checked against a pydantic model; errors name the line and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from .errors import RecipeError

M = TypeVar("M", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, which plain YAML silently lets the last one win."""


def _mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.MarkedYAMLError(problem=f"line {line}: a key has to be a plain word, got {key!r}")
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice (line {seen[key]} and {line})")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _line_of(root: yaml.Node | None, location: Iterable[Any]) -> int | None:
    """The line of the deepest node on the way to `location`."""
    node, line = root, None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            match = [(k, v) for k, v in node.value if k.value == str(part)]
            if not match:
                break
            line, node = match[0][0].start_mark.line + 1, match[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _known_keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    """The field names of the model at `location` within `model`."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [x for x in options if isinstance(x, type) and issubclass(x, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)


def _explain(error: ValidationError, model: type[BaseModel], name: str, root: yaml.Node | None) -> str:
    lines = []
    for item in error.errors():
        location = item["loc"]
        line = _line_of(root, location)
        place = f"{name}:{line}" if line else name
        dotted = ".".join(str(part) for part in location)
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, location[:-1])
            near = difflib.get_close_matches(str(location[-1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            lines.append(f"{place}: unknown key {dotted!r}{hint}")
        else:
            given = "" if item["type"] == "missing" else f" (given: {str(item['input'])[:80]!r})"
            lines.append(f"{place}: {dotted}: {item['msg']}{given}")
    return "\n".join(lines)


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r}: want key=value, for example run.num_cpus=2")
    *parents, last = key.split(".")
    place: Any = data
    for part in parents:
        try:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        except (ValueError, IndexError, AttributeError) as error:
            raise RecipeError(f"{override!r}: there is no {part!r} in the recipe") from error
    try:
        parsed = yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise RecipeError(f"{override!r}: {value!r} is not a YAML value; quote it if it is text") from error
    if isinstance(place, list):
        try:
            place[int(last)] = parsed
        except (ValueError, IndexError) as error:
            raise RecipeError(f"{override!r}: want the index of an entry, got {last!r}") from error
    elif isinstance(place, dict):
        place[last] = parsed
    else:
        raise RecipeError(f"{override!r}: {'.'.join(parents)} is a plain value and has no keys")


def of_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """The mapping that `key.sub=value` overrides make by themselves."""
    data: dict[str, Any] = {}
    for override in overrides:
        _apply(data, override)
    return data


def check_model(model: type[M], data: Mapping[str, Any], name: str, root: yaml.Node | None = None) -> M:
    """A checked `model` from a mapping; every problem in one RecipeError, a line each."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise RecipeError(_explain(error, model, name, root)) from error


def read_yaml(path: str | Path, overrides: Iterable[str] = ()) -> tuple[dict[str, Any], yaml.Node | None]:
    """The mapping of a YAML file after `key.sub=value` overrides (values are YAML), and its nodes for lines."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 at byte {error.start}") from error
    try:
        root = yaml.compose(text)
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: want a mapping of keys, got {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    return data, root
