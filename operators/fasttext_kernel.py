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
from .fasttext_ngrams import BLOCK, PIECE, Block, flush, has_row, lay_any, lay_ascii, new_block, row_of
from .fasttext_outputs import best_leaf, best_sigmoid, best_softmax
from .fasttext_rows import AHEAD, add_row, add_rows, aligned, clear_row
from .fasttext_vectors import LANES, expect
from .fasttext_words import find_words, word_key, word_keys
from .kernel import inline, lean

_KEPT_BITS = 14
_KEPT = 1 << _KEPT_BITS  # the sums of 16 floats fit into a megabyte of cache
_WORDS = 1024
_ROOM = _WORDS + 32  # 64 bytes hold 32 words
_ROWS = _KEPT + _ROOM
_EOS = np.frombuffer(b"</s>", np.uint8)


class Kept(NamedTuple):
    """Sums by word. slots uint64 [2 * _KEPT]: the key of a word (0: none) and its row, in turn; free uint64 [_ROOM]:
    the other rows, for new words; sums float32 [_ROWS + 1, dim], the last one 0, sizes int32 [_ROWS].
    """

    slots: np.ndarray
    free: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray


class Line(NamedTuple):
    """Words in line. edges int64 [2 * _ROOM + 8]: start and end of each; part int64 [_ROOM, 2]: a document, and where
    its words end; key uint64 [_ROOM]; place uint64 [_ROOM + AHEAD]: a row of the kept sums; new uint32 [_ROOM]: those
    whose sum is new; known int64 [2 * _ROOM]: of these the dictionary's, and which; scratch.
    """

    edges: np.ndarray
    part: np.ndarray
    key: np.ndarray
    place: np.ndarray
    new: np.ndarray
    known: np.ndarray
    block: Block


def _new_kept(dim: int) -> Kept:
    slots = np.zeros(2 * _KEPT, np.uint64)
    slots[1::2] = np.arange(_KEPT)
    free = np.arange(_KEPT, _ROWS, dtype=np.uint64)
    sums, sizes = aligned(_ROWS + 1, dim), np.zeros(_ROWS, np.int32)
    return Kept(slots, free, sums, sizes)


def _new_line(maxn: int) -> Line:
    edges, part = np.zeros(2 * _ROOM + 8, np.int64), np.zeros((_ROOM, 2), np.int64)
    key, place = np.zeros(_ROOM, np.uint64), np.zeros(_ROOM + AHEAD, np.uint64)
    new, known = np.zeros(_ROOM, np.uint32), np.zeros(2 * _ROOM, np.int64)
    return Line(edges, part, key, place, new, known, new_block(maxn))


@lean
def _find(key: np.uint64, keys: np.ndarray, numbers: np.ndarray) -> int:
    """The number of the word of this key in the dictionary, -1 if it is not there."""
    mask = np.uint64(len(keys) - 1)
    slot = key & mask
    while keys[slot] != np.uint64(0):
        if keys[slot] == key:
            return int(numbers[slot])
        slot = (slot + np.uint64(1)) & mask
    return -1


@inline
def _begins(data: np.ndarray, a: int, b: int, prefix: np.ndarray) -> bool:
    """Whether the word data[a:b] begins like a label."""
    k: Any = np.int64(0)
    while k < len(prefix) and a + k < b and data[a + k] == prefix[k]:
        k += 1
    return bool(k == len(prefix))


@lean
def _is_label(
    data: np.ndarray, a: int, b: int, number: int, is_label: np.ndarray, prefix: np.ndarray
) -> bool:
    """Whether fastText takes the word for a label: one of the dictionary's, or what begins like one."""
    return bool(is_label[number]) if number >= 0 else _begins(data, a, b, prefix)


@lean
def _find_new(new: int, t: Tables, line: Line) -> Any:
    """The words among the new ones that the dictionary has, and which they are, to `line.known`; their count."""
    key, new_words, known, some, keys = line.key, line.new, line.known, t.some, t.keys
    count, mask = np.int64(0), np.uint64(len(t.keys) - 1)
    for i in range(new):
        w = new_words[np.uint64(i)]
        known[2 * count] = w
        count += has_row(some, np.uint32(key[w] >> np.uint64(47)))
    for i in range(count):
        expect(keys, np.int64(key[known[2 * i]] & mask))
    found = np.int64(0)
    for i in range(count):
        w = known[2 * i]
        known[2 * found], known[2 * found + 1] = w, _find(key[w], keys, t.numbers)
        found += np.int64(known[2 * found + 1] >= 0)
    return found


