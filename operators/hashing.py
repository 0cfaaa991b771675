"""xxh64 and its finaliser as numba kernels, bit-identical to the xxhash library."""

from __future__ import annotations

import numpy as np

from .kernel import inline, lean

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@inline
def _rotate(x: np.uint64, bits: int) -> np.uint64:
    return np.uint64((x << np.uint64(bits)) | (x >> np.uint64(64 - bits)))


@inline
def word64(data: np.ndarray, p: int) -> np.uint64:
    """Eight bytes, little-endian; the compiler makes one load of it."""
    value = np.uint64(data[p])
    for i in range(1, 8):
        value |= np.uint64(data[p + i]) << np.uint64(8 * i)
    return value


@inline
def _word32(data: np.ndarray, p: int) -> np.uint64:
    value = np.uint64(data[p])
    for i in range(1, 4):
        value |= np.uint64(data[p + i]) << np.uint64(8 * i)
    return value


@inline
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return np.uint64(_rotate(np.uint64(lane + np.uint64(word * _P2)), 31) * _P1)


@inline
def _merge(h: np.uint64, lane: np.uint64) -> np.uint64:
    return np.uint64(np.uint64((h ^ _round(np.uint64(0), lane)) * _P1) + _P4)


@inline
def fmix64(h: np.uint64) -> np.uint64:
    """MurmurHash3's 64-bit finaliser (Appleby)."""
    h = np.uint64((h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD))
    h = np.uint64((h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53))
    return np.uint64(h ^ (h >> np.uint64(33)))


@lean
def xxh64(data: np.ndarray, start: int, end: int, seed: np.uint64) -> np.uint64:
    """xxh64 of `data[start:end]` (uint8), as `xxhash.xxh64_intdigest` gives it."""
    p = start
    if end - start >= 32:
        a = np.uint64(np.uint64(seed + _P1) + _P2)
        b = np.uint64(seed + _P2)
        c = np.uint64(seed)
        d = np.uint64(seed - _P1)
        while p + 32 <= end:
            a = _round(a, word64(data, p))
            b = _round(b, word64(data, p + 8))
            c = _round(c, word64(data, p + 16))
            d = _round(d, word64(data, p + 24))
            p += 32
        h = np.uint64(np.uint64(_rotate(a, 1) + _rotate(b, 7)) + np.uint64(_rotate(c, 12) + _rotate(d, 18)))
        h = _merge(_merge(_merge(_merge(h, a), b), c), d)
    else:
        h = np.uint64(seed + _P5)
    h = np.uint64(h + np.uint64(end - start))
    while p + 8 <= end:
        h = np.uint64(h ^ _round(np.uint64(0), word64(data, p)))
        h = np.uint64(np.uint64(_rotate(h, 27) * _P1) + _P4)
        p += 8
    if p + 4 <= end:
        h = np.uint64(h ^ np.uint64(_word32(data, p) * _P1))
        h = np.uint64(np.uint64(_rotate(h, 23) * _P2) + _P3)
        p += 4
    while p < end:
        h = np.uint64(h ^ np.uint64(np.uint64(data[p]) * _P5))
        h = np.uint64(_rotate(h, 11) * _P1)
        p += 1
    h = np.uint64((h ^ (h >> np.uint64(33))) * _P2)
    h = np.uint64((h ^ (h >> np.uint64(29))) * _P3)
    return np.uint64(h ^ (h >> np.uint64(32)))
