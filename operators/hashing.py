"""xxh64 and its finaliser as numba kernels, bit-identical to the xxhash library."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .kernel import inline, lean
from .lanes import INT64, data_of

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


def _loaded(bits: int) -> Any:
    @intrinsic
    def loaded(typing: Any, data: Any, p: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            place = builder.gep(data_of(context, builder, signature, values, 0), [values[1]])
            word = builder.load(builder.bitcast(place, ir.IntType(bits).as_pointer()), align=1)
            return builder.zext(word, INT64)

        return types.uint64(data, types.int64), emit

    return loaded


# As one load: of bytes put together numba makes eight, each with a look whether its index counts from the end.
word64 = _loaded(64)
"""In a kernel `word64(data, p)`: eight bytes of a uint8 array from `p` on, little-endian, as uint64."""
word32 = _loaded(32)
"""The same of four."""


@intrinsic
def _rotate(typing: Any, x: Any, bits: Any) -> Any:
    """A uint64, to the left. As one instruction: see `Lanes.turned`."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(INT64, [INT64] * 3)
        turn = cgutils.get_or_insert_function(builder.module, kind, "llvm.fshl.i64")
        return builder.call(turn, [values[0], values[0], values[1]])

    return types.uint64(types.uint64, types.int64), emit


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
        h = np.uint64(h ^ np.uint64(word32(data, p) * _P1))
        h = np.uint64(np.uint64(_rotate(h, 23) * _P2) + _P3)
        p += 4
    while p < end:
        h = np.uint64(h ^ np.uint64(np.uint64(data[np.uint64(p)]) * _P5))
        h = np.uint64(_rotate(h, 11) * _P1)
        p += 1
    h = np.uint64((h ^ (h >> np.uint64(33))) * _P2)
    h = np.uint64((h ^ (h >> np.uint64(29))) * _P3)
    return np.uint64(h ^ (h >> np.uint64(32)))
