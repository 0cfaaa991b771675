"""Speed of the step loop on one GPU: tokens/s, MFU and peak memory of full, LoRA and QLoRA training.

    python benchmarks/train_gpu.py --shape 1.5b            # full training: attention x compile x loss x checkpointing
    python benchmarks/train_gpu.py --shape 8b --method qlora --data runs/demo_tokens    # rows of malmoi tokenize
    python benchmarks/train_gpu.py --self-check            # the same code with a tiny model on the CPU

Models have random weights. Without --data rows are random tokens, with documents of 512 tokens where attention is
within them; speed depends on the lengths of documents there, and on nothing else. Every variant takes `--warmup`
steps, then `--steps` timed ones between two waits for the device. The ceiling is a bfloat16 matrix product of
8192 x 8192 x 8192, timed in the same call.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from malmoi.pipeline.token_manifest import read_token_manifest
from malmoi.training import metrics, parallel, reader
from malmoi.training.batches import Batch, make_batch
from malmoi.training.loop import LossModel, Trainer, train_step
from malmoi.training.model import build_model
from malmoi.training.optim import make_optimizer
from malmoi.training.plan import TrainPlan
from malmoi.training.recipe import TrainRecipe

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "family": "llama", "hidden_size": 64, "intermediate_size": 128, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "vocab_size": 512, "tie_embeddings": True,
    },
    "1.5b": {  # Qwen2.5-1.5B
        "family": "qwen3", "hidden_size": 1536, "intermediate_size": 8960, "num_layers": 28, "num_heads": 12,
        "num_kv_heads": 2, "head_dim": 128, "vocab_size": 151936, "tie_embeddings": True,
    },
    "8b": {  # Llama-3.1-8B
        "family": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_layers": 32, "num_heads": 32,
        "num_kv_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_embeddings": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    method: str
    attention: str  # sdpa, cudnn (SDPA with cuDNN first), varlen, packed
    compile: str
    chunk_tokens: int
    checkpointing: bool


@dataclass(frozen=True)
class Row:
    variant: Variant
    tokens_per_second: float | None
    mfu_peak: float | None
    mfu_ceiling: float | None
    peak_gib: float | None
    loss: float | None
    note: str = ""


class Rows:
    """The same micro batches at every step, in the place of a reader."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def next(self) -> list[Batch]:
        return self.batches

    def close(self) -> None:
        pass


