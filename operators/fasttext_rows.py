"""Sums of rows of a matrix that are named by an index, in vector registers.

Written as LLVM instructions because numba has no vector type: in its loops each row is added to memory, and the next
addition waits until that is read back (13 ns a row of 16 floats, 7 here; the rows come from the third-level cache,
so those to come are asked for early). Rows have a multiple of 16 columns, the last of them 0 where a model has fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .fasttext_vectors import prefetch
from .lanes import copies

AHEAD = 24
WIDTH = 16
_INT32 = ir.IntType(32)
_ROW, _BITS = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(_INT32, WIDTH)


def aligned(rows: int, dim: int) -> np.ndarray:
    """Zeros, float32 [rows, dim rounded up], that begin on a cache line, so that a row of 16 is one."""
    columns = -(-dim // WIDTH) * WIDTH
    room = np.zeros(rows * columns * 4 + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + rows * columns * 4].view(np.float32).reshape(rows, columns)


def _array(context: Any, builder: Any, signature: Any, values: Any, n: int) -> Any:
    return context.make_array(signature.args[n])(context, builder, values[n])


def _at(builder: Any, array: Any, number: Any, column: Any) -> Any:
    """The sixteen floats of array[number] from `column` on."""
    dim = builder.extract_value(array.shape, 1)
    number = builder.zext(number, dim.type) if number.type.width < dim.type.width else number
    place = builder.gep(array.data, [builder.add(builder.mul(number, dim), column)])
    return builder.bitcast(place, _ROW.as_pointer())


def _each(builder: Any, array: Any, work: Callable[[Any], None]) -> None:
    """work(column) for every sixteenth column."""
    dim = builder.extract_value(array.shape, 1)
    start, step = ir.Constant(dim.type, 0), ir.Constant(dim.type, WIDTH)
    with cgutils.for_range_slice(builder, start, dim, step) as (column, _):
        work(column)


def _number(builder: Any, index: Any, k: Any) -> Any:
    return builder.load(builder.gep(index.data, [k]))


def _ask(builder: Any, rows: Any, index: Any, k: Any, column: Any) -> None:
    ahead = builder.add(k, ir.Constant(k.type, AHEAD))
    prefetch(builder, _at(builder, rows, _number(builder, index, ahead), column))


@intrinsic
def clear_row(typing: Any, to: Any, i: Any) -> Any:
    """In a kernel: to[i] = 0."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = _array(context, builder, signature, values, 0)
        zero = ir.Constant(_ROW, [0.0] * WIDTH)
        _each(
            builder,
            array,
            lambda column: builder.store(zero, _at(builder, array, values[1], column), align=4),
        )
        return context.get_dummy_value()

    return types.void(to, types.int64), emit


@intrinsic
def add_row(typing: Any, to: Any, i: Any, rows: Any, j: Any) -> Any:
    """In a kernel: to[i] += rows[j]."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to, rows = (_array(context, builder, signature, values, n) for n in (0, 2))

        def one(column: Any) -> None:
            target = _at(builder, to, values[1], column)
            more = builder.load(_at(builder, rows, values[3], column), align=4)
            builder.store(builder.fadd(builder.load(target, align=4), more), target, align=4)

        _each(builder, to, one)
        return context.get_dummy_value()

    return types.void(to, types.int64, rows, types.int64), emit


@intrinsic
def add_rows(typing: Any, to: Any, i: Any, rows: Any, index: Any, first: Any, last: Any, sizes: Any) -> Any:
    """In a kernel: to[i] += rows[index[k]] for k = first .. last - 1, one after the other in float32; the sum of
    sizes[index[k]].

    `to`, `rows`: float32 [., dim], contiguous, dim a multiple of 16; `index`: integers [last + AHEAD] or longer, those
    from `last` on of any value; `sizes`: int32.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to, rows, index, sizes = (_array(context, builder, signature, values, n) for n in (0, 2, 3, 6))
        first, last = values[4:6]
        none = ir.Constant(ir.IntType(64), 0)
        count = cgutils.alloca_once_value(builder, none)

        def one(column: Any) -> None:
            target = _at(builder, to, values[1], column)
            held = cgutils.alloca_once_value(builder, builder.load(target, align=4))
            builder.store(none, count)
            with cgutils.for_range_slice(builder, first, last, ir.Constant(first.type, 1)) as (k, _):
                _ask(builder, rows, index, k, column)
                number = _number(builder, index, k)
                size = builder.load(builder.gep(sizes.data, [number]))
                builder.store(builder.add(builder.load(count), builder.sext(size, none.type)), count)
                more = builder.load(_at(builder, rows, number, column), align=4)
                builder.store(builder.fadd(builder.load(held), more), held)
            builder.store(builder.load(held), target, align=4)

        _each(builder, to, one)
        return builder.load(count)

    return types.int64(to, types.int64, rows, index, types.int64, types.int64, sizes), emit


