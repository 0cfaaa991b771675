"""The model that is evaluated, wherever it lies, and its tokenizer. Nothing is ever downloaded.

A model is a folder of transformers, an adapter of peft on such a folder, or a run of `malmoi train` (or one of
its checkpoints).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from malmoi.operators.tokenizing import load_encoder
from malmoi.pipeline.errors import ChangedError, MalmoiError, ResourceError
from malmoi.pipeline.storage import is_local

from .bottleneck import FILE as BOTTLENECK
from .bottleneck import with_bottlenecks
from .model_card import tokens_of
from .outcome import RECORD
from .recipe import PROMPT_KINDS
from .scoring import Ints
from .trained import Trained, load_trained, local_part, open_trained

REPORT = "evaluation.json"
TOKENIZER = "tokenizer.json"
# Where neither model nor user says how long a text may be.
_WINDOW = 2048
# Methods of peft that take positions for tokens of their own.
_PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")
_BLOCK = 8 * 1024**2

Kind = Literal["model", "adapter", "bottleneck", "run"]


@dataclass(frozen=True)
class Place:
    """A model that has been found, not loaded; picklable. `folder`: of its files; `base`: of an adapter.

    `given`: as the user wrote it; `dtype`: "auto" for float32 on the CPU and the stored one elsewhere.
    """

    given: str
    kind: Kind
    folder: str
    base: str | None
    device: str
    dtype: str


def find_model(given: str, *, base: str | None, device: str, dtype: str, best: bool = False) -> Place:
    """MalmoiError: no model there, or an adapter without its base."""
    folder = Path(given)
    kind: Kind | None = None
    if not _is_run(given):
        files = {"adapter_config.json": "adapter", BOTTLENECK: "bottleneck", "config.json": "model"}
        kind = next((kind for name, kind in files.items() if (folder / name).is_file()), None)  # type: ignore[misc]
    if kind in ("adapter", "bottleneck"):
        found = base or _base_of(folder)
        if not (Path(found) / "config.json").is_file():
            raise MalmoiError(
                f"{given}: an adapter on {found!r}, which is no folder here; name it with --base"
            )
        return Place(given, kind, str(folder.absolute()), found, device, dtype)
    if base is not None:
        raise MalmoiError(f"{given}: not an adapter, so --base says nothing")
    if kind == "model":
        return Place(given, kind, str(folder.absolute()), None, device, dtype)
    if is_local(given) and not folder.is_dir():
        raise MalmoiError(
            f"{given}: no such folder; nothing is ever downloaded, give the folder of a model or a run"
        )
    trained = open_trained(given, best=best)
    return Place(given, "run", trained.place, trained.recipe.model.path, device, dtype)


def _base_of(adapter: Path) -> str:
    try:
        told = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return str(told["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _is_run(given: str) -> bool:
    """Whether train.json says how the folder came about: it knows the base and the method better."""
    folder = Path(given).absolute()
    return (folder / RECORD).is_file() or (folder.name == "model" and (folder.parent / RECORD).is_file())


def check_device(device: str) -> None:
    """ResourceError for a device that this process has not."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ResourceError(
            f"--device={device}, but torch finds no CUDA device here; leave it out, or say cpu"
        )


def load(place: Place) -> Any:
    """The model, for use: evaluation mode, nothing requires gradients."""
    import torch

    check_device(place.device)
    dtype = place.dtype
    if place.kind == "run":
        model: Any = load_trained(open_trained(place.folder), place.device)
        return model if dtype == "auto" else model.to(getattr(torch, dtype))
    if dtype == "auto" and place.device == "cpu":
        dtype = "float32"
    os.environ["HF_HUB_OFFLINE"] = "1"
    if place.kind == "model":
        return _pretrained(place.folder, dtype, place.device)
    base = _pretrained(str(place.base), dtype, place.device)
    if place.kind == "bottleneck":
        return with_bottlenecks(base, place.folder).requires_grad_(False).eval()
    from peft import PeftModel

    return PeftModel.from_pretrained(base, place.folder).requires_grad_(False).eval()


def _pretrained(folder: str, dtype: str, device: str) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            device_map={"": device},
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise MalmoiError(
            f"{folder}: no causal language model with weights in safetensors ({error})"
        ) from error
    wrong = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
    if wrong:  # transformers would go on with random ones
        raise MalmoiError(f"{folder}: {len(wrong)} weights are missing or of another shape, first {wrong[0]}")
    return model.requires_grad_(False).eval()


def sizes(place: Place) -> tuple[int | None, int]:
    """(positions that are left for text, None where the configuration has no such number; token embeddings)."""
    virtual = 0
    if place.kind == "run":
        recipe = open_trained(place.folder).recipe
        virtual = recipe.method.num_virtual_tokens if recipe.method.kind in PROMPT_KINDS else 0
        shape = recipe.model.config
        if shape is not None:
            # Settled when the run began.
            assert shape.max_positions is not None
            assert shape.vocab_size is not None
            return shape.max_positions - virtual, shape.vocab_size
    elif place.kind == "adapter":
        told = json.loads((Path(place.folder) / "adapter_config.json").read_text(encoding="utf-8"))
        virtual = int(told.get("num_virtual_tokens") or 0) if told.get("peft_type") in _PROMPTS else 0
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoConfig

    folder = place.folder if place.kind == "model" or place.base is None else place.base
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except (OSError, ValueError) as error:
        raise MalmoiError(f"{folder}: not the folder of a model ({error})") from error
    positions = getattr(config, "max_position_embeddings", None)
    return (None if positions is None else int(positions) - virtual), int(config.vocab_size)


