"""Prediction with a fastText classifier over a batch of texts, without leaving compiled code.

The same words, n-grams and arithmetic (float32) as fastText's C++, but one order of addition: the vectors of a
word's n-grams are summed first and then added to the document's, so that a word's sum can be kept for its next
occurrence. Sums are kept in a direct-mapped table that changes no result, only how often it is computed.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np

from .fasttext_file import HIERARCHICAL, SOFTMAX, Classifier, Tables
from .kernel import inline, kernel

_KEPT = 1 << 16
_BOW, _EOW = 0x3C, 0x3E
_FNV = 2166136261


class Kept(NamedTuple):
    """Sums by word: keys uint64 [kept] (0: free), sums float32 [kept, dim], sizes int32 [kept]."""

    keys: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray


@inline
def _is_blank(b: int) -> bool:
    return b <= 0x20 and (b == 0x20 or (0x09 <= b <= 0x0D) or b == 0)


@inline
def _step(h: np.uint32, byte: int) -> np.uint32:
    b = np.uint32(byte)
    if b > 127:
        b |= np.uint32(0xFFFFFF00)
    return np.uint32(np.uint32(h ^ b) * np.uint32(16777619))


@kernel
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


@kernel
def _add_ngrams(word: np.ndarray, size: int, t: Tables, out: np.ndarray) -> int:
    """Add the vectors of the n-grams of `word` (with its < and >) to `out`; how many there are."""
    found, bucket = 0, np.uint32(len(t.place))
    for i in range(size):
        if (word[i] & 0xC0) == 0x80:
            continue
        h, j, n = np.uint32(_FNV), i, 1
        while j < size and n <= t.maxn:
            h = _step(h, word[j])
            j += 1
            while j < size and (word[j] & 0xC0) == 0x80:
                h = _step(h, word[j])
                j += 1
            if n >= t.minn and not (n == 1 and (i == 0 or j == size)):
                hashed = h % bucket
                if (t.there[hashed >> np.uint32(6)] >> np.uint64(hashed & np.uint32(63))) & np.uint64(1):
                    row = t.place[hashed]
                    found += 1
                    for d in range(len(out)):
                        out[d] += t.rows[row, d]
            n += 1
    return found


@kernel
def _best_leaf(
    hidden: np.ndarray,
    outputs: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    stack: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, float]:
    """Depth first, left first, as fastText goes through its tree, with its cut at log(1e-5)."""
    labels = (len(left) + 1) // 2
    best, best_score = -1, np.float32(-np.inf)
    floor = np.float32(math.log(1e-5))
    top = 1
    stack[0], scores[0] = len(left) - 1, np.float32(0.0)
    while top > 0:
        top -= 1
        node, score = stack[top], scores[top]
        if score < floor or (best >= 0 and score < best_score):
            continue
        if left[node] < 0:
            if best < 0 or score > best_score:
                best, best_score = node, score
            continue
        dot = np.float32(0.0)
        for d in range(len(hidden)):
            dot += outputs[node - labels, d] * hidden[d]
        f = np.float32(1.0 / (1.0 + np.float64(np.exp(np.float32(-dot)))))
        stack[top], scores[top] = right[node], np.float32(score + np.float32(math.log(f + 1e-5)))
        stack[top + 1] = left[node]
        scores[top + 1] = np.float32(score + np.float32(math.log(np.float32(1.0 - f) + 1e-5)))
        top += 2
    return best, math.exp(best_score) if best >= 0 else 0.0


@kernel
def _best_output(
    hidden: np.ndarray, outputs: np.ndarray, softmax: bool, values: np.ndarray
) -> tuple[int, float]:
    """The label of the largest output; softmax, else the sigmoid of each by fastText's table of 512."""
    best = 0
    for label in range(len(outputs)):
        dot = np.float32(0.0)
        for d in range(len(hidden)):
            dot += outputs[label, d] * hidden[d]
        values[label] = dot
        if dot > values[best]:
            best = label
    if softmax:
        total = np.float32(0.0)
        for label in range(len(outputs)):
            total += np.exp(np.float32(values[label] - values[best]))
        return best, float(np.float32(1.0) / total) + 1e-5
    x = values[best]
    if x < -8:
        return best, 1e-5
    if x > 8:
        return best, 1.0 + 1e-5
    step = int((x + 8) * 512 / 16)
    return best, 1.0 / (1.0 + math.exp(-(step * 16 / 512 - 8))) + 1e-5