@intrinsic
def sum_rows(typing: Any, to: Any, target: Any, rows: Any, index: Any, count: Any) -> Any:
    """In a kernel: to[target[k]] += rows[index[k]] for k = 0 .. count - 1, one after the other in float32.

    There is no loop per target, whose end could not be foreseen; a sum that goes on is not read back, which would
    take as long as three additions: the last row of `to`, which must be 0, is read for it. `target`, `index`: uint32
    [count + AHEAD] or longer.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to, target, rows, index = (_array(context, builder, signature, values, n) for n in range(4))
        start = ir.Constant(values[4].type, 0)
        none = builder.trunc(
            builder.sub(builder.extract_value(to.shape, 0), ir.Constant(start.type, 1)), _INT32
        )

        def one(column: Any) -> None:
            held = cgutils.alloca_once_value(builder, ir.Constant(_ROW, [0.0] * WIDTH))
            last = cgutils.alloca_once_value(builder, none)
            with cgutils.for_range_slice(builder, start, values[4], ir.Constant(start.type, 1)) as (k, _):
                _ask(builder, rows, index, k, column)
                own = _number(builder, target, k)
                same = builder.icmp_unsigned("==", own, builder.load(last))
                builder.store(own, last)
                before = builder.load(_at(builder, to, builder.select(same, none, own), column), align=4)
                row = builder.load(_at(builder, rows, _number(builder, index, k), column), align=4)
                more = builder.fadd(before, row)
                goes_on = copies(builder, same, WIDTH).value
                total = builder.select(goes_on, builder.fadd(builder.load(held), more), more)
                builder.store(total, held)
                builder.store(total, _at(builder, to, own, column), align=4)

        _each(builder, to, one)
        return context.get_dummy_value()

    return types.void(to, target, rows, index, types.int64), emit


@intrinsic
def dot(typing: Any, vector: Any, rows: Any, i: Any) -> Any:
    """In a kernel: the sum of vector * rows[i] in float32, sixteen sums side by side, then halves added to halves."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector, rows = (_array(context, builder, signature, values, n) for n in (0, 1))
        held = cgutils.alloca_once_value(builder, ir.Constant(_ROW, [0.0] * WIDTH))

        def one(column: Any) -> None:
            place = builder.bitcast(builder.gep(vector.data, [column]), _ROW.as_pointer())
            row = builder.load(_at(builder, rows, values[2], column), align=4)
            product = builder.fmul(builder.load(place, align=4), row)
            builder.store(builder.fadd(builder.load(held), product), held)

        _each(builder, rows, one)
        total = builder.load(held)
        for half in (8, 4, 2, 1):
            lower, upper = (
                ir.Constant(ir.VectorType(_INT32, half), [k + i for i in range(half)]) for k in (0, half)
            )
            total = builder.fadd(
                builder.shuffle_vector(total, total, lower), builder.shuffle_vector(total, total, upper)
            )
        return builder.extract_element(total, ir.Constant(_INT32, 0))

    return types.float32(vector, rows, types.int64), emit
