"""Prediction with a fastText classifier over a batch of texts, without leaving compiled code.

The same words, n-grams and arithmetic (float32) as fastText's C++, but one order of addition: the vectors of a
word's n-grams are summed first and then added to the document's, so that a word's sum can be kept for its next
occurrence. Sums are kept in a direct-mapped table that changes no result, only how often it is computed.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from .fasttext_file import HIERARCHICAL, SOFTMAX, Classifier, Tables, fnv
from .fasttext_ngrams import Block, add_row, has_row, new_block, push_words, row_of
from .fasttext_outputs import best_leaf, best_sigmoid, best_softmax
from .fasttext_rows import AHEAD, add_rows
from .kernel import inline, lean

_KEPT_BITS = 14
_KEPT = 1 << _KEPT_BITS  # the sums of 16 floats fit into a megabyte of cache
_SPREAD = np.uint64(
    0x9E3779B97F4A7C15
)  # FNV's last byte reaches its low and its high bits only: times this, all
_WORDS = 1024
_FNV = 2166136261
_EOS = np.frombuffer(b"</s>", np.uint8)


class Kept(NamedTuple):
    """Sums by word: keys uint64 [_KEPT] (0: free), sums float32 [_KEPT + _WORDS, dim], sizes int32 [_KEPT + _WORDS].

    The last _WORDS rows are those of new words, until they are kept too.
    """

    keys: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray


class Work(NamedTuple):
    """Words in line. document int64 [_WORDS], place int64 [_WORDS + AHEAD] (a row of the kept sums); of those whose sum
    is new: bytes start, end, slot int64, key uint64, and the last rows of the kept sums and sizes.
    """

    document: np.ndarray
    place: np.ndarray
    start: np.ndarray
    end: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray
    slot: np.ndarray
    key: np.ndarray
    block: Block


def _new_work(kept: Kept, maxn: int) -> Work:
    return Work(
        np.zeros(_WORDS, np.int64),
        np.zeros(_WORDS + AHEAD, np.int64),
        np.zeros(_WORDS, np.int64),
        np.zeros(_WORDS, np.int64),
        kept.sums[_KEPT:],
        kept.sizes[_KEPT:],
        np.zeros(_WORDS, np.int64),
        np.zeros(_WORDS, np.uint64),
        new_block(maxn),
    )


@inline
def _is_blank(b: int) -> bool:
    return b <= 0x20 and (b == 0x20 or (0x09 <= b <= 0x0D) or b == 0)


@inline
def _step(h: np.uint32, byte: int) -> np.uint32:
    b = np.uint32(byte)
    if b > 127:
        b |= np.uint32(0xFFFFFF00)
    return np.uint32(np.uint32(h ^ b) * np.uint32(16777619))


@lean
def _find(
    data: np.ndarray, a: int, b: int, h: np.uint32, slots: np.ndarray, text: np.ndarray, bounds: np.ndarray
) -> int:
    """The number of the word data[a:b] in the dictionary, -1 if it is not there."""
    mask = np.uint32(len(slots) - 1)
    slot = h & mask
    while slots[slot] >= 0:
        word = slots[slot]
        if bounds[word + 1] - bounds[word] == b - a:
            same, q = True, bounds[word]
            for p in range(a, b):
                if data[p] != text[q]:
                    same = False
                    break
                q += 1
            if same:
                return int(word)
        slot = (slot + np.uint32(1)) & mask
    return -1


@inline
def _is_eos(data: np.ndarray, a: int, b: int) -> bool:
    """Whether the word is "</s>"."""
    return (
        b - a == 4 and data[a] == 0x3C and data[a + 1] == 0x2F and data[a + 2] == 0x73 and data[a + 3] == 0x3E
    )


@lean
def _is_label(
    data: np.ndarray, a: int, b: int, number: int, is_label: np.ndarray, prefix: np.ndarray
) -> bool:
    """Whether fastText takes the word for a label: one of the dictionary's, or what begins like one."""
    if number >= 0:
        return bool(is_label[number])
    if b - a < len(prefix):
        return False
    for k in range(len(prefix)):  # noqa: SIM110 (numba compiles no generator)
        if data[a + k] != prefix[k]:
            return False
    return True


