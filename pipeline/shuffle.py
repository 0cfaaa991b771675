"""The jobs of fuzzy deduplication: from the band hashes of a part to verified pairs, partition by partition.

All are committed jobs of the stage `verify`; only keys, ordinals and shingle hashes pass between them, in bucket
files. A round is

    bands    a group of parts      rows (band hash, document, rank) by partition of the band hash; first round only
    pairs    a partition of bands  candidate pairs of its buckets, by partition of the pair's worse document
    unique   a partition of pairs  each pair once, and the documents that are needed, by group of parts; the pairs that
                                   later rounds of the next step have to know (`known`)
    fetch    a group of parts      signature and shingle set of these documents by partition of pairs; reads text
    compare  a partition of pairs  signature estimate, exact similarity where that leaves a doubt

A document is an ordinal: its part's first ordinal and its row. Documents of an index of earlier runs come behind
those of this run. What a job holds is its partition or group, never the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from malmoi.operators.candidates import NO_PAIRS, bucket_pairs, by_bucket, distinct, large_rows, unpack
from malmoi.operators.jaccard import containment, estimate, estimate_floor, jaccard, sketches

from .buckets import (
    joined,
    of_document,
    of_key,
    read_bucket,
    read_range,
    write_buckets,
    write_sorted,
)
from .bundles import inputs
from .known import DOCUMENT, PAIR, both_among, write_known, write_large
from .layout import NO_RANK, Layout, Saved, Step
from .saved import read_saved
from .shards import open_parquet, part_file, read_rows
from .storage import Folder

MAX_BUCKET = 64
SIGMAS = 4.0
NEAREST = 256
"""Pairs nearest the threshold that a partition remembers."""

ROW = np.dtype([("key", "<u8"), ("document", "<u4"), ("rank", "<u4")])
LARGE = np.dtype([*ROW.descr, ("done", "u1")])
EDGE = np.dtype([("pair", "<u8"), ("similarity", "<f8")])
SET = np.dtype([("document", "<u4"), ("size", "<u4")])

_TEXT = pa.schema([("text", pa.large_string())])


def write_open(folder: Folder, name: str, there: np.ndarray, back: np.ndarray) -> None:
    """`there`, `back`: bool [documents]."""
    folder.write_bytes(name, np.packbits(there).tobytes() + np.packbits(back).tobytes())


def _read_open(folder: Folder, name: str, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both for these documents; those of all, a byte each, may be more than a worker has."""
    bits = np.frombuffer(folder.read_bytes(name), np.uint8).reshape(2, -1)
    shift = (7 - (documents & 7)).astype(np.uint8)
    there, back = (((row[documents >> 3] >> shift) & 1).astype(bool) for row in bits)
    return there, back


def band_group(folder: Folder, step: Step) -> dict[str, Any]:
    """The band rows of a group's documents that take part."""
    layout, found = step.layout, []
    for piece in step.pieces:
        ranks = np.frombuffer(read_range(folder, layout.ranks, 4 * piece.first, 4 * piece.end), "<u4")
        bands, there = _bands(folder, piece.file)
        documents = np.flatnonzero(there & (ranks != NO_RANK))
        rows = np.empty(bands.shape[1] * len(documents), ROW)
        rows["key"] = bands[documents].reshape(-1)
        rows["document"] = np.repeat(documents + piece.first, bands.shape[1])
        rows["rank"] = np.repeat(ranks[documents], bands.shape[1])
        found.append(rows)
    rows = joined(found, ROW)
    name = layout.file(0, "bands", step.index, "rows")
    file = write_buckets(folder, name, of_key(rows["key"], layout.partitions), rows, layout.partitions)
    return {"rows": len(rows), "moved": rows.nbytes, "files": [file]}


