"""The mixture of a run: how often each unique document stands in the corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from malmoi.operators.mixture import plan_mixture, repetitions

from .errors import RecipeError
from .keys import Keys
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
    """Plan the mixture over the `unique` documents (int64 ordinals) and choose from them.

    Raises RecipeError where the recipe's weights do not fit the groups that are there.
    """
    groups = keys.names["group"]
    codes = groups.codes[unique]
    sizes = _sizes(mixture, keys)[unique]
    documents = np.bincount(codes, minlength=len(groups.names))
    totals = np.zeros(len(groups.names), dtype=np.int64)
    np.add.at(totals, codes, sizes)
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
    id_lo, id_hi = (keys.numbers[name][unique] for name in ("id_lo", "id_hi"))
    order = order_key(id_lo, id_hi, np.zeros(len(unique), dtype=np.int64), (seed + _SALT) % 2**64)
    quality = keys.numbers["quality"][unique] if mixture.choose == "quality" else None
    copies = np.zeros(keys.num_docs, dtype=np.int32)
    everything = (
        mixture.method == "as_is" and mixture.budget is None
    )  # also where a group has no bytes at all
    copies[unique] = 1 if everything else repetitions(codes, sizes, targets, order, quality)
    shares = {} if mixture.method == "as_is" else {group.name: group.share for group in plan.groups}
    notes += plan.shortfalls
    if plan.limited_by:
        notes.append(f"{plan.limited_by} ran out first, at {mixture.max_epochs:g} epochs, and set the total")
    return Mixed(copies, shares, tuple(notes))


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
        return np.ones(keys.num_docs, dtype=np.int64)
    return keys.numbers["text_bytes" if mixture.unit == "bytes" else "tokens"]
