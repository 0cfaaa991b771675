"""Tokens a second: python benchmarks/tokens.py FILE --tokenizer DIR [--seq-len 2048]

FILE: JSON Lines or Parquet with a column `text`. Prints both libraries on the same texts (cold: each text once, in
one thread), the whole stage in this process from file to shards, and the reader over what it wrote. CPU seconds, so
that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from malmoi.operators.tokenizing import Library, load_encoder
from malmoi.pipeline.examples import find_examples, read_examples
from malmoi.pipeline.recipe import Tokenize
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.tokenize import plan_tokens, tokenize
from malmoi.training.reader import PackedReader

_REFERENCE_BYTES = 4_000_000  # tokenizers is slow


def libraries(texts: pa.Array, tokenizer: str) -> None:
    chosen = load_encoder(tokenizer)
    sizes = np.cumsum(pc.binary_length(texts).to_numpy())
    limits: tuple[tuple[Library, float], ...] = (("fastokens", np.inf), ("tokenizers", _REFERENCE_BYTES))
    for library, limit in limits:
        some = texts.slice(0, int(np.searchsorted(sizes, limit)))
        encoder = replace(chosen, library=library)
        encoder.encode(pa.array(["warm up"], pa.large_string()))
        begin = time.process_time()
        tokens = len(encoder.encode(some)[0])
        seconds = time.process_time() - begin
        size = float(sizes[len(some) - 1])
        print(f"{library:<12} {size / seconds / 1e6:8.2f} MB/s {tokens / seconds / 1e6:8.2f} M tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--seq-len", type=int, default=2048)
    given = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"
    [file] = find_examples([given.file])
    tables = [batch.table for batch in read_examples(file, ("text",))]
    libraries(pa.concat_tables(tables).column("text").combine_chunks(), given.tokenizer)
    settings = Tokenize(tokenizer=given.tokenizer, seq_len=given.seq_len)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "tokens"
        plan = plan_tokens(settings, [given.file], str(out))
        quiet = Console(quiet=True)
        for name in ("cold", "warm"):
            one = replace(plan, output=Folder(f"{out}-{name}"))
            begin = time.process_time()
            tokens = tokenize(one, console=quiet, engine="local").book.tokens
            seconds = time.process_time() - begin
            print(f"stage, {name:<5} {'':6} {tokens / seconds / 1e6:16.2f} M tokens/s, from file to shards")
        reader = PackedReader(f"{out}-cold", batch_rows=8, epochs=3)
        begin = time.process_time()
        tokens = sum(batch.input_ids.size for batch in reader)
        seconds = time.process_time() - begin
        print(f"reader {'':13} {tokens / seconds / 1e6:16.2f} M tokens/s")


if __name__ == "__main__":
    main()
