"""A slow training loop that knows the documentation only: plain transformers and torch, a document at a time.

Nothing of malmoi is imported here. Whole float32 rows, no micro batches, no packing, no chunks of logits, no sharding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

IGNORE = -100


class Row(NamedTuple):
    """ids and labels int64 [S]; starts: where the documents of the row begin."""

    ids: Tensor
    labels: Tensor
    starts: list[int]


class Settings(NamedTuple):
    """`apart`: documents of a row do not see each other."""

    steps: int
    apart: bool
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float
    schedule: dict[str, Any]


class LowRank(nn.Module):
    """W x + (alpha / rank) B A x, for a frozen W (Hu et al. 2021)."""

    def __init__(self, inner: nn.Module, a: Tensor, b: Tensor, alpha: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, alpha / len(a)
        self.a, self.b = nn.Parameter(a.detach().clone()), nn.Parameter(b.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.scale * (x @ self.a.T) @ self.b.T


def share_of_rate(
    step: int, steps: int, *, kind: str = "cosine", warmup: float = 0.01, decay: float = 0.2,
    min_lr_ratio: float = 0.1,
) -> float:  # fmt: skip
    rising = min(round(warmup * steps) if warmup < 1 else int(warmup), steps)
    if step < rising:
        return (step + 1) / rising
    if kind == "cosine":
        part = (step - rising) / (steps - rising)
        return min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * part)) / 2
    falling = round(decay * steps) if kind == "wsd" else 0
    if step < steps - falling:
        return 1.0
    return 1 - (1 - min_lr_ratio) * (step - (steps - falling) + 1) / falling


def nats(model: nn.Module, row: Row, apart: bool) -> tuple[Any, int]:
    """The sum over all labelled tokens that have something before them, and how many these are."""
    total: Any = 0.0
    count = 0
    cuts = [*row.starts, len(row.ids)] if apart else [0, len(row.ids)]
    for begin, end in pairwise(cuts):
        logits = model(input_ids=row.ids[None, begin:end], use_cache=False).logits[0, :-1]
        labels = row.labels[begin + 1 : end]
        counts = labels != IGNORE
        if counts.any():
            total = total + cross_entropy(logits[counts], labels[counts], reduction="sum")
            count += int(counts.sum())
    return total, count


class AdamW:
    """Loshchilov & Hutter 2019, algorithm 2: matrices decay, vectors do not."""

    def __init__(self, weights: Sequence[Tensor], settings: Settings) -> None:
        self.weights, self.settings, self.steps = weights, settings, 0
        self.first = [torch.zeros_like(x) for x in weights]
        self.second = [torch.zeros_like(x) for x in weights]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        self.steps += 1
        (b1, b2), eps = self.settings.betas, self.settings.eps
        for x, g, m, v in zip(self.weights, gradients, self.first, self.second, strict=True):
            m.mul_(b1).add_((1 - b1) * g)
            v.mul_(b2).add_((1 - b2) * g**2)
            if x.ndim >= 2:
                x.mul_(1 - lr * self.settings.weight_decay)
            x.sub_(lr * (m / (1 - b1**self.steps)) / ((v / (1 - b2**self.steps)).sqrt() + eps))


def train(
    model: nn.Module, batches: Sequence[Sequence[Row]], settings: Settings
) -> tuple[list[float], list[float]]:
    """Trains what requires gradients, a step for each batch; the loss of each, and the norm before clipping."""
    weights = [x for x in model.parameters() if x.requires_grad]
    optimizer = AdamW(weights, settings)
    losses, norms = [], []
    for step, rows in enumerate(batches):
        sums = [nats(model, row, settings.apart) for row in rows]
        loss = sum(x for x, _ in sums) / sum(count for _, count in sums)
        gradients = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum(float((x.double() ** 2).sum()) for x in gradients))
        if 0 < settings.clip_norm < norm:
            gradients = tuple(x * (settings.clip_norm / norm) for x in gradients)
        optimizer.step(gradients, settings.lr * share_of_rate(step, settings.steps, **settings.schedule))
        losses.append(float(loss.detach()))
        norms.append(norm)
    return losses, norms


def heldout(model: nn.Module, rows: Sequence[Row], apart: bool) -> float:
    with torch.no_grad():
        sums = [nats(model, row, apart) for row in rows]
    return float(sum(x for x, _ in sums)) / sum(count for _, count in sums)
