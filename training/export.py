"""`malmoi export`: from a training run, or one of its checkpoints, to a folder that transformers or peft loads.

Weights are safetensors; beside them the files of the tokenizer and a model card.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.token_manifest import TokenManifest

from .methods import MERGEABLE
from .model_card import REPORT, Export, base_name, evaluation, model_card, tokens_of
from .outcome import MODEL
from .trained import Trained, load_trained, local_part, open_trained, rebuild

CARD = "README.md"
TOKENIZER = "tokenizer.json"
# What lies beside tokenizer.json in folders of Hugging Face tokenizers.
_TOKENIZER_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "tokenizer.model",
    "vocab.json", "merges.txt",
)  # fmt: skip


def export(
    place: str,
    out: str | Path,
    *,
    merge: bool | None = None,
    tokenizer: str | None = None,
    best: bool = False,
) -> Export:
    """Write `out`, a new local folder, whole or not at all. place, best: as `open_trained` takes them.

    merge: True for a model that stands alone, False for an adapter; by default a model where the method can be
    merged, else an adapter. tokenizer: a tokenizer.json or its folder, where it is not where the recipe says.
    MalmoiError: the method cannot do what is asked, no tokenizer, `out` is there already.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MalmoiError(f"{out}: there already; choose another --out, or remove it")
    trained = open_trained(place, best=best)
    whole = _whole(trained, merge)
    tokens = tokens_of(trained)
    source = _tokenizer(trained, tokenizer)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".tmp-{out.name}-", dir=out.parent) as temp:
        made = Path(temp) / out.name
        made.mkdir()
        _write_weights(trained, whole, made, tokens)
        _copy_tokenizer(source, made, tokens)
        done = Export(trained, out.name, whole)
        if (figures := evaluation(trained)) is not None:
            (made / REPORT).write_text(
                json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        (made / CARD).write_text(model_card(done, tokens), encoding="utf-8")
        if out.exists():
            out.rmdir()
        made.rename(out)
    return done


def _whole(trained: Trained, merge: bool | None) -> bool:
    kind, path = trained.recipe.method.kind, trained.recipe.model.path
    can_merge = kind == "full" or kind in MERGEABLE
    whole = can_merge if merge is None else merge
    if whole and not can_merge:
        raise MalmoiError(f"method {kind} cannot be merged into the weights; export it with --adapter")
    if not whole and kind == "full":
        raise MalmoiError("a model trained in full has no adapter; leave --adapter out")
    if not whole and path is None:
        raise MalmoiError(
            f"{trained.place}: an adapter on random weights, which no folder holds; "
            + ("export it with --merge" if can_merge else "nothing could load it: train from a model.path")
        )
    return whole


def _write_weights(trained: Trained, whole: bool, folder: Path, tokens: TokenManifest | None) -> None:
    from .model import save_model

    method = trained.recipe.method
    if whole:
        model: Any = load_trained(trained, plain=True)
        model = model if method.kind == "full" else model.merge_and_unload()
        if trained.recipe.model.config is not None and tokens is not None:
            for config in (model.config, model.generation_config):
                config.bos_token_id = tokens.tokenizer.bos_id
                config.eos_token_id = tokens.tokenizer.eos_id
                config.pad_token_id = tokens.tokenizer.pad_id
        model.save_pretrained(folder)
        return
    if trained.part == MODEL:
        with local_part(trained) as saved:
            for path in (*saved.glob("*.safetensors"), *saved.glob("adapter_config.json")):
                shutil.copy(path, folder)
    else:
        save_model(rebuild(trained), method, folder)
    config_file = folder / "adapter_config.json"
    if config_file.exists():  # where the base lay on this machine helps nobody
        settings = json.loads(config_file.read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = base_name(str(trained.recipe.model.path))
        config_file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def _tokenizer(trained: Trained, given: str | None) -> Path:
    """The tokenizer.json that made the rows: given, or the first of where it may be that has the right hash."""
    want = trained.record["tokenizer_sha256"]
    data, model = trained.recipe.data, trained.recipe.model
    places = [given] if given is not None else [data.tokenizer, model.path, data.path]
    for place in (Path(x) for x in places if x is not None):
        file = place / TOKENIZER if place.is_dir() else place
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == want:
            return file
    looked = ", ".join(str(x) for x in places if x is not None)
    raise MalmoiError(
        f"no {TOKENIZER} with sha256 {want[:16]}, which made the rows, at {looked}; name it with --tokenizer"
    )


def _copy_tokenizer(file: Path, folder: Path, tokens: TokenManifest | None) -> None:
    shutil.copy(file, folder / TOKENIZER)
    for name in _TOKENIZER_FILES:
        if (file.parent / name).is_file():
            shutil.copy(file.parent / name, folder / name)
    settings = folder / "tokenizer_config.json"
    told = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    if "tokenizer_class" not in told:
        # Without it transformers guesses a class by the model's family, and may split text in another way.
        named = {} if tokens is None else _special_tokens(folder / TOKENIZER, tokens)
        fields = {**named, **told, "tokenizer_class": "PreTrainedTokenizerFast"}
        settings.write_text(json.dumps(fields, indent=2, ensure_ascii=False), encoding="utf-8")


def _special_tokens(file: Path, tokens: TokenManifest) -> dict[str, str]:
    added = {x["id"]: x["content"] for x in json.loads(file.read_text(encoding="utf-8"))["added_tokens"]}
    ids = tokens.tokenizer
    named = {"bos_token": ids.bos_id, "eos_token": ids.eos_id, "pad_token": ids.pad_id}
    return {name: added[number] for name, number in named.items() if number is not None and number in added}
