"""A run from its plan to its manifest: filter -> decide -> split -> write. The same call goes on after a stop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from . import ahead, decide, local_ray
from .batches import files_merged
from .card import write_card
from .careful import filter_carefully
from .cluster import check_shared
from .config import load_recipe
from .engine import Counts, EngineKind, Job, run_jobs, start_ray
from .errors import ChangedError
from .filtering import STAGE as FILTER
from .filtering import filter_part
from .gather import gather
from .identity import check_steps, differences, text_of
from .lock import only_run
from .manifest import FILE as MANIFEST
from .manifest import Manifest
from .outcome import build_manifest
from .plan import Plan, make_plan
from .progress import stage_progress
from .recipe import Recipe
from .report import print_summary
from .scatter import merge
from .shards import PartSize, ShardPlan, corpus_schema, plan_shards
from .split import split
from .spread import Sketches, text_figures
from .storage import Folder
from .tokenize import FOLDER as TOKENS
from .tokenize import plan_tokens, tokenize
from .watch import RunLog, clean_marks, logged
from .written import part_name

PLAN = "plan.json"
REPORT = "report.json"


@dataclass
class Session:
    """What the stages of one run share: where it writes, how jobs are run, what was timed.

    `still_ours`: raises BusyError once another process holds the folder.
    """

    plan: Plan
    folder: Folder
    console: Console
    engine: EngineKind
    still_ours: Callable[[], None]
    num_cpus: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    log: RunLog | None = None

    def start(self) -> None:
        """Reach or start Ray, and see whether it has what the recipe needs; nothing is written in the folder."""
        if self.engine != "ray":
            return
        where = os.environ.get("RAY_ADDRESS", "this machine")
        more = "" if ahead.compiled() else "; the first run also compiles the kernels, some 20 seconds"
        self.console.print(f"Ray on {escape(where)}{more}", soft_wrap=True)
        begin = time.perf_counter()
        self.num_cpus = start_ray(self.plan.recipe.run)
        check_shared(self.plan.recipe, self.plan.base)
        self._count("start", time.perf_counter() - begin)

    def compile(self) -> None:
        """Compile the kernels that are not compiled yet, where the workers are on this machine."""
        if self.engine == "ray" and local_ray.is_ours() and not ahead.compiled():
            begin = time.perf_counter()
            ahead.compile_ahead(self.plan.steps)
            self.took("compile", time.perf_counter() - begin)

    def run(
        self,
        stage: str,
        jobs: list[Job],
        *,
        shown: bool = True,
        keep: Callable[[Counts], Counts] = dict,
    ) -> list[Counts]:
        """Run the jobs of a stage with progress; not `shown` are some of a stage's many. `keep`: as in `run_jobs`."""
        jobs = [replace(job, plan=self.plan.key) for job in jobs]
        if self.log is not None:
            self.log.stage_start(stage, len(jobs))
        begin = time.perf_counter()
        if shown:
            with stage_progress(stage, len(jobs), self.console) as tick:
                counts = self._run(stage, jobs, tick, whole=True, keep=keep)
        else:
            counts = self._run(stage, jobs, lambda _: None, whole=False, keep=keep)
        self.took(stage, time.perf_counter() - begin)
        if self.log is not None:
            self.log.stage_end(stage, time.perf_counter() - begin)
        return counts

    def took(self, stage: str, seconds: float) -> None:
        """Add to the stage's time, over all calls that worked on this run, and keep it in the folder."""
        self._count(stage, seconds)
        self.folder.write_bytes(REPORT, json.dumps(self.seconds, indent=1).encode())

    def _count(self, stage: str, seconds: float) -> None:
        for name in (stage, "total"):
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def _run(
        self,
        stage: str,
        jobs: list[Job],
        tick: Callable[[Counts], None],
        *,
        whole: bool,
        keep: Callable[[Counts], Counts],
    ) -> list[Counts]:
        if self.log is not None:
            tick = self.log.ticker(stage, len(jobs), tick)

        def checked(counts: Counts) -> None:
            self.still_ours()
            tick(counts)

        return run_jobs(
            self.folder,
            jobs,
            engine=self.engine,
            num_cpus=self.num_cpus,
            tick=checked,
            run=self.plan.recipe.run,
            whole=whole,
            keep=keep,
        )


