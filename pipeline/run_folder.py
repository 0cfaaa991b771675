"""The folder of a run as a command is told of it: itself, or the recipe that writes there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import RecipeError, SourceError
from .storage import Folder
from .yaml_file import of_overrides


def run_folder(run: str, overrides: Iterable[str] = (), options: Mapping[str, Any] | None = None) -> Folder:
    """The folder of `run`: a path or fsspec URL with its `options`, or a recipe file, which names both.

    `overrides`: those that the recipe was run with; beside a folder `output_options.key=value` only.
    """
    if run.endswith((".yaml", ".yml")) and not Path(run).is_dir():
        from .config import load_recipe

        recipe = load_recipe(run, overrides)
        return Folder(recipe.output, recipe.output_options)
    given = of_overrides(overrides)
    more = given.pop("output_options", {})
    if given or not isinstance(more, dict):
        wrong = next(iter(given), "output_options")
        raise RecipeError(
            f"{wrong}=: beside a folder want output_options.key=value only; give the recipe ({run} is none) for more"
        )
    return Folder(run, {**(options or {}), **more})


def is_there(folder: Folder, name: str) -> bool:
    """Whether the folder has the file; SourceError where the folder cannot be read."""
    try:
        return folder.exists(name)
    except Exception as error:  # of many classes, by the driver of a remote store
        raise SourceError(f"{folder.url}: cannot be read ({type(error).__name__}: {error})") from error