@lean
def _sum_new(data: np.ndarray, new: int, t: Tables, kept: Kept, line: Line) -> None:
    """The sums of the words that have none yet."""
    edges, place, sums, sizes, block, known, new_words = (
        line.edges,
        line.place,
        kept.sums,
        kept.sizes,
        line.block,
        line.known,
        line.new,
    )
    is_label, rows = t.is_label, t.rows
    found = _find_new(new, t, line)
    for i in range(found):
        if is_label[known[2 * i + 1]]:
            edges[2 * known[2 * i] + 1] = edges[2 * known[2 * i]]
    for i in range(new):
        row = np.int64(place[new_words[np.uint64(i)]])
        sizes[np.uint64(row)] = 0
        clear_row(sums, row)
    others: Any = np.int64(0)
    done: Any = np.int64(0)
    at: Any
    while done < new:
        done, others, at = lay_ascii(
            data, edges, place, new_words, done, new, others, t.prefix, block.chars, block.owner
        )
        flush(block, at, at, t, sums, sizes)
    at = np.int64(LANES)
    for i in range(others):
        w = new_words[np.uint64(i)]
        a, b, row = edges[2 * np.int64(w)], edges[2 * np.int64(w) + 1], np.int64(place[w])
        if a == b or (_begins(data, a, b, t.prefix) and _find(line.key[w], t.keys, t.numbers) < 0):
            continue
        if at + min(b - a + 2, PIECE) > LANES + BLOCK:
            flush(block, at, at, t, sums, sizes)
            at = np.int64(LANES)
        at = lay_any(data, a, b, at, row, block, t, sums, sizes)
    if at > LANES:
        flush(block, at, at, t, sums, sizes)
    for i in range(found):
        w, number = known[2 * i], known[2 * i + 1]
        if not is_label[number]:
            add_row(sums, np.int64(place[w]), rows, number)
            sizes[place[w]] += np.int32(1)


@lean
def _look_up(data: np.ndarray, words: int, eos: np.uint64, kept: Kept, line: Line) -> tuple[Any, bool]:
    """The place of each word in line; how many have no sum yet, and whether one is "</s>"."""
    edges, place, keys, new_words, slots, free = (
        line.edges,
        line.place,
        line.key,
        line.new,
        kept.slots,
        kept.free,
    )
    ends = False
    word_keys(data, edges, words, keys)
    for w in range(words):
        key = keys[np.uint64(w)]
        ends |= key == eos
        expect(slots, np.int64(key >> np.uint64(64 - _KEPT_BITS)) * 2)
    new = np.uint64(0)
    for w in range(words):
        key = keys[w]
        slot = np.uint64(key >> np.uint64(64 - _KEPT_BITS)) * np.uint64(2)
        known = slots[slot] == key
        mine, other = slots[slot + np.uint64(1)], free[new]
        row = mine if known else other
        slots[slot], slots[slot + np.uint64(1)], free[new] = key, row, other if known else mine
        new_words[new], place[w] = w, row
        new += np.uint64(not known)
    return np.int64(new), ends


@lean
def _settle(
    data: np.ndarray,
    parts: int,
    ended: int,
    t: Tables,
    kept: Kept,
    line: Line,
    hidden: np.ndarray,
    count: np.ndarray,
) -> int:
    """Add the sums of the words in line to their documents, in their order; the document that "</s>" ended last."""
    part, place, key, sums, sizes = line.part, line.place, line.key, kept.sums, kept.sizes
    new, ends = _look_up(data, part[parts - 1, 1], t.eos_key, kept, line)
    _sum_new(data, new, t, kept, line)
    first = np.int64(0)
    for i in range(parts):
        document, last, stop = part[i, 0], part[i, 1], part[i, 1]
        if document == ended:
            stop = first
        elif ends:
            stop = first
            while stop < last and key[stop] != t.eos_key:
                stop += 1
            if stop < last:
                ended = document
        added = add_rows(hidden, document, sums, place, first, stop, sizes)
        count[document] = max(count[document], 0) + added
        first = last
    return ended


