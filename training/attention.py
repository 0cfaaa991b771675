"""Attention within documents: rows hold several, and none sees another.

Two functions in transformers' registry of attention kinds. A kind that its registry of masks does not know
gets no mask, and what is given to the model's forward as `boundaries` arrives here untouched.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

PACKED = "malmoi_packed"
VARLEN = "malmoi_varlen"


def document_starts(doc_starts: list[Any], length: int) -> Tensor:
    """bool [B, S]: true at the first token of each document, and at the first token of each row.

    doc_starts: of each row, the positions at which documents begin; a position of S or beyond is passed over.
    """
    starts = torch.zeros((len(doc_starts), length), dtype=torch.bool)
    for row, positions in enumerate(doc_starts):
        known = torch.as_tensor(positions, dtype=torch.int64)
        starts[row, known[(known >= 0) & (known < length)]] = True
    if length:
        starts[:, 0] = True
    return starts


def boundaries(starts: Tensor) -> Tensor:
    """int32 [K]: where documents begin in the rows laid end to end, then B * S again and again.

    K is a power of two, 16 at least, so that a compiled model is compiled a few times only; documents of length
    0 at the end cost little.
    """
    flat = starts.flatten()
    found = torch.nonzero(flat).flatten().to(torch.int32)
    size = max(16, 1 << found.numel().bit_length())
    end = torch.full((size - found.numel(),), flat.numel(), dtype=torch.int32, device=flat.device)
    return torch.cat([found, end])


def positions(starts: Tensor) -> Tensor:
    """int64 [B, S]: how far each token is from the first of its document."""
    here = torch.arange(starts.shape[1], device=starts.device).expand(starts.shape)
    first = torch.where(starts, here, torch.zeros_like(here)).cummax(dim=1).values
    return here - first


def _flat(states: Tensor) -> Tensor:
    """[B, H, S, D] as [B * S, H, D]."""
    return states.transpose(1, 2).flatten(0, 1)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention by SDPA, one document after the other; [B, S, H, D]. For any device; slow on a GPU."""
    bounds: Tensor = kwargs["boundaries"]
    batch, heads, length, width = query.shape
    q, k, v = (_flat(states).transpose(0, 1).unsqueeze(0) for states in (query, key, value))
    edges = torch.unique_consecutive(bounds).tolist()
    parts = [
        functional.scaled_dot_product_attention(
            q[:, :, begin:end], k[:, :, begin:end], v[:, :, begin:end],
            dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=k.shape[1] != heads,
        )
        for begin, end in pairwise(edges)
    ]  # fmt: skip
    out = torch.cat(parts, dim=2)[0].transpose(0, 1)
    return out.reshape(batch, length, heads, width), None


def varlen_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`packed_attention` in one FlashAttention kernel of torch (CUDA, 16-bit); [B, S, H, D]."""
    from torch.nn.attention.varlen import varlen_attn

    bounds: Tensor = kwargs["boundaries"]
    batch, heads, length, width = query.shape
    if (
        key.shape[1] != heads
    ):  # its own grouping of heads came with a later torch than the oldest that we take
        key, value = (states.repeat_interleave(heads // states.shape[1], dim=1) for states in (key, value))
    q, k, v = (_flat(states).contiguous() for states in (query, key, value))
    out = varlen_attn(q, k, v, bounds, bounds, length, length, scale=scaling, window_size=(-1, 0))
    assert isinstance(out, Tensor)
    return out.view(batch, length, heads, width), None


def implementation(attention: str) -> str:
    """The name under which transformers knows a recipe's `attention`; registers ours. `auto` that no rows have
    settled is `sdpa`."""
    ours = {"packed": (PACKED, packed_attention), "varlen": (VARLEN, varlen_attention)}
    if attention not in ours:
        return "sdpa" if attention == "auto" else attention
    from transformers import AttentionInterface

    name, function = ours[attention]
    AttentionInterface.register(name, function)
    return name
