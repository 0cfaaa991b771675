"""`malmoi why RUN ID`: what happened to one document, from the files of the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from malmoi.operators.contract import DROP, LANGUAGE, TEXT, Limit, Operator
from malmoi.operators.exact import id_hash

from .config import build_steps, parse_recipe
from .errors import SourceError
from .identity import FORMAT
from .local_ray import usable_cpus
from .manifest import FILE as MANIFEST
from .manifest import Manifest
from .run_folder import is_there, run_folder
from .scatter import order_key, shard_of
from .shards import part_file
from .storage import Folder, in_parallel
from .written import Sizes, part_name


@dataclass(frozen=True)
class Fate:
    """One document of a run: where it lies, its columns without the text, and the verdict on it."""

    part: str
    file: str
    row: int
    columns: dict[str, Any]
    text: str
    reason: str | None
    verdict: dict[str, Any] = field(default_factory=dict)


def find(folder: Folder, id: str, source: str | None = None) -> list[Fate]:
    """Every document of the run with this id (an id is unique within its source)."""
    parts, there = range(read_plan(folder)["parts"]), Sizes(folder)

    def look(at: tuple[int, str]) -> list[Fate]:
        name = part_file(*at)
        return [] if there.of(name) is None else list(_in_file(folder, name, part_name(at[0]), id, source))

    places = [(index, kind) for index in parts for kind in ("kept", "dropped")]
    return [fate for found in in_parallel(folder, look, places, local=usable_cpus()) for fate in found]


def read_plan(folder: Folder) -> dict[str, Any]:
    """plan.json of a run; SourceError where there is none, or another version's."""
    if not is_there(folder, "plan.json"):
        raise SourceError(f"{folder.url}: not a run: there is no plan.json in it")
    plan: dict[str, Any] = json.loads(folder.read_bytes("plan.json"))
    if plan.get("format") != FORMAT:
        raise SourceError(
            f"{folder.url}: made by malmoi {plan.get('malmoi', '?')}, which laid out its stages in another way; "
            "ask that version, or run the recipe again"
        )
    return plan


def _in_file(folder: Folder, name: str, part: str, id: str, source: str | None) -> Iterator[Fate]:
    with folder.open(name) as stream:
        file = pq.ParquetFile(stream)
        first = 0
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["id", "source"])
            same = pc.equal(ids.column("id"), pa.scalar(id, pa.large_string()))
            if source is not None:
                same = pc.and_(same, pc.equal(ids.column("source"), pa.scalar(source, pa.large_string())))
            for row in pc.indices_nonzero(same).to_pylist():
                columns = file.read_row_group(group).slice(row, 1).to_pylist()[0]
                text = columns.pop(TEXT)
                verdict = _verdict(folder, part, first + row) if ".kept." in name else {}
                reason = columns.pop(DROP) or verdict.get("reason")
                yield Fate(part, name, first + row, columns, text, reason, verdict)
            first += ids.num_rows


def _verdict(folder: Folder, part: str, row: int) -> dict[str, Any]:
    name = f"stages/decide/{part}.verdict.parquet"
    if not folder.exists(name):
        return {}
    with folder.open(name) as stream:
        found: dict[str, Any] = pq.read_table(stream).slice(row, 1).to_pylist()[0]
    return found


def _limits(steps: tuple[Operator, ...], language: str) -> dict[str, Limit]:
    """The limit of each signal; of two on one signal, the one that bounds it more."""
    limits: dict[str, Limit] = {}
    for step in steps:
        of = getattr(step, "limits", None)
        for limit in of(language) if of else ():
            before = limits.get(limit.signal)
            if before is None or (limit.min or 0.0) > (before.min or 0.0):
                limits[limit.signal] = limit
    return limits


def _range(limit: Limit | None) -> str:
    if limit is None or (limit.min is None and limit.max is None):
        return ""
    if limit.min == float("inf"):
        return "a language of `keep`"
    if limit.min is None:
        return f"<= {limit.max:g}"
    return f">= {limit.min:g}" if limit.max is None else f"{limit.min:g} .. {limit.max:g}"


