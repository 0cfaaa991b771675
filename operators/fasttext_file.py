"""fastText model files (.bin, .ftz) as arrays, for the prediction kernel.

The format is fastText's own, version 12 (Joulin et al. 2017, arXiv 1607.01759; quantised: 1612.03651): magic,
version, arguments, dictionary, pruned n-gram index, input matrix, output matrix. What the kernel does not do
(vectors of an unsupervised model, another version) is refused with `UnsupportedError`; fastText itself then predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .fasttext_rows import aligned
from .fasttext_words import word_key
from .kernel import lean

MAGIC, VERSION = 793712314, 12
HIERARCHICAL, NEGATIVE, SOFTMAX, ONE_VS_ALL = 1, 2, 3, 4
_SUPERVISED = 3
_CENTROIDS = 256
_ARGS = (
    "dim",
    "ws",
    "epoch",
    "min_count",
    "neg",
    "word_ngrams",
    "loss",
    "model",
    "bucket",
    "minn",
    "maxn",
    "rate",
)
EOS = b"</s>"
LONGEST = 32  # characters of an n-gram: so many are laid behind a piece of a word
FILTER = 1 << 12  # words of 32 bits that stay in the first-level cache


class UnsupportedError(ValueError):
    """A model that is read by fastText itself."""


class Tables(NamedTuple):
    """A supervised model as the kernel wants it.

    Matrices are float32 with columns of 0 up to a multiple of 16. rows [words + n-grams, dim], n-grams by hash bucket;
    outputs [labels, dim] (hierarchical: inner nodes); there uint32 [n * FILTER], a bit for each bucket that has a row;
    filter uint32 [FILTER]: the parts of `there` joined, a bit for the lowest 17 of a bucket's number; ranks uint32 [.]:
    the row of the first one of each of `there`; keys uint64 [2^k]: the dictionary's words and labels by their keys, 0
    free, numbers int32 [2^k]: which they are, labels behind words; some uint32 [2^12], a bit for the upper 17 bits of
    each of the keys; is_label uint8 [entries]; left, right int32 [2 * labels - 1], the tree of a hierarchical model
    (-1: a leaf); prefix uint8, what labels begin with; eos: the number of the word "</s>" or -1; eos_key: its key.
    """

    rows: np.ndarray
    outputs: np.ndarray
    there: np.ndarray
    filter: np.ndarray
    ranks: np.ndarray
    keys: np.ndarray
    numbers: np.ndarray
    some: np.ndarray
    is_label: np.ndarray
    left: np.ndarray
    right: np.ndarray
    prefix: np.ndarray
    words: int
    bucket: int
    minn: int
    maxn: int
    word_ngrams: int
    loss: int
    eos: int
    eos_key: np.uint64


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model and its labels, without their prefix."""

    tables: Tables
    labels: tuple[str, ...]


class _Cursor:
    """Reads little-endian values off a file's bytes; ValueError past the end."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def array(self, kind: str, count: int) -> np.ndarray:
        dtype = np.dtype(kind)
        stop = self.at + dtype.itemsize * count
        if count < 0 or stop > len(self.data):
            raise ValueError(f"ends at byte {len(self.data)}, want {stop}")
        found = np.frombuffer(self.data[self.at : stop].tobytes(), dtype)
        self.at = stop
        return found

    def one(self, kind: str) -> int:
        return int(self.array(kind, 1)[0])


@lean
def fnv(data: np.ndarray, start: int, end: int) -> np.uint32:
    """fastText's hash: FNV-1a, 32 bits, of bytes taken as signed."""
    h = np.uint32(2166136261)
    for p in range(start, end):
        b = np.uint32(data[p])
        if b > 127:
            b |= np.uint32(0xFFFFFF00)
        h = np.uint32(h ^ b)
        h = np.uint32(h * np.uint32(16777619))
    return h


@lean
def _scan_entries(data: np.ndarray, at: int, start: np.ndarray, end: np.ndarray) -> int:
    """Bounds of the null-terminated words, each followed by a count (8 bytes) and a type (1); -1 if torn."""
    for i in range(len(start)):
        start[i] = at
        while at < len(data) and data[at] != 0:
            at += 1
        end[i] = at
        at += 10
        if at > len(data):
            return -1
    return at


