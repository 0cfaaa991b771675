"""Train a byte-level BPE on a corpus, offline: python benchmarks/make_tokenizer.py OUT PATH... [--vocab 8192]

PATH: the folder of a run, or JSON Lines or Parquet files with a column `text`. Writes OUT/tokenizer.json and
OUT/tokenizer_config.json, as `malmoi tokenize --tokenizer OUT` takes them. The split of words is Llama 3's,
with numbers in runs of at most three digits. The same text gives the same file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

SPECIAL = ("<|eos|>", "<|bos|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], out: Path, vocab_size: int = 8192) -> Path:
    """Write the tokenizer's two files into `out` and return it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    out.mkdir(parents=True, exist_ok=True)
    made.save(str(out / "tokenizer.json"))
    roles = {"eos_token": SPECIAL[0], "bos_token": SPECIAL[1], "pad_token": SPECIAL[2]}
    (out / "tokenizer_config.json").write_text(json.dumps(roles, indent=1) + "\n", encoding="utf-8")
    return out


def texts_of(paths: Iterable[str], limit_bytes: int) -> Iterator[str]:
    """The text of runs and files, in their order, up to about `limit_bytes`."""
    from malmoi.pipeline import manifest
    from malmoi.pipeline.examples import find_examples, read_examples
    from malmoi.pipeline.storage import Folder

    names: list[str] = []
    for path in paths:
        folder = Folder(path)
        found = folder.exists(manifest.FILE)
        names += manifest.Manifest.load(folder).corpus_files(folder) if found else [path]
    read = 0
    for file in find_examples(names):
        for batch in read_examples(file, ("text",)):
            for text in batch.table.column("text").to_pylist():
                yield text or ""
                read += len((text or "").encode())
                if read >= limit_bytes:
                    return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--limit-mb", type=float, default=50.0, help="text to train on")
    given = parser.parse_args()
    train(texts_of(given.paths, int(given.limit_mb * 1e6)), given.out, given.vocab)
    print(f"{given.out}: {given.vocab} tokens")


if __name__ == "__main__":
    main()