def _fails(limit: Limit | None, value: Any) -> bool:
    if limit is None or not isinstance(value, int | float):
        return False
    low = limit.min is not None and value < limit.min
    return low or (limit.max is not None and value > limit.max)


def _headline(fate: Fate) -> str:
    verdict = fate.verdict
    if fate.reason is None:
        copies = verdict.get("copies")
        if copies is None:
            return "[green]kept[/] so far; deduplication and mixture have not run yet"
        return f"[green]in the corpus[/], {copies} time{'s' if copies != 1 else ''}"
    line = f"[red]not in the corpus[/]: {escape(fate.reason)}"
    if verdict.get("duplicate_of") is not None:
        line += (
            f"\n  survivor: {escape(verdict['duplicate_of'])} (source {escape(verdict['duplicate_source'])})"
        )
        line += f", similarity {verdict['similarity']:.3f}"
    return line


def _place(folder: Folder, fate: Fate) -> str:
    """Where the document lies: its part, and its shards of the corpus."""
    line = f"part: {fate.file}, row {fate.row}"
    copies = fate.verdict.get("copies") or 0
    if not copies or not folder.exists(MANIFEST):
        return line
    manifest = Manifest.load(folder)
    if not manifest.recipe["write"]["shuffle"]:
        return line
    lo, hi = id_hash(pa.array([fate.columns["source"]]), pa.array([fate.columns["id"]]))
    epochs = np.arange(copies)
    keys = order_key(np.repeat(lo, copies), np.repeat(hi, copies), epochs, manifest.recipe["seed"])
    shards = sorted(set(shard_of(keys, len(manifest.corpus)).tolist()))
    return f"{line}\ncorpus: {', '.join(manifest.corpus[shard].path for shard in shards)}"


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return escape(text if len(text) <= 32 else text[:31] + "…")


def _signals(fate: Fate, limits: dict[str, Limit], own: set[str]) -> Table:
    """The signals of the steps (`own` are their columns) with their limits, then the input's columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("signal", "value", "wanted", ""):
        table.add_column(heading, no_wrap=True, min_width=8 if heading == "wanted" else None)
    columns = {name: value for name, value in fate.columns.items() if name not in ("id", "source")}
    for name in sorted(columns, key=lambda name: name not in own):
        value, limit = columns[name], limits.get(name)
        if name in own:
            table.add_row(name, _shown(value), _range(limit), "[red]fails[/]" if _fails(limit, value) else "")
        elif value is not None:
            table.add_row(f"[dim]{escape(name)}[/]", _shown(value), "[dim]from the input[/]", "")
    return table


def print_why(run: str, id: str, source: str | None, console: Console, overrides: Iterable[str] = ()) -> None:
    """Print each document with this id; SourceError if there is none. `run`, `overrides`: as in `run_folder`."""
    folder = run_folder(run, overrides)
    steps = build_steps(parse_recipe({**read_plan(folder)["recipe"], "output": folder.url}))
    fates = find(folder, id, source)
    if not fates:
        where = f" in source {source!r}" if source else ""
        raise SourceError(
            f"{folder.url}: no document with id {id!r}{where}; a record that could not be read is in "
            f"{folder.url}/quarantine"
        )
    print_fates(folder, steps, fates, console)


def print_fates(folder: Folder, steps: tuple[Operator, ...], fates: Iterable[Fate], console: Console) -> None:
    """Print what was found of documents; `steps` are the run's operators."""
    own = {name for step in steps for name in step.adds.names} | {"num_tokens"}
    for fate in fates:
        console.print(f"[bold]{escape(fate.columns['id'])}[/]  source {escape(fate.columns['source'])}")
        console.print(_headline(fate), soft_wrap=True)
        console.print(escape(_place(folder, fate)), soft_wrap=True)
        shown = repr(fate.text[:160]) + (" ..." if len(fate.text) > 160 else "")
        console.print(f"text: {escape(shown)}\n", soft_wrap=True)
        limits = _limits(steps, fate.columns.get(LANGUAGE) or "")
        console.print(_signals(fate, limits, own), soft_wrap=True)
        console.print()
