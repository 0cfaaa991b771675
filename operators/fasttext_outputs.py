"""From the mean vector of a document to the best label and its score, as fastText has it for each of its losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .fasttext_rows import dot
from .kernel import lean


@lean
def best_leaf(
    hidden: np.ndarray,
    outputs: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    stack: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, float]:
    """Depth first, left first, as fastText goes through its tree, with its cut at 1e-5.

    It adds logarithms; the probabilities multiplied are in the same order, without two logarithms a node.
    """
    labels = (len(left) + 1) // 2
    best: Any = -1
    best_score, floor = np.float32(0.0), np.float32(1e-5)
    top = 1
    stack[0], scores[0] = len(left) - 1, np.float32(1.0)
    while top > 0:
        top -= 1
        node, score = np.int64(stack[top]), scores[top]
        if score < floor or (best >= 0 and score < best_score):
            continue
        if node < labels:
            if best < 0 or score > best_score:
                best, best_score = node, score
            continue
        f = np.float32(1.0) / (np.float32(1.0) + np.exp(np.float32(-dot(hidden, outputs, node - labels))))
        stack[top], scores[top] = right[node], np.float32(score * (f + 1e-5))
        stack[top + 1], scores[top + 1] = left[node], np.float32(score * (np.float32(1.0) - f + 1e-5))
        top += 2
    return best, float(best_score)


@lean
def best_softmax(hidden: np.ndarray, outputs: np.ndarray, values: np.ndarray) -> tuple[int, float]:
    """The label of the largest output and its softmax."""
    best = 0
    for label in range(len(outputs)):
        values[label] = dot(hidden, outputs, label)
        if values[label] > values[best]:
            best = label
    total = np.float32(0.0)
    for label in range(len(outputs)):
        total += np.exp(np.float32(values[label] - values[best]))
    return best, float(np.float32(1.0) / total) + 1e-5


@lean
def best_sigmoid(hidden: np.ndarray, outputs: np.ndarray) -> tuple[int, float]:
    """The label of the largest sigmoid by fastText's table of 512 steps; of equal ones the last, as in its heap."""
    best, most = -1, -1
    for label in range(len(outputs)):
        x = np.float32(0.0)  # in fastText's order: the steps of its table are wide
        for d in range(len(hidden)):
            x += outputs[label, d] * hidden[d]
        if x < -8:
            step = 0
        elif x > 8:
            step = 514
        else:
            step = int(np.float32(x + 8) * 512 / 8 / 2) + 1
        if step >= most:
            best, most = label, step
    if most == 0:
        return best, 1e-5
    if most == 514:
        return best, 1.0 + 1e-5
    return best, 1.0 / (1.0 + math.exp(-((most - 1) * 16 / 512 - 8))) + 1e-5
