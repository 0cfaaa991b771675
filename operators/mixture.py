"""Mixture: how much of each group a corpus wants, what the data gives, and how often a document stands in it.

Sizes are in one unit throughout (documents, bytes or tokens). Shares and targets are computed with exact
fractions, so that a target meant to be the whole of a group is the whole of it, to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from .candidates import by_hash
from .config import did_you_mean

Method = Literal["as_is", "given", "temperature", "unimax"]
METHODS: tuple[Method, ...] = ("as_is", "given", "temperature", "unimax")


@dataclass(frozen=True)
class GroupPlan:
    """One group: `share` asked for, `size` and `target` in the plan's unit, `epochs` = target / size."""

    name: str
    documents: int
    size: int
    share: float
    target: int
    epochs: float


@dataclass(frozen=True)
class MixturePlan:
    """What the corpus is made of, in the order of the groups that were given.

    `total` is the sum of the targets. `limited_by`: without a budget, the group that ran out first and so set
    the total ("" where none did). `shortfalls`: one sentence with numbers for each thing asked for that the
    data cannot give; `feasible` says that there are none.
    """

    unit: str
    method: Method
    max_epochs: float
    budget: int | None
    total: int
    groups: tuple[GroupPlan, ...]
    limited_by: str
    shortfalls: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        return not self.shortfalls


def _exact(value: float) -> Fraction:
    """The decimal that was written: 0.1 is one tenth."""
    return Fraction(repr(float(value)))


def _given(sizes: Mapping[str, int], weights: Mapping[str, float]) -> list[Fraction]:
    for name, weight in weights.items():
        if name not in sizes:
            raise ValueError(f"weights: no group {name!r} in the data{did_you_mean(name, list(sizes))}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weights: {name}: want a finite number >= 0, got {weight}")
    missing = [name for name in sizes if name not in weights]
    if missing:
        raise ValueError(
            f"weights: no weight for {', '.join(map(repr, missing))}; write 0 to leave a group out"
        )
    if sizes and not any(weights.values()):
        raise ValueError("weights: want at least one above 0")
    return [_exact(weights[name]) for name in sizes]


def _unimax(sizes: Mapping[str, int], max_epochs: Fraction, budget: int) -> list[Fraction]:
    """Algorithm 1 of Chung et al. 2023: the rest of the budget is shared evenly, the smallest group first."""
    left, shares = Fraction(budget), dict.fromkeys(sizes, Fraction(0))
    order = sorted(sizes, key=lambda name: (sizes[name], name))
    for done, name in enumerate(order):
        even = left / (len(order) - done)
        shares[name] = min(even, Fraction(int(sizes[name] * max_epochs)))
        left -= shares[name]
    return [shares[name] for name in sizes]


def _shares(
    sizes: Mapping[str, int],
    method: Method,
    weights: Mapping[str, float],
    temperature: float,
    max_epochs: float,
    budget: int | None,
) -> list[Fraction]:
    if method not in METHODS:
        raise ValueError(f"method: unknown {method!r}{did_you_mean(method, list(METHODS))}")
    if method != "given" and weights:
        raise ValueError(f"weights: only method 'given' takes them, got method {method!r}")
    if not temperature > 0:
        raise ValueError(f"temperature: want more than 0, got {temperature}")
    if not 0 < max_epochs < float("inf"):
        raise ValueError(f"max_epochs: want more than 0, got {max_epochs}")
    if budget is not None and budget < 1:
        raise ValueError(f"budget: want at least 1, got {budget}")
    if any(size < 0 for size in sizes.values()):
        raise ValueError(f"sizes: want 0 or more, got {min(sizes.values())}")
    if method == "given":
        raw = _given(sizes, weights)
    elif method == "unimax":
        raw = _unimax(sizes, _exact(max_epochs), sum(sizes.values()) if budget is None else budget)
    elif method == "temperature" and temperature != 1.0:
        largest = max(sizes.values(), default=0) or 1
        raw = [_exact((size / largest) ** (1.0 / temperature)) for size in sizes.values()]
    else:
        raw = [Fraction(size) for size in sizes.values()]
    whole = sum(raw, Fraction(0))
    return [one / whole if whole else Fraction(0) for one in raw]