def _bands(folder: Folder, file: int | Saved) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 [documents, bands], bool [documents]: has a signature) of a piece."""
    if isinstance(file, Saved):
        column = read_saved(file.folder, file.name, ["bands"]).column("bands").combine_chunks()
    else:
        with open_parquet(folder, part_file(file, "keys")) as keys:
            column = keys.read(["bands"]).column("bands").combine_chunks()
    there = column.is_valid().to_numpy(zero_copy_only=False)
    values = np.zeros((len(column), column.type.list_size), dtype=np.uint64)
    values[there] = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return values, there


def pair_partition(folder: Folder, step: Step) -> dict[str, Any]:
    """The candidate pairs of a partition's buckets, and the rows of its large buckets for the next round."""
    layout, index, round_ = step.layout, step.index, step.round
    if round_ == 0:
        rows = joined(inputs(folder, layout, (0, "bands", "rows"), layout.groups, index, ROW), ROW)
        rows = _shared(rows, layout.settled)
        there = np.ones(len(rows), dtype=bool)
        back, verified = np.zeros(0, dtype=bool), NO_PAIRS
    else:
        rows = read_bucket(folder, layout.file(round_ - 1, "pairs", index, "large"), 0, LARGE).copy()
        there, back = _read_open(folder, layout.open_file(round_), rows["document"])
        back = back[there]
        everything, ours = range(layout.partitions), both_among(rows["document"][there])
        known = [
            piece
            for earlier in range(round_)
            for piece in inputs(folder, layout, (earlier, "unique", "known"), everything, index, PAIR, ours)
        ]
        verified = np.sort(joined(known, PAIR))
    now = rows[there]
    keys, documents = np.ascontiguousarray(now["key"]), now["document"].astype(np.int64)
    done = now["done"].astype(bool)
    pairs = bucket_pairs(keys, documents, done, back, verified, MAX_BUCKET, layout.settled)
    now["done"] = done
    rows[there] = now
    large = rows[large_rows(np.ascontiguousarray(rows["key"]), MAX_BUCKET)] if round_ == 0 else rows
    files = [
        write_buckets(
            folder,
            layout.file(round_, "pairs", index, "pairs"),
            of_document(_worse(pairs, now), layout.partitions),
            pairs.astype(PAIR),
            layout.partitions,
        ),
        write_sorted(
            folder, layout.file(round_, "pairs", index, "large"), np.array([len(large)]), large.astype(LARGE)
        ),
    ]
    if round_ == 0 and len(large):
        name = layout.file(0, "pairs", index, "documents")
        files.append(write_large(folder, name, large["document"], layout.partitions))
    return {
        "rows": len(rows),
        "pairs": len(pairs),
        "large": len(large),
        "moved": pairs.nbytes,
        "files": files,
    }


def _worse(pairs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The worse-ranked document of each pair, which owns it: a document that is in very many pairs is the best of
    a large bucket, so no partition gets them all."""
    order = np.argsort(rows["document"])
    documents, ranks = rows["document"][order], rows["rank"][order]
    left, right = unpack(pairs)
    left_rank, right_rank = (ranks[np.searchsorted(documents, side)] for side in (left, right))
    return np.where(left_rank > right_rank, left, right)


def _shared(rows: np.ndarray, settled: int) -> np.ndarray:
    """The rows of buckets with two documents and more, one of them below `settled`, by bucket and rank."""
    order = by_bucket(np.ascontiguousarray(rows["key"]), np.ascontiguousarray(rows["rank"]))
    rows = rows[order]
    keys = rows["key"]
    starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] + np.uint64(1)))
    sizes = np.diff(starts, append=len(keys))
    ours = np.add.reduceat(rows["document"] < settled, starts, dtype=np.int64) if len(starts) else sizes
    kept = rows[np.repeat((sizes > 1) & (ours > 0), sizes)]
    out = np.zeros(len(kept), LARGE)
    for field in ROW.names or ():
        out[field] = kept[field]
    return out


def unique_partition(folder: Folder, step: Step) -> dict[str, Any]:
    """Each pair of a partition once, and its documents by group."""
    layout, index, round_ = step.layout, step.index, step.round
    sources = range(layout.partitions) if round_ == 0 else step.large
    pairs = distinct(joined(inputs(folder, layout, (round_, "pairs", "pairs"), sources, index, PAIR), PAIR))
    documents = distinct(np.concatenate(unpack(pairs))).astype(DOCUMENT)
    groups = np.bincount(layout.group_of(documents), minlength=len(layout.groups))
    files = [
        write_sorted(folder, layout.file(round_, "unique", index, "pairs"), np.array([len(pairs)]), pairs),
        write_sorted(folder, layout.file(round_, "unique", index, "documents"), groups, documents),
    ]
    if step.large:
        large = inputs(folder, layout, (0, "pairs", "documents"), step.large, index, DOCUMENT)
        name = layout.file(round_, "unique", index, "known")
        known = dict(zip(step.large, large, strict=True))
        files.append(write_known(folder, name, pairs, known, index, layout.partitions))
    moved = pairs.nbytes + documents.nbytes
    return {"pairs": len(pairs), "documents": len(documents), "moved": moved, "files": files}


def fetch_group(folder: Folder, step: Step) -> dict[str, Any]:
    """Signatures and shingle sets of the documents of a group that are in pairs, by partition of the pairs.

    The text of a document is read once a round, whatever the number of its pairs.
    """
    layout, index, round_ = step.layout, step.index, step.round
    everything = range(layout.partitions)
    wanted = inputs(folder, layout, (round_, "unique", "documents"), everything, index, DOCUMENT)
    documents = distinct(joined(wanted, DOCUMENT))
    signatures, sizes, values = [], [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for signature, offsets, ids in _sketched(folder, step, documents):
        signatures.append(signature)
        sizes.append(np.diff(offsets))
        values.append(ids)
    lengths, ids = np.concatenate(sizes), np.concatenate(values)
    place = np.searchsorted(
        documents, joined(wanted, DOCUMENT)
    )  # by partition, each in the order of documents
    rows = np.empty(len(place), SET)
    rows["document"], rows["size"] = documents[place], lengths[place]
    counts = np.array([len(one) for one in wanted])
    width = np.dtype(("<u4", (layout.minhash.num_perm,)))
    matrix = np.concatenate([np.empty((0, layout.minhash.num_perm), np.uint32), *signatures])
    ends = np.concatenate([[0], np.cumsum(lengths[place])])[np.concatenate([[0], np.cumsum(counts)])]
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    files = [
        write_sorted(folder, layout.file(round_, "fetch", index, "sets"), counts, rows),
        write_sorted(folder, layout.file(round_, "fetch", index, "signatures"), counts, matrix[place]),
        write_sorted(
            folder,
            layout.file(round_, "fetch", index, "ids"),
            np.diff(ends),
            gather(starts, lengths, ids, place),
        ),
    ]
    moved = len(place) * (SET.itemsize + width.itemsize) + 8 * int(lengths[place].sum())
    return {"documents": len(documents), "moved": moved, "files": files}


def gather(starts: np.ndarray, lengths: np.ndarray, values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The runs `values[starts[p]:starts[p] + lengths[p]]` for every p of `place`, behind each other."""
    sizes = lengths[place]
    before = np.cumsum(sizes) - sizes
    where = np.repeat(starts[place] - before, sizes) + np.arange(int(sizes.sum()))
    taken: np.ndarray = values[where]
    return taken


def _sketched(
    folder: Folder, step: Step, documents: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(signatures, offsets, ids) of the documents (sorted ordinals) of a group, in pieces of bounded text."""
    minhash = step.layout.minhash
    for piece in step.pieces:
        low, high = np.searchsorted(documents, [piece.first, piece.end])
        rows = documents[low:high].astype(np.int64) - piece.first
        if not len(rows):
            continue
        if isinstance(piece.file, Saved):
            yield _from_index(piece.file, rows, minhash.num_perm)
        else:
            for start in range(0, len(rows), 4096):
                yield sketches(read_rows(folder, piece.file, rows[start : start + 4096], _TEXT), minhash)


def _from_index(saved: Saved, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `sketches` gives, from a saved index."""
    table = read_saved(saved.folder, saved.name, ["signature", "shingles"]).take(pa.array(rows))
    signature = table.column("signature").combine_chunks()
    sets = table.column("shingles").combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(sets.value_lengths().to_numpy())]).astype(np.int64)
    return signature.flatten().to_numpy().reshape(-1, width), offsets, sets.flatten().to_numpy()


