"""fastText model files with random numbers in them, of every kind that the format knows (version 12)."""

from __future__ import annotations

import struct

import numpy as np

LOSSES = {"hierarchical": 1, "negative": 2, "softmax": 3, "one_vs_all": 4}


def _quantised(matrix_rows: int, dim: int, draw: np.random.Generator) -> bytes:
    """A product-quantised matrix with norms."""
    width = 2
    parts, last = -(-dim // width), dim - (-(-dim // width) - 1) * width
    codes = draw.integers(0, 256, matrix_rows * parts, dtype=np.uint8)
    out = struct.pack("<?qqi", True, matrix_rows, dim, len(codes)) + codes.tobytes()
    out += struct.pack("<iiii", dim, parts, width, last)
    out += draw.normal(size=dim * 256).astype("<f4").tobytes()
    out += draw.integers(0, 256, matrix_rows, dtype=np.uint8).tobytes()
    out += struct.pack("<iiii", 1, 1, 1, 1)
    return out + draw.uniform(0.5, 2, 256).astype("<f4").tobytes()


def _dense(rows: int, dim: int, draw: np.random.Generator) -> bytes:
    return struct.pack("<qq", rows, dim) + draw.normal(size=(rows, dim)).astype("<f4").tobytes()


def model_bytes(
    loss: str,
    word_ngrams: int = 1,
    minn: int = 2,
    maxn: int = 4,
    quantised: bool = False,
    pruned: bool = False,
    dim: int = 10,
    bucket: int = 997,
) -> bytes:
    draw = np.random.default_rng(7)
    words = ["</s>", "the", "of", "사전의", "이름이다", "wolken", "ещё", "x"]
    labels = [f"__label__{name}" for name in ("en", "ko", "de", "ru", "ja")]
    out = struct.pack("<ii", 793712314, 12)
    arguments = (dim, 5, 1, 1, 5, word_ngrams, LOSSES[loss], 3, bucket, minn, maxn, 100)
    out += struct.pack("<12i", *arguments) + struct.pack("<d", 1e-4)
    kept = draw.choice(bucket, bucket // 3, replace=False) if pruned else []
    grams = len(kept) if pruned else bucket
    size = len(words) + len(labels)
    out += struct.pack("<iiiqq", size, len(words), len(labels), 1000, len(kept) if pruned else -1)
    for i, entry in enumerate(words + labels):
        out += entry.encode() + b"\0" + struct.pack("<qb", 100 - i, int(i >= len(words)))
    for row, hashed in enumerate(kept):
        out += struct.pack("<ii", int(hashed), row)
    rows = len(words) + grams
    out += struct.pack("<?", quantised) + (_quantised if quantised else _dense)(rows, dim, draw)
    return out + struct.pack("<?", False) + _dense(len(labels), dim, draw)
