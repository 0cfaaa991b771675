"""Which checkpoints count, which stay, what is in them."""

from __future__ import annotations

import json

import pytest
import torch

from malmoi.pipeline.errors import ChangedError
from malmoi.training import checkpoint
from malmoi.training.checkpoint import State


def state(step, heldout=None):
    return State(step, step * 2, step * 20, "id", "data", 1, 1.0, heldout)


def trained(value=0.0):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, value)
    module[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([x for x in module.parameters() if x.requires_grad], lr=0.1)
    return module, optimizer


def step(module, optimizer):
    module(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_what_is_trained_comes_back_with_the_optimiser(tmp_path):
    module, optimizer = trained(0.5)
    step(module, optimizer)
    place = checkpoint.save_local(tmp_path, module, optimizer, state(1), (2, 0))
    other, other_optimizer = trained(0.5)
    assert checkpoint.read(place, other, other_optimizer) == state(1)
    for _ in range(2):
        step(module, optimizer)
        step(other, other_optimizer)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_frozen_base_is_not_saved(tmp_path):
    module, optimizer = trained(0.5)
    step(module, optimizer)
    place = checkpoint.save_local(tmp_path, module, optimizer, state(1), (2, 0))
    other, other_optimizer = trained(0.25)
    checkpoint.read(place, other, other_optimizer)
    assert other[0].weight.unique().tolist() == [0.25]
    assert torch.equal(other[1].weight, module[1].weight)


@pytest.fixture
def five(tmp_path):
    module, optimizer = trained()
    step(module, optimizer)
    for number, heldout in enumerate([3.0, 1.0, 2.0, 2.5, 4.0], start=1):
        checkpoint.save_local(tmp_path, module, optimizer, state(number, heldout), (9, 0))
    return tmp_path


def names(output):
    return [int(x.name[5:]) for x in checkpoint.complete_checkpoints(output)]


@pytest.mark.parametrize(
    ("last", "best", "want"), [(1, 0, [5]), (2, 0, [4, 5]), (2, 1, [2, 4, 5]), (1, 2, [2, 3, 5])]
)
def test_the_newest_and_the_best_stay(five, last, best, want):
    checkpoint.prune(five, last, best)
    assert names(five) == want
    assert checkpoint.best_checkpoint(five).name == checkpoint.name_of(
        2 if best else want[0] if last > 1 else 5
    )


@pytest.mark.parametrize("damage", ["cut", "missing", "no commit", "torn commit"])
def test_a_torn_checkpoint_is_passed_over(five, damage):
    newest = checkpoint.complete_checkpoints(five)[-1]
    data = next(newest.glob("*.distcp"))
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "missing":
        data.unlink()
    elif damage == "no commit":
        (newest / checkpoint.COMMIT).unlink()
    else:
        (newest / checkpoint.COMMIT).write_text('{"files"')
    assert names(five) == [1, 2, 3, 4]
    checkpoint.prune(five, 9, 0)
    assert not newest.exists()


def test_what_a_killed_writer_left_is_removed(five):
    left = five / checkpoint.FOLDER / ".tmp-abc"
    left.mkdir()
    (left / "x").write_text("")
    checkpoint.prune(five, 9, 0)
    assert not left.exists()
    assert names(five) == [1, 2, 3, 4, 5]


def test_no_checkpoints(tmp_path):
    assert checkpoint.complete_checkpoints(tmp_path) == []
    assert checkpoint.best_checkpoint(tmp_path) is None


def test_another_recipe_or_other_rows_are_refused():
    checkpoint.check_same(state(1), "id", "data", "x")
    with pytest.raises(ChangedError, match="the recipe is not what this run began with"):
        checkpoint.check_same(state(1), "other", "data", "x")
    with pytest.raises(ChangedError, match="the data is not"):
        checkpoint.check_same(state(1), "id", "other", "x")


def test_the_state_is_readable(five):
    newest = checkpoint.complete_checkpoints(five)[-1]
    assert json.loads((newest / checkpoint.STATE).read_text())["step"] == 5