@lean
def _fill_slots(
    data: np.ndarray, start: np.ndarray, end: np.ndarray, keys: np.ndarray, numbers: np.ndarray
) -> None:
    mask = np.uint64(len(keys) - 1)
    for word in range(len(start)):
        if start[word] == end[word]:
            continue
        key = word_key(data, start[word], end[word])
        slot = key & mask
        while keys[slot] != np.uint64(0):
            slot = (slot + np.uint64(1)) & mask
        keys[slot], numbers[slot] = key, word


def _quantised(cursor: _Cursor) -> np.ndarray:
    """A product-quantised matrix, expanded."""
    has_norms = cursor.one("<u1")
    rows, dim, size = cursor.one("<i8"), cursor.one("<i8"), cursor.one("<i4")
    codes = cursor.array("<u1", size)
    centroids = _centroids(cursor, dim)
    matrix = np.zeros((rows, dim), np.float32)
    codes = codes.reshape(rows, len(centroids))
    column = 0
    for part, table in enumerate(centroids):
        matrix[:, column : column + table.shape[1]] = table[codes[:, part]]
        column += table.shape[1]
    if has_norms:
        norm_codes = cursor.array("<u1", rows)
        matrix *= _centroids(cursor, 1)[0][norm_codes]
    return matrix


def _centroids(cursor: _Cursor, want_dim: int) -> list[np.ndarray]:
    dim, parts, width, last = (cursor.one("<i4") for _ in range(4))
    if dim != want_dim or parts < 1 or (parts - 1) * width + last != dim:
        raise ValueError(f"quantiser of dim={dim}, parts={parts}, want dim={want_dim}")
    values = cursor.array("<f4", dim * _CENTROIDS)
    widths = [width] * (parts - 1) + [last]
    starts = np.cumsum([0, *(w * _CENTROIDS for w in widths)])
    return [
        values[a : a + w * _CENTROIDS].reshape(_CENTROIDS, w) for a, w in zip(starts, widths, strict=False)
    ]


def _dense(cursor: _Cursor) -> np.ndarray:
    rows, dim = cursor.one("<i8"), cursor.one("<i8")
    return cursor.array("<f4", rows * dim).reshape(rows, dim)


