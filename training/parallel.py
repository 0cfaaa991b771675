"""Who computes what: the process group, the device, sharded weights, summed gradients.

Weights that are trained in full go through FSDP2 (`fully_shard` by layer), also on one device where they compute
in bfloat16: the optimiser then has float32 weights and the layers a bfloat16 copy. Under an adapter only the
frozen base is sharded; the adapter is small, so each worker has all of it in float32 and its gradients are
summed once a step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from malmoi.pipeline.errors import RecipeError, ResourceError

from .recipe import TrainRecipe

_BUCKET = 64 * 1024**2  # elements of gradients that are summed at once


@dataclass(frozen=True)
class Parallel:
    """`world` workers, of which this is `rank`; `sharded`: weights are DTensors; `autocast`: float32 weights or
    adapters compute in bfloat16 by autocast; `scale`: what a worker's loss is multiplied by, because FSDP2
    divides summed gradients by the number of workers."""

    rank: int
    world: int
    device: torch.device
    sharded: bool
    autocast: bool
    scale: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values


def _device(use_gpu: bool) -> torch.device:
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ResourceError(
            "workers.gpus_per_worker=1, but this machine has no CUDA device that torch can use; set it to 0 "
            "to train on CPUs"
        )
    mine, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if mine >= there:
        raise ResourceError(
            f"{mine + 1} processes or more on this machine, but it has {there} CUDA devices; lower --nproc-per-node"
        )
    return torch.device("cuda", mine)


def start(recipe: TrainRecipe, device: torch.device | None = None) -> Parallel:
    """Join the process group: the one that is there (Ray Train), torchrun's, or none for a single process.

    A single process that needs a mesh gets a group of its own without a network.
    """
    device = _device(recipe.workers.gpus_per_worker > 0) if device is None else device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group(backend)
    world = dist.get_world_size() if dist.is_initialized() else 1
    full, half = recipe.method.kind == "full", recipe.model.dtype == "bfloat16"
    if full:
        sharded = recipe.optimizer.name == "adamw" and (world > 1 or half)
    else:
        sharded = world > 1 and recipe.workers.sharding == "fsdp"
    if full and world > 1 and recipe.workers.sharding == "fsdp" and not sharded:
        raise RecipeError(
            f"optimizer.name={recipe.optimizer.name} needs workers.sharding=ddp on {world} workers"
        )
    if sharded and not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    rank = dist.get_rank() if dist.is_initialized() else 0
    by_fsdp = full and sharded
    return Parallel(rank, world, device, sharded, half and not by_fsdp, world if by_fsdp else 1)


def stop() -> None:
    """Leave the process group that `start` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of a transformer's layers, however it is wrapped."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in ("layers", "h", "blocks"):
            return module
    raise RecipeError(
        "the model has no list of layers named layers, h or blocks; its family is not supported"
    )


def checkpoint_activations(model: Any) -> None:
    """Compute the activations of each layer of a transformers model again on the way back, rather than keep them."""
    name = "activation_checkpointing_enable"
    if not hasattr(model, name):  # of older transformers
        name = "gradient_checkpointing_enable"
    getattr(model, name)({"use_reentrant": False})


def shard(module: nn.Module, recipe: TrainRecipe, parallel: Parallel) -> None:
    """`fully_shard` each layer and the rest, in place. With `workers.sharding=ddp` each worker has all of it."""
    if not parallel.sharded:
        module.to(parallel.device)
        return
    full = recipe.method.kind == "full"
    kind, world = parallel.device.type, parallel.world
    if recipe.workers.sharding == "fsdp" or world == 1:
        mesh = init_device_mesh(kind, (world,))
    else:
        mesh = init_device_mesh(kind, (world, 1), mesh_dim_names=("replicate", "shard"))
    half = full and recipe.model.dtype == "bfloat16"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    trained = set() if full else {x for x in module.parameters() if x.requires_grad}
    for parameter in trained:
        parameter.data = parameter.data.to(parallel.device)
    alone = world == 1
    for layer in decoder_layers(module):
        fully_shard(
            layer, mesh=mesh, mp_policy=policy, reshard_after_forward=not alone, ignored_params=trained
        )
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=trained)
    for buffer in module.buffers():
        buffer.data = buffer.data.to(parallel.device)


def set_last_micro_batch(module: nn.Module, last: bool) -> None:
    """Gradients are exchanged after the last micro batch of a step only; before it they are summed where they
    are made, which costs the memory of a whole float32 gradient on each device."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        module.set_is_last_backward(last)


def reshard(module: nn.Module) -> None:
    """Give up whole weights that a forward pass without a backward pass left behind."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def sum_plain_gradients(parameters: Iterable[nn.Parameter], parallel: Parallel) -> None:
    """Sum the gradients of trained weights that FSDP does not care for over all workers, in float32 buckets."""
    if parallel.world == 1:
        return
    plain = [x for x in parameters if x.requires_grad and not hasattr(x, "device_mesh")]
    for parameter in plain:
        if parameter.grad is None:  # not used here, maybe elsewhere; all workers have to sum the same
            parameter.grad = torch.zeros_like(parameter)
    gradients = [x.grad for x in plain if x.grad is not None]
    while gradients:
        bucket = [gradients.pop()]
        size = bucket[0].numel()
        while gradients and size + gradients[-1].numel() <= _BUCKET:
            size += gradients[-1].numel()
            bucket.append(gradients.pop())
        flat = torch.cat([gradient.flatten().float() for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, part in zip(bucket, torch.split(flat, [x.numel() for x in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def clip(parameters: list[nn.Parameter], most: float) -> Tensor:
    """The norm of all gradients together (float32 scalar), which are scaled down to `most` if that is above 0."""
    gradients = [x.grad for x in parameters if x.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if most > 0.0:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    assert isinstance(whole, Tensor)
    return whole
