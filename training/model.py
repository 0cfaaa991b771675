"""Builds, saves and loads a model that a method trains. Full, LoRA and QLoRA differ here and nowhere else.

Nothing is ever downloaded: weights come from a local folder, or from the seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from malmoi.pipeline.errors import MalmoiError, RecipeError

from .attention import implementation
from .bottleneck import FILE as BOTTLENECK_FILE
from .bottleneck import bottleneck_state, load_bottlenecks
from .families import check_buildable
from .methods import apply_method
from .quantise import dequantise, keep_layout, quantisation, quantise
from .recipe import MethodSettings, ModelSettings, ModelShape

Device = torch.device | str


def build_model(
    model: ModelSettings,
    method: MethodSettings,
    device: Device,
    *,
    seed: int = 0,
    vocab_size: int | None = None,
    plain: bool = False,
) -> nn.Module:
    """A transformers model (or peft's wrapper around one) on `device`, in training mode.

    What the method trains requires gradients and is float32; what it does not is frozen and in `model.dtype`
    (linear layers of QLoRA: 4 bits), so train under autocast or FSDP2's mixed precision. seed: of random weights
    and of the adapters' start; neither the global generator nor its state is touched. vocab_size: one more than the
    largest token id, checked against the model's. plain: QLoRA's base without 4-bit layers, but with what those
    compute with. Raises RecipeError before a weight is read (`check_buildable`).
    """
    check_buildable(model, method, vocab_size=vocab_size)
    device = torch.device(device)
    with _seeded(seed, device):
        built = apply_method(build_base(model, method, device, plain=plain), method)
    return built.train()


def build_base(
    model: ModelSettings, method: MethodSettings, device: torch.device, *, plain: bool = False
) -> nn.Module:
    """The model without its method; random weights by torch's present generator."""
    dtype = torch.float32 if method.kind == "full" else getattr(torch, model.dtype)
    attention = _attention(model)
    if model.config is not None:
        base = _random(model.config, method, dtype, attention, device)
    else:
        quantised = quantisation(method, dtype) if method.kind == "qlora" else None
        base = _pretrained(str(model.path), dtype, attention, device, quantised)
    if method.kind == "qlora":
        (dequantise if plain else keep_layout)(base)
    return base


def save_model(
    model: nn.Module, method: MethodSettings, folder: str | Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Into a folder, as safetensors: the whole model for `full`, else what was trained.

    state: the full state dict on the CPU where `model` is sharded (trained tensors suffice for adapters).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    given = None if state is None else dict(state)
    if method.kind == "bottleneck":
        from safetensors.torch import save_file

        tensors = {name: value.cpu() for name, value in bottleneck_state(model, given).items()}
        save_file(tensors, folder / BOTTLENECK_FILE, metadata={"format": "pt"})
    elif method.kind == "full":
        model.save_pretrained(folder, state_dict=given)  # type: ignore[operator]
    else:
        # Embeddings are never trained, so never saved; asking peft to find out would have it ask the hub.
        model.save_pretrained(folder, state_dict=given, save_embedding_layers=False)  # type: ignore[operator]


def load_model(
    model: ModelSettings,
    method: MethodSettings,
    folder: str | Path,
    device: Device,
    *,
    seed: int = 0,
    plain: bool = False,
) -> nn.Module:
    """What `save_model` wrote into `folder`, for use: in evaluation mode, nothing requires gradients.

    model, method and seed: those that it was built with; all but `full` need the base; `plain` as there.
    """
    folder, device = Path(folder), torch.device(device)
    if not folder.is_dir():
        raise MalmoiError(f"{folder}: no such folder")
    if method.kind == "full":
        saved = ModelSettings(path=str(folder), attention=model.attention, dtype=model.dtype)
        check_buildable(saved, method)
        dtype = getattr(torch, model.dtype)
        loaded = _pretrained(str(folder), dtype, _attention(model), device, None)
        return loaded.requires_grad_(False).eval()
    check_buildable(model, method)
    with _seeded(seed, device):
        base = build_base(model, method, device, plain=plain)
        if method.kind == "bottleneck":
            loaded = apply_method(base, method)
            load_bottlenecks(loaded, folder)
        else:
            loaded = _with_adapter(base, folder)
    return loaded.requires_grad_(False).eval()


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters; a 4-bit tensor counts as what it stands for."""
    trained = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = parameter.numel() if state is None else int(torch.Size(state.shape).numel())
        total += count
        trained += count if parameter.requires_grad else 0
    return trained, total


def _with_adapter(base: nn.Module, folder: Path) -> nn.Module:
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file():
        raise MalmoiError(f"{folder}: no adapter_config.json, so this is no adapter")
    loaded: nn.Module = PeftModel.from_pretrained(base, str(folder))
    return loaded


def _pretrained(
    path: str, dtype: torch.dtype, attention: str, device: torch.device, quantised: Any
) -> nn.Module:
    _offline()
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        attn_implementation=attention,
        local_files_only=True,
        use_safetensors=True,
        device_map={"": str(device)},
        quantization_config=quantised,
        output_loading_info=True,
    )
    # A weight that no file holds would be random, with a warning only.
    for what in ("missing_keys", "mismatched_keys"):
        found = sorted(str(key) for key in info.get(what) or ())
        if found:
            raise RecipeError(f"{path}: {len(found)} weights are {what.split('_')[0]}, first {found[0]}")
    return model  # type: ignore[no-any-return]


def _random(
    shape: ModelShape, method: MethodSettings, dtype: torch.dtype, attention: str, device: torch.device
) -> nn.Module:
    if shape.vocab_size is None or shape.max_positions is None:
        raise RecipeError(
            "model.config: want vocab_size and max_positions, which the rows give in a training run"
        )
    _offline()
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        shape.family,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads or shape.num_heads,
        head_dim=shape.head_dim or shape.hidden_size // shape.num_heads,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if method.kind == "qlora":
        quantise(model, method, dtype, device)
    return model  # type: ignore[no-any-return]


def _attention(model: ModelSettings) -> str:
    """A training run has settled `auto` by its rows; what is used without rows sees one text at a time."""
    return implementation("sdpa" if model.attention == "auto" else model.attention)


def _offline() -> None:
    """Before transformers is imported, which reads it once; every call says local_files_only beside it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging

    logging.disable_progress_bar()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A block in which torch's generators start at `seed`, and after which they are as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
