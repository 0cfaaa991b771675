"""`malmoi evaluate`: held-out loss, multiple choice and code of one model, as one report.

All that is asked of the model is made first, as requests; they are scored in this process or by an actor pool
of Ray Data, in the same batches and so with the same figures. `evaluation.json` lies beside the model: its
figures have six digits, and nothing in it says when, where or how fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from malmoi.pipeline.console import make_console
from malmoi.pipeline.errors import MalmoiError, RecipeError
from malmoi.pipeline.storage import Folder

from .code_eval import CodePlan, Limits, Outcome, confinement, run_programs
from .completion import complete
from .evaluate_model import (
    REPORT,
    Place,
    Tokenizer,
    check_device,
    check_sizes,
    find_model,
    folder_hash,
    load,
    load_tokenizer,
    model_hash,
    tokenizer_file,
)
from .evaluate_view import print_report
from .heldout import Heldout, HeldoutPlan, read_heldout
from .scoring import BATCH_TOKENS, Batch, Floats, Request, gather, plan_batches, score_batch
from .tasks import ChoicePlan, CodeSettings, Tasks, read_tasks

FORMAT = 1


@dataclass(frozen=True)
class EvaluateSettings:
    """What the command line says. `limit`: documents of each source; `workers`: actors of Ray Data, 0 for this
    process, of `gpus_per_worker` GPUs each; `batch_tokens`: rows times longest row of a batch."""

    model: str
    heldout: tuple[str, ...] = ()
    tasks: str | None = None
    out: str | None = None
    tokenizer: str | None = None
    base: str | None = None
    best: bool = False
    window: int | None = None
    stride: int | None = None
    limit: int | None = None
    seed: int = 0
    batch_tokens: int = BATCH_TOKENS
    device: str | None = None
    dtype: str = "auto"
    workers: int = 0
    gpus_per_worker: float = 0.0
    allow_code_execution: bool = False

    def __post_init__(self) -> None:
        if not self.heldout and self.tasks is None:
            raise RecipeError("nothing to evaluate; give --heldout, --tasks or both")
        for name in ("window", "stride", "limit", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"--{name.replace('_', '-')}={value}: want 1 or more")
        if self.workers < 0 or self.gpus_per_worker < 0:
            raise RecipeError(f"want 0 workers or more, got {self.workers} of {self.gpus_per_worker:g} GPUs")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise RecipeError(f"--dtype={self.dtype}: known are auto, float32, bfloat16, float16")


@dataclass(frozen=True)
class Ask:
    """A problem of a code task, ready for the model."""

    name: str
    prompt: tuple[int, ...]
    settings: CodeSettings
    seed: int


@dataclass(frozen=True)
class Work:
    """Everything that is asked of the model. The requests of `parts` follow each other in `requests`."""

    heldout: Heldout | None
    heldout_plan: HeldoutPlan | None
    choices: tuple[ChoicePlan, ...]
    codes: tuple[CodePlan, ...]

    @property
    def requests(self) -> list[Request]:
        held = self.heldout_plan.requests if self.heldout_plan is not None else ()
        return [*held, *(request for plan in self.choices for request in plan.requests)]

    def asks(self, tokenizer: Tokenizer) -> list[Ask]:
        return [
            Ask(
                problem.task_id,
                tuple(tokenizer.pair(problem.prompt)),
                plan.settings.coding,
                plan.settings.seed,
            )
            for plan in self.codes
            for problem in plan.problems
        ]


def plan_work(settings: EvaluateSettings, tasks: Tasks | None, tokenizer: Tokenizer, window: int) -> Work:
    """Reads and tokenizes everything; errors in data come before a model is asked."""
    heldout = plan = None
    if settings.heldout:
        heldout = read_heldout(settings.heldout, settings.limit, settings.seed)
        stride = settings.stride or max(1, window // 2)
        plan = HeldoutPlan.of(heldout, tokenizer.texts, tokenizer.prefix, window, stride)
    listed = tasks.tasks if tasks is not None else ()
    choices = tuple(
        ChoicePlan.of(task, tokenizer.pair, tokenizer.prefix, window)
        for task in listed
        if task.format != "humaneval"
    )
    codes = tuple(CodePlan.of(task) for task in listed if task.format == "humaneval")
    return Work(heldout, plan, choices, codes)


@dataclass(frozen=True)
class Local:
    """The model in this process."""

    model: Any
    tokenizer: Tokenizer
    window: int

    def answer(self, things: Sequence[Batch | Ask]) -> list[Any]:
        """Of a Batch the scores of its rows, of an Ask its samples."""
        return [self.answer_one(thing) for thing in _shown(things)]

    def answer_one(self, thing: Batch | Ask) -> list[Floats] | list[str]:
        import torch

        try:
            return score_batch(self.model, thing.rows) if isinstance(thing, Batch) else self._complete(thing)
        except torch.OutOfMemoryError as error:
            raise MalmoiError(
                f"out of GPU memory; lower --batch-tokens, --window or a task's code.samples ({error})"
            ) from error

    def _complete(self, ask: Ask) -> list[str]:
        own = self.model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        return complete(
            self.model, ask.prompt, self.tokenizer.decode, ask.settings,
            name=ask.name, seed=ask.seed, ends=(*self.tokenizer.ends, *ends), window=self.window,
        )  # fmt: skip


def _shown(things: Sequence[Any]) -> Any:
    """With a bar where there is a terminal."""
    console = make_console(stderr=True)
    if not console.is_terminal or not things:
        return things
    return track(things, "asking the model", console=console, transient=True)


def evaluate(settings: EvaluateSettings, console: Console) -> dict[str, Any]:
    """Evaluate, print the tables, write and return the report."""
    from . import evaluate_ray  # which imports this module

    tasks = read_tasks(settings.tasks) if settings.tasks is not None else None
    codes = tasks is not None and any(task.format == "humaneval" for task in tasks.tasks)
    if codes and not settings.allow_code_execution:
        raise RecipeError(
            f"{settings.tasks}: humaneval runs programs that the model wrote; add --allow-code-execution if "
            "you want that on this machine"
        )
    confined = confinement() if codes else {}
    place = _place(settings)
    folder, name = _target(place, settings.out)
    file = tokenizer_file(place, settings.tokenizer)
    tokenizer = load_tokenizer(file, place)
    window = check_sizes(place, tokenizer, settings.window)
    if settings.workers:
        evaluate_ray.check_cluster(settings.workers, settings.gpus_per_worker)
    report = {"format_version": FORMAT, "model": describe(place, tokenizer), "versions": _versions()}
    work = plan_work(settings, tasks, tokenizer, window)
    if settings.workers:
        pool: Any = evaluate_ray.RayPool(place, str(file), window, settings.workers, settings.gpus_per_worker)
        run = evaluate_ray.run_programs
    else:
        pool, run = Local(load(place), tokenizer, window), run_programs
    report |= _figures(work, pool, tokenizer, settings, run)
    rounded: dict[str, Any] = round_figures(report)
    folder.write_bytes(name, report_text(rounded).encode())
    print_report(rounded, confined, folder.join(name), console)
    return rounded


def _place(settings: EvaluateSettings) -> Place:
    device = settings.device
    if device is None:
        import torch

        gpu = settings.gpus_per_worker > 0 if settings.workers else torch.cuda.is_available()
        device = "cuda" if gpu else "cpu"
    if not settings.workers:
        check_device(device)
    return find_model(
        settings.model, base=settings.base, device=device, dtype=settings.dtype, best=settings.best
    )


def describe(place: Place, tokenizer: Tokenizer) -> dict[str, Any]:
    """Which model this is: its name, hashes of its files and its tokenizer."""
    found: dict[str, Any] = {
        "path": place.given,
        "kind": place.kind,
        "hash": model_hash(place),
        "tokenizer_sha256": tokenizer.sha256,
        "dtype": place.dtype,
    }
    if place.base is not None:
        found["base"] = Path(place.base).name
        if Path(place.base).is_dir():
            found["base_hash"] = folder_hash(place.base)
    return found


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("malmoi", "torch", "transformers", "tokenizers")}


def _figures(
    work: Work,
    pool: Any,
    tokenizer: Tokenizer,
    settings: EvaluateSettings,
    run: Callable[[Sequence[str], Limits, int], list[Outcome]],
) -> dict[str, Any]:
    """The parts `heldout` and `tasks` of a report."""
    import numpy as np

    requests = work.requests
    batches = plan_batches(requests, settings.batch_tokens)
    answers = pool.answer([*batches, *work.asks(tokenizer)])
    scores = gather(batches, answers[: len(batches)], len(requests))
    if not np.isfinite(scores).all():
        wrong = int((~np.isfinite(scores)).sum())
        raise MalmoiError(
            f"{settings.model}: NaN or infinite log-likelihood for {wrong} of {len(scores)} requests"
        )
    parts: dict[str, Any] = {}
    first = 0
    if work.heldout is not None and work.heldout_plan is not None:
        first = len(work.heldout_plan.requests)
        parts["heldout"] = work.heldout_plan.report(work.heldout, scores[:first])
    found: dict[str, Any] = {}
    for plan in work.choices:
        found[plan.settings.name] = plan.report(scores[first : first + len(plan.requests)])
        first += len(plan.requests)
    written = answers[len(batches) :]
    for code in work.codes:
        mine, written = written[: len(code.problems)], written[len(code.problems) :]
        limits = Limits.of(code.settings.coding)
        found[code.settings.name] = code.report(run(code.programs(mine), limits, _at_once()))
    if found:
        parts["tasks"] = found
    return parts


def _at_once() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def round_figures(value: Any) -> Any:
    """Six significant digits: the last ones of a sum differ between machines."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: round_figures(x) for key, x in value.items()}
    return [round_figures(x) for x in value] if isinstance(value, list | tuple) else value


def report_text(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _target(place: Place, out: str | None) -> tuple[Folder, str]:
    """Folder and name of the report. RecipeError, StorageError: it could not be written, told before the work."""
    if out is None:
        folder, name = Folder(place.folder), REPORT
    else:
        above, _, name = out.rpartition("/")
        folder = Folder(above or ("/" if out.startswith("/") else "."))
    if not name or Path(folder.join(name)).is_dir():
        raise RecipeError(f"--out {out}: a folder; name a file in it, such as {folder.join(name)}/{REPORT}")
    probe = f"{name}.check"  # a report of an earlier evaluation stays until there is another
    folder.write_bytes(probe, b"")
    folder.remove(probe)
    return folder, name
