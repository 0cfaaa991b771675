"""Cross-entropy of the next token, with logits made for a few positions at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORE = -100

Head = Callable[[Tensor], Tensor]


def shifted_labels(input_ids: Tensor, labels: Tensor | None, starts: Tensor | None) -> Tensor:
    """The token that each position has to predict: int64 [B, S], IGNORE where there is none.

    input_ids: int [B, S]. labels: int [B, S] aligned with them (IGNORE: no loss on this token), None for all
    tokens. starts: bool [B, S], true at the first token of a document that sees nothing before it; such a
    token is nobody's to predict. None where documents of a row see each other.
    """
    target = (input_ids if labels is None else labels).to(torch.int64)
    if starts is not None:
        target = target.masked_fill(starts, IGNORE)
    last = target.new_full((target.shape[0], 1), IGNORE)
    return torch.cat([target[:, 1:], last], dim=1)


def full_loss(hidden: Tensor, target: Tensor, head: Head) -> Tensor:
    """The sum of cross-entropies in nats, float32 scalar. hidden: [N, D]; target: int64 [N]."""
    return functional.cross_entropy(head(hidden).float(), target, ignore_index=IGNORE, reduction="sum")


def _chunk(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of some positions and its gradient by their logits, [N, V] in the dtype of `hidden`."""
    logits = (hidden @ weight.t()).float()
    log_norm = torch.logsumexp(logits, dim=-1)
    known = target != IGNORE
    safe = target.masked_fill(~known, 0).unsqueeze(1)
    loss = ((log_norm - logits.gather(1, safe).squeeze(1)) * known).sum()
    grad = logits.sub_(log_norm.unsqueeze(1)).exp_()
    grad.scatter_add_(1, safe, grad.new_full(safe.shape, -1.0))
    return loss, grad.mul_(known.unsqueeze(1)).to(hidden.dtype)


@cache
def _compiled_chunk() -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`_chunk` with its passes over the logits fused."""
    return torch.compile(_chunk)


class _Chunked(torch.autograd.Function):
    """Gradients are made in the forward pass, chunk by chunk, so that no chunk's logits are kept or made twice
    (as in Hsu et al. 2024, Liger kernel). Exact, because the loss is a sum: the upstream gradient is a scalar."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        chunk: int,
        train_weight: bool,
        compiled: bool,
    ) -> Tensor:
        step = _compiled_chunk() if compiled else _chunk
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if train_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for begin in range(0, hidden.shape[0], chunk):
            part = slice(begin, begin + chunk)
            loss, grad = step(hidden[part], weight, target[part])
            total += loss
            grad_hidden[part] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden[part]
        kept = (grad_hidden,) if grad_weight is None else (grad_hidden, grad_weight.to(weight.dtype))
        ctx.save_for_backward(*kept)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, *grad_weight = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = upstream[0]
        weight = (grad_weight[0] * scale).to(grad_weight[0].dtype) if grad_weight else None
        return (grad_hidden * scale).to(grad_hidden.dtype), weight, None, None, None, None


def linear_loss(
    hidden: Tensor, weight: Tensor, target: Tensor, chunk: int, *, compiled: bool = False
) -> Tensor:
    """`full_loss` for a head that is `hidden @ weight.T`, with the logits of `chunk` positions at a time.

    Memory: one chunk's logits in float32 and a gradient of `hidden` and of `weight`, whatever N is.
    """
    train_weight = weight.requires_grad
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _Chunked.apply(hidden, weight, target, chunk, train_weight, compiled)  # type: ignore[no-untyped-call]
    return loss


def chunked_loss(hidden: Tensor, target: Tensor, head: Head, chunk: int) -> Tensor:
    """`full_loss` for any head; a chunk's logits are made again in the backward pass."""
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for begin in range(0, hidden.shape[0], chunk):
        part = slice(begin, begin + chunk)
        total = total + checkpoint(full_loss, hidden[part], target[part], head, use_reentrant=False)
    return total


def head_loss(
    hidden: Tensor,
    target: Tensor,
    head: torch.nn.Module,
    forward: Head,
    chunk: int,
    *,
    compiled: bool = False,
) -> Tensor:
    """The summed loss, by the way that fits: `chunk` 0 is all at once; a plain linear head takes `linear_loss`.

    hidden: [B, S, D]; target: int64 [B, S]; forward: what `head` computes; compiled: by torch.compile where it can be.
    """
    hidden, target = hidden.flatten(0, 1), target.flatten()
    if not chunk:
        return full_loss(hidden, target, forward)
    if type(head) is torch.nn.Linear and head.bias is None and torch.is_grad_enabled():
        return linear_loss(hidden, head.weight, target, chunk, compiled=compiled)
    return chunked_loss(hidden, target, forward, chunk)