@kernel
def _word_sum(
    data: np.ndarray, a: int, b: int, h: np.uint32, t: Tables, scratch: np.ndarray, out: np.ndarray
) -> int:
    """The sum of all vectors of one word, into `out`; how many there are (a label has none)."""
    for d in range(len(out)):
        out[d] = np.float32(0.0)
    number = _find(data, a, b, h, t.slots, t.text, t.bounds)
    if number >= 0 and t.is_label[number]:
        return 0
    if number < 0 and b - a >= len(t.prefix):
        labelled = True
        for k in range(len(t.prefix)):
            labelled &= data[a + k] == t.prefix[k]
        if labelled:
            return 0
    found = 0
    if number >= 0:
        found = 1
        for d in range(len(out)):
            out[d] += t.rows[number, d]
    if t.maxn > 0:
        scratch[0] = _BOW
        for k in range(b - a):
            scratch[k + 1] = data[a + k]
        scratch[b - a + 1] = _EOW
        found += _add_ngrams(scratch, b - a + 2, t, out)
    return found


@inline
def _is_eos(data: np.ndarray, a: int, b: int) -> bool:
    """Whether the word is "</s>"."""
    return (
        b - a == 4 and data[a] == 0x3C and data[a + 1] == 0x2F and data[a + 2] == 0x73 and data[a + 3] == 0x3E
    )


@kernel
def _read_line(
    data: np.ndarray, p: int, end: int, t: Tables, kept: Kept, scratch: np.ndarray, hidden: np.ndarray
) -> tuple[bool, int]:
    """Add the vectors of all words to `hidden`: (whether there is a word, how many vectors)."""
    count, has_word = 0, False
    keys, sums, sizes = kept.keys, kept.sums, kept.sizes
    mask, dim = np.uint64(len(keys) - 1), len(hidden)
    while True:
        while p < end and _is_blank(data[p]):
            p += 1
        if p >= end:
            break
        a, h, key = p, np.uint32(_FNV), np.uint64(0xCBF29CE484222325)
        while p < end and not _is_blank(data[p]):
            h = _step(h, data[p])
            key = np.uint64(np.uint64(key ^ np.uint64(data[p])) * np.uint64(0x100000001B3))
            p += 1
        has_word = True
        if _is_eos(data, a, p):  # ends fastText's line
            break
        key = np.uint64(key | np.uint64(1))
        slot = np.int64(np.uint64(key >> np.uint64(20)) & mask)
        if keys[slot] != key:
            sizes[slot] = _word_sum(data, a, p, h, t, scratch, sums[slot])
            keys[slot] = key
        count += sizes[slot]
        for d in range(dim):
            hidden[d] += sums[slot, d]
    return has_word, count


@kernel
def _predict(
    data: np.ndarray,
    offsets: np.ndarray,
    t: Tables,
    kept: Kept,
    scratch: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
) -> None:
    dim = t.rows.shape[1]
    hidden = np.zeros(dim, np.float32)
    values = np.zeros(max(len(t.outputs), 1), np.float32)
    stack, stack_scores = np.zeros(len(t.left) + 2, np.int32), np.zeros(len(t.left) + 2, np.float32)
    for document in range(len(offsets) - 1):
        hidden[:] = np.float32(0.0)
        has_word, count = _read_line(data, offsets[document], offsets[document + 1], t, kept, scratch, hidden)
        labels[document], scores[document] = -1, 0.0
        if t.eos >= 0:
            count += 1
            for d in range(dim):
                hidden[d] += t.rows[t.eos, d]
        if not has_word or count == 0:
            continue
        scale = np.float32(1.0 / count)
        for d in range(dim):
            hidden[d] *= scale
        if t.loss == HIERARCHICAL:
            best, score = _best_leaf(hidden, t.outputs, t.left, t.right, stack, stack_scores)
        else:
            best, score = _best_output(hidden, t.outputs, t.loss == SOFTMAX, values)
        labels[document], scores[document] = best, score


class _Memory(threading.local):
    """This thread's table of word sums for the model that it used last."""

    def __init__(self) -> None:
        self.model: Classifier | None = None
        self.held: Kept | None = None

    def kept(self, model: Classifier) -> Kept:
        if self.held is None or self.model is not model:
            sums = np.zeros((_KEPT, model.tables.rows.shape[1]), np.float32)
            self.model, self.held = model, Kept(np.zeros(_KEPT, np.uint64), sums, np.zeros(_KEPT, np.int32))
        return self.held


_memory = _Memory()


def predict_batch(model: Classifier, data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(label numbers int32 [documents], -1 where there is none; scores float64 [documents]).

    `data`: uint8 UTF-8; `offsets`: int64 [documents + 1]. Line ends count as spaces.
    """
    documents = len(offsets) - 1
    labels, scores = np.empty(documents, np.int32), np.empty(documents, np.float64)
    scratch = np.empty(int(np.diff(offsets).max(initial=0)) + 2, np.uint8)
    _predict(data, offsets, model.tables, _memory.kept(model), scratch, labels, scores)
    return labels, scores