def group_weights(
    sizes: Mapping[str, int],
    method: Method = "as_is",
    weights: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    max_epochs: float = 1.0,
    budget: int | None = None,
) -> dict[str, float]:
    """The share of each group in the corpus, summing to 1 (all 0 where there is no data).

    - "as_is": by size.
    - "given": `weights` (relative, 0 leaves a group out) names every group of `sizes`, no more and no less.
    - "temperature": share ~ size ** (1 / temperature). 1 is by size, larger is more even. mT5 (arXiv
      2010.11934) and XLM-R (arXiv 1911.02116) write alpha = 1 / temperature and use 0.3, that is 3.33.
    - "unimax": UniMax (Chung et al. 2023, arXiv 2304.09151): as even as `budget` allows with no group
      repeated more than `max_epochs` times. Without a budget it is the size of the data.

    ValueError for a wrong value and for group names that do not match.
    """
    shares = _shares(sizes, method, weights or {}, temperature, max_epochs, budget)
    return {name: float(share) for name, share in zip(sizes, shares, strict=True)}


def _to_integers(amounts: list[Fraction], total: int) -> list[int]:
    """Whole units that sum to `total`: rounded down, what is left to the largest remainders, in order."""
    floors = [int(amount) for amount in amounts]
    by_remainder = sorted(range(len(amounts)), key=lambda k: (floors[k] - amounts[k], k))
    for k in by_remainder[: total - sum(floors)]:
        floors[k] += 1
    return floors


def _short(name: str, wanted: int, size: int, max_epochs: float, cap: int, unit: str) -> str:
    epochs = f"{size:,} x {max_epochs:g} epoch{'' if max_epochs == 1 else 's'} = {cap:,}"
    return f"{name}: wants {wanted:,} {unit}, has {epochs}; short by {wanted - cap:,}"


def _largest(
    names: list[str], sizes: list[int], shares: list[Fraction], caps: list[Fraction], unit: str
) -> tuple[list[int], str, list[str]]:
    """Targets of the largest total that meets the shares, the group that sets it, and who has no data."""
    able = [k for k, share in enumerate(shares) if share and sizes[k]]
    empty = [k for k, share in enumerate(shares) if share and not sizes[k]]
    said = [
        f"{names[k]}: wants a share of {float(shares[k]):.4g}, has no {unit}; it is left out" for k in empty
    ]
    if not able:
        return [0] * len(names), "", said
    tightest = min(able, key=lambda k: (caps[k] / shares[k], k))
    total = caps[tightest] / shares[tightest]
    return [int(share * total) if sizes[k] else 0 for k, share in enumerate(shares)], names[tightest], said


def plan_mixture(
    groups: Sequence[str],
    documents: Sequence[int],
    sizes: Sequence[int],
    method: Method = "as_is",
    weights: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    max_epochs: float = 1.0,
    budget: int | None = None,
    unit: str = "bytes",
) -> MixturePlan:
    """How much of each group to take; shares as in `group_weights`, `sizes` and `budget` in `unit`.

    With a budget, each group gets share * budget, or all that it can give (size * max_epochs) with the
    difference said in `shortfalls`. Without one, the total is the largest that meets the shares within
    `max_epochs`; but "as_is" then takes every document once, and "unimax" plans for the size of the data.
    Targets are whole units, rounded down; of a budget the rest goes, a unit each, to the largest remainders.
    """
    if not len(groups) == len(documents) == len(sizes):
        lengths = f"{len(groups)} groups, {len(documents)} documents, {len(sizes)} sizes"
        raise ValueError(f"want one entry a group, got {lengths}")
    by_name = {str(name): int(size) for name, size in zip(groups, sizes, strict=True)}
    if len(by_name) != len(groups):
        raise ValueError("groups: want each name once")
    names, have = list(by_name), list(by_name.values())
    shares = _shares(by_name, method, weights or {}, temperature, max_epochs, budget)
    exact_caps = [size * _exact(max_epochs) for size in have]
    caps = [int(cap) for cap in exact_caps]
    limited_by = ""
    said: list[str] = []
    if budget is None and method in ("given", "temperature"):
        targets, limited_by, said = _largest(names, have, shares, exact_caps, unit)
    else:
        total = sum(have) if budget is None else budget
        wanted = _to_integers([share * total for share in shares], total) if any(shares) else [0] * len(have)
        if budget is None:  # more than all the data was not asked for: an epoch below 1 is a choice
            wanted = [min(want, cap) for want, cap in zip(wanted, caps, strict=True)]
        targets = [min(want, cap) for want, cap in zip(wanted, caps, strict=True)]
        for k, want in enumerate(wanted):
            if want > caps[k]:
                said.append(_short(names[k], want, have[k], max_epochs, caps[k], unit))
        if budget is not None and sum(targets) < budget:
            said.append(
                f"in all: wants {budget:,} {unit}, gets {sum(targets):,}; short by {budget - sum(targets):,}"
            )
    rows = zip(names, documents, have, shares, targets, strict=True)
    made = tuple(
        GroupPlan(name, int(count), size, float(share), target, target / size if size else 0.0)
        for name, count, size, share, target in rows
    )
    return MixturePlan(unit, method, max_epochs, budget, sum(targets), made, limited_by, tuple(said))