@lean
def _sum_new(data: np.ndarray, new: int, t: Tables, work: Work) -> None:
    """The sums of the words that have none yet."""
    start, end, sums, sizes = work.start, work.end, work.sums, work.sizes
    slots, text, bounds, prefix, is_label, rows = t.slots, t.text, t.bounds, t.prefix, t.is_label, t.rows
    for w in range(new):
        a, b = start[w], end[w]
        h = fnv(data, a, b)
        number = _find(data, a, b, h, slots, text, bounds)
        sizes[w] = 0
        for d in range(sums.shape[1]):
            sums[w, d] = np.float32(0.0)
        if _is_label(data, a, b, number, is_label, prefix):
            end[w] = a
        elif number >= 0:
            sizes[w] = 1
            add_row(sums, w, rows, number)
    if t.maxn > 0:
        push_words(data, start, end, new, work.block, t, sums, sizes)


@lean
def _settle(
    data: np.ndarray,
    words: int,
    new: int,
    t: Tables,
    kept: Kept,
    work: Work,
    hidden: np.ndarray,
    count: np.ndarray,
) -> None:
    """Add the sums of the words in line to their documents, in their order, and keep the new sums."""
    _sum_new(data, new, t, work)
    place, owner, sums, sizes, slots = work.place, work.document, work.sums, work.sizes, work.slot
    kept_sums, kept_sizes, kept_keys, keys = kept.sums, kept.sizes, kept.keys, work.key
    first: Any = np.int64(0)
    while first < words:
        stop, document, added = first, owner[first], np.int64(0)
        while stop < words and owner[stop] == document:
            added += kept_sizes[place[stop]]
            stop += 1
        count[document] += added
        add_rows(hidden, document, kept_sums, place, first, stop)
        first = stop
    for w in range(new):
        slot = slots[w]
        kept_keys[slot], kept_sizes[slot] = keys[w], sizes[w]
        for d in range(sums.shape[1]):
            kept_sums[slot, d] = sums[w, d]


@lean
def _sum_words(
    data: np.ndarray,
    offsets: np.ndarray,
    t: Tables,
    kept: Kept,
    work: Work,
    hidden: np.ndarray,
    count: np.ndarray,
) -> None:
    """hidden[i] += the vectors of all words of document i; count[i] = how many, -1 where it has no word."""
    kept_keys, owner, place, slots, keys = kept.keys, work.document, work.place, work.slot, work.key
    starts, ends = work.start, work.end
    shift = np.uint64(64 - _KEPT_BITS)
    words: int = 0
    new: Any = 0
    for document in range(len(offsets) - 1):
        p, end = offsets[document], offsets[document + 1]
        count[document] = -1
        while True:
            while p < end and _is_blank(data[p]):
                p += 1
            if p >= end:
                break
            a, key = p, np.uint64(0xCBF29CE484222325)
            while p < end and not _is_blank(data[p]):
                key = np.uint64(np.uint64(key ^ np.uint64(data[p])) * np.uint64(0x100000001B3))
                p += 1
            if count[document] < 0:
                count[document] = 0
            if _is_eos(data, a, p):  # ends fastText's line
                break
            key = np.uint64(key | np.uint64(1))
            slot = np.int64(np.uint64(key * _SPREAD) >> shift)
            known = kept_keys[slot] == key
            owner[words], place[words] = document, slot if known else _KEPT + new
            starts[new], ends[new], slots[new], keys[new] = a, p, slot, key
            new += np.int64(not known)
            words += 1
            if words == _WORDS:
                _settle(data, words, new, t, kept, work, hidden, count)
                words, new = 0, 0
    _settle(data, words, new, t, kept, work, hidden, count)


