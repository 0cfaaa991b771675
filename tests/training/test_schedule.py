"""Learning rates against the formulas, at the steps where they bend."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from malmoi.training.recipe import ScheduleSettings
from malmoi.training.schedule import factor, warmup_steps


def curve(steps, **settings):
    made = ScheduleSettings(**settings)
    return [factor(made, step, steps) for step in range(steps)]


def test_warmup_rises_to_one():
    assert curve(20, kind="constant", warmup=4)[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("warmup", "want"), [(0.0, 0), (0.1, 10), (0.999, 100), (1.0, 1), (7, 7), (500, 100)]
)
def test_warmup_is_a_share_or_a_number(warmup, want):
    assert warmup_steps(ScheduleSettings(warmup=warmup), 100) == want


def test_cosine():
    got = curve(110, kind="cosine", warmup=10, min_lr_ratio=0.1)
    assert got[10] == 1.0
    assert got[60] == pytest.approx(0.1 + 0.9 * 0.5)
    assert got[-1] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 0.99)))
    assert all(a >= b for a, b in pairwise(got[10:]))


def test_wsd_is_flat_and_then_falls_to_the_least():
    got = curve(100, kind="wsd", warmup=0, decay=0.2, min_lr_ratio=0.0)
    assert got[:80] == [1.0] * 80
    assert got[80] == pytest.approx(0.95)
    assert got[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs(kind, steps):
    assert all(0.0 <= x <= 1.0 for x in curve(steps, kind=kind))


def test_beyond_the_end_it_stays():
    made = ScheduleSettings(kind="cosine")
    assert factor(made, 500, 100) == factor(made, 99, 100)