def matmul_ceiling(device: torch.device, size: int = 8192, seconds: float = 2.0) -> float:
    """FLOP/s of bfloat16 matrix products."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    b = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    wait(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            a @ b
        wait(device)
        count += 10
    return 2.0 * size**3 * count / (time.perf_counter() - began)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def recipe_of(variant: Variant, shape: str, length: int, rows: int, micro: int, gpu: bool) -> TrainRecipe:
    attention = "sdpa" if variant.attention == "cudnn" else variant.attention
    return TrainRecipe.model_validate(
        {
            "name": "bench",
            "output": "none",
            "data": {"path": "none"},
            "model": {"config": {**SHAPES[shape], "max_positions": length}, "attention": attention},
            "method": {"kind": variant.method},
            "optimizer": {"name": "paged_adamw_8bit" if variant.method == "qlora" else "adamw"},
            "steps": 1000,
            "batch": {"rows": rows, "rows_per_device": micro},
            "loss": {"chunk_tokens": variant.chunk_tokens},
            "compile": variant.compile,
            "activation_checkpointing": variant.checkpointing,
            "workers": {"gpus_per_worker": int(gpu)},
        }
    )


def make_batches(recipe: TrainRecipe, length: int, vocab: int, data: str | None) -> list[Batch]:
    """The micro batches of a step, of rows in `data` or random ones."""
    rows, micro = recipe.batch.rows, recipe.batch.rows_per_device
    if data is None:
        random = np.random.default_rng(0)
        got = reader.Batch(
            random.integers(0, vocab, (rows, length), dtype=np.int32), None,
            [np.arange(0, length, 512, dtype=np.int32)] * rows,
        )  # fmt: skip
    else:
        got = next(iter(reader.PackedReader(data, batch_rows=rows, prefetch=0)))
        if int(got.input_ids.max()) >= vocab:
            raise SystemExit(f"{data}: ids up to {got.input_ids.max():,}, the shape has {vocab:,} embeddings")
    separate = recipe.model.attention in ("varlen", "packed")
    return [
        make_batch(
            got.input_ids[x : x + micro], None if got.labels is None else got.labels[x : x + micro],
            got.doc_starts[x : x + micro], separate,
        )
        for x in range(0, rows, micro)
    ]  # fmt: skip


def make_trainer(recipe: TrainRecipe, length: int, group: parallel.Parallel, data: str | None) -> Trainer:
    """What `loop.build` makes, with the same rows at every step."""
    shape = recipe.model.config
    assert shape is not None
    vocab = shape.vocab_size
    assert vocab is not None
    module = LossModel(
        build_model(recipe.model, recipe.method, group.device),
        recipe.loss.chunk_tokens,
        compiled=recipe.compile == "block",
    )
    if recipe.activation_checkpointing:
        parallel.checkpoint_activations(module.base())
    if recipe.compile == "block":
        for layer in parallel.decoder_layers(module):
            layer.compile()
    parallel.shard(module, recipe, group)
    batches = make_batches(recipe, length, vocab, data)
    plan = TrainPlan(recipe, "", "", "", 1, 0, length, vocab, 1000)
    rows: Any = Rows(batches)
    return Trainer(plan, group, module, make_optimizer(module, recipe.optimizer), rows, None)


@contextmanager
def kernels(attention: str) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    with sdpa_kernel(order, set_priority=True) if attention == "cudnn" else nullcontext():
        yield


def measure(variant: Variant, given: argparse.Namespace, device: torch.device, ceiling: float) -> Row:
    recipe = recipe_of(variant, given.shape, given.length, given.rows, given.micro, device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = None
    try:
        group = parallel.start(recipe, device)
        trainer = make_trainer(recipe, given.length, group, given.data)
        flops = metrics.flops_per_token(trainer.module, trainer.module.base().config, given.length)
        with kernels(variant.attention):
            for step in range(given.warmup):
                train_step(trainer, step)
            wait(device)
            began = time.perf_counter()
            for step in range(given.warmup, given.warmup + given.steps):
                loss, _ = train_step(trainer, step)
            wait(device)
        rate = given.rows * given.length * given.steps / (time.perf_counter() - began)
        memory = metrics.peak_memory(device) / 1024**3
        return Row(
            variant, rate, metrics.mfu(rate, flops, 1, metrics.peak_flops(device)), rate * flops / ceiling,
            memory, float(loss),
        )  # fmt: skip
    except torch.OutOfMemoryError:
        return Row(variant, None, None, None, None, None, "out of memory")
    finally:
        del trainer
        parallel.stop()
        gc.collect()
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def variants(given: argparse.Namespace) -> list[Variant]:
    return [
        Variant(given.method, *rest)
        for rest in product(
            given.attention, given.compile, given.chunk, [x == "on" for x in given.checkpointing]
        )
    ]


def print_table(rows: list[Row]) -> None:
    print(
        "| method | attention | compile | loss | checkpointing | tokens/s | MFU of peak | of ceiling | GiB | note |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")

    def shown(value: float | None, shape: str) -> str:
        return "-" if value is None else format(value, shape)

    for row in rows:
        v = row.variant
        print(
            f"| {v.method} | {v.attention} | {v.compile} | {v.chunk_tokens or 'full'} | "
            f"{'on' if v.checkpointing else 'off'} | {shown(row.tokens_per_second, ',.0f')} | "
            f"{shown(row.mfu_peak, '.1%')} | {shown(row.mfu_ceiling, '.1%')} | "
            f"{shown(row.peak_gib, '.1f')} | {row.note} |"
        )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="1.5b")
    parser.add_argument("--method", choices=["full", "lora", "qlora"], default="full")
    parser.add_argument("--attention", nargs="+", default=["sdpa", "cudnn", "varlen"])
    parser.add_argument("--compile", nargs="+", default=[])
    parser.add_argument("--chunk", nargs="+", type=int, default=[0, 4096], help="0: all logits at once")
    parser.add_argument("--checkpointing", nargs="+", default=["off", "on"])
    parser.add_argument("--data", help="folder of malmoi tokenize, whose rows and length are taken")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=8, help="of a step")
    parser.add_argument("--micro", type=int, default=4, help="rows at once")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no variant after so long")
    parser.add_argument("--json", help="file for the rows, one a line")
    parser.add_argument("--self-check", action="store_true")
    given = parser.parse_args(arguments)
    if given.self_check:
        given.shape, given.length, given.rows, given.micro, given.steps, given.warmup = "tiny", 64, 2, 1, 2, 1
        given.attention, given.chunk = ["cudnn", "packed"], [0, 16]
    given.compile = given.compile or (["none"] if given.self_check else ["none", "block"])
    if given.data is not None:
        given.length = read_token_manifest(given.data).seq_len
    return given


def main(arguments: list[str] | None = None) -> list[Row]:
    given = parse(arguments)
    if not given.self_check and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --self-check runs the same code on the CPU")
    device = torch.device("cpu" if given.self_check else "cuda")
    ceiling = matmul_ceiling(device, 256, 0.05) if given.self_check else matmul_ceiling(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (self-check: no measurement)"
    print(f"{name}, torch {torch.__version__}, matmul ceiling {ceiling / 1e12:.0f} TFLOP/s, {given.shape}, "
          f"T={given.length}, {given.rows} rows a step, {given.micro} at once")  # fmt: skip
    began, rows = time.perf_counter(), []
    for variant in variants(given):
        if time.perf_counter() - began > given.minutes * 60:
            rows.append(Row(variant, None, None, None, None, None, "not begun: out of time"))
            continue
        rows.append(measure(variant, given, device, ceiling))
        if given.json:
            with open(given.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
    print_table(rows)
    return rows


if __name__ == "__main__":
    main()
