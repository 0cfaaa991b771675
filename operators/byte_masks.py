"""Sixty-four bytes at a time as bits: which of them lie in a range, as one 64-bit number.

A branch for every byte of text is what bounds a scan; with the bits of 64 bytes in a register, the next byte of
interest is a count of trailing zeros away. Written as LLVM instructions because numba has no vector type.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .kernel import inline, lean
from .lanes import BIT, BYTE, INT64, Lanes, data_of, load, store

WIDTH = 64
Test = tuple[int, ...]
"""(offset, low, high): the byte `offset` places further on lies in [low, high]; (offset, low, high, bits): once it
is joined with these bits (0x20: a letter of ASCII in any case)."""


def _in_range(loaded: Lanes, low: int, high: int) -> Lanes:
    if low == high:
        return loaded.compare("==", low)
    if high == 255:
        return loaded.compare(">=", low)
    return (loaded - low).compare("<=", high - low)


def _place(builder: Any, array: Any, p: Any, ahead: int) -> Any:
    """Where to load from: `data[p:]`, or a copy of its last bytes where fewer than 64 and those ahead are left."""
    size = WIDTH + ahead
    length = builder.extract_value(array.shape, 0)
    left = builder.sub(length, p)
    copy = cgutils.alloca_once(builder, ir.ArrayType(BYTE, size))
    first = builder.bitcast(copy, BYTE.as_pointer())
    here = builder.gep(array.data, [p])
    place = cgutils.alloca_once_value(builder, here)
    short = builder.icmp_signed("<", left, ir.Constant(INT64, size))
    with builder.if_then(short, likely=False):
        builder.store(ir.Constant(ir.ArrayType(BYTE, size), None), copy)
        with cgutils.for_range(builder, left) as loop:
            builder.store(builder.load(builder.gep(here, [loop.index])), builder.gep(first, [loop.index]))
        builder.store(first, place)
    return builder.load(place)


def masks(*wanted: tuple[tuple[Test, ...], ...]) -> Callable[..., Any]:
    """A function for kernels: `f(data, p)` gives one uint64 for each of `wanted`, as a tuple.

    Bit i of it is set where `data[p + i]` (uint8) passes all tests of one of the alternatives; bytes behind the end
    of `data` count as 0.
    """

    @intrinsic
    def of(typing: Any, data: Any, p: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, values[0])
            ahead = max(test[0] for alternatives in wanted for tests in alternatives for test in tests)
            place = _place(builder, array, values[1], ahead)
            loads: dict[int, Lanes] = {}

            def passes(test: Test) -> Lanes:
                offset, low, high, *fold = test
                if offset not in loads:
                    loads[offset] = load(builder, place, ir.Constant(INT64, offset), WIDTH)
                return _in_range(loads[offset] | fold[0] if fold else loads[offset], low, high)

            found = []
            for alternatives in wanted:
                each = (reduce(and_, map(passes, tests)) for tests in alternatives)
                found.append(reduce(or_, each).cast(INT64).value)
            return context.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(types.uint64, len(wanted))(data, types.int64), emit

    return of  # type: ignore[no-any-return]


def _count(instruction: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    @intrinsic
    def of(typing: Any, x: Any) -> Any:
        return types.int64(types.uint64), lambda _, builder, __, values: instruction(builder, values[0])

    return of  # type: ignore[no-any-return]


_NO = ir.Constant(BIT, 0)
lowest = _count(lambda builder, x: builder.cttz(x, _NO))
"""In a kernel: the number of the lowest bit that is set; 64 where none is."""
_leading = _count(lambda builder, x: builder.ctlz(x, _NO))
bits_in = _count(lambda builder, x: builder.ctpop(x))
"""In a kernel: how many bits are set."""


@inline
def highest(x: np.uint64) -> int:
    """The number of the highest bit that is set; -1 where none is."""
    return int(63 - _leading(x))


@inline
def below(n: int) -> np.uint64:
    """The lowest `n` bits, 0 to 64; more is 64."""
    return (
        np.uint64(0xFFFFFFFFFFFFFFFF) if n >= 64 else np.uint64((np.uint64(1) << np.uint64(n)) - np.uint64(1))
    )


@intrinsic
def copy_block(typing: Any, out: Any, o: Any, data: Any, p: Any) -> Any:
    """In a kernel: out[o:o + 64] = data[p:p + 64], both of uint8; both must have so many."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to, read = (data_of(context, builder, signature, values, n) for n in (0, 2))
        store(builder, to, values[1], load(builder, read, values[3], WIDTH))
        return context.get_dummy_value()

    return types.void(out, types.int64, data, types.int64), emit


_newlines = masks((((0, 0x0A, 0x0A),),))


@lean
def newlines(data: np.ndarray, begin: int, end: int, most: int) -> tuple[int, int]:
    """The first `most` line feeds in data[begin:end] (uint8): (how many there are, the place behind the last one)."""
    count, after = 0, begin
    for p in range(begin, end, WIDTH):
        bits = np.uint64(_newlines(data, p)[0] & below(end - p))
        more = bits_in(bits)
        if count + more >= most:
            for _ in range(most - count - 1):
                bits = np.uint64(bits & np.uint64(bits - np.uint64(1)))
            return most, p + lowest(bits) + 1
        if bits:
            count, after = count + more, p + highest(bits) + 1
    return count, after
