"""The commands of training: `COMMANDS`. Heavy imports happen inside the commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="path of a training recipe.yaml")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="overrides, such as optimizer.lr=1e-4 or output=runs/test"
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option(help="in this process (or torchrun's) instead of Ray's workers")
    ] = False,
) -> None:
    """Train on the rows of `malmoi tokenize`. The same command goes on after a stop; a finished run says so."""
    from .ray_entry import train as start

    start(recipe, overrides or [], local=local)


COMMANDS: tuple[Callable[..., None], ...] = (train,)