def repetitions(
    group_codes: np.ndarray,
    sizes: np.ndarray,
    targets: np.ndarray,
    order_key: np.ndarray,
    quality: np.ndarray | None = None,
) -> np.ndarray:
    """How often each document stands in the corpus: int32 [documents].

    `group_codes` int [documents], indices into `targets` int64 [groups]; `sizes` int64 [documents] in the
    targets' unit; `order_key` uint64 [documents], a hash of (id, seed); `quality` None or float64
    [documents].

    All documents of a group get its whole epochs (target // size of the group). What remains of the target
    goes once more to the documents from the front of the group's order, as long as their sizes add up to no
    more than it: the first that would exceed it ends the list. So a group comes short of its target by less
    than one document, and a larger target only adds documents. The order is by `order_key`, or by `quality`
    (largest first, NaN last) and then `order_key`; equal keys by size, then by row. A group of size 0 gets no
    copies.
    """
    codes, sizes = np.asarray(group_codes), np.asarray(sizes, np.int64)
    targets = np.asarray(targets, np.int64)
    lengths = {len(codes), len(sizes), len(order_key), len(codes if quality is None else quality)}
    if len(lengths) != 1:
        raise ValueError(f"want arrays of one length, got lengths {sorted(lengths)}")
    if len(codes) == 0:
        return np.zeros(0, np.int32)
    if codes.min() < 0 or codes.max() >= len(targets):
        raise ValueError(f"group_codes: want 0..{len(targets) - 1}, got {codes.min()}..{codes.max()}")
    if sizes.min() < 0 or targets.min() < 0:
        raise ValueError(f"want sizes and targets of 0 or more, got {sizes.min()} and {targets.min()}")
    totals = np.zeros(len(targets), np.int64)
    np.add.at(totals, codes, sizes)
    whole = np.where(totals > 0, targets // np.maximum(totals, 1), 0)
    rest = np.where(totals > 0, targets - whole * totals, 0)
    copies: np.ndarray = whole.astype(np.int32)[codes]
    rows = np.flatnonzero((rest > 0)[codes])  # only groups with a fraction of an epoch need an order
    rows = rows[by_hash(np.asarray(order_key, np.uint64)[rows], sizes[rows])]
    if quality is not None:
        worst_last = -np.asarray(quality, np.float64)[rows]
        rows = rows[np.argsort(np.where(np.isnan(worst_last), np.inf, worst_last), kind="stable")]
    rows = rows[np.argsort(codes[rows], kind="stable")]
    before = np.cumsum(sizes[rows])
    before -= sizes[rows]
    starts = np.flatnonzero(np.diff(codes[rows], prepend=-1))
    base = np.repeat(before[starts], np.diff(starts, append=len(rows)))
    copies[rows[before - base + sizes[rows] <= rest[codes[rows]]]] += 1
    return copies
