"""The mixture of a run: how often each unique document stands in the corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from malmoi.operators.mixture import plan_mixture, repetitions

from .errors import RecipeError
from .keys import Keys, add_by, blocks
from .recipe import Mixture
from .scatter import order_key

_SALT = 0x6D69787475726521  # keeps the order of choice apart from the order of the shuffle


@dataclass(frozen=True)
class Mixed:
    """copies: int32 [documents]; targets: share asked for by group; notes: what could not be met."""

    copies: np.ndarray
    targets: dict[str, float]
    notes: tuple[str, ...]


def mix(mixture: Mixture, seed: int, keys: Keys, unique: np.ndarray) -> Mixed:
    """Plan the mixture over the `unique` documents (bool [documents]) and choose from them.

    Raises RecipeError where the recipe's weights do not fit the groups that are there.
    """
    groups = keys.names["group"]
    documents, totals = _totals(mixture, keys, unique)
    given = mixture.method == "given"
    there = np.arange(len(groups.names)) if given else np.flatnonzero(documents)
    names = [groups.names[code] for code in there]
    weights, absent, notes = _weights(mixture, names, documents[there]) if given else ({}, [], [])
    try:
        plan = plan_mixture(
            names + absent,
            documents[there].tolist() + [0] * len(absent),
            totals[there].tolist() + [0] * len(absent),
            mixture.method,
            weights,
            mixture.temperature,
            mixture.max_epochs,
            mixture.budget,
            mixture.unit,
        )
    except ValueError as error:
        raise RecipeError(f"mixture by {mixture.by}: {error}") from error
    targets = np.zeros(len(groups.names), dtype=np.int64)
    targets[there] = [group.target for group in plan.groups[: len(there)]]
    everything = (
        mixture.method == "as_is" and mixture.budget is None
    )  # also where a group has no bytes at all
    copies = unique.astype(np.int32) if everything else _choose(mixture, seed, keys, unique, targets)
    shares = {} if mixture.method == "as_is" else {group.name: group.share for group in plan.groups}
    notes += plan.shortfalls
    if plan.limited_by:
        notes.append(f"{plan.limited_by} ran out first, at {mixture.max_epochs:g} epochs, and set the total")
    return Mixed(copies, shares, tuple(notes))


def _totals(mixture: Mixture, keys: Keys, unique: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents and size of each group, int64 [groups]."""
    groups, sizes = keys.names["group"], _sizes(mixture, keys)
    documents, totals = (np.zeros(len(groups.names), dtype=np.int64) for _ in range(2))
    for block in blocks(keys.num_docs):
        codes = groups.codes[block][unique[block]]
        documents += np.bincount(codes, minlength=len(documents))
        add_by(totals, codes, sizes[block][unique[block]].astype(np.int64))
    return documents, totals


def _choose(mixture: Mixture, seed: int, keys: Keys, unique: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """copies: int32 [documents]."""
    order = np.empty(np.count_nonzero(unique), dtype=np.uint64)
    done = 0
    for block in blocks(keys.num_docs):
        lo, hi = (keys.numbers[name][block][unique[block]] for name in ("id_lo", "id_hi"))
        order[done : done + len(lo)] = order_key(lo, hi, np.zeros(len(lo), np.int64), (seed + _SALT) % 2**64)
        done += len(lo)
    quality = keys.numbers["quality"][unique] if mixture.choose == "quality" else None
    codes, sizes = keys.names["group"].codes[unique], _sizes(mixture, keys)[unique]
    copies = np.zeros(keys.num_docs, dtype=np.int32)
    copies[unique] = repetitions(codes, sizes, targets, order, quality)
    return copies


def _weights(
    mixture: Mixture, names: list[str], documents: np.ndarray
) -> tuple[dict[str, float], list[str], list[str]]:
    """(a weight for every group, the groups with a weight and without a document, what is to be said).

    Which groups there are is known only after the rules, so neither case stops the run; both are told.
    """
    absent = sorted(set(mixture.weights) - set(names))
    left_out = [
        f"{name or '(none)'}: no weight is given, so its {count:,} documents are left out"
        for name, count in zip(names, documents.tolist(), strict=True)
        if name not in mixture.weights and count
    ]
    return {name: mixture.weights.get(name, 0.0) for name in [*names, *absent]}, absent, left_out


def _sizes(mixture: Mixture, keys: Keys) -> np.ndarray:
    if mixture.unit == "documents":
        return np.broadcast_to(np.int64(1), keys.num_docs)
    return keys.numbers["text_bytes" if mixture.unit == "bytes" else "tokens"]
