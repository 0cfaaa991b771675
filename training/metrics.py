"""What a run tells of itself: a line on the terminal, JSON Lines, TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from malmoi.pipeline.console import make_console

FILE = "metrics.jsonl"

# Dense bfloat16 FLOP/s by the data sheets, by a part of the device's name; the first that fits.
PEAK_FLOPS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("GH200", 989e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10", 125e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
)


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 peak of the device; None for a CPU or a GPU that the table does not have."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS if part in name), None)


def flops_per_token(module: torch.nn.Module, config: Any, length: int) -> float:
    """Training FLOPs of the model for one token, by Chowdhery et al. 2022 (PaLM), appendix B:

        6 * N + 12 * L * H * Q * T

    N: weights that are multiplied with (all but an input embedding that is not the output's too), L layers, H
    heads of width Q, T positions of a row; attention is counted in full, not the causal half. A frozen weight
    has no gradient of its own: 4 per weight instead of 6. What activation checkpointing makes again is not
    counted. A 4-bit weight counts like any other.
    """
    tied = bool(getattr(config, "tie_word_embeddings", False))
    total = 0.0
    for name, parameter in module.named_parameters():
        if not tied and "embed_tokens" in name:
            continue
        count = parameter.numel()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            count = int(torch.Size(state.shape).numel())
        total += count * (6.0 if parameter.requires_grad else 4.0)
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return total + 12.0 * int(config.num_hidden_layers) * heads * width * length


def mfu(tokens_per_second: float, flops: float, devices: int, peak: float | None) -> float | None:
    """Model FLOPs utilisation: tokens/s * FLOPs per token / (devices * peak FLOP/s); None without a peak."""
    return None if peak is None else tokens_per_second * flops / (devices * peak)


class MetricsLog:
    """The log of rank 0. A step that is logged again after a restart replaces what was logged before.

    `output`: a local folder; None for a remote one, whose lines are given out by `text` at each checkpoint.
    `show`: also on the terminal.
    """

    def __init__(
        self,
        output: Path | None,
        step: int,
        steps: int,
        *,
        before: str = "",
        tensorboard: bool = False,
        show: bool = True,
    ) -> None:
        self.steps, self.show = steps, show
        self.console = make_console()
        self.lines = [line for line in before.splitlines() if _step_of(line) <= step]
        self.file: IO[str] | None = None
        self.board: Any = None
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            path = output / FILE
            old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            self.lines = [line for line in old if _step_of(line) <= step]
            path.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
            self.file = path.open("a", encoding="utf-8")
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float | int | None]) -> None:
        line = json.dumps({"step": step, **values})
        self.lines.append(line)
        if self.file is not None:
            self.file.write(line + "\n")
            self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                if value is not None:
                    self.board.add_scalar(name, value, step)
        if self.show:
            self.console.print(shown(step, self.steps, values), soft_wrap=True)

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()


def _step_of(line: str) -> float:
    """The step of a line; beyond all for a line that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


_SHOWN = (
    ("loss", "loss {:.4f}"),
    ("heldout_loss", "held-out loss {:.4f}"),
    ("grad_norm", "norm {:.3f}"),
    ("lr", "lr {:.2e}"),
    ("tokens_per_second", "{:,.0f} tokens/s"),
    ("mfu", "MFU {:.1%}"),
    ("peak_memory_bytes", "{:.2f} GiB"),
)


def shown(step: int, steps: int, values: Mapping[str, float | int | None]) -> str:
    """A line for the terminal, in rich's markup."""
    scaled = {name: value for name, value in values.items() if value is not None}
    if "peak_memory_bytes" in scaled:
        scaled["peak_memory_bytes"] /= 1024**3
    parts = [shape.format(scaled[name]) for name, shape in _SHOWN if name in scaled]
    return f"[bold]step {step:,}/{steps:,}[/]  " + "  ".join(parts)


class Speed:
    """Tokens a second since the last question; the first answer has no start-up in it if `reset` was called."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.began, self.tokens = time.perf_counter(), 0

    def add(self, tokens: int) -> None:
        self.tokens += tokens

    def take(self) -> float:
        passed = max(time.perf_counter() - self.began, 1e-9)
        rate = self.tokens / passed
        self.reset()
        return rate


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU, or the most that the process had resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
