"""Precision and recall of deduplication against exact gold pairs: `benchmarks/dedup_quality.py PAIRS`.

PAIRS is `exact-revisions-*.jsonl` (or the folder that holds it) with every pair (`a`, `b`, `j5w`) whose similarity
is 0.4 or more: the exact Jaccard of the 5-grams of what `\\w+` finds in the lower-cased text. A pair that is not
listed counts as 0. Beside it lie the documents: `revisions-*.jsonl.zst` (`id`, `text`).

It ends with the S-curve: of the gold pairs by similarity, the share that has a band in common, beside
1 - (1 - s^rows)^bands; and with 1 where precision is below 0.98 or recall at the threshold below 0.95.

The whole of `malmoi.operators.survivors.decide` runs on the set; with `--run RUN` the removals are read from what
`malmoi run` wrote about the same documents (ids from the field `id`, no rules, one source) instead. Measured:

* Precision: every removed document is compared with the survivor that it names; the share of removals whose
  gold similarity is at or above the threshold less 0.001 (the gold is rounded). Where the pair is not listed
  (documents of fewer than 8 words are not), it counts as right only if the two texts are equal but for white
  space.
* Recall at 0.85: a gold pair at or above it is found when not both of its documents stay.
* Compared at 0.85: the share of these pairs that were themselves compared (copies of the two stand for them),
  or are exact copies: what the bands find, whatever other pairs do.
* Same cluster at 0.85: both have the same final survivor, or one is the survivor of the other. Similarity is
  not transitive, so this cannot always reach 1.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from malmoi.operators.exact import id_hash, text_hash
from malmoi.operators.jaccard import jaccard, shingle_sets
from malmoi.operators.minhash import MinHash
from malmoi.operators.survivors import EXACT, FUZZY, Survivors, decide, rank

SLACK, HIGH = 0.001, 0.85
WANT_PRECISION, WANT_RECALL = 0.98, 0.95


def read_set(folder: Path) -> tuple[pa.Table, dict[tuple[int, int], float]]:
    """The documents (`id`, `text`), and the gold similarity of pairs of their row numbers."""
    folder = folder if folder.is_dir() else folder.parent
    (documents,), (pairs,) = folder.glob("revisions-*.jsonl.zst"), folder.glob("exact-revisions-*.jsonl")
    with documents.open("rb") as stream:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(stream), "utf-8")
        rows = [json.loads(line) for line in text]
    place = {row["id"]: number for number, row in enumerate(rows)}
    gold: dict[tuple[int, int], float] = {}
    for line in pairs.read_text("utf-8").splitlines():
        pair = json.loads(line)
        a, b = sorted((place[pair["a"]], place[pair["b"]]))
        gold[a, b] = pair["j5w"]
    columns = {name: [row.get(name) for row in rows] for name in ("id", "text")}
    return pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items()}), gold


def deduplicate(table: pa.Table, minhash: MinHash) -> tuple[Survivors, set[tuple[int, int]]]:
    """The verdicts and the pairs compared; ranked by length, then id hash, as where quality is not given."""
    compared: set[tuple[int, int]] = set()
    source = pa.array(["set"] * table.num_rows, pa.large_string())
    id_lo, id_hi = id_hash(source, table.column("id").combine_chunks())
    length = np.array([len(text) for text in table.column("text").to_pylist()], dtype=np.int64)
    order = rank(
        {"length": length, "id_lo": id_lo, "id_hi": id_hi}, np.zeros(len(length), np.int32), ("length",)
    )
    started = time.perf_counter()
    signatures = minhash.signatures(table)
    signed = (signatures != 0xFFFFFFFF).any(axis=1)
    bands = minhash.band_hashes(signatures)
    offsets, values = shingle_sets(table, minhash)

    def verify(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        compared.update(zip(left.tolist(), right.tolist(), strict=True))
        return jaccard(offsets, values, left, right)

    result = decide(
        order,
        verify,
        exact=text_hash(table),
        bands=bands,
        signed=signed,
        threshold=minhash.threshold,
    )
    seconds, size = time.perf_counter() - started, table.column("text").nbytes / 1e6
    print(f"{minhash.scheme} threshold {minhash.threshold}: {size:.1f} MB in {seconds:.2f} s")
    return result, compared


def read_run(run: Path, table: pa.Table) -> Survivors:
    """What a finished run says about the documents: its `dropped/` files."""
    place = {name: number for number, name in enumerate(table.column("id").to_pylist())}
    duplicate_of = np.full(len(place), -1, dtype=np.int64)
    similarity = np.full(len(place), np.nan, dtype=np.float32)
    kind = np.zeros(len(place), dtype=np.int8)
    kinds = {"exact_dedup.duplicate": EXACT, "fuzzy_dedup.duplicate": FUZZY}
    for file in sorted((run / "dropped").glob("*.parquet")):
        for row in pq.read_table(file, columns=["id", "drop", "duplicate_of", "similarity"]).to_pylist():
            document = place[row["id"]]
            duplicate_of[document], kind[document] = place[row["duplicate_of"]], kinds[row["drop"]]
            similarity[document] = row["similarity"]
    verified = tuple(json.loads((run / "stages/decide/all.commit.json").read_text())["rounds"]["verified"])
    return Survivors(duplicate_of, similarity, kind, verified)


def measure(
    table: pa.Table,
    gold: dict[tuple[int, int], float],
    result: Survivors,
    compared: set[tuple[int, int]] | None,
    threshold: float,
) -> dict[str, float]:
    """The figures, by name; `compared`: the pairs, None where they are not known."""
    duplicate_of = result.duplicate_of
    texts = table.column("text").to_pylist()
    final = np.where(duplicate_of < 0, np.arange(len(duplicate_of)), duplicate_of)
    removals, right, off = 0, 0, 0.0
    for document in np.flatnonzero(duplicate_of >= 0).tolist():
        other = int(duplicate_of[document])
        value = gold.get((min(document, other), max(document, other)), 0.0)
        if value == 0.0 and texts[document].split() == texts[other].split():
            value = 1.0
        removals += 1
        right += value >= threshold - SLACK
        off = max(off, abs(value - float(result.similarity[document])))
    high = [pair for pair, value in gold.items() if value >= HIGH]
    found = sum(bool(duplicate_of[a] >= 0 or duplicate_of[b] >= 0) for a, b in high)
    together = sum(bool(final[a] == final[b]) for a, b in high)
    plain = [" ".join(text.split()) for text in texts]
    met = {frozenset((plain[a], plain[b])) for a, b in compared or ()}
    direct = sum(plain[a] == plain[b] or frozenset((plain[a], plain[b])) in met for a, b in high)
    by_bands = {f"compared >= {HIGH}": direct / max(1, len(high))} if compared is not None else {}
    near = [pair for pair, value in gold.items() if value >= threshold]
    return {
        "documents": len(texts),
        "exact copies removed": int(np.count_nonzero(result.kind == EXACT)),
        "fuzzy duplicates removed": int(np.count_nonzero(result.kind == FUZZY)),
        "rounds": result.rounds,
        "pairs verified": sum(result.verified),
        f"precision (gold >= {threshold - SLACK:.2f})": right / max(1, removals),
        "largest difference from gold": off,
        f"gold pairs >= {HIGH}": len(high),
        f"recall >= {HIGH}": found / max(1, len(high)),
        **by_bands,
        f"same cluster >= {HIGH}": together / max(1, len(high)),
        f"recall >= {threshold}": sum(bool(duplicate_of[a] >= 0 or duplicate_of[b] >= 0) for a, b in near)
        / max(1, len(near)),
    }


def s_curve(table: pa.Table, gold: dict[tuple[int, int], float], minhash: MinHash) -> list[tuple[float, ...]]:
    """(from, to, pairs, share with a common band, share by the formula) of the gold pairs by similarity."""
    bands = minhash.band_hashes(minhash.signatures(table))
    pairs = np.array(list(gold), dtype=np.int64).reshape(-1, 2)
    similarity = np.array(list(gold.values()))
    shared = (bands[pairs[:, 0]] == bands[pairs[:, 1]]).any(axis=1)
    edges = [*np.arange(0.4, 1.0, 0.05).round(2).tolist(), 1.0 + 1e-9]
    rows = []
    for low, high in itertools.pairwise(edges):
        here = (similarity >= low) & (similarity < high)
        if here.any():
            expected = float(minhash.probability(similarity[here]).mean())
            rows.append((low, min(high, 1.0), int(here.sum()), float(shared[here].mean()), expected))
    return rows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Precision and recall of deduplication on a labelled set.")
    parser.add_argument("pairs", type=Path, help="exact-revisions-*.jsonl, the documents beside it")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--ngram", choices=("word", "char"), default="word")
    parser.add_argument("--ngram-size", type=int, default=5)
    parser.add_argument("--run", type=Path, help="a finished run to measure instead of running the operators")
    chosen = parser.parse_args(arguments)
    table, gold = read_set(chosen.pairs)
    if chosen.run:
        print_figures(measure(table, gold, read_run(chosen.run, table), None, chosen.threshold))
        return 0
    minhash = MinHash(
        ngram=chosen.ngram,
        ngram_size=chosen.ngram_size,
        num_perm=chosen.bands * chosen.rows,
        bands=chosen.bands,
        rows=chosen.rows,
        threshold=chosen.threshold,
    )
    figures = measure(table, gold, *deduplicate(table, minhash), chosen.threshold)
    print_figures(figures)
    print("\nsimilarity     pairs   share a band   1-(1-s^r)^b")
    for low, high, count, measured, expected in s_curve(table, gold, minhash):
        print(f"{low:.2f} .. {high:.2f}  {count:6d}   {measured:12.3f}   {expected:11.3f}")
    precision = figures[f"precision (gold >= {chosen.threshold - SLACK:.2f})"]
    recall = figures[f"recall >= {chosen.threshold}"]
    good = precision >= WANT_PRECISION and recall >= WANT_RECALL
    print(f"\nprecision {precision:.4f} (want {WANT_PRECISION}), recall {recall:.4f} (want {WANT_RECALL})")
    return 0 if good else 1


def print_figures(figures: dict[str, float]) -> None:
    for name, value in figures.items():
        print(f"{name:32s} {value:.4f}" if isinstance(value, float) else f"{name:32s} {value}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