@lean
def _add_word_ngrams(
    data: np.ndarray, p: int, end: int, t: Tables, hashes: np.ndarray, hidden: np.ndarray, document: int
) -> int:
    """Add the vectors of the word n-grams of data[p:end] to hidden[document]; how many there are."""
    words = 0
    while True:
        while p < end and _is_blank(data[p]):
            p += 1
        if p >= end:
            break
        a, h = p, np.uint32(_FNV)
        while p < end and not _is_blank(data[p]):
            h = _step(h, data[p])
            p += 1
        if _is_eos(data, a, p):
            break
        number = _find(data, a, p, h, t.slots, t.text, t.bounds)
        if not _is_label(data, a, p, number, t.is_label, t.prefix):
            hashes[words] = h
            words += 1
    hashes[words] = fnv(_EOS, 0, len(_EOS))
    words += 1
    added = 0
    for i in range(words):
        h64 = np.uint64(np.int64(np.int32(hashes[i])))
        for j in range(i + 1, min(i + t.word_ngrams, words)):
            h64 = np.uint64(np.uint64(h64 * np.uint64(116049371)) + np.uint64(np.int64(np.int32(hashes[j]))))
            bucket = np.uint32(h64 % np.uint64(t.bucket))
            if has_row(t.there, bucket):
                add_row(hidden, document, t.grams, row_of(t.there, t.ranks, bucket))
                added += 1
    return added


@lean
def _predict(
    data: np.ndarray,
    offsets: np.ndarray,
    t: Tables,
    hashes: np.ndarray,
    hidden: np.ndarray,
    count: np.ndarray,
    values: np.ndarray,
    stack: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
) -> None:
    """The best label of each document from the sum of its vectors, with those of word n-grams and the line's end."""
    for document in range(len(offsets) - 1):
        labels[document], scores[document] = -1, 0.0
        if count[document] < 0:
            continue
        total = count[document]
        if t.eos >= 0:
            total += 1
            add_row(hidden, document, t.rows, t.eos)
        if t.word_ngrams > 1:
            total += _add_word_ngrams(
                data, offsets[document], offsets[document + 1], t, hashes, hidden, document
            )
        if total == 0:
            continue
        vector = hidden[document]
        scale = np.float32(1.0 / total)
        for d in range(len(vector)):
            vector[d] *= scale
        if t.loss == HIERARCHICAL:
            best, score = best_leaf(vector, t.outputs, t.left, t.right, stack, values)
        elif t.loss == SOFTMAX:
            best, score = best_softmax(vector, t.outputs, values)
        else:
            best, score = best_sigmoid(vector, t.outputs)
        labels[document], scores[document] = best, score


class _Memory(threading.local):
    """This thread's table of word sums for the model that it used last, and its scratch."""

    def __init__(self) -> None:
        self.model: Classifier | None = None
        self.held: tuple[Kept, Work] | None = None

    def of(self, model: Classifier) -> tuple[Kept, Work]:
        if self.held is None or self.model is not model:
            dim = model.tables.grams.shape[1]
            room = _KEPT + _WORDS
            kept = Kept(
                np.zeros(_KEPT, np.uint64), np.zeros((room, dim), np.float32), np.zeros(room, np.int32)
            )
            self.model, self.held = model, (kept, _new_work(kept, model.tables.maxn))
        return self.held


_memory = _Memory()


def predict_batch(model: Classifier, data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(label numbers int32 [documents], -1 where there is none; scores float64 [documents]).

    `data`: uint8 UTF-8; `offsets`: int64 [documents + 1]. Line ends count as spaces.
    """
    documents, tables = len(offsets) - 1, model.tables
    labels, scores = np.empty(documents, np.int32), np.empty(documents, np.float64)
    hidden, count = np.zeros((documents, tables.grams.shape[1]), np.float32), np.zeros(documents, np.int64)
    kept, work = _memory.of(model)
    _sum_words(data, offsets, tables, kept, work, hidden, count)
    longest = int(np.diff(offsets).max(initial=0)) if tables.word_ngrams > 1 else 0
    hashes = np.empty(longest // 2 + 3, np.uint32)
    nodes = max(len(tables.outputs), len(tables.left)) + 2
    values, stack = np.empty(nodes, np.float32), np.empty(nodes, np.int32)
    _predict(data, offsets, tables, hashes, hidden, count, values, stack, labels, scores)
    return labels, scores
