"""A model that a training run made: found by the run's folder or by one checkpoint's, and loaded for use."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.storage import Folder, is_local

from .outcome import MODEL, RECORD, read_record
from .recipe import METHOD_KEYS, ModelSettings, TrainRecipe

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Trained:
    """`part`: what of the run is meant, `model` (after its last step) or `checkpoints/step-...`; `recipe`: with
    the sizes of the model settled; `record`: of train.json; `state`: of the part (step, tokens, losses)."""

    run: Folder
    part: str
    recipe: TrainRecipe
    record: dict[str, Any]
    state: dict[str, Any]

    @property
    def place(self) -> str:
        return self.run.join(self.part)

    @property
    def step(self) -> int:
        return int(self.state["step"])


def open_trained(place: str, *, best: bool = False, options: Mapping[str, Any] | None = None) -> Trained:
    """place: a run's folder, or that of one of its checkpoints.

    Of a run: the model at its end, or the newest checkpoint where it has not ended; `best`: the checkpoint with the
    lowest held-out loss. MalmoiError: neither a run nor a checkpoint, or nothing in it yet.
    """
    here = Folder(place, dict(options or {}))
    *above, last = here.url.split("/")
    if here.exists(RECORD):
        run, part = here, ""
    elif last == MODEL:
        run, part = Folder("/".join(above), here.options), MODEL
    else:
        run, part = Folder("/".join(above[:-1]) or ".", here.options), f"{above[-1] if above else ''}/{last}"
    record = read_record(run.url, run.options)
    if record is None:
        raise MalmoiError(
            f"{place}: no {RECORD}, so this is neither a run of malmoi train nor one of its checkpoints"
        )
    part = part or _part(run, record, best)
    if part == MODEL and record["result"] is None:
        raise MalmoiError(f"{place}: the run has not ended; go on with malmoi train, or name a checkpoint")
    state = record["result"] if part == MODEL else _state(run, part)
    settled = ModelSettings.model_validate(record["settled_model"])
    given = TrainRecipe.model_validate({**record["recipe"], "method": said(record["recipe"]["method"])})
    recipe = given.model_copy(update={"model": settled})
    return Trained(run, part, recipe, record, state)


def said(method: Mapping[str, Any]) -> dict[str, Any]:
    """Of a recipe's `method` as JSON values, what says something for its kind."""
    return {key: method[key] for key in ("kind", *METHOD_KEYS[method["kind"]])}


def _part(run: Folder, record: Mapping[str, Any], best: bool) -> str:
    if record["result"] is not None and not best:
        return MODEL
    if not is_local(run.url):
        raise MalmoiError(
            f"{run.url}: the run has not ended, or the best is wanted; name one of its checkpoints"
        )
    from .checkpoint import FOLDER, best_checkpoint, complete_checkpoints

    found = complete_checkpoints(run.url)
    if not found:
        raise MalmoiError(f"{run.url}: no complete checkpoint yet")
    chosen = best_checkpoint(run.url) if best else found[-1]
    assert chosen is not None
    return f"{FOLDER}/{chosen.name}"


def _state(run: Folder, part: str) -> dict[str, Any]:
    """Of a complete checkpoint."""
    from .checkpoint import COMMIT, STATE

    try:
        files: dict[str, int] = json.loads(run.read_bytes(f"{part}/{COMMIT}"))["files"]
        for name, size in files.items():
            found = run.size(f"{part}/{name}")
            if found != size:
                raise MalmoiError(
                    f"{run.join(part, name)}: {found:,} bytes, want {size:,}; take another checkpoint"
                )
        return dict(json.loads(run.read_bytes(f"{part}/{STATE}")))
    except FileNotFoundError as error:
        raise MalmoiError(f"{run.join(part)}: not a complete checkpoint ({error}); take another") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalmoiError(f"{run.join(part)}: not a checkpoint ({error!r})") from error


@contextmanager
def local_part(trained: Trained) -> Iterator[Path]:
    """The folder of the part; of a remote run a copy that is gone after the block."""
    here = trained.run.local_path(trained.part)
    if here is not None:
        yield Path(here)
        return
    with tempfile.TemporaryDirectory(prefix="malmoi-") as temp:
        for name in trained.run.list(trained.part):
            with (
                trained.run.open(name) as source,
                (Path(temp) / name.rpartition("/")[2]).open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 8 * 1024**2)
        yield Path(temp)


def load_trained(trained: Trained, device: torch.device | str = "cpu", *, plain: bool = False) -> nn.Module:
    """The model for use: evaluation mode, nothing requires gradients, weights in the recipe's dtype (adapters
    float32). plain: without 4-bit layers, their values in plain ones instead."""
    import torch

    from .model import load_model

    recipe = trained.recipe
    if trained.part == MODEL:
        with local_part(trained) as folder:
            return load_model(
                alone(recipe.model), recipe.method, folder, device, seed=recipe.seed, plain=plain
            )
    loaded = rebuild(trained, device, plain=plain)
    if recipe.method.kind == "full":
        for parameter in loaded.parameters():  # not the buffers, which are float32 in any model
            parameter.data = parameter.data.to(getattr(torch, recipe.model.dtype))
    return loaded.requires_grad_(False).eval()


def alone(model: ModelSettings) -> ModelSettings:
    """Packed rows are a matter of training; a text that is read alone has no boundaries."""
    return model.model_copy(update={"attention": "sdpa"})


def rebuild(trained: Trained, device: torch.device | str = "cpu", *, plain: bool = False) -> nn.Module:
    """The model of a checkpoint, written by any number of workers, as it was in training."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        set_model_state_dict,
    )
    from torch.distributed.checkpoint.state_dict_loader import load

    from .loop import LossModel
    from .model import build_model

    recipe = trained.recipe
    model = build_model(alone(recipe.model), recipe.method, device, seed=recipe.seed, plain=plain)
    module = LossModel(model, recipe.loss.chunk_tokens)  # by whose names the tensors were written
    options = StateDictOptions(ignore_frozen_params=True, strict=False)
    parts = {"model": get_model_state_dict(module, options=options)}
    with local_part(trained) as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is (disabled|unavailable)")
        load(parts, checkpoint_id=str(folder))
    set_model_state_dict(module, parts["model"], options=options)
    return model
