"""AdamW: torch's fused one, or the paged 8-bit one of bitsandbytes for weights that are whole."""

from __future__ import annotations

import warnings

import torch

from malmoi.pipeline.errors import RecipeError

from .recipe import OptimizerSettings


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """The trained parameters, matrices with weight decay and vectors (norms, biases, gates) without."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise RecipeError("nothing of the model is trained; check method.target_modules")
    # Scales of IA3 are [1, n] and start at 1: a vector is what has one dimension that is more than 1.
    matrices = [parameter for parameter in trained if parameter.numel() > max(parameter.shape, default=1)]
    vectors = [parameter for parameter in trained if parameter.numel() <= max(parameter.shape, default=1)]
    groups = [(matrices, weight_decay), (vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def make_optimizer(module: torch.nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser over what `module` trains; its learning rate is set at every step by the loop."""
    groups = parameter_groups(module, settings.weight_decay)
    if settings.name == "adamw":
        return torch.optim.AdamW(
            groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
        )  # fused is there for CPU and CUDA, and takes DTensors
    import bitsandbytes

    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.PagedAdamW8bit(
        groups, lr=settings.lr, betas=settings.betas, eps=settings.eps
    )
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
