"""Whether deduplication took too much: losses by source and language, the largest clusters, and the stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .errors import AlarmError
from .keys import Coded, blocks
from .manifest import Loss
from .recipe import Dedup
from .shards import read_rows
from .shuffle import MAX_BUCKET
from .storage import Folder

if TYPE_CHECKING:
    from .decide import Names

CLUSTERS = 10
SAMPLE_CHARS = 160
TOP_LOST = 20
FEW = 100
"""A language of fewer documents raises no alarm: of two copies one is half."""

_TEXT = pa.schema([("text", pa.large_string())])


def losses(coded: Coded, entered: np.ndarray, exact: np.ndarray, fuzzy: np.ndarray) -> tuple[Loss, ...]:
    """By name; `entered`, `exact`, `fuzzy`: bool [documents]."""
    masks, size = (entered, exact, fuzzy), len(coded.names)
    counts = np.zeros((len(masks), size), dtype=np.int64)
    for block in blocks(len(coded.codes)):
        for count, mask in zip(counts, masks, strict=True):
            count += np.bincount(coded.codes[block][mask[block]], minlength=size)
    return tuple(Loss(name, *(int(count[i]) for count in counts)) for i, name in enumerate(coded.names))


def alarms(
    sources: tuple[Loss, ...], languages: tuple[Loss, ...], share: float, left: int
) -> tuple[str, ...]:
    """A line for each source and each language that lost more than `share`, and for what was not compared."""
    many = [loss for loss in languages if loss.source and loss.documents >= FEW]
    lines = [_lost(loss.source, loss) for loss in sources if _over(loss, share)]
    lines += [_lost(f"language {loss.source}", loss) for loss in many if _over(loss, share)]
    if left:
        lines.append(
            f"alarm: {left:,} or more candidate pairs in buckets of over {MAX_BUCKET} documents were not compared "
            "within 64 rounds: near-duplicates may be left among pages of one template"
        )
    return tuple(lines)


def _over(loss: Loss, share: float) -> bool:
    return loss.exact + loss.fuzzy > share * loss.documents


def _lost(name: str, loss: Loss) -> str:
    return f"alarm: {name} lost {loss.exact + loss.fuzzy:,} of {loss.documents:,} documents to deduplication"


def largest(names: Names, survivor: np.ndarray) -> list[dict[str, Any]]:
    """The clusters that most documents went into: survivor, its place, how many documents with it."""
    stays, sizes = np.unique(survivor[survivor >= 0], return_counts=True)
    chosen = np.lexsort((stays, -sizes))[:CLUSTERS]
    ordinals, table = names.of(stays[chosen])
    rows = table.to_pylist()
    found = []
    for place in chosen.tolist():
        document = int(stays[place])
        row = rows[int(np.searchsorted(ordinals, document))]
        part = int(np.searchsorted(names.people.first, document, side="right")) - 1
        here = document < names.keys.num_docs
        found.append(
            {
                **row,
                "documents": int(sizes[place]) + 1,
                "part": part if here else None,
                "row": document - names.people.first[part],
            }
        )
    return found


def samples(folder: Folder, clusters: list[dict[str, Any]]) -> list[str]:
    """A line for each cluster: its size, its survivor, the beginning of the survivor's text."""
    lines = []
    for cluster in clusters:
        text = ""
        if cluster["part"] is not None:
            rows = read_rows(folder, cluster["part"], np.array([cluster["row"]]), _TEXT)
            text = ": " + repr(rows.column("text")[0].as_py()[:SAMPLE_CHARS])
        where = f"{cluster['id']} ({cluster['source']})"
        lines.append(f"{cluster['documents']:,} documents like {where}{text}")
    return lines


def stop_on_alarm(folder: Folder, dedup: Dedup, counts: Mapping[str, Any]) -> None:
    """AlarmError where something lost too much and the recipe wants the run to stop for it."""
    lost = [line for line in counts["dedup"]["alarms"] if "to deduplication" in line]
    if dedup.on_alarm != "stop" or not lost:
        return
    clusters = "\n  ".join(samples(folder, counts.get("largest", [])[:5]))
    more = [f"... {len(lost) - TOP_LOST} more"] if len(lost) > TOP_LOST else []
    raise AlarmError(
        "decide: stopped by dedup.on_alarm: stop:\n  "
        + "\n  ".join(lost[:TOP_LOST] + more)
        + f"\nlargest clusters:\n  {clusters}\nlook at `malmoi duplicates {folder.url}`; the same command with "
        "dedup.on_alarm=warn goes on from here"
    )
