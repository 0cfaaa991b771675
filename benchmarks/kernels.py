"""CPU seconds of the kernels on one core beside their peers', in pairs: `benchmarks/kernels.py INPUT [--peers]`.

    python benchmarks/kernels.py sample.jsonl.zst --mb 20
    python benchmarks/kernels.py sample.jsonl.zst --peers --only minhash
    python benchmarks/kernels.py sample.jsonl.zst --peers --peer-mb 2 --rounds 5

INPUT is zstd JSON Lines with `text`. Without `--peers` our own rates alone, on `--mb` of text. With it each round runs
a kernel and its peer one after the other on the same `--peer-mb` of text; the ratio is the median of the rounds. Time
is CPU time of the process, so that other work on the machine counts little. Peers: fastText's own `predict` (our
dependency), datasketch 2.0 `update_batch` (development), and in an environment of their own (`kernels_peers.py`):
rensa, and the rules of datatrove 0.10.1 on the English documents. What peers are given: Python strings, and for MinHash
sets of shingles that are already split (the time with the splitting is printed as well); ours starts from Arrow text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
from whole_path import lines, peer_python

from malmoi.operators import C4Quality, FineWebQuality, GopherQuality, GopherRepetition, LanguageId, MinHash
from malmoi.operators.analysis import forget
from malmoi.operators.language import Model, load_model, predict
from malmoi.operators.shingles import word_hash32

PERMUTATIONS, MANY, WORDS = 112, 286, 5
LANGUAGE, MINHASH, RULES = "language identification", "MinHash signatures", "Gopher, C4, FineWeb"
PARTS = {"language": LANGUAGE, "minhash": MINHASH, "rules": RULES}


def cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def read(file: Path, megabytes: float) -> list[str]:
    texts, total = [], 0
    for line in lines([file]):
        texts.append(json.loads(line)["text"])
        total += len(texts[-1].encode())
        if total >= megabytes * 1e6:
            break
    return texts


def table_of(texts: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


def fresh(work: Callable[[], object]) -> Callable[[], object]:
    """Without what an earlier round found in the text."""

    def run() -> object:
        forget()
        return work()

    return run


def shingles(text: str) -> list[bytes]:
    words = text.lower().split()
    grams = (words[i : i + WORDS] for i in range(max(1, len(words) - WORDS + 1)))
    return [" ".join(gram).encode() for gram in grams]


def ours(table: pa.Table, english: pa.Table, only: str | None) -> dict[str, Callable[[], object]]:
    rules = (GopherQuality(), GopherRepetition(), C4Quality(), FineWebQuality())
    model = load_model("lid.176")
    minhash = MinHash(num_perm=PERMUTATIONS, bands=14, rows=8)

    def signals() -> object:
        return [rule(english) for rule in rules]

    work = {
        LANGUAGE: fresh(lambda: predict(model, table.column("text").chunk(0))),
        MINHASH: fresh(lambda: minhash.signatures(table)),
        RULES: fresh(signals),
    }
    return {name: run for name, run in work.items() if only is None or name == PARTS[only]}


def datasketch(split: list[list[bytes]]) -> None:
    from datasketch import MinHash as Sketch

    for tokens in split:
        Sketch(num_perm=PERMUTATIONS, hashfunc=word_hash32, scheme="affine32").update_batch(tokens)


def peer_rounds(
    python: Path, english: Path, every: Path, rounds: int, only: str | None
) -> dict[str, list[float]]:
    """CPU seconds of the peers that have an environment of their own."""
    script = Path(__file__).with_name("kernels_peers.py")
    command = [str(python), str(script), str(every), str(english), "--rounds", str(rounds)]
    command += ["--only", only] if only else []
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(said.splitlines()[-1]))


def show(name: str, own: list[float], peer: list[float], megabytes: float, peer_name: str) -> None:
    ratio = statistics.median(b / a for a, b in zip(own, peer, strict=True))
    own_rate, peer_rate = megabytes / min(own), megabytes / min(peer)
    print(f"{name:26s} {own_rate:9.1f} MB/s   {peer_name:34s} {peer_rate:9.3f} MB/s   {ratio:8.1f} x")


def show_minhash(
    own: list[float], sketch: list[float], rensa: dict[str, list[float]], texts: list[str]
) -> None:
    megabytes = sum(len(t.encode()) for t in texts) / 1e6
    splitting = cpu(lambda: [shingles(text) for text in texts])
    show(MINHASH, own, sketch, megabytes, "datasketch update_batch, split before")
    show("", own, [x + splitting for x in sketch], megabytes, "datasketch, splitting in Python too")
    show("", own, rensa["rensa"], megabytes, "rensa, split before")
    both = [a + b for a, b in zip(rensa["rensa"], rensa["rensa_splitting"], strict=True)]
    show("", own, both, megabytes, "rensa, splitting in Python too")


def show_documents(table: pa.Table, megabytes: float) -> None:
    for permutations in (PERMUTATIONS, MANY):
        run = fresh(partial(MinHash(num_perm=permutations).signatures, table))
        run()
        rate = table.num_rows / min(cpu(run) for _ in range(5))
        mean = megabytes * 1e6 / table.num_rows
        print(
            f"MinHash, {permutations} permutations: {rate:,.0f} documents/s of {mean:,.0f} bytes on the mean"
        )


def compare(texts: list[str], english: list[str], rounds: int, venv: Path, only: str | None) -> None:
    table, prose = table_of(texts), table_of(english)
    work = ours(table, prose, only)
    megabytes, prose_mb = (sum(len(t.encode()) for t in some) / 1e6 for some in (texts, english))
    for run in work.values():
        run()
    others: dict[str, list[float]] = {}
    if only != "language":
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("every.jsonl", "english.jsonl")]
            for file, some in zip(files, (texts, english), strict=True):
                file.write_text("".join(json.dumps({"text": text}) + "\n" for text in some), "utf-8")
            others = peer_rounds(peer_python(venv), files[1], files[0], rounds, only)
    loaded = load_model("lid.176")
    slow = Model(loaded.handle, loaded.labels)
    split = [shingles(text) for text in texts]
    peers = {
        LANGUAGE: lambda: predict(slow, table.column("text").chunk(0)),
        MINHASH: lambda: datasketch(split),
    }
    own: dict[str, list[float]] = {name: [] for name in work}
    peer: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, run in work.items():
            own[name].append(cpu(run))
            if name in peers:
                peer[name].append(cpu(peers[name]))
    if LANGUAGE in work:
        show(LANGUAGE, own[LANGUAGE], peer[LANGUAGE], megabytes, "fastText predict")
    if MINHASH in work:
        show_minhash(own[MINHASH], peer[MINHASH], others, texts)
    if RULES in work:
        show(RULES, own[RULES], others["datatrove"], prose_mb, "datatrove's filters (English)")
    if MINHASH in work:
        show_documents(table, megabytes)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kernels beside their peers, CPU seconds on one core.")
    parser.add_argument("input", type=Path)
    parser.add_argument("--mb", type=float, default=20)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--peer-mb", type=float, default=2)
    parser.add_argument("--peer-venv", type=Path, default=Path("build/peers"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=sorted(PARTS))
    chosen = parser.parse_args()
    texts = read(chosen.input, chosen.peer_mb if chosen.peers else chosen.mb)
    labels = LanguageId()(table_of(texts)).column("language").to_pylist()
    english = [text for text, label in zip(texts, labels, strict=True) if label == "en"]
    if chosen.peers:
        compare(texts, english, chosen.rounds, chosen.peer_venv, chosen.only)
        return 0
    for name, run in ours(table_of(texts), table_of(english), chosen.only).items():
        run()
        best = min(cpu(run) for _ in range(chosen.rounds))
        size = sum(len(t.encode()) for t in (english if name == RULES else texts)) / 1e6
        print(f"{name:26s} {size / best:9.1f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
