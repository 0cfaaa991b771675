"""A folder of packed rows as `malmoi tokenize` writes it, with tokens made up here, and recipes over it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from malmoi.pipeline.manifest import Output
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.token_manifest import TokenBook, TokenizerId, TokenManifest
from malmoi.training.recipe import TrainRecipe

VOCAB = 96
LLAMA = {"family": "llama", "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 4}
QWEN3 = {**LLAMA, "family": "qwen3", "num_kv_heads": 2, "head_dim": 16}


def make_rows(folder: Path, *, rows=40, length=24, kind="text", seed=0, shards=2):
    """Rows that a model can learn: each document counts up from a random token. Every row has 2 or 3 documents;
    with kind "sft" half of each is labelled and rows end in padding."""
    rng = np.random.default_rng(seed)
    ids, labels, starts = [], [], []
    padding = trained = documents = 0
    for _ in range(rows):
        cuts = sorted(rng.choice(np.arange(3, length - 3), 2 - int(rng.integers(2)), replace=False).tolist())
        begins = [0, *cuts]
        ends = [*cuts, length if kind == "text" else length - 2]
        row, label = np.zeros(length, np.int32), np.full(length, -100, np.int32)
        for begin, end in zip(begins, ends, strict=True):
            row[begin:end] = (rng.integers(VOCAB) + np.arange(end - begin)) % VOCAB
            label[(begin + end) // 2 : end] = row[(begin + end) // 2 : end]
        ids.append(row)
        labels.append(label)
        starts.append(np.asarray(begins, np.int32))
        padding += length - ends[-1]
        trained += int((label != -100).sum())
        documents += len(begins)
    outputs = []
    for number, part in enumerate(np.array_split(np.arange(rows), shards)):
        flat = pa.array(np.concatenate([ids[i] for i in part]))
        columns = {"input_ids": pa.FixedSizeListArray.from_arrays(flat, length)}
        if kind == "sft":
            marks = pa.array(np.concatenate([labels[i] for i in part]))
            columns["labels"] = pa.FixedSizeListArray.from_arrays(marks, length)
        columns["doc_starts"] = pa.array([starts[i] for i in part], pa.list_(pa.int32()))
        name = f"tokens-{number:05d}.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / name, row_group_size=256)
        content = (folder / name).read_bytes()
        held = len(part) * (length if kind == "text" else length - 2)
        outputs.append(
            Output(name, len(content), xxhash.xxh3_128(content).hexdigest(), len(part), tokens=held)
        )
    used = rows * length - padding
    book = TokenBook(documents, documents, {}, used, 0, used, {}, rows, padding, trained, used)
    tokenizer = TokenizerId("tiny", hashlib.sha256(b"tiny").hexdigest(), VOCAB, 0)
    packing = "concat" if kind == "text" else "best_fit"
    TokenManifest(
        kind, length, packing, tokenizer, "none", "made", {}, {}, book, tuple(outputs)
    ).save(Folder(str(folder)))  # fmt: skip
    return str(folder)


def recipe(tokens: str, output: Path, **changes) -> TrainRecipe:
    """A tiny float32 run of 12 steps on the CPU; keys of `changes` replace those at the top."""
    given = {
        "name": "tiny",
        "output": str(output),
        "data": {"path": tokens},
        "model": {"config": LLAMA, "dtype": "float32"},
        "optimizer": {"lr": 1e-2},
        "steps": 12,
        "batch": {"rows": 6, "rows_per_device": 3},
        "checkpoint": {"every_steps": 4},
        "log": {"every_steps": 1},
    }
    return TrainRecipe.model_validate({**given, **changes})


# Runs that test_two_processes makes with one process and with two, by the folder that they are in.
CASES = {
    "full": lambda folder: {"data": {"path": str(folder / "rows"), "holdout": 0.2, "evaluate_every": 6}},
    "uneven": lambda folder: {"batch": {"rows": 5, "rows_per_device": 2}},
    "stopped": lambda folder: {"batch": {"rows": 5}},
    "bfloat16": lambda folder: {"model": {"config": QWEN3}, "activation_checkpointing": True},
    "replicas": lambda folder: {"model": {"config": LLAMA}, "workers": {"sharding": "ddp"}},
    "lora": lambda folder: {
        "model": {"path": str(folder / "base"), "dtype": "float32"},
        "method": {"kind": "lora"},
    },
    "qlora": lambda folder: {
        "model": {"path": str(folder / "base")},
        "method": {"kind": "qlora"},
        "optimizer": {"lr": 1e-2, "name": "paged_adamw_8bit"},
    },
}