def check_sizes(place: Place, tokenizer: Tokenizer, window: int | None) -> int:
    """The window: given, or all positions. MalmoiError if it is more, or the tokenizer has more ids."""
    positions, vocabulary = sizes(place)
    if tokenizer.size > vocabulary:
        raise MalmoiError(
            f"{place.given}: has {vocabulary:,} token embeddings, its tokenizer ids up to {tokenizer.size - 1:,}"
        )
    if positions is not None and window is not None and window > positions:
        raise MalmoiError(f"--window={window} is more than the {positions} positions of the model")
    return window or positions or _WINDOW


def folder_hash(folder: str) -> str:
    """32 hex digits over names and content of the files that make a model; cards and reports are not among them."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.suffix == ".md" or path.name == REPORT or name.startswith("."):
            continue
        state = xxhash.xxh3_128()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                state.update(block)
        digest.update(f"{name}\0{state.hexdigest()}\n".encode())
    return digest.hexdigest()[:32]


def model_hash(place: Place) -> str:
    if place.kind != "run":
        return folder_hash(place.folder)
    with local_part(open_trained(place.folder)) as folder:
        return folder_hash(str(folder))


@dataclass(frozen=True)
class Tokenizer:
    """`pair`: ids with the special tokens that the tokenizer adds by itself; `texts`: ids as in training, none
    added and none made from the text. `prefix`: the token before a text."""

    pair: Callable[[str], list[int]]
    texts: Callable[[list[str]], list[Ints]]
    decode: Callable[[Sequence[int]], str]
    prefix: int
    ends: tuple[int, ...]
    size: int
    sha256: str


def tokenizer_file(place: Place, given: str | None) -> Path:
    """The tokenizer.json: given, or beside the model, its base or the rows that it was trained on.

    ChangedError where it is not the one that a run was trained with.
    """
    trained: Trained | None = open_trained(place.folder) if place.kind == "run" else None
    places = [given] if given is not None else [place.folder, place.base]
    if given is None and trained is not None:
        places += [trained.recipe.data.tokenizer, trained.recipe.data.path]
    want = trained.record["tokenizer_sha256"] if trained is not None else None
    for path in (Path(x) for x in places if x is not None):
        file = path / TOKENIZER if path.is_dir() else path
        if not file.is_file():
            continue
        if want is None or hashlib.sha256(file.read_bytes()).hexdigest() == want:
            return file
        if given is not None:
            raise ChangedError(
                f"{file}: not the tokenizer that the run was trained with (sha256 {want[:16]})"
            )
    looked = ", ".join(str(x) for x in places if x is not None)
    raise MalmoiError(f"no {TOKENIZER} of the model at {looked}; name it with --tokenizer")


def load_tokenizer(file: Path, place: Place | None = None) -> Tokenizer:
    """By transformers for prompts, as in malmoi tokenize for text. MalmoiError: not a tokenizer.

    The prefix is what stood before documents in the rows that a run was trained on; of other models bos where
    the tokenizer adds it by itself, else eos.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        encoder = load_encoder(str(file))
    except (ValueError, OSError) as error:
        raise MalmoiError(str(error)) from error
    if (file.parent / "tokenizer_config.json").is_file() and file.name == TOKENIZER:
        made = AutoTokenizer.from_pretrained(str(file.parent), local_files_only=True)
    else:  # by the model's family transformers might guess a class that splits in another way
        made = PreTrainedTokenizerFast(tokenizer_file=str(file))
    import pyarrow as pa

    def texts(values: list[str]) -> list[Ints]:
        ids, offsets = encoder.encode(pa.array(values, pa.large_string()))
        return np.split(ids, offsets[1:-1]) if values else []

    def written(ids: Sequence[int]) -> str:
        return str(made.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    before = list(made.encode("a", add_special_tokens=False))

    def decode(ids: Sequence[int]) -> str:
        # Behind another text: some tokenizers take a space away from the beginning of one.
        return written([*before, *ids]).removeprefix(written(before))

    prefix, end = encoder.eos_id, encoder.eos_id
    if encoder.bos_id is not None and made.encode("a")[0] == encoder.bos_id:
        prefix = encoder.bos_id
    tokens = tokens_of(open_trained(place.folder)) if place is not None and place.kind == "run" else None
    if tokens is not None:
        prefix = end = tokens.tokenizer.eos_id
        if tokens.settings.get("bos") and tokens.tokenizer.bos_id is not None:
            prefix = tokens.tokenizer.bos_id
    return Tokenizer(
        pair=lambda value: list(made.encode(value)),
        texts=texts,
        decode=decode,
        prefix=prefix,
        ends=(end,),
        size=encoder.vocab_size,
        sha256=encoder.sha256,
    )
