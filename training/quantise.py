"""Four-bit weights (QLoRA, Dettmers et al. 2023): how they are asked for, made in place, and unmade."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .recipe import MethodSettings

_KEPT = "lm_head"


def quantisation(method: MethodSettings, dtype: torch.dtype) -> Any:
    """For `from_pretrained`, which quantises while it reads; lm_head is left as it is by default."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=method.quant_type,
        bnb_4bit_use_double_quant=method.double_quant,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=getattr(torch, method.quant_storage),
    )


def keep_layout(model: nn.Module) -> None:
    """In evaluation on some CPUs bitsandbytes lays the 4-bit weights out anew, in place, with scales of
    bfloat16: what follows computes with other weights than training did. Not here."""
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def quantise(model: nn.Module, method: MethodSettings, dtype: torch.dtype, device: torch.device) -> None:
    """Put 4-bit layers in the place of all linear ones but lm_head, one after the other: for random weights,
    which no file holds. The model is on `device` afterwards."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or name.split(".")[-1] == _KEPT:
            continue
        small = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=dtype,
            device="meta",
        )
        small.weight = Params4bit(
            layer.weight.data,
            requires_grad=False,
            compress_statistics=method.double_quant,
            quant_type=method.quant_type,
            quant_storage=getattr(torch, method.quant_storage),
            module=small,
        )
        if layer.bias is not None:
            small.bias = nn.Parameter(layer.bias.data, requires_grad=False)
        model.set_submodule(name, small.to(device))
    model.to(device)
    keep_layout(model)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft asks for it


def dequantise(model: nn.Module) -> None:
    """Plain linear layers with the values that the 4-bit ones compute with, in their dtype of computation."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, Linear4bit):
            continue
        dtype = layer.compute_dtype
        values = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(values, requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.data.to(dtype), requires_grad=False)
        model.set_submodule(name, plain)
    model.is_loaded_in_4bit = False  # type: ignore[assignment]
    model.is_quantized = False  # type: ignore[assignment]
    model.hf_quantizer = None  # type: ignore[assignment]
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
