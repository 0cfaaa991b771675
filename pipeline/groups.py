"""Counts by source, language and mixture group, from the keys and the verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from .keys import Coded, Keys, add_by, blocks


def group_counts(keys: Keys, unique: np.ndarray, copies: np.ndarray) -> dict[str, dict[str, dict[str, Any]]]:
    """{source | language | group: {name: counts}}; the counts are the fields of `manifest.Group`.

    `unique`: bool [documents], kept by deduplication; `copies`: int32 [documents].
    """
    return {kind: _counts(coded, keys, unique, copies) for kind, coded in keys.names.items()}


def _counts(coded: Coded, keys: Keys, unique: np.ndarray, copies: np.ndarray) -> dict[str, dict[str, Any]]:
    size, counted = len(coded.names), _counted(keys)
    columns: dict[str, Any] = {}
    for block in blocks(keys.num_docs):
        codes, stays, often = coded.codes[block], unique[block], copies[block].astype(np.int64)
        text, tokens = (keys.numbers[name][block].astype(np.int64) for name in ("text_bytes", "tokens"))
        weights = {
            "kept": np.ones(len(codes), dtype=np.int64),
            "unique": stays.astype(np.int64),
            "unique_bytes": stays * text,
            "unique_tokens": stays * tokens,
            "documents": (often > 0).astype(np.int64),
            "rows": often,
            "text_bytes": often * text,
            "tokens": often * tokens,
        }
        for name, weight in weights.items():
            sums = columns.setdefault(name, np.zeros(size, dtype=np.int64))
            add_by(sums, codes, weight)
    lists = {name: sums.tolist() for name, sums in columns.items()}
    if not counted:
        lists |= {name: [None] * size for name in ("unique_tokens", "tokens")}
    return {
        name: {key: values[index] for key, values in lists.items()} for index, name in enumerate(coded.names)
    }


def _counted(keys: Keys) -> bool:
    tokens = keys.numbers["tokens"]
    return len(tokens) > 0 and int(tokens.min()) >= 0
