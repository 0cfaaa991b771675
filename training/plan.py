"""All that is checked before anything loads: the rows, the tokenizer, the model's folder, the length of the run.

Imports neither torch nor ray.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.pipeline.errors import RecipeError
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.token_manifest import FILE, TokenManifest, read_token_manifest

from .families import check_buildable, read_config
from .recipe import PROMPT_KINDS, TrainRecipe, identity

if TYPE_CHECKING:
    from .batches import Split
    from .reader import PackedReader

# Shards are read whole and their hashes compared up to so many bytes; above, their sizes are.
_DEEP_BYTES = 2 * 1024**3
# Where the rows of a run lie that `malmoi tokenize RUN` or its stage made.
IN_RUN = "tokens"
# Packings that put one document into a row.
_ALONE = ("none",)


@dataclass(frozen=True)
class TrainPlan:
    """A recipe with everything settled. `recipe`: with the sizes that the rows give and the attention chosen;
    `identity`: of the recipe as it was given; `data_hash`: of the tokens' manifest; rows `[0, train_rows)` are
    trained on, the `heldout_rows` after them are not; `row_tokens`: positions of a row."""

    recipe: TrainRecipe
    identity: str
    data_hash: str
    tokenizer_sha256: str
    train_rows: int
    heldout_rows: int
    row_tokens: int
    vocab_size: int
    steps: int


def make_plan(recipe: TrainRecipe) -> TrainPlan:
    """Check a recipe against what it names. Raises RecipeError, ChangedError or MalmoiError, a line for a problem."""
    recipe = _of_run(recipe)
    tokens = read_token_manifest(recipe.data.path, recipe.data.storage_options)
    _check_rows(recipe, tokens)
    _check_tokenizer(recipe, tokens)
    settled = _settled(recipe, tokens)
    check_buildable(settled.model, settled.method, vocab_size=tokens.tokenizer.vocab_size)
    if recipe.model.path is not None:
        most = read_config(recipe.model.path).get("max_position_embeddings")
        if most is not None and most < tokens.seq_len:
            raise RecipeError(
                f"{recipe.model.path}: has {most:,} positions, the rows have {tokens.seq_len:,}; tokenize with a "
                f"length of {most} at most"
            )
    held = rows_held_out(tokens.rows, recipe.data.holdout)
    rows = tokens.rows - held
    steps = steps_of(
        recipe.steps, recipe.epochs, recipe.tokens,
        rows=rows, row_tokens=tokens.seq_len, batch_rows=recipe.batch.rows,
    )  # fmt: skip
    return TrainPlan(
        recipe=settled,
        identity=identity(recipe),
        data_hash=tokens.tokens_hash,
        tokenizer_sha256=tokens.tokenizer.sha256,
        train_rows=rows,
        heldout_rows=held,
        row_tokens=tokens.seq_len,
        vocab_size=tokens.tokenizer.vocab_size,
        steps=steps,
    )


def _of_run(recipe: TrainRecipe) -> TrainRecipe:
    """`data.path` may be the folder of a run whose rows lie in it."""
    folder = Folder(recipe.data.path, recipe.data.storage_options)
    if folder.exists(FILE) or not folder.exists(f"{IN_RUN}/{FILE}"):
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": folder.join(IN_RUN)})})


def _check_rows(recipe: TrainRecipe, tokens: TokenManifest) -> None:
    place = recipe.data.path
    size = sum(shard.bytes for shard in tokens.shards)
    tokens.verify(Folder(place, recipe.data.storage_options), deep=size <= _DEEP_BYTES)
    if tokens.rows < 2:
        raise RecipeError(f"{place}: holds {tokens.rows} rows of {tokens.seq_len} tokens, want 2 at least")
    several = tokens.kind == "sft" and tokens.packing not in _ALONE
    if several and recipe.method.kind in PROMPT_KINDS:
        raise RecipeError(
            f"{place}: rows hold several examples (packing {tokens.packing}), but the virtual tokens of "
            f"method.kind={recipe.method.kind} stand before the first only; tokenize with one example a row"
        )
    if several and recipe.model.attention in ("sdpa", "eager"):
        raise RecipeError(
            f"{place}: rows hold several examples (packing {tokens.packing}), which would see each other with "
            f"model.attention={recipe.model.attention}; take auto, packed, or varlen on a GPU"
        )


def tokenizer_sha256(path: str) -> str:
    """Hex, of a tokenizer.json or of the one in a folder."""
    file = Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise RecipeError(
            f"{file}: {error.strerror or error}; data.tokenizer is a tokenizer.json or its folder"
        ) from error


def _check_tokenizer(recipe: TrainRecipe, tokens: TokenManifest) -> None:
    """The one that the recipe names, else the one that lies with the model."""
    if recipe.data.tokenizer is not None:
        tokens.check_tokenizer(tokenizer_sha256(recipe.data.tokenizer), recipe.data.tokenizer)
    elif recipe.model.path is not None and (Path(recipe.model.path) / "tokenizer.json").is_file():
        tokens.check_tokenizer(tokenizer_sha256(recipe.model.path), recipe.model.path)


def _settled(recipe: TrainRecipe, tokens: TokenManifest) -> TrainRecipe:
    model, workers = recipe.model, recipe.workers
    update: dict[str, Any] = {}
    if model.config is not None:
        vocab = model.config.vocab_size or -(-tokens.tokenizer.vocab_size // 64) * 64
        most = model.config.max_positions or tokens.seq_len
        if most < tokens.seq_len:
            raise RecipeError(f"model.config.max_positions={most}, but the rows have {tokens.seq_len} tokens")
        update["config"] = model.config.model_copy(update={"vocab_size": vocab, "max_positions": most})
    if model.attention == "auto":
        apart = tokens.kind == "sft" and tokens.packing not in _ALONE
        kernel = "varlen" if workers.gpus_per_worker and model.dtype == "bfloat16" else "packed"
        update["attention"] = kernel if apart else "sdpa"
    return recipe.model_copy(update={"model": model.model_copy(update=update)})


def open_reader(plan: TrainPlan, split: Split, first: int, last: int) -> PackedReader:
    """A PackedReader over rows [first, last) for this worker: its own rows of a step, or all where they do not
    divide evenly (see `Split`)."""
    from .reader import PackedReader

    data = plan.recipe.data
    rank, world, rows = (split.rank, split.world, split.each) if split.even else (0, 1, split.rows)
    return PackedReader(
        data.path,
        plan.recipe.seed,
        rank,
        world,
        rows,
        first_row=first,
        last_row=last,
        prefetch=2 if first == 0 else 0,  # held-out rows are read now and then
        options=data.storage_options,
    )


def rows_held_out(rows: int, share: float) -> int:
    """How many of the last rows are not trained on: the share, rounded, at least one if the share is above 0."""
    return min(max(round(rows * share), 1), rows - 1) if share > 0.0 and rows > 1 else 0


def steps_of(
    steps: int | None,
    epochs: float | None,
    tokens: int | None,
    *,
    rows: int,
    row_tokens: int,
    batch_rows: int,
) -> int:
    """The optimiser steps of a run: given, or enough for `epochs` over `rows`, or for `tokens`; rounded up."""
    if steps is not None:
        return steps
    if epochs is not None:
        return max(math.ceil(epochs * rows / batch_rows), 1)
    assert tokens is not None
    return max(math.ceil(tokens / (row_tokens * batch_rows)), 1)
