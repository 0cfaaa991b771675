"""Tiny models with random weights, saved with a tokenizer, for the tests of evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

WINDOW = 64


def make_model(folder: Path, tokenizer: Path, *, seed: int = 0, vocab: int = 640):
    """A Llama of two layers whose likelihoods are far from even; the folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=WINDOW, bos_token_id=1, eos_token_id=0,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    return folder


def write_lines(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)
