"""What is trained of a model: one function, a case for each kind of the recipe's `method`."""

from __future__ import annotations

from typing import Any

from torch import nn

from malmoi.pipeline.errors import MalmoiError

from .bottleneck import add_bottlenecks
from .families import LINEAR
from .recipe import MethodSettings

LOW_RANK = ("lora", "qlora", "dora")
# Methods whose change is a change of weights, which can be added to them.
MERGEABLE = (*LOW_RANK, "ia3")
# The paper's share of layers (the topmost 30 of 32) as a number of layers that are left as they are.
_LLAMA_ADAPTER_LEFT = 2


def apply_method(base: nn.Module, method: MethodSettings) -> nn.Module:
    """`base` (a transformers decoder) prepared for training by `method`; what is trained requires gradients.

    Trained tensors are float32 whatever the base's dtype. `base` is changed in place.
    """
    if method.kind == "full":
        return base
    if method.kind == "bottleneck":
        add_bottlenecks(base, method.bottleneck_size, method.dropout)
        return base
    from peft import get_peft_model

    model: nn.Module = get_peft_model(base, peft_config(method, int(base.config.num_hidden_layers)))  # type: ignore[union-attr,arg-type]
    return trained_in_float32(model)


def trained_in_float32(model: nn.Module) -> nn.Module:
    """peft does so by itself for all but adaption prompts, which take the base's dtype."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def peft_config(method: MethodSettings, num_layers: int) -> Any:
    """The peft configuration of a kind. Papers: docs/methods.md."""
    import peft

    kind = method.kind
    if kind in LOW_RANK:
        return peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=method.rank,
            lora_alpha=method.lora_alpha,
            lora_dropout=method.dropout,
            target_modules=targets(method, LINEAR),
            use_dora=kind == "dora",
        )
    if kind == "ia3":
        # Keys, values and the inner activations of the MLP, as in the paper.
        names = targets(method, ("k_proj", "v_proj", "down_proj"))
        return peft.IA3Config(
            task_type="CAUSAL_LM",
            target_modules=names,
            feedforward_modules=[name for name in names if name == "down_proj"],
        )
    tokens = {"task_type": "CAUSAL_LM", "num_virtual_tokens": method.num_virtual_tokens}
    if kind == "prompt":
        return peft.PromptTuningConfig(**tokens)
    if kind == "prefix":
        return peft.PrefixTuningConfig(
            **tokens,
            prefix_projection=method.reparameterization == "mlp",
            encoder_hidden_size=method.encoder_hidden_size,
        )
    if kind == "p_tuning":
        return peft.PromptEncoderConfig(
            **tokens,
            encoder_reparameterization_type="LSTM" if method.reparameterization == "lstm" else "MLP",
            encoder_hidden_size=method.encoder_hidden_size,
            encoder_dropout=method.dropout,
        )
    if kind == "llama_adapter":
        return peft.AdaptionPromptConfig(
            task_type="CAUSAL_LM",
            adapter_len=method.num_virtual_tokens,
            adapter_layers=method.adapter_layers or max(1, num_layers - _LLAMA_ADAPTER_LEFT),
        )
    raise MalmoiError(f"method.kind={kind} has no peft configuration; please report this")


def targets(method: MethodSettings, default: tuple[str, ...]) -> list[str]:
    """Names of the linear layers that a method changes."""
    if method.target_modules is None:
        return list(default)
    return list(LINEAR if method.target_modules == "all-linear" else method.target_modules)
