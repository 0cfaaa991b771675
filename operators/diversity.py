"""Diversity: figures of a corpus before and after, each computable in parts.

Three views: how evenly documents and text are spread over groups (effective number), how much of the text
repeats itself (zstd ratio of a sample) and how many of its word n-grams are distinct (a mergeable sketch).
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .kernel import lean
from .lanes import BIT, INT64, Lanes, data_of, load, store
from .lanes import copies as copies_of

_PRECISION = 14
_MANY = 32  # n-grams at a time


@dataclass(frozen=True)
class GroupDiversity:
    """Groups that have a document, and their effective number by documents and by size."""

    groups: int
    by_documents: float
    by_size: float


def effective_number(counts: Sequence[float] | np.ndarray) -> float:
    """exp of the Shannon entropy of the shares: k for k equal groups, 1 for one group, 0 for none.

    The Hill number of order 1 (Hill 1973, Ecology 54; Jost 2006, Oikos 113). Zero counts add nothing.
    ValueError for a negative count.
    """
    values = np.asarray(counts, np.float64)
    if (values < 0).any() or not np.isfinite(values).all():
        raise ValueError(f"counts: want finite numbers of 0 or more, got {values.min()}..{values.max()}")
    values = values[values > 0]
    if len(values) == 0:
        return 0.0
    shares = values / values.sum()
    return math.exp(-float((shares * np.log(shares)).sum()))


def group_diversity(documents: Sequence[float], sizes: Sequence[float]) -> GroupDiversity:
    """Of groups (sources, languages) with these numbers of documents and these sizes in any one unit."""
    groups = int((np.asarray(documents, np.float64) > 0).sum())
    return GroupDiversity(groups, effective_number(documents), effective_number(sizes))


def sample_rows(id_hashes: np.ndarray, sizes: np.ndarray, budget: int) -> np.ndarray:
    """The documents with the smallest hashes until their sizes reach `budget`: int64 rows, by hash.

    `id_hashes` uint64 [documents], `sizes` int64 [documents]. Documents over the budget are passed over,
    so a sample is smaller than twice the budget. The document that reaches the budget belongs to the sample:
    only so is a sample of the samples of parts, whatever the parts, the sample of the whole.
    """
    if len(id_hashes) != len(sizes):
        raise ValueError(f"want one size a document, got {len(id_hashes)} hashes and {len(sizes)} sizes")
    sizes = np.asarray(sizes, np.int64)
    rows = np.flatnonzero(sizes <= budget)
    rows = rows[np.lexsort((sizes[rows], np.asarray(id_hashes, np.uint64)[rows]))]
    before = np.cumsum(sizes[rows]) - sizes[rows]
    kept: np.ndarray = rows[before < budget]
    return kept


def zstd_ratio(texts: Sequence[str | bytes], level: int = 3) -> float:
    """Bytes of the texts, joined by "\\n", over their bytes after zstd: more is more repeated, NaN for none.

    The window spans the whole sample (to 128 MiB), so text that comes again in a later document counts. A
    ratio depends on the size of the sample: compare samples of the same budget. Compression ratio as a
    measure of diversity: Shaib et al. 2024, arXiv 2403.00553.
    """
    import zstandard

    joined = b"\n".join(text.encode() if isinstance(text, str) else text for text in texts)
    if not joined:
        return math.nan
    window = min(max(len(joined).bit_length(), 10), 27)
    settings = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window, enable_ldm=True, write_checksum=False
    )
    compressed = zstandard.ZstdCompressor(compression_params=settings).compress(joined)
    return len(joined) / len(compressed)


@dataclass(frozen=True)
class NgramSketch:
    """Distinct word n-grams, estimated by HyperLogLog, and the exact number of all of them.

    `registers`: uint8 [2 ** precision] as bytes. Standard error of `distinct` is 1.04 / sqrt(2 ** precision),
    0.8 % at 14. Sketches of parts merge to the sketch of the whole, bit for bit and in any order.
    """

    ngram: int
    registers: bytes
    total: int

    @property
    def precision(self) -> int:
        return len(self.registers).bit_length() - 1

    @property
    def distinct(self) -> float:
        """Estimate by Ertl 2017 (arXiv 1702.01284, algorithm 6), without bias tables, from 0 up."""
        p, m = self.precision, len(self.registers)
        counts = np.bincount(np.frombuffer(self.registers, np.uint8), minlength=66 - p).tolist()
        if counts[0] == m:
            return 0.0
        z = m * _tau(1.0 - counts[65 - p] / m)
        for k in range(64 - p, 0, -1):
            z = 0.5 * (z + counts[k])
        return m * m / (2.0 * math.log(2.0) * (z + m * _sigma(counts[0] / m)))

    @property
    def share(self) -> float:
        """Distinct n-grams over all of them, at most 1; NaN where there are none.

        It falls as a corpus grows, so compare corpora of like size, or say both totals.
        """
        return min(self.distinct / self.total, 1.0) if self.total else math.nan

    def to_text(self) -> str:
        """For a JSON record; `sketch_from_text` reads it."""
        packed = base64.b64encode(zlib.compress(self.registers, 9)).decode("ascii")
        return f"hll1:{self.ngram}:{self.total}:{packed}"


def sketch_from_text(text: str) -> NgramSketch:
    """The sketch that `to_text` wrote; ValueError for anything else."""
    try:
        scheme, ngram, total, packed = text.split(":")
        registers = zlib.decompress(base64.b64decode(packed, validate=True))
    except (ValueError, zlib.error) as error:
        raise ValueError(f"not a sketch: {text[:40]!r}") from error
    if scheme != "hll1" or len(registers) & (len(registers) - 1) or len(registers) < 16:
        raise ValueError(f"not a sketch: {text[:40]!r}")
    return NgramSketch(int(ngram), registers, int(total))


def merge(sketches: Sequence[NgramSketch]) -> NgramSketch:
    """The sketch of all documents of all parts; ValueError for none, or for unlike n or precision."""
    shapes = {(sketch.ngram, sketch.precision) for sketch in sketches}
    if len(shapes) != 1:
        raise ValueError(f"want sketches of one n and one precision, got {sorted(shapes) or 'none'}")
    registers = np.frombuffer(sketches[0].registers, np.uint8).copy()
    for sketch in sketches[1:]:
        np.maximum(registers, np.frombuffer(sketch.registers, np.uint8), out=registers)
    return NgramSketch(sketches[0].ngram, registers.tobytes(), sum(sketch.total for sketch in sketches))


def sketch_ngrams(
    first: np.ndarray,
    hashes: np.ndarray,
    ngram: int,
    copies: np.ndarray | None = None,
    precision: int = _PRECISION,
) -> NgramSketch:
    """Sketch the word n-grams of a batch; none of them crosses from one document to the next.

    `first` int64 [documents + 1] and `hashes` uint64 [words], as `words.first` and `words.lower_hash` of the
    analysis: words of document i are first[i]:first[i + 1]. `copies` int32 [documents]: how often a document
    stands in the corpus; 0 leaves it out.
    """
    if ngram < 1 or not 4 <= precision <= 18:
        raise ValueError(f"want ngram >= 1 and precision 4..18, got ngram={ngram}, precision={precision}")
    documents = len(first) - 1
    if copies is None:
        copies = np.ones(documents, np.int32)
    if len(copies) != documents:
        raise ValueError(f"want one number of copies a document, got {len(copies)} for {documents}")
    hashes = np.ascontiguousarray(hashes, np.uint64)
    if len(hashes) < ngram + _MANY:
        hashes = np.append(hashes, np.zeros(ngram + _MANY, np.uint64))
    copies = np.ascontiguousarray(copies, np.int32)
    registers, found = np.zeros(1 << precision, np.uint8), np.empty((2, _MANY), np.uint64)
    total = _fill(np.ascontiguousarray(first, np.int64), hashes, ngram, copies, precision, found, registers)
    return NgramSketch(ngram, registers.tobytes(), int(total))


@intrinsic
def _rank_many(typing: Any, hashes: Any, i: Any, ngram: Any, precision: Any, found: Any) -> Any:
    """found[0, k], found[1, k] = register and rank of the n-gram that begins at hashes[i + k], k below `_MANY`."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        read, to = (data_of(context, builder, signature, values, n) for n in (0, 4))
        number, kind = partial(ir.Constant, INT64), ir.VectorType(INT64, _MANY)
        held = cgutils.alloca_once_value(builder, ir.Constant(kind, None))
        with cgutils.for_range(builder, values[2]) as loop:
            word = load(builder, read, builder.add(values[1], loop.index), _MANY)
            h = Lanes(builder, builder.load(held)) + word + 0x9E3779B97F4A7C15
            h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCD  # hashing.fmix64
            h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53
            builder.store((h ^ (h >> 33)).value, held)
        h, bits = Lanes(builder, builder.load(held)), copies_of(builder, values[3], _MANY)
        rest = copies_of(builder, builder.sub(number(64), values[3]), _MANY)
        store(builder, to, number(0), h >> rest)
        shape = ir.FunctionType(kind, [kind, BIT])
        count = cgutils.get_or_insert_function(builder.module, shape, f"llvm.ctlz.v{_MANY}i64")
        zeros = Lanes(builder, builder.call(count, [(h << bits).value, ir.Constant(BIT, 0)]))
        store(builder, to, number(_MANY), zeros.compare("<", rest).where(zeros, rest) + 1)
        return context.get_dummy_value()

    return types.void(hashes, types.int64, types.int64, types.int64, found), emit


@lean
def _fill(
    first: np.ndarray,
    hashes: np.ndarray,
    ngram: int,
    copies: np.ndarray,
    precision: int,
    found: np.ndarray,
    registers: np.ndarray,
) -> int:
    """Raise `registers`; how many n-grams there were, each counted once per copy. found: scratch, uint64 [2, _MANY]."""
    total = 0
    last = len(hashes) - _MANY + 1 - ngram  # from here on so many n-grams are there
    for document in range(len(copies)):
        if copies[document] <= 0:
            continue
        start, stop = first[document], first[document + 1] - ngram + 1
        total += max(stop - start, 0) * np.int64(copies[document])
        for i in range(start, stop, _MANY):
            at = min(i, last)
            _rank_many(hashes, at, ngram, precision, found)
            for k in range(i - at, min(i + _MANY, stop) - at):
                register = found[0, k]
                registers[register] = max(registers[register], np.uint8(found[1, k]))
    return total


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1.0 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) ** 2 * y
    return z / 3.0