def plan_file(path: str, overrides: Iterable[str] = (), base: str | None = None) -> Plan:
    """The plan of a recipe file; its relative input paths are relative to `base`, else to the file's folder."""
    recipe = load_recipe(path, overrides)
    return make_plan(recipe, base or str(Path(path).parent), Path(path).name)


def run_file(
    path: str, overrides: Iterable[str] = (), *, console: Console, base: str | None = None
) -> Manifest:
    """Run a recipe file."""
    return run_plan(plan_file(path, overrides, base), console=console)


def run_recipe(recipe: Recipe, base: str = ".", *, console: Console | None = None) -> Manifest:
    """Run a recipe object; relative input paths are relative to `base`."""
    return run_plan(make_plan(recipe, base), console=console or Console(quiet=True))


def run_plan(plan: Plan, *, console: Console, engine: EngineKind = "ray", summary: bool = True) -> Manifest:
    """Run a plan in its output folder, and tokenize the corpus into <output>/tokens where the recipe asks for it.

    What is done already is not done again. `summary`: print the figures.

    Raises BusyError where another run holds the folder, ChangedError where the folder holds a run of another
    recipe or input, and what a stage raises; finished parts stay and the next call goes on from them.
    """
    manifest = _corpus(plan, console, engine, summary)
    recipe = plan.recipe
    if recipe.tokenize is not None:
        output = Folder(recipe.output).join(TOKENS)
        rows = plan_tokens(
            recipe.tokenize,
            [recipe.output],
            output,
            options=recipe.output_options,
            output_options=recipe.output_options,
            one_thread=engine == "ray",
        )
        console.print()
        tokenize(rows, console=console, engine=engine, run=recipe.run)
    return manifest


def _corpus(plan: Plan, console: Console, engine: EngineKind, summary: bool) -> Manifest:
    folder = Folder(plan.recipe.output, plan.recipe.output_options)
    with only_run(folder) as still_ours:
        _check_plan(folder, plan, but="libraries" if folder.exists(MANIFEST) else "")
        done = _finished(folder, console)
        if done is not None:
            _clean(folder)
            console.print(f"all done already: {escape(folder.url)} (nothing was read or written)")
            if summary:
                print_summary(done, _report(folder), console, folder.url)
            return done
        _check_plan(folder, plan)
        session = Session(plan, folder, console, engine, still_ours, seconds=_report(folder))
        session.start()
        still_ours()  # it may have taken minutes
        if not folder.exists(PLAN):
            folder.write_bytes(PLAN, text_of(plan.identity).encode())
        folder.clean_temps()
        with logged(folder, plan.key, plan.recipe.name) as session.log:
            session.compile()
            manifest = _stages(session)
        _clean(folder)
        if summary:
            print_summary(manifest, session.seconds, console, folder.url)
        return manifest


