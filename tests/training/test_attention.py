"""Packed rows give each document the logits that it has alone; plain causal rows do not."""

from __future__ import annotations

import pytest
import torch
from train_rows import LLAMA, QWEN3, VOCAB

from malmoi.training.attention import boundaries, document_starts, positions
from malmoi.training.batches import make_batch
from malmoi.training.loop import LossModel
from malmoi.training.model import build_model
from malmoi.training.recipe import MethodSettings, ModelSettings

LENGTH = 16
DOCUMENTS = [[0, 5, 6], [0, 9], [0]]


def model(family, attention):
    shape = {**(LLAMA if family == "llama" else QWEN3), "vocab_size": VOCAB, "max_positions": LENGTH}
    settings = ModelSettings(config=shape, attention=attention, dtype="float32")
    return build_model(settings, MethodSettings(), "cpu", seed=3).eval()


def ids():
    return torch.randint(0, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(1))


def alone(family, row, begin, end):
    with torch.no_grad():
        return model(family, "sdpa")(input_ids=ids()[row : row + 1, begin:end], use_cache=False).logits[0]


def pieces():
    for row, begins in enumerate(DOCUMENTS):
        for begin, end in zip(begins, [*begins[1:], LENGTH], strict=True):
            yield row, begin, end


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_logits_are_those_of_separate_documents(family):
    starts = document_starts(DOCUMENTS, LENGTH)
    with torch.no_grad():
        packed = model(family, "packed")(
            input_ids=ids(), position_ids=positions(starts), boundaries=boundaries(starts), use_cache=False
        ).logits
        leaky = model(family, "sdpa")(input_ids=ids(), use_cache=False).logits
    for row, begin, end in pieces():
        want = alone(family, row, begin, end)
        torch.testing.assert_close(packed[row, begin:end], want, rtol=1e-5, atol=1e-6)
        if begin:
            assert (leaky[row, begin:end] - want).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_loss_is_the_sum_of_those_of_separate_documents(family):
    batch = make_batch(ids().numpy(), None, DOCUMENTS, separate=True)
    got = LossModel(model(family, "packed"), 8)(*vars(batch).values())
    want = 0.0
    for row, begin, end in pieces():
        if end - begin > 1:
            logits = alone(family, row, begin, end)
            target = ids()[row, begin + 1 : end]
            want += torch.nn.functional.cross_entropy(logits[:-1], target, reduction="sum").item()
    assert got.item() == pytest.approx(want, rel=1e-5)


def test_the_kernel_of_torch_takes_what_it_is_given():
    """It runs on CUDA only; here at least by name."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    inspect.signature(varlen_attn).bind(1, 2, 3, 4, 5, 6, 7, scale=None, window_size=(-1, 0))


def test_starts_boundaries_and_positions():
    starts = document_starts([[0, 2], [3, 9]], 4)
    assert starts.tolist() == [[True, False, True, False], [True, False, False, True]]
    assert boundaries(starts).tolist() == [0, 2, 4, 7] + [8] * 12
    assert boundaries(torch.ones(4, 4, dtype=torch.bool)).tolist() == [*range(16)] + [16] * 16
    assert positions(starts).tolist() == [[0, 1, 0, 1], [0, 1, 2, 0]]


def test_the_loss_asks_for_no_cache_and_the_head_comes_back():
    wrapped = LossModel(model("llama", "sdpa"), 8)
    head = wrapped.base().get_output_embeddings()
    asked = []
    wrapped.model.register_forward_pre_hook(lambda _, args, given: asked.append(given), with_kwargs=True)
    wrapped(*vars(make_batch(ids().numpy(), None, DOCUMENTS, separate=False)).values())
    assert asked[0]["use_cache"] is False
    assert "forward" not in vars(head)
    assert wrapped.model(input_ids=ids()).logits.shape == (3, LENGTH, VOCAB)