def compare_partition(folder: Folder, step: Step) -> dict[str, Any]:
    """The similarity of a partition's pairs: `near`, those at the threshold or above, and those nearest to it.

    A pair whose signatures leave no chance (`estimate_floor`) is below the threshold without a look at its sets;
    any other is compared exactly, so what is recorded of a removed document is exact.
    """
    layout, index, round_ = step.layout, step.index, step.round
    pairs = read_bucket(folder, layout.file(round_, "unique", index, "pairs"), 0, PAIR)

    def fetched(kind: str, dtype: np.dtype) -> np.ndarray:
        return joined(inputs(folder, layout, (round_, "fetch", kind), layout.groups, index, dtype), dtype)

    rows = fetched("sets", SET)  # groups hold rising ordinals, so all of them together rise
    left, right = (np.searchsorted(rows["document"], side) for side in unpack(pairs))
    threshold, chosen = layout.minhash.threshold, np.arange(len(pairs))
    if layout.measure == "jaccard":
        width = layout.minhash.num_perm
        signatures = fetched("signatures", np.dtype(("<u4", (width,)))).reshape(-1, width)
        floor = estimate_floor(threshold, width, SIGMAS)
        chosen = np.flatnonzero(estimate(signatures, left, right) >= floor)
        del signatures
    offsets = np.concatenate([[0], np.cumsum(rows["size"], dtype=np.int64)])
    measure = jaccard if layout.measure == "jaccard" else containment
    edges = np.empty(len(chosen), EDGE)
    edges["pair"] = pairs[chosen]
    edges["similarity"] = measure(offsets, fetched("ids", PAIR), left[chosen], right[chosen])
    near = edges[edges["similarity"] >= threshold]
    closest = nearest(edges, threshold)
    files = [
        write_sorted(folder, layout.file(round_, "compare", index, "near"), np.array([len(near)]), near),
        write_sorted(
            folder, layout.file(round_, "compare", index, "nearest"), np.array([len(closest)]), closest
        ),
    ]
    return {"pairs": len(pairs), "exact": len(chosen), "near": len(near), "files": files}


def nearest(edges: np.ndarray, threshold: float, count: int = NEAREST) -> np.ndarray:
    """The edges nearest the threshold, nearest first; of two equally near the one with the smaller pair."""
    order = np.lexsort((edges["pair"], np.abs(edges["similarity"] - threshold)))
    found: np.ndarray = edges[order[:count]]
    return found


def near_files(layout: Layout, rounds: int) -> Sequence[str]:
    """The files of all edges found in the rounds."""
    return [layout.file(r, "compare", p, "near") for r in range(rounds) for p in range(layout.partitions)]
