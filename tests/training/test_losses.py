"""The chunked losses against cross-entropy over all logits; which token predicts which."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from malmoi.training.losses import IGNORE, chunked_loss, full_loss, head_loss, linear_loss, shifted_labels

N, D, V = 37, 8, 50


def setting(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(0, V, (N,), generator=generator)
    target[::5] = IGNORE
    return hidden, weight, target


def gradients(loss, *of):
    return torch.autograd.grad(loss, of)


def reference(hidden, weight, target):
    return functional.cross_entropy(
        (hidden @ weight.t()).float(), target, ignore_index=IGNORE, reduction="sum"
    )


@pytest.mark.parametrize("chunk", [1, 7, 36, 37, 1000])
@pytest.mark.parametrize("way", ["linear", "chunked"])
def test_chunks_give_the_full_loss_and_its_gradients(chunk, way):
    hidden, weight, target = setting()
    want = reference(hidden, weight, target) * 3.0
    if way == "linear":
        got = linear_loss(hidden, weight, target, chunk) * 3.0
    else:
        got = chunked_loss(hidden, target, lambda x: x @ weight.t(), chunk) * 3.0
    torch.testing.assert_close(got, want)
    for a, b in zip(gradients(got, hidden, weight), gradients(want, hidden, weight), strict=True):
        torch.testing.assert_close(a, b)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, target = setting()
    frozen = weight.detach()
    got = linear_loss(hidden, frozen, target, 10)
    torch.testing.assert_close(
        gradients(got, hidden)[0], gradients(reference(hidden, frozen, target), hidden)[0]
    )


def test_half_precision_is_near():
    hidden, weight, target = setting(torch.bfloat16)
    got = linear_loss(hidden, weight, target, 10)
    want = reference(hidden.float(), weight.float(), target)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.0)
    torch.testing.assert_close(
        gradients(got, weight)[0].float(), gradients(want, weight)[0].float(), rtol=0.1, atol=0.1
    )


def test_under_autocast_gradients_have_the_dtype_of_the_weights():
    hidden, weight, target = setting()
    with torch.autocast("cpu", torch.bfloat16):
        got = linear_loss(hidden, weight, target, 10)
    assert [x.dtype for x in gradients(got, hidden, weight)] == [torch.float32] * 2


def test_nothing_to_predict_is_zero():
    hidden, weight, target = setting()
    got = linear_loss(hidden, weight, torch.full_like(target, IGNORE), 10)
    assert got.item() == 0.0
    assert gradients(got, hidden)[0].abs().max() == 0.0


@pytest.mark.parametrize("chunk", [0, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_every_kind_of_head(chunk, bias, grad):
    hidden, _, target = setting()
    head = torch.nn.Linear(D, V, bias=bias)
    with torch.set_grad_enabled(grad):
        got = head_loss(hidden.unsqueeze(0), target.unsqueeze(0), head, head.forward, chunk)
        torch.testing.assert_close(got, full_loss(hidden, target, head.forward))


def test_labels_are_those_of_the_next_position():
    ids = torch.tensor([[5, 6, 7, 8]])
    assert shifted_labels(ids, None, None).tolist() == [[6, 7, 8, IGNORE]]
    labels = torch.tensor([[IGNORE, IGNORE, 7, 8]])
    assert shifted_labels(ids, labels, None).tolist() == [[IGNORE, 7, 8, IGNORE]]


def test_no_token_predicts_the_first_of_the_next_document():
    ids = torch.tensor([[5, 6, 7, 8]])
    starts = torch.tensor([[True, False, True, False]])
    assert shifted_labels(ids, None, starts).tolist() == [[6, IGNORE, 8, IGNORE]]
