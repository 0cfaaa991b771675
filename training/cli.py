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
        bool, typer.Option(help="in this process (or torchrun's: -- before malmoi) instead of Ray's workers")
    ] = False,
) -> None:
    """Train on the rows of `malmoi tokenize`. The same command goes on after a stop; a finished run says so."""
    from .ray_entry import train as start

    start(recipe, overrides or [], local=local)


def export(
    place: Annotated[
        str, typer.Argument(metavar="RUN", help="folder of a training run, or of a checkpoint in it")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="folder to write; not there yet, or empty")],
    merge: Annotated[
        bool | None,
        typer.Option(
            "--merge/--adapter", help="a model that stands alone, or the adapter; by default what can be"
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="where tokenizer.json is, if not where it was")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="the checkpoint with the lowest held-out loss")
    ] = False,
) -> None:
    """Write a trained model or adapter for transformers and peft, with its tokenizer and a model card."""
    from malmoi.pipeline.console import make_console

    from .export import export as write

    done = write(place, out, merge=merge, tokenizer=tokenizer, best=best)
    what = "model" if done.whole else f"adapter ({done.trained.recipe.method.kind})"
    make_console().print(f"{what} after {done.trained.step:,} steps: {out}", soft_wrap=True, markup=False)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="folder of a model, an adapter, a training run or a checkpoint"),
    ],
    heldout: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|RUN", help="held-out text: .parquet, .jsonl or a run's folder; again for more"
        ),
    ] = None,
    tasks: Annotated[str | None, typer.Option(metavar="YAML", help="multiple choice and code")] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="the report; by default evaluation.json in the model's folder"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json or its folder, if not the model's")
    ] = None,
    base: Annotated[str | None, typer.Option(help="folder of the model that an adapter is for")] = None,
    best: Annotated[
        bool, typer.Option("--best", help="of a run the checkpoint with the lowest loss")
    ] = False,
    window: Annotated[
        int | None, typer.Option(help="tokens seen at once; by default the model's positions")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="new tokens of each window; by default half of it")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="at most so many documents of each source")] = None,
    seed: Annotated[int, typer.Option(help="of the choice by --limit")] = 0,
    batch_tokens: Annotated[int, typer.Option(help="rows times longest row of a batch")] = 8192,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where it is")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")] = "auto",
    workers: Annotated[int, typer.Option(help="actors of Ray Data; 0: in this process")] = 0,
    gpus_per_worker: Annotated[float, typer.Option(help="of each actor")] = 0.0,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="run programs that the model writes, confined")
    ] = False,
) -> None:
    """Held-out loss and bits per byte by source, multiple choice, and pass@k of a model."""
    from malmoi.pipeline.console import make_console

    from .evaluate import EvaluateSettings
    from .evaluate import evaluate as start

    settings = EvaluateSettings(
        model, tuple(heldout or ()), tasks, out, tokenizer, base, best, window, stride, limit, seed, batch_tokens,
        device, dtype, workers, gpus_per_worker, allow_code_execution,
    )  # fmt: skip
    start(settings, make_console())


COMMANDS: tuple[Callable[..., None], ...] = (train, export, evaluate)
