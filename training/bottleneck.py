"""The bottleneck adapter of Houlsby et al. 2019 ("Parameter-Efficient Transfer Learning for NLP", figure 2).

After the attention and after the MLP of every layer: h + up(gelu(down(h))), before the sum with the residual.
`up` starts at zero, so that training begins at the base model. Unlike the paper's, norms stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.pipeline.errors import MalmoiError

FILE = "bottleneck.safetensors"
# The last linear layer of attention and MLP: what it gives is what the block gives.
_LAST = (("self_attn", "o_proj"), ("mlp", "down_proj"))


class Bottleneck(nn.Module):
    """`inner`, a linear layer of any kind (quantised too), and the adapter on what it gives.

    down: [size, D], up: [D, size], both float32 with bias; h keeps its dtype.
    """

    def __init__(self, inner: nn.Module, width: int, size: int, dropout: float, device: torch.device) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Linear(width, size, dtype=torch.float32, device=device)
        self.up = nn.Linear(size, width, dtype=torch.float32, device=device)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        given: Tensor = self.inner(hidden)
        change: Tensor = self.up(self.dropout(functional.gelu(self.down(given.to(self.down.weight.dtype)))))
        return given + change.to(given.dtype)


def add_bottlenecks(base: nn.Module, size: int, dropout: float) -> None:
    """Freeze `base` (a transformers decoder) and put an adapter after attention and MLP of every layer."""
    base.requires_grad_(False)
    layers = base.get_submodule("model.layers")
    for layer in layers.children():
        for block, last in _LAST:
            parent = layer.get_submodule(block)
            inner = parent.get_submodule(last)
            device = next(inner.parameters()).device
            width = int(inner.out_features)  # type: ignore[arg-type]
            setattr(parent, last, Bottleneck(inner, width, size, dropout, device))


def bottlenecks(module: nn.Module) -> Iterator[tuple[str, Bottleneck]]:
    for name, part in module.named_modules():
        if isinstance(part, Bottleneck):
            yield name, part


def bottleneck_state(module: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The adapters' tensors by name, of `module` or of a full state dict of it."""
    tensors = module.state_dict() if state is None else state
    ends = tuple(f".{part}.{kind}" for part in ("down", "up") for kind in ("weight", "bias"))
    prefixes = tuple(f"{name}." for name, _ in bottlenecks(module))
    return {
        key: value.detach().contiguous()
        for key, value in tensors.items()
        if key.startswith(prefixes) and key.endswith(ends) and ".inner." not in key
    }


def with_bottlenecks(base: nn.Module, folder: str | Path) -> nn.Module:
    """`base` (changed in place) with the adapters of an exported folder, for use: nothing is trained."""
    from safetensors import safe_open

    place = Path(folder) / FILE
    if not place.is_file():
        raise MalmoiError(f"{folder}: no {FILE}")
    with safe_open(place, framework="pt") as file:
        down = next(name for name in file.keys() if name.endswith(".down.bias"))  # noqa: SIM118
        size = int(file.get_slice(down).get_shape()[0])
    add_bottlenecks(base, size, 0.0)
    load_bottlenecks(base, Path(folder))
    return base.requires_grad_(False).eval()


def load_bottlenecks(module: nn.Module, folder: Path) -> None:
    """Fill the adapters of `module` from FILE. MalmoiError: not there, or made for another shape."""
    from safetensors.torch import load_file

    if not (folder / FILE).is_file():
        raise MalmoiError(f"{folder}: no {FILE}")
    found, own = load_file(folder / FILE), bottleneck_state(module)
    wrong = sorted(
        name
        for name in found.keys() | own.keys()
        if name not in found or name not in own or found[name].shape != own[name].shape
    )
    if wrong:
        raise MalmoiError(f"{folder / FILE}: made for another model or size; first tensor: {wrong[0]}")
    module.load_state_dict(found, strict=False)
