"""What stays of a training run: `train.json`, `model/`, beside `checkpoints/` and `metrics.jsonl`.

`train.json` is written when a run begins (recipe, hashes of the rows and the tokenizer) and again when it ends,
then with `result`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from malmoi.pipeline.errors import ChangedError, MalmoiError
from malmoi.pipeline.storage import Folder

from .plan import TrainPlan
from .recipe import TrainRecipe, decisive

if TYPE_CHECKING:
    import torch

    from .checkpoint import State
    from .loop import Trainer

RECORD = "train.json"
MODEL = "model"
FORMAT = 1
Launcher = Literal["local", "ray"]
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "ray")


def read_record(output: str, options: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The content of `train.json`; None where no run has begun. MalmoiError: unreadable, another format."""
    folder = Folder(output, dict(options or {}))
    try:
        content: dict[str, Any] = json.loads(folder.read_bytes(RECORD))
        if content["format_version"] != FORMAT:
            raise MalmoiError(
                f"{folder.join(RECORD)}: format {content['format_version']}; this malmoi reads format {FORMAT}"
            )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise MalmoiError(f"{folder.join(RECORD)}: not the record of a training run ({error!r})") from error
    return content


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        found.update(_flat(value, f"{key}.") if isinstance(value, dict) else {key: value})
    return found


def begin(
    given: TrainRecipe,
    plan: TrainPlan,
    launcher: Launcher = "local",
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Record that a run begins, or see that it may go on; the record. `result` in it is None if there is more to do;
    then `check` was called before anything was written.

    ChangedError with a line for each key of the recipe that is not what the run began with, or where Ray Train should
    go on with what `--local` wrote: it does not know these checkpoints, and would begin anew.
    """
    folder = Folder(given.output, given.output_options)
    record = read_record(given.output, given.output_options)
    if record is None:
        record = {
            "format_version": FORMAT,
            "name": given.name,
            "launcher": launcher,
            "identity": plan.identity,
            "data_hash": plan.data_hash,
            "tokenizer_sha256": plan.tokenizer_sha256,
            "steps": plan.steps,
            "recipe": given.model_dump(
                mode="json", exclude={"output_options": True, "data": {"storage_options"}}
            ),
            "decisive": decisive(given),
            "settled_model": plan.recipe.model.model_dump(mode="json"),
            "versions": {name: _version(name) for name in _LIBRARIES},
            "result": None,
        }
        check()
        _write(folder, record)
        return record
    had, has = _flat(record["decisive"]), _flat(decisive(given))
    lines = [
        f"  {key}: {had.get(key)!r} then, {has.get(key)!r} now"
        for key in sorted(had.keys() | has.keys())
        if had.get(key) != has.get(key)
    ]
    if record["data_hash"] != plan.data_hash:
        lines.append(f"  the rows: {record['data_hash'][:16]} then, {plan.data_hash[:16]} now")
    if lines:
        raise ChangedError(
            f"{folder.url}: a run with another recipe is here; take another `output`, or undo\n"
            + "\n".join(lines)
        )
    before = record.get("launcher", launcher)
    if record["result"] is not None:
        return record
    if launcher == "ray" and before != "ray":
        raise ChangedError(
            f"{folder.url}: this run has checkpoints of --local, which Ray Train does not know; go on with --local, or "
            "take another `output`"
        )
    check()
    if before != launcher:
        _write(folder, {**record, "launcher": launcher})
    return record


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "none"


def _write(folder: Folder, record: Mapping[str, Any]) -> None:
    folder.write_bytes(RECORD, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def finish(trainer: Trainer, state: State, output: str, options: Mapping[str, Any]) -> None:
    """Write `model/` and the result into `train.json`; every worker calls, rank 0 writes."""
    from .checkpoint import full_state_dict, upload
    from .model import parameter_counts, save_model

    tensors = _plain(trainer, full_state_dict(trainer.module)) if trainer.parallel.sharded else None
    if trainer.parallel.rank != 0:
        return
    folder = Folder(output, dict(options))
    method = trainer.recipe.method
    local = folder.local_path(MODEL)
    if local is not None:
        for left in Path(folder.url).glob(f".tmp-*-{MODEL}"):  # by a run that was killed here
            shutil.rmtree(left, ignore_errors=True)
        temp = Path(local).with_name(f".tmp-{uuid.uuid4().hex}-{MODEL}")
        save_model(trainer.module.model, method, temp, tensors)
        if Path(local).exists():
            shutil.rmtree(local)
        temp.rename(local)
    else:
        with tempfile.TemporaryDirectory() as place:
            save_model(trainer.module.model, method, place, tensors)
            upload(Path(place), folder, MODEL)
    record = read_record(output, options)
    assert record is not None
    trained, total = parameter_counts(trainer.module.model)
    _write(
        folder, {**record, "result": {**asdict(state), "trained_parameters": trained, "parameters": total}}
    )


def _plain(trainer: Trainer, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the loss's prefix, and a weight that is tied to another only once."""
    plain = {name.removeprefix("model."): value for name, value in tensors.items()}
    base = trainer.module.base()
    if trainer.recipe.method.kind == "full" and getattr(base.config, "tie_word_embeddings", False):
        plain.pop("lm_head.weight", None)
    return plain
