"""Completions of a prompt by any causal model of transformers: greedy, or sampled by hash.

The uniform number that picks a token is a hash of (seed, problem, sample, step): no generator has a state, so
a sample does not depend on the others but for what batched arithmetic rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor

from .tasks import CodeSettings

# Stops are looked for in the last tokens only; none is longer in any tokenizer than it has bytes.
_TAIL = 8


def uniform(seed: int, name: str, sample: int, step: int) -> float:
    """In [0, 1)."""
    return float(xxhash.xxh3_64_intdigest(f"{name}\0{sample}\0{step}".encode(), seed=seed) >> 11) / 2.0**53


def pick(logits: Tensor, settings: CodeSettings, chances: Sequence[float]) -> Tensor:
    """int64 [B]: a token for each row of `logits` [B, V]; `chances`: uniform numbers, one for each row.

    Nucleus sampling (Holtzman et al. 2020): of the fewest likeliest tokens that hold `top_p`.
    """
    if not settings.temperature:
        return logits.argmax(dim=-1)
    shares, order = (logits.float() / settings.temperature).softmax(dim=-1).sort(descending=True, stable=True)
    before = shares.cumsum(dim=-1) - shares
    shares = shares.masked_fill(before >= settings.top_p, 0.0).double()
    sums = shares.cumsum(dim=-1)
    wanted = torch.tensor(chances, dtype=torch.float64, device=logits.device)[:, None] * sums[:, -1:]
    place = torch.searchsorted(sums, wanted, right=True).clamp(max=logits.shape[-1] - 1)
    return order.gather(1, place).squeeze(1)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of `stops`."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def _recomputes(model: Any) -> bool:
    """Trained prompts and adaption prompts of peft do not go with a cache from step to step."""
    configs = getattr(model, "peft_config", {})
    return any(
        getattr(x, "is_prompt_learning", False) or "ADAPTION" in str(x.peft_type) for x in configs.values()
    )


def complete(
    model: Any,
    prompt: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    settings: CodeSettings,
    *,
    name: str,
    seed: int,
    ends: Sequence[int],
    window: int,
) -> list[str]:
    """`settings.samples` texts that follow `prompt`, cut at the first stop or at a token of `ends`.

    `window`: positions of the model; the prompt is cut from the left to leave room for what is new.
    """
    room = max(1, window - settings.max_new_tokens)
    device = next(model.parameters()).device
    ids = torch.tensor([list(prompt)[-room:]] * settings.samples, dtype=torch.int64, device=device)
    steps = min(settings.max_new_tokens, window - ids.shape[1])
    new: list[list[int]] = [[] for _ in range(settings.samples)]
    done = [False] * settings.samples
    recompute, cache, given = _recomputes(model), None, ids
    tail = _TAIL + max((len(stop.encode()) for stop in settings.stop), default=0)
    with torch.inference_mode():
        for step in range(steps):
            if recompute:
                out = model(input_ids=ids, use_cache=False)
            else:
                out = model(input_ids=given, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
            chances = [uniform(seed, name, sample, step) for sample in range(settings.samples)]
            given = pick(out.logits[:, -1], settings, chances)[:, None]
            if recompute:
                ids = torch.cat([ids, given], dim=1)
            for sample, token in enumerate(given[:, 0].tolist()):
                if done[sample]:
                    continue
                if token in ends:
                    done[sample] = True
                    continue
                new[sample].append(token)
                end = decode(new[sample][-tail:])
                done[sample] = any(stop in end for stop in settings.stop)
            if all(done):
                break
    return [cut_at_stop(decode(tokens), settings.stop) for tokens in new]