def _stages(session: Session) -> Manifest:
    plan, folder = session.plan, session.folder
    parts = range(plan.num_parts)
    limit = plan.recipe.run.batch_timeout_s
    jobs = [
        Job(FILTER, part_name(i), filter_part, work, careful=filter_carefully, limit_s=limit)
        for i, work in enumerate(plan.jobs())
    ]
    before, after = Sketches(), Sketches()
    filtered = session.run(FILTER, jobs, keep=before.take)
    begin, counted = time.perf_counter(), session.seconds.get("total", 0.0)
    if session.log is not None:
        session.log.stage_start("decide", 1)
    decided = decide.decide(session, [one["kept"] for one in filtered])
    verifying = session.seconds.get("total", 0.0) - counted
    session.took("decide", time.perf_counter() - begin - verifying)
    schema = corpus_schema(plan.documents, plan.extras.names, signals=plan.recipe.write.signals)
    sizes = [PartSize(part, rows, text) for part, (rows, text) in enumerate(decided["parts"])]
    shards = plan_shards(sizes, plan.recipe.write, plan.recipe.seed, schema)
    bare = replace(shards, parts=(), starts=())  # a list of all parts would travel with each job
    aside = session.run("split", [Job("split", part_name(i), split, (bare, i)) for i in parts])
    shards = _merged(session, shards, aside)
    jobs = [Job("write", f"shard-{i:05d}", gather, (own, i)) for i, own in enumerate(shards.each())]
    written = session.run("write", jobs, keep=after.take)
    check_steps(plan.steps, plan.identity["operators"])
    spread = {
        "before": {**decided["effective"]["before"], **text_figures(folder, filtered, before)},
        "after": {**decided["effective"]["after"], **text_figures(folder, written, after)},
    }
    manifest = build_manifest(plan, filtered, decided, written, aside, spread)
    write_card(folder, manifest)
    manifest.save(folder)
    return manifest


def _merged(session: Session, shards: ShardPlan, aside: list[Counts]) -> ShardPlan:
    """Where parts and shards are very many, the rows on their way are put together in fewer files."""
    size = sum(size for one in aside for name, size, _ in one["files"] if name.endswith(".batches"))
    if shards.shuffle:
        buckets = shards.num_shards * shards.slices
        shards = replace(shards, merged=files_merged(len(shards.parts), buckets, size))
    if shards.merged > 1:
        names = (f"of-{shards.merged:05d}-{i:05d}" for i in range(shards.groups))
        session.run(
            "merge", [Job("merge", name, merge, (shards, i)) for i, name in enumerate(names)], shown=False
        )
    return shards


def _finished(folder: Folder, console: Console) -> Manifest | None:
    """The manifest of a run whose files are all there; where some are not, their jobs are to run again."""
    if not folder.exists(MANIFEST):
        return None
    manifest = Manifest.load(folder)
    try:
        manifest.verify(folder)
    except ChangedError as error:
        console.print(f"this run was finished, but not all of it is there; mending:\n{escape(str(error))}")
        folder.remove(MANIFEST)
        return None
    return manifest


def _report(folder: Folder) -> dict[str, float]:
    return dict(json.loads(folder.read_bytes(REPORT))) if folder.exists(REPORT) else {}


def _clean(folder: Folder) -> None:
    """Drop what was only on its way: it is as large as the corpus and nothing reads it again. What workers that died
    had begun is dropped, too."""
    folder.clean_temps()
    for stage in ("scatter", "verify"):
        folder.remove_all(folder.list(f"stages/{stage}"))
    clean_marks(folder, (FILTER, "decide", "split", "merge", "write"))


def _check_plan(folder: Folder, plan: Plan, *, but: str = "") -> None:
    """Refuse a folder that holds a run of another plan.

    `but`: a part of the identity that may differ (a finished run is not made again by newer libraries).
    """
    if not folder.exists(PLAN):
        if folder.list("stages/filter"):
            raise ChangedError(
                f"{folder.url}: holds parts of a run but not its {PLAN}; choose another `output`, or delete the folder"
            )
        return
    try:
        held = json.loads(folder.read_bytes(PLAN))
    except ValueError as error:
        raise ChangedError(f"{folder.join(PLAN)}: not a plan ({error}); choose another `output`") from error
    before, now = (
        {key: value for key, value in identity.items() if key != but} for identity in (held, plan.identity)
    )
    lines = differences(before, now)
    if not lines:
        return
    more = f"\n... {len(lines) - 40} more lines" if len(lines) > 40 else ""
    raise ChangedError(
        f"{folder.url}: holds a run of another recipe or input; choose another `output`, or delete the folder:\n"
        + "\n".join(lines[:40])
        + more
    )
