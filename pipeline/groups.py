"""Counts by source, language and mixture group, from the keys and the verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from .keys import Coded, Keys


def group_counts(keys: Keys, unique: np.ndarray, copies: np.ndarray) -> dict[str, dict[str, dict[str, Any]]]:
    """{source | language | group: {name: counts}}; the counts are the fields of `manifest.Group`.

    `unique`: bool [documents], kept by deduplication; `copies`: int32 [documents].
    """
    return {kind: _counts(coded, keys, unique, copies) for kind, coded in keys.names.items()}


def _counts(coded: Coded, keys: Keys, unique: np.ndarray, copies: np.ndarray) -> dict[str, dict[str, Any]]:
    size = len(coded.names)
    text_bytes, tokens = keys.numbers["text_bytes"], keys.numbers["tokens"]

    def total(weights: np.ndarray) -> list[int]:
        sums = np.zeros(size, dtype=np.int64)
        np.add.at(sums, coded.codes, weights.astype(np.int64))  # integers: float weights would round
        return [int(value) for value in sums]

    counted = bool((tokens >= 0).all()) and len(tokens) > 0
    columns = {
        "kept": total(np.ones(keys.num_docs)),
        "unique": total(unique),
        "unique_bytes": total(unique * text_bytes),
        "unique_tokens": total(unique * tokens) if counted else [None] * size,
        "documents": total(copies > 0),
        "rows": total(copies),
        "text_bytes": total(copies * text_bytes),
        "tokens": total(copies * tokens) if counted else [None] * size,
    }
    return {
        name: {key: values[index] for key, values in columns.items()}
        for index, name in enumerate(coded.names)
    }