@lean
def _sum_words(
    data: np.ndarray,
    offsets: np.ndarray,
    t: Tables,
    kept: Kept,
    line: Line,
    hidden: np.ndarray,
    count: np.ndarray,
) -> None:
    """hidden[i] += the vectors of all words of document i; count[i] = how many, -1 where it has no word."""
    edges, part = line.edges, line.part
    n: Any = np.int64(0)
    parts: Any = np.int64(0)
    ended: Any = np.int64(-1)
    for document in range(len(offsets) - 1):
        p, end = offsets[document], offsets[document + 1]
        count[document] = -1
        blank, before = np.uint64(1), n
        while p <= end:
            n, blank = find_words(data, p, end, blank, edges, n)
            p += 64
            if n >= 2 * _WORDS:
                part[parts, 0], part[parts, 1] = document, n >> 1
                ended = _settle(data, parts + 1, ended, t, kept, line, hidden, count)
                edges[0] = edges[n - 1]
                n, parts, before = n & 1, np.int64(0), np.int64(0)
        if n - before > 1:
            part[parts, 0], part[parts, 1] = document, n >> 1
            parts += 1
    if parts > 0:
        _settle(data, parts, ended, t, kept, line, hidden, count)


@lean
def _add_word_ngrams(
    data: np.ndarray,
    p: int,
    end: int,
    t: Tables,
    edges: np.ndarray,
    hashes: np.ndarray,
    hidden: np.ndarray,
    document: int,
) -> int:
    """Add the vectors of the word n-grams of data[p:end] to hidden[document]; how many there are."""
    words = 0
    n: Any = np.int64(0)
    blank, going = np.uint64(1), True
    while p <= end and going:
        n, blank = find_words(data, p, end, blank, edges, n)
        p += 64
        for w in range(n >> 1):
            a, b = edges[2 * w], edges[2 * w + 1]
            key = word_key(data, a, b)
            if key == t.eos_key:
                going = False
                break
            number = _find(key, t.keys, t.numbers)
            if not _is_label(data, a, b, number, t.is_label, t.prefix):
                hashes[words] = fnv(data, a, b)
                words += 1
        edges[0], n = edges[n - 1], n & 1
    hashes[words] = fnv(_EOS, 0, len(_EOS))
    words += 1
    added = 0
    for i in range(words):
        h64 = np.uint64(np.int64(np.int32(hashes[i])))
        for j in range(i + 1, min(i + t.word_ngrams, words)):
            h64 = np.uint64(np.uint64(h64 * np.uint64(116049371)) + np.uint64(np.int64(np.int32(hashes[j]))))
            bucket = np.uint32(h64 % np.uint64(t.bucket))
            if has_row(t.there, bucket):
                add_row(hidden, document, t.rows, row_of(t.there, t.ranks, bucket))
                added += 1
    return added


@lean
def _predict(
    data: np.ndarray,
    offsets: np.ndarray,
    t: Tables,
    edges: np.ndarray,
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
                data, offsets[document], offsets[document + 1], t, edges, hashes, hidden, document
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
        self.held: tuple[Kept, Line] | None = None

    def of(self, model: Classifier) -> tuple[Kept, Line]:
        if self.held is None or self.model is not model:
            tables = model.tables
            self.model, self.held = model, (_new_kept(tables.rows.shape[1]), _new_line(tables.maxn))
        return self.held


_memory = _Memory()


def predict_batch(model: Classifier, data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(label numbers int32 [documents], -1 where there is none; scores float64 [documents]).

    `data`: uint8 UTF-8; `offsets`: int64 [documents + 1]. Line ends count as spaces.
    """
    documents, tables = len(offsets) - 1, model.tables
    labels, scores = np.empty(documents, np.int32), np.empty(documents, np.float64)
    hidden, count = np.zeros((documents, tables.rows.shape[1]), np.float32), np.zeros(documents, np.int64)
    kept, line = _memory.of(model)
    _sum_words(data, offsets, tables, kept, line, hidden, count)
    longest = int(np.diff(offsets).max(initial=0)) if tables.word_ngrams > 1 else 0
    hashes = np.empty(longest // 2 + 3, np.uint32)
    nodes = max(len(tables.outputs), len(tables.left)) + 2
    values, stack = np.empty(nodes, np.float32), np.empty(nodes, np.int32)
    _predict(data, offsets, tables, line.edges, hashes, hidden, count, values, stack, labels, scores)
    return labels, scores
