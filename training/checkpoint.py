"""Checkpoints: trained tensors and optimiser state by torch.distributed.checkpoint, for any number of workers.

    <output>/checkpoints/step-00000020/   files of DCP, state.json, commit.json

`commit.json` lists every file with its size: a checkpoint counts only if all are there, in whatever order they
arrived. Of an adapter only what is trained is saved; the frozen base comes from its own folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from malmoi.pipeline.errors import ChangedError
from malmoi.pipeline.storage import Folder

FOLDER = "checkpoints"
STATE = "state.json"
COMMIT = "commit.json"
_NAME = re.compile(r"step-(\d{8,})")

# Of an adapter, what is trained and nothing of the base; of a full model, all.
_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass(frozen=True)
class State:
    """Where a run stands after `step` steps. `samples`: rows read over all workers; `tokens`: positions of them;
    `identity`: of the recipe; `data`: hash of the tokens' manifest; `world`: workers at that time."""

    step: int
    samples: int
    tokens: int
    identity: str
    data: str
    world: int
    loss: float
    heldout_loss: float | None = None


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def _state_dicts(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(module, options=_OPTIONS),
        "optimizer": get_optimizer_state_dict(module, optimizer, options=_OPTIONS),
    }


def write(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Write a checkpoint into `folder`, which may be one for all workers or one for each; all workers call."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is (disabled|unavailable)")
        save(_state_dicts(module, optimizer), checkpoint_id=str(folder))
    here = {entry.name: entry.stat().st_size for entry in folder.iterdir() if entry.is_file()}
    found: list[Any] = [here]
    if dist.is_initialized() and dist.get_world_size() > 1:
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, here)
    if not dist.is_initialized() or dist.get_rank() == 0:
        text = json.dumps(asdict(state), indent=1)
        files = {name: size for part in found for name, size in part.items()}
        files[STATE] = len(text.encode())
        (folder / STATE).write_text(text, encoding="utf-8")
        (folder / COMMIT).write_text(json.dumps({"files": dict(sorted(files.items()))}), encoding="utf-8")


def read(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Load a checkpoint in place; all workers call, and there may be more or fewer than wrote it."""
    state = read_state(folder)
    parts = _state_dicts(module, optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is (disabled|unavailable)")
        load(parts, checkpoint_id=str(folder))
    set_model_state_dict(module, parts["model"], options=_OPTIONS)
    set_optimizer_state_dict(module, optimizer, parts["optimizer"], options=_OPTIONS)
    return state


def read_state(folder: Path) -> State:
    return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))


def is_complete(folder: Path) -> bool:
    """Whether every file that the commit names is there with its size."""
    try:
        files = json.loads((folder / COMMIT).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def complete_checkpoints(output: str | Path) -> list[Path]:
    """The complete checkpoints of a run in a local folder, oldest first; torn ones are passed over."""
    top = Path(output) / FOLDER
    found = [x for x in top.iterdir() if _NAME.fullmatch(x.name)] if top.is_dir() else []
    return [x for x in sorted(found, key=lambda x: int(x.name[5:])) if is_complete(x)]


def best_checkpoint(output: str | Path) -> Path | None:
    """The complete checkpoint with the lowest held-out loss; the newest where none was measured."""
    found = complete_checkpoints(output)
    measured = [(loss, x) for x in found if (loss := read_state(x).heldout_loss) is not None]
    return min(measured)[1] if measured else (found[-1] if found else None)


def save_local(
    output: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: State, keep: tuple[int, int]
) -> Path:
    """Write under a temporary name, rename, remove what `keep` (newest, best) does not hold; all workers call."""
    top = output / FOLDER
    temp: list[Any] = [str(top / f".tmp-{uuid.uuid4().hex}")]
    several = dist.is_initialized() and dist.get_world_size() > 1
    if several:
        dist.broadcast_object_list(temp)
    write(Path(temp[0]), module, optimizer, state)
    place = top / name_of(state.step)
    if not several or dist.get_rank() == 0:
        if place.exists():  # a torn one, or that of a run which went on from an earlier one
            shutil.rmtree(place)
        os.replace(temp[0], place)
        prune(output, *keep)
    if several:
        dist.barrier()
    return place


def prune(output: Path, keep_last: int, keep_best: int) -> None:
    """Remove checkpoints beside the `keep_last` newest and the `keep_best` with the lowest held-out loss, torn
    ones, and what killed writers left."""
    found = complete_checkpoints(output)
    losses = {x: read_state(x).heldout_loss for x in found}
    ranked = sorted((x for x in found if losses[x] is not None), key=lambda x: (losses[x], x.name))
    kept = {*found[-keep_last:], *ranked[:keep_best]}
    for entry in (output / FOLDER).iterdir():
        if entry not in kept and (_NAME.fullmatch(entry.name) or entry.name.startswith(".tmp-")):
            shutil.rmtree(entry, ignore_errors=True)


def check_same(state: State, identity: str, data: str, place: str) -> None:
    """A run goes on only with the recipe and the tokens that it began with."""
    for what, had, has in (("recipe", state.identity, identity), ("data", state.data, data)):
        if had != has:
            raise ChangedError(
                f"{place}: the {what} is not what this run began with ({had} then, {has} now); undo the change "
                "(train.json has the recipe as it was) or choose another `output`"
            )


def full_state_dict(module: nn.Module) -> dict[str, torch.Tensor]:
    """All that is trained, whole and on the CPU, at rank 0 (elsewhere empty); all workers call."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    found = get_model_state_dict(module, options=options)
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def upload(folder: Path, target: Folder, name: str) -> None:
    """Copy the files of a local folder to `name` within `target`, each whole or not at all."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with (
                target.create(f"{name}/{path.relative_to(folder).as_posix()}") as out,
                path.open("rb") as file,
            ):
                shutil.copyfileobj(file, out, 8 * 1024**2)
