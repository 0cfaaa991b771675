"""The rows of a step are the same for any number of workers; rows that fill up count nothing."""

from __future__ import annotations

import pytest
import torch
from train_rows import recipe

from malmoi.training.batches import Split, Steps
from malmoi.training.losses import IGNORE
from malmoi.training.plan import make_plan, open_reader, rows_held_out, steps_of


def rows_of_steps(plan, world, count, per_device=2, seek=0):
    """The input rows of each step with something to predict, over all workers, sorted."""
    found = [[] for _ in range(count)]
    sizes = set()
    for rank in range(world):
        split = Split.of(plan.recipe.batch.rows, per_device, rank, world)
        steps = Steps(open_reader(plan, split, 0, plan.train_rows), split, separate=False)
        steps.seek(seek)
        for rows in found:
            batches = steps.next()
            sizes.add(len(batches))
            for batch in batches:
                assert len(batch.input_ids) <= per_device
                for ids, target in zip(batch.input_ids, batch.target, strict=True):
                    if (target != IGNORE).any():
                        rows.append(tuple(ids.tolist()))
        steps.close()
    assert len(sizes) == 1  # every worker has as many micro batches, or they would wait for each other
    return [sorted(rows) for rows in found]


@pytest.mark.parametrize("kind", ["text", "sft"])
@pytest.mark.parametrize("world", [2, 3, 4, 6])
def test_steps_do_not_depend_on_the_number_of_workers(kind, world, text_rows, sft_rows, tmp_path):
    plan = make_plan(recipe(text_rows if kind == "text" else sft_rows, tmp_path))
    assert rows_of_steps(plan, world, 9) == rows_of_steps(plan, 1, 9)


def test_an_epoch_has_each_row_once_across_a_change_of_workers(text_rows, tmp_path):
    plan = make_plan(recipe(text_rows, tmp_path, batch={"rows": 5}))
    first = rows_of_steps(plan, 2, 3)
    then = rows_of_steps(plan, 3, 5, seek=15)
    flat = [row for rows in (*first, *then) for row in rows]
    assert len(flat) == len(set(flat)) == plan.train_rows == 40


@pytest.mark.parametrize(
    ("rows", "per_device", "world", "want"),
    [
        (8, 8, 1, (8, 8, 1)),
        (8, 3, 1, (8, 3, 3)),
        (8, 2, 4, (2, 2, 1)),
        (8, 4, 3, (3, 3, 1)),
        (7, 2, 2, (4, 2, 2)),
    ],
)
def test_split(rows, per_device, world, want):
    split = Split.of(rows, per_device, 0, world)
    assert (split.each, split.size, split.micro) == want


@pytest.mark.parametrize(
    ("rows", "share", "want"), [(40, 0.0, 0), (40, 0.1, 4), (40, 0.001, 1), (2, 0.99, 1)]
)
def test_held_out_rows(rows, share, want):
    assert rows_held_out(rows, share) == want


def test_length_of_a_run():
    of = {"rows": 100, "row_tokens": 10, "batch_rows": 8}
    assert steps_of(7, None, None, **of) == 7
    assert steps_of(None, 1.0, None, **of) == 13
    assert steps_of(None, None, 801, **of) == 11


def test_held_out_rows_are_never_trained_on(text_rows, tmp_path):
    plan = make_plan(recipe(text_rows, tmp_path, data={"path": text_rows, "holdout": 0.25}))
    assert (plan.train_rows, plan.heldout_rows) == (30, 10)
    trained = {row for rows in rows_of_steps(plan, 1, 10) for row in rows}
    split = Split.of(10, 10, 0, 1)
    held = Steps(open_reader(plan, split, 30, 40), split, separate=False).next()[0].input_ids
    assert len(trained) == 30
    assert not trained & {tuple(x) for x in held.tolist()}
    assert held.dtype == torch.int64
