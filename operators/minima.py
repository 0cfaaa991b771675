"""The least values of random permutations over runs of shingles: the arithmetic of MinHash.

One lane of a register is one permutation and the registers hold them all, so that a shingle costs a multiplication, an
addition and a minimum per register, and a document's end costs nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .kernel import lean
from .lanes import INT32, INT64, Lanes, copies, data_of, load, store

LANES = 16
_REGISTERS = 7
_WIDE = LANES * _REGISTERS
BLOCK = 2048
"""Shingles that are permuted at a time: 8 KiB, so that they stay in the first-level cache."""


def _mix(lanes: int) -> Any:
    @intrinsic
    def mix(typing: Any, ids: Any, i: Any, out: Any, place: Any) -> Any:
        """out[place + k] = fmix32(ids[i + k] >> 32), MurmurHash3's 32-bit finaliser, for `lanes` k."""

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            read, to = (data_of(context, builder, signature, values, n) for n in (0, 2))
            upper = load(builder, read, values[1], lanes) >> 32
            h = Lanes(builder, builder.trunc(upper.value, ir.VectorType(INT32, lanes)))
            h = (h ^ (h >> 16)) * 0x85EBCA6B
            h = (h ^ (h >> 13)) * 0xC2B2AE35
            store(builder, to, values[3], h ^ (h >> 16))
            return context.get_dummy_value()

        return types.void(ids, types.int64, out, types.int64), emit

    return mix


_mix_many, _mix_one = _mix(LANES), _mix(1)


def _least(registers: int) -> Any:
    @intrinsic
    def least(typing: Any, h: Any, count: Any, a: Any, b: Any, k: Any, out: Any) -> Any:
        """out[j] = min(out[j], a[j] * h[i] + b[j] over i < count) for `LANES * registers` j from k on; all uint32."""

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            shingles, times, plus, to = (
                data_of(context, builder, signature, values, n) for n in (0, 2, 3, 5)
            )
            places = [builder.add(values[4], ir.Constant(INT64, LANES * r)) for r in range(registers)]
            factors = [load(builder, times, place, LANES) for place in places]
            offsets = [load(builder, plus, place, LANES) for place in places]
            found = [load(builder, to, place, LANES) for place in places]
            held = [cgutils.alloca_once_value(builder, lanes.value) for lanes in found]
            with cgutils.for_range(builder, values[1]) as loop:
                shingle = copies(builder, builder.load(builder.gep(shingles, [loop.index])), LANES)
                for factor, offset, least in zip(factors, offsets, held, strict=True):
                    new, old = shingle * factor + offset, Lanes(builder, builder.load(least))
                    builder.store(new.compare("<", old).where(new, old).value, least)
            for place, least in zip(places, held, strict=True):
                store(builder, to, place, Lanes(builder, builder.load(least)))
            return context.get_dummy_value()

        return types.void(h, types.int64, a, b, types.int64, out), emit

    return least


_least_of_all = _least(_REGISTERS)
_least_of_some = _least(1)


@cache
def permutations(num_perm: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) uint32 [num_perm], as datasketch 2.0 draws them for the scheme affine32."""
    draw = np.random.RandomState(seed)
    a = draw.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = draw.randint(0, 1 << 32, num_perm, dtype=np.uint32)
    return a, b


@cache
def _in_lanes(num_perm: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same with permutations behind them that fill the last register."""
    more = (0, -num_perm % LANES)
    a, b = permutations(num_perm, seed)
    return np.pad(a, more), np.pad(b, more)


def minima(first: np.ndarray, ids: np.ndarray, seed: int, out: np.ndarray) -> None:
    """Row i of `out`, uint32 [documents, num_perm]: the least of every permutation over ids[first[i]:first[i + 1]].

    2^32 - 1 for a document without shingles. first: int64 [documents + 1]; ids: uint64.
    """
    a, b = _in_lanes(out.shape[1], seed)
    _minima(first, ids, a, b, np.empty(BLOCK, np.uint32), np.empty(len(a), np.uint32), out)


@lean
def _minima(
    first: np.ndarray,
    ids: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    block: np.ndarray,
    row: np.ndarray,
    out: np.ndarray,
) -> None:
    for document in range(len(first) - 1):
        for k in range(len(row)):
            row[k] = 0xFFFFFFFF
        for start in range(first[document], first[document + 1], BLOCK):
            size = min(first[document + 1] - start, BLOCK)
            whole = size & -LANES
            for i in range(0, whole, LANES):
                _mix_many(ids, start + i, block, i)
            for i in range(whole, size):
                _mix_one(ids, start + i, block, i)
            k = 0
            while k + _WIDE <= len(row):
                _least_of_all(block, size, a, b, k, row)
                k += _WIDE
            while k < len(row):
                _least_of_some(block, size, a, b, k, row)
                k += LANES
        for k in range(out.shape[1]):
            out[document, k] = row[k]
