"""What is known of a model before anything of it loads: its family, its weights, and what a method needs of it.

Reads `config.json` and the names of files, never a weight; imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from malmoi.pipeline.errors import RecipeError

from .recipe import MethodSettings, ModelSettings

# Decoders of one shape: q/k/v/o_proj and gate/up/down_proj in every layer, and logits that are nothing but
# lm_head of the last hidden state. Others are refused rather than trained wrongly.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "smollm3", "exaone4", "gemma3_text")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# peft's adaption prompts compute queries again, by the formulas of these families only.
LLAMA_ADAPTER_FAMILIES = ("llama", "mistral")

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def check_buildable(model: ModelSettings, method: MethodSettings, *, vocab_size: int | None = None) -> str:
    """The family. RecipeError before a weight is read: what is missing, unknown, or does not go together.

    vocab_size: one more than the largest token id of the rows, where known.
    """
    if model.config is not None:
        family, config = model.config.family, _config_of_shape(model, vocab_size)
    else:
        config = read_config(str(model.path))
        family = config["model_type"]
        check_weights(str(model.path))
    have = config.get("vocab_size")
    if vocab_size is not None and have is not None and have < vocab_size:
        raise RecipeError(
            f"{_name(model)}: has {have:,} token embeddings, but the rows hold ids up to {vocab_size - 1:,}; "
            "tokenize with the model's own tokenizer"
        )
    if config.get("final_logit_softcapping"):
        raise RecipeError(
            f"{_name(model)}: caps its logits (final_logit_softcapping), which the loss does not"
        )
    _check_method(_name(model), family, config, method)
    _check_attention(_name(model), config, model.attention)
    return family


def read_config(path: str) -> dict[str, Any]:
    """`config.json` of a folder of a Hugging Face model. RecipeError: no folder, no file, unknown family."""
    folder = Path(path)
    if not folder.is_dir():
        hint = "" if folder.is_absolute() else "; nothing is ever downloaded, give the folder of a model"
        raise RecipeError(f"model.path={path}: no such folder{hint}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = "an adapter, not a model" if (folder / "adapter_config.json").exists() else "not a model"
        raise RecipeError(f"{path}: no config.json, so this is {what}") from error
    except ValueError as error:
        raise RecipeError(f"{path}/config.json: not JSON ({error})") from error
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in FAMILIES:
        raise RecipeError(f"{path}: model_type {family!r} is not known; known: {', '.join(FAMILIES)}")
    if "quantization_config" in config:
        raise RecipeError(f"{path}: its weights are quantised already; give the model that was quantised")
    return dict(config)


def check_weights(path: str) -> None:
    """RecipeError where a folder has no safetensors, or lacks one that its index names."""
    folder = Path(path)
    if (folder / WEIGHTS).is_file():
        return
    if not (folder / INDEX).is_file():
        pickled = sorted(x.name for x in folder.glob("*.bin"))
        hint = f"; {pickled[0]} is a pickle, which may run code: convert it to safetensors" if pickled else ""
        raise RecipeError(f"{path}: no weights, want {WEIGHTS} or {INDEX}{hint}")
    try:
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}/{INDEX}: not an index of weights ({error!r})") from error
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise RecipeError(f"{path}: {len(missing)} of {len(shards)} weight files missing, first {missing[0]}")


def _name(model: ModelSettings) -> str:
    return str(model.path) if model.config is None else "model.config"


def _config_of_shape(model: ModelSettings, vocab_size: int | None) -> dict[str, Any]:
    shape = model.config
    assert shape is not None
    return {
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
    }


def _check_method(name: str, family: str, config: dict[str, Any], method: MethodSettings) -> None:
    layers = int(config["num_hidden_layers"])
    if isinstance(method.target_modules, tuple):
        unknown = sorted(set(method.target_modules) - set(LINEAR))
        if unknown or not method.target_modules:
            raise RecipeError(
                f"method.target_modules: {', '.join(unknown) or 'empty'}; known: {', '.join(LINEAR)}, or all-linear"
            )
    if method.kind != "llama_adapter":
        return
    if family not in LLAMA_ADAPTER_FAMILIES:
        raise RecipeError(
            f"{name}: method.kind=llama_adapter is for {', '.join(LLAMA_ADAPTER_FAMILIES)}, this is {family}; "
            "take prefix, which is near to it, or lora"
        )
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    if config.get("head_dim") not in (None, width // heads):
        raise RecipeError(
            f"{name}: method.kind=llama_adapter needs head_dim = hidden_size / num_attention_heads = "
            f"{width // heads}, the model has {config['head_dim']}; take lora or prefix"
        )
    if method.adapter_layers is not None and method.adapter_layers > layers:
        raise RecipeError(f"method.adapter_layers={method.adapter_layers}, but {name} has {layers} layers")


def _check_attention(name: str, config: dict[str, Any], attention: str) -> None:
    if attention not in ("packed", "varlen") or not _slides(config):
        return
    raise RecipeError(
        f"{name}: has layers with a sliding window ({config['sliding_window']}), which "
        f"model.attention={attention} does not know; use sdpa and rows of one document"
    )


def _slides(config: dict[str, Any]) -> bool:
    if not config.get("sliding_window"):
        return False
    kinds = config.get("layer_types")
    if kinds is not None:
        return "sliding_attention" in kinds
    return bool(config.get("use_sliding_window", True))
