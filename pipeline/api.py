"""The Python API: `import malmoi.pipeline.api as mp`, for notebooks and scripts.

    recipe = mp.Recipe(name="first", output="runs/first", sources=[{"name": "web", "path": "web.jsonl"}],
                       steps=["normalise", "language_id", GopherQuality(min_words=30)])
    mp.plan(recipe)             # checks everything; reads no text
    result = mp.run(recipe)     # the same bytes as `malmoi run` of the same recipe

What is in `__all__` stays; everything else of `malmoi.pipeline` may change.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
from rich.console import Console

from malmoi.operators.contract import Operator

from . import html
from .config import check_names, load_recipe
from .engine import EngineKind
from .errors import MalmoiError
from .evidence import Duplicates, Why
from .figures import size
from .plan import Plan, make_plan
from .plan_view import print_plan
from .recipe import Recipe
from .result import Result
from .signal_view import Histogram, SignalView, signals
from .status import Status, read_status

__all__ = [
    "Duplicates",
    "Histogram",
    "MalmoiError",
    "PlanView",
    "Recipe",
    "Result",
    "SignalView",
    "Status",
    "Why",
    "plan",
    "run",
    "signals",
    "status",
]


@dataclass(frozen=True, eq=False)
class PlanView:
    """A checked recipe: what a run of it would read, do and need. `plan` is what the pipeline works with."""

    plan: Plan = field(repr=False)

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def steps(self) -> tuple[Operator, ...]:
        """The operators, in order."""
        return self.plan.steps

    @property
    def num_parts(self) -> int:
        """Parts of the input, each read by one task."""
        return self.plan.num_parts

    @property
    def columns(self) -> pa.Schema:
        """The columns of a document after all steps, signals included."""
        return self.plan.documents

    @property
    def worker_bytes(self) -> int:
        """Estimated peak memory of one worker process."""
        return self.plan.worker_bytes

    def __repr__(self) -> str:
        console = Console(record=True, file=io.StringIO(), width=110, highlight=False, force_jupyter=False)
        print_plan(self.plan, console)
        return console.export_text().rstrip()

    def _repr_html_(self) -> str:
        return _plan_page(self.plan)


def plan(recipe: Recipe | str | Path, *, overrides: Iterable[str] = (), base: str | None = None) -> PlanView:
    """Check a recipe (an object, or the path of a file) against its inputs without reading text.

    `overrides`: `key.sub=value` as on the command line, for a file. `base`: the folder that relative input
    paths are relative to; by default the recipe file's, and for an object the folder that you are in. The
    `output` is always relative to the folder that you are in. MalmoiError with what is wrong and where.
    """
    return PlanView(_planned(recipe, overrides, base))


def run(
    recipe: Recipe | str | Path | PlanView,
    *,
    overrides: Iterable[str] = (),
    base: str | None = None,
    engine: EngineKind = "ray",
    progress: bool = True,
) -> Result:
    """Run a recipe, or go on with a run that was stopped; a finished one is read back at once.

    Runs on the Ray that this process is connected to, else on RAY_ADDRESS, else on a Ray of its own on this
    machine; `engine="local"` runs in this process alone, part after part. `progress`: print lines while it
    runs. The other arguments as in `plan`. MalmoiError with what is wrong; finished parts are kept, so that
    the same call goes on.
    """
    from .run import run_plan

    if engine not in get_args(EngineKind):
        raise MalmoiError(f"run: want engine 'ray' or 'local', got {engine!r}")
    planned = recipe.plan if isinstance(recipe, PlanView) else _planned(recipe, overrides, base)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which Ray loads
        run_plan(planned, console=_console(progress), engine=engine, summary=False)
    return Result.load(planned.recipe.output, planned.recipe.output_options)


def status(run: str | Recipe | Result, options: dict[str, Any] | None = None) -> Status:
    """How far a run is, from its folder alone, on any machine that reaches it: a path, an fsspec URL with its
    `options`, the recipe, or what a run gave back."""
    if isinstance(run, Result):
        return read_status(run.folder.url, run.folder.options)
    if isinstance(run, Recipe):
        return read_status(run.output, run.output_options)
    return read_status(str(run), options or {})


def _console(progress: bool) -> Console:
    """Lines of text; in a notebook rich would show each as HTML of its own, and a bar as a line a frame."""
    notebook = "ipykernel" in sys.modules
    if notebook:
        logging.getLogger("ray.widgets").setLevel(logging.ERROR)  # wants ipywidgets
    return Console(
        width=100, quiet=not progress, highlight=False, no_color=True, force_jupyter=False,
        force_terminal=False if notebook else None,
    )  # fmt: skip


def _planned(recipe: Recipe | str | Path, overrides: Iterable[str], base: str | None) -> Plan:
    given = tuple([overrides] if isinstance(overrides, str) else overrides)
    if isinstance(recipe, Recipe):
        if given:
            raise MalmoiError(
                "overrides go with a recipe file; for an object: recipe.model_copy(update={...})"
            )
        check_names(recipe)
        return make_plan(recipe, recipe.folder if base is None else base, "recipe")
    if not isinstance(recipe, str | Path):
        raise MalmoiError(f"want a Recipe or the path of a recipe file, got {type(recipe).__name__}")
    path = Path(recipe)
    return make_plan(load_recipe(path, given), str(path.parent) if base is None else base, path.name)


def _plan_page(plan: Plan) -> str:
    recipe = plan.recipe
    sources = [
        (
            planned.source.name,
            ", ".join(planned.source.path),
            f"{len(planned.files):,}",
            size(planned.size),
            f"{len(planned.parts):,}",
        )
        for planned in plan.sources
    ]
    steps = [(step.name, step.kind, ", ".join(step.adds.names)) for step in plan.steps]
    dedup = [
        name for name, on in (("exact", plan.keys.exact), ("fuzzy", plan.keys.minhash is not None)) if on
    ]
    lines = [
        f"deduplication: {', '.join(dedup) or 'off'}; mixture: {recipe.mixture.method} by {recipe.mixture.by}",
        f"{recipe.write.format} shards of {size(recipe.write.shard_bytes)} of text, "
        + ("globally shuffled" if recipe.write.shuffle else "in input order"),
        f"estimated memory: {plan.worker_bytes / 1024**2:,.0f} MiB a worker, "
        f"{plan.driver_bytes / 1024**2:,.0f} MiB the driver",
    ]
    return html.page(
        f"{recipe.name} -> {recipe.output}: {plan.num_parts:,} parts",
        html.table("Sources", ("source", "path", "files", "size", "parts"), sources, words=2),
        html.table("Steps", ("operator", "kind", "adds"), steps, words=3),
        html.notes(lines),
    )