def _tree(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Huffman tree as fastText builds it; nodes 0 to labels - 1 are the leaves."""
    labels = len(counts)
    left, right = np.full(2 * labels - 1, -1, np.int32), np.full(2 * labels - 1, -1, np.int32)
    weight = [*counts.tolist(), *([10**15] * (labels - 1))]
    leaf, node = labels - 1, labels
    for i in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weight[leaf] < weight[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        left[i], right[i] = pair
        weight[i] = weight[pair[0]] + weight[pair[1]]
    return left, right


def read_classifier(data: np.ndarray, prefix: str) -> Classifier:
    """Parse a model file (uint8 [bytes]); `prefix` begins labels. UnsupportedError, or ValueError if it is damaged."""
    cursor = _Cursor(data)
    if (cursor.one("<i4"), cursor.one("<i4")) != (MAGIC, VERSION):
        raise UnsupportedError("not version 12 of the format")
    args = dict(zip(_ARGS, cursor.array("<i4", len(_ARGS)).tolist(), strict=True))
    cursor.array("<f8", 1)
    if args["model"] != _SUPERVISED:
        raise UnsupportedError("not a supervised model")
    if args["maxn"] > LONGEST:
        raise UnsupportedError(f"n-grams of {args['maxn']} characters, more than {LONGEST}")
    size, words, labels = (cursor.one("<i4") for _ in range(3))
    cursor.one("<i8")
    pruned = cursor.one("<i8")
    if size != words + labels or labels < 1:
        raise ValueError(f"dictionary of {size} entries, want {words} words + {labels} labels")
    start, end = np.empty(size, np.int64), np.empty(size, np.int64)
    cursor.at = _scan_entries(data, cursor.at, start, end)
    if cursor.at < 0:
        raise ValueError("torn dictionary")
    counts = np.array([data[e + 1 : e + 9].copy().view("<i8")[0] for e in end[words:]], np.int64)
    index = cursor.array("<i4", 2 * max(pruned, 0)).reshape(-1, 2)
    rows = _quantised(cursor) if (quantised := cursor.one("<u1")) else _dense(cursor)
    quantised_out = cursor.one("<u1")
    outputs = _quantised(cursor) if quantised and quantised_out else _dense(cursor)
    if len(rows) < words or outputs.shape != (labels, rows.shape[1]):
        raise ValueError(
            f"matrices of {rows.shape} and {outputs.shape} for {words} words and {labels} labels"
        )
    names = tuple(
        bytes(data[a:b]).decode("utf-8", "replace") for a, b in zip(start[words:], end[words:], strict=True)
    )
    left, right = _tree(counts)
    bucket = args["bucket"] if args["maxn"] > 0 or args["word_ngrams"] > 1 else 0
    there, ranks, rows = _grams(bucket, pruned, index, rows, words)
    keys, numbers, some = _dictionary(data, start, end)
    eos = [i for i in range(words) if bytes(data[start[i] : end[i]]) == EOS]
    tables = Tables(
        rows=rows,
        outputs=_padded(outputs),
        there=there,
        filter=np.bitwise_or.reduce(there.reshape(-1, FILTER)),
        ranks=ranks,
        keys=keys,
        numbers=numbers,
        some=some,
        is_label=(np.arange(size) >= words).astype(np.uint8),
        left=left,
        right=right,
        prefix=np.frombuffer(prefix.encode(), np.uint8).copy(),
        words=words,
        bucket=max(bucket, 1),
        minn=max(args["minn"], 1),
        maxn=args["maxn"],
        word_ngrams=args["word_ngrams"],
        loss=args["loss"],
        eos=eos[0] if eos else -1,
        eos_key=_dictionary(np.frombuffer(EOS, np.uint8), np.array([0]), np.array([len(EOS)]))[0].max(),
    )
    return Classifier(tables, tuple(name.removeprefix(prefix) for name in names))


def _grams(
    bucket: int, pruned: int, index: np.ndarray, rows: np.ndarray, words: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`there`, `ranks` and `rows` of the tables. `index` [pruned, 2]: bucket and row of those that were kept."""
    if pruned < 0:
        buckets, places = np.arange(bucket), np.arange(bucket)
    else:
        order = np.argsort(index[:, 0], kind="stable")
        buckets, places = index[order, 0], index[order, 1]
    if len(places) and not (0 <= places.min() <= places.max() < len(rows) - words):
        raise ValueError("an n-gram points past the matrix")
    if len(buckets) and not (0 <= buckets[0] <= buckets[-1] < max(bucket, 1) and np.diff(buckets).all()):
        raise ValueError("an n-gram outside the buckets, or twice")
    bits = np.zeros(-(-max(bucket, 1) // (32 * FILTER)) * 32 * FILTER, bool)
    bits[buckets] = True
    there = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
    ranks = np.full(len(there), words, np.uint32)
    ranks[1:] += np.cumsum(bits.reshape(-1, 32).sum(1), dtype=np.uint32)[:-1]
    if pruned < 0:
        return there, ranks, _padded(rows)
    return there, ranks, _padded(np.concatenate([rows[:words], rows[words:][places]]))


def _padded(rows: np.ndarray) -> np.ndarray:
    """A copy that is aligned, with columns of 0 up to a multiple of 16."""
    out = aligned(*rows.shape)
    out[:, : rows.shape[1]] = rows
    return out


def _dictionary(
    data: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`keys`, `numbers` and `some` of the tables."""
    size = 1 << max(int(len(start) * 2 - 1).bit_length(), 4)
    keys, numbers = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    _fill_slots(data, start, end, keys, numbers)
    some = np.zeros(1 << 17, bool)
    some[keys[keys > 0] >> np.uint64(47)] = True
    return keys, numbers, np.packbits(some, bitorder="little").view("<u4").astype(np.uint32)
