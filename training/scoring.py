"""Log-likelihood of tokens given those before them, in batches, for any causal model of transformers.

Multiple choice and held-out loss are both made of requests: some tokens, of which the last ones are scored.
Requests that differ in their last token alone (answers A to D) share one row of a batch. Rows are padded on
the right, where causal attention never looks, and come longest first, so that memory runs out at once or not
at all. The batches depend on the requests and not on who computes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from malmoi.pipeline.errors import MalmoiError

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

BATCH_TOKENS = 8192
# Logits are turned into float32 for so many elements at a time (64 MiB).
_CHUNK = 2**24


@dataclass(frozen=True, eq=False)
class Request:
    """`tokens`: int32 [n]; scored are `tokens[start:]`, each given all before it, 1 <= start < n."""

    tokens: Ints
    start: int

    def __post_init__(self) -> None:
        if not 1 <= self.start < len(self.tokens):
            raise ValueError(f"Request: want 1 <= start < {len(self.tokens)} tokens, got start={self.start}")


@dataclass(frozen=True, eq=False)
class Row:
    """What the model sees, and the tokens that it is asked for after the end.

    inputs: int32 [L]; inputs[start:] are scored as well; lasts: int32 [c], one for each request of the row.
    """

    inputs: Ints
    start: int
    lasts: Ints


@dataclass(frozen=True)
class Batch:
    """`rows`; `owners`: for each row the requests, by number, that its `lasts` belong to."""

    rows: tuple[Row, ...]
    owners: tuple[tuple[int, ...], ...]


def encode_pair(
    encode: Callable[[str], list[int]], context: str, continuation: str, prefix: int | None
) -> tuple[list[int], list[int]]:
    """Token ids of context and continuation, split as in lm-eval (`_encode_pair`).

    White space at the end of the context goes to the continuation; the whole is encoded at once and cut where
    the context's own ids end. `encode`: with the special tokens that the tokenizer adds by itself. An empty
    context is the token `prefix`. ValueError for a continuation without tokens.
    """
    if not context:
        ids = encode(continuation)
        if ids and ids[0] == prefix:
            ids = ids[1:]
        if prefix is None or not ids:
            raise ValueError("an empty context needs a bos or eos token and a continuation that is not empty")
        return [prefix], ids
    cut = len(context.rstrip())
    context, continuation = context[:cut], context[cut:] + continuation
    whole, first = encode(context + continuation), encode(context)
    if not whole:
        raise ValueError("context and continuation have no tokens")
    if not first:
        first = [prefix] if prefix is not None else []
        whole = first + whole
    # A merge across the border may leave nothing of the continuation: then its last token is scored.
    cut = max(1, min(len(first), len(whole) - 1))
    if len(whole) < 2:
        raise ValueError("a context and a continuation of one token together cannot be scored")
    return whole[:cut], whole[cut:]


def pair_request(context: Sequence[int], continuation: Sequence[int], window: int) -> tuple[Request, int]:
    """The request for `continuation` after `context`, and how many tokens were cut.

    The model sees at most `window` tokens; what is more is cut from the left, the last token being seen by
    nobody. MalmoiError for a continuation that does not fit with one token before it.
    """
    if len(continuation) > window:
        raise MalmoiError(f"a continuation of {len(continuation)} tokens does not fit a window of {window}")
    whole = np.asarray([*context, *continuation], dtype=np.int32)
    cut = max(0, len(whole) - window - 1)
    return Request(whole[cut:], len(context) - cut), cut


def plan_batches(requests: Sequence[Request], batch_tokens: int = BATCH_TOKENS) -> list[Batch]:
    """All requests in batches of rows times longest row <= `batch_tokens` (one row may be longer)."""
    shared: dict[tuple[bytes, int], list[int]] = {}
    for number, request in enumerate(requests):
        shared.setdefault((request.tokens[:-1].tobytes(), request.start), []).append(number)
    groups = sorted(shared.values(), key=lambda group: (-len(requests[group[0]].tokens), group[0]))
    batches = []
    first = 0
    while first < len(groups):
        longest = len(requests[groups[first][0]].tokens) - 1
        chosen = groups[first : first + max(1, batch_tokens // longest)]
        rows = tuple(
            Row(
                requests[group[0]].tokens[:-1],
                requests[group[0]].start,
                np.asarray([requests[number].tokens[-1] for number in group], dtype=np.int32),
            )
            for group in chosen
        )
        batches.append(Batch(rows, tuple(tuple(group) for group in chosen)))
        first += len(chosen)
    return batches


def _keeps(model: Any) -> bool:
    """Whether the model can leave out the logits of the first positions."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def _logits(model: Any, rows: Sequence[Row], low: int) -> Tensor:
    """[B, T - low, V]: of the positions `low` to the end of the longest row."""
    device = next(model.parameters()).device
    lengths = [len(row.inputs) for row in rows]
    longest = max(lengths)
    ids = torch.zeros((len(rows), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : lengths[number]] = torch.from_numpy(row.inputs.astype(np.int64))
        mask[number, : lengths[number]] = 1
    keep = longest - low
    given: dict[str, Any] = {"input_ids": ids.to(device), "use_cache": False}
    if min(lengths) < longest:
        given["attention_mask"] = mask.to(device)
    if _keeps(model):
        given["logits_to_keep"] = keep
    # From the right: a trained prompt puts positions of its own before those of the tokens.
    logits: Tensor = model(**given).logits[:, -keep:]
    return logits


def score_batch(model: Any, rows: Sequence[Row]) -> list[Floats]:
    """For each row float64 [c]: nats of `inputs[start:]` and each of `lasts`; log-softmax in float32."""
    low = min(row.start for row in rows) - 1
    parts, owners = [], 0  # int64 [4, n]: row, position among the logits, token, owner
    for number, row in enumerate(rows):
        inside, last = row.inputs[row.start :], len(row.lasts)
        at = np.arange(row.start, len(row.inputs) + 1) - 1 - low
        tokens = np.concatenate([inside, row.lasts])
        position = np.concatenate([at[:-1], np.repeat(at[-1], last)])
        owner = owners + np.concatenate([np.zeros(len(inside), np.int64), 1 + np.arange(last)])
        parts.append(np.stack([np.full(len(tokens), number), position, tokens, owner]))
        owners += 1 + last
    table = torch.from_numpy(np.ascontiguousarray(np.concatenate(parts, axis=1).T, dtype=np.int64))
    with torch.inference_mode():
        logits = _logits(model, rows, low)
        table = table.to(logits.device)
        step = max(1, _CHUNK // logits.shape[-1])
        found = []
        for part in torch.split(table, step):
            chosen = logits[part[:, 0], part[:, 1]].float()
            found.append(chosen.gather(1, part[:, 2:3]).squeeze(1) - chosen.logsumexp(dim=1))
        nats = torch.cat(found).double().cpu().numpy()
    sums = np.bincount(table[:, 3].cpu().numpy(), weights=nats, minlength=owners)
    scores, first = [], 0
    for row in rows:
        last = first + 1 + len(row.lasts)
        scores.append(sums[first] + sums[first + 1 : last])
        first = last
    return scores


def gather(batches: Iterable[Batch], scores: Iterable[Sequence[Floats]], count: int) -> Floats:
    """float64 [count]: the scores of batches in the order of the requests."""
    out = np.full(count, np.nan)
    for batch, found in zip(batches, scores, strict=True):
        for owners, values in zip(batch.owners, found, strict=True):
            out[list(owners)] = values
    return out


def score(model: Any, requests: Sequence[Request], batch_tokens: int = BATCH_TOKENS) -> Floats:
    """float64 [len(requests)]: nats (natural logarithms, <= 0) of the scored tokens of each request."""
    batches = plan_batches(requests, batch_tokens)
    return gather(batches, (score_batch(model, batch.rows) for batch in batches), len(requests))
