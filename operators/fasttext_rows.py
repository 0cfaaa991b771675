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
        zeros = ir.Constant(_ROW, [0.0] * WIDTH)
        _each(
            builder,
            array,
            lambda column: builder.store(zeros, _at(builder, array, values[1], column), align=4),
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
def add_rows(typing: Any, to: Any, i: Any, rows: Any, index: Any, first: Any, last: Any) -> Any:
    """In a kernel: to[i] += rows[index[k]] for k = first .. last - 1, one after the other in float32.

    `to`, `rows`: float32 [., dim], contiguous, dim a multiple of 16; `index`: integers [last + AHEAD] or longer, those
    from `last` on of any value.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to, rows, index = (_array(context, builder, signature, values, n) for n in (0, 2, 3))
        first, last = values[4:]

        def one(column: Any) -> None:
            target = _at(builder, to, values[1], column)
            held = cgutils.alloca_once_value(builder, builder.load(target, align=4))
            with cgutils.for_range_slice(builder, first, last, ir.Constant(first.type, 1)) as (k, _):
                _ask(builder, rows, index, k, column)
                more = builder.load(_at(builder, rows, _number(builder, index, k), column), align=4)
                builder.store(builder.fadd(builder.load(held), more), held)
            builder.store(builder.load(held), target, align=4)

        _each(builder, to, one)
        return context.get_dummy_value()

    return types.void(to, types.int64, rows, index, types.int64, types.int64), emit


@intrinsic
def sum_rows(typing: Any, to: Any, target: Any, rows: Any, index: Any, count: Any) -> Any:
    """In a kernel: to[target[k]] += rows[index[k]] for k = 0 .. count - 1, one after the other in float32.

    Equal targets are neighbours, and but for the first of them to[target] is 0 before, which is not read: there is no
    loop per target, whose end could not be foreseen. `target`, `index`: uint32 [count + AHEAD] or longer.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to, target, rows, index = (_array(context, builder, signature, values, n) for n in range(4))
        start = ir.Constant(values[4].type, 0)

        def one(column: Any) -> None:
            before = _number(builder, target, start)
            held = cgutils.alloca_once_value(builder, builder.load(_at(builder, to, before, column), align=4))
            last = cgutils.alloca_once_value(builder, before)
            with cgutils.for_range_slice(builder, start, values[4], ir.Constant(start.type, 1)) as (k, _):
                _ask(builder, rows, index, k, column)
                own = _number(builder, target, k)
                same = builder.sext(builder.icmp_unsigned("==", own, builder.load(last)), _INT32)
                builder.store(own, last)
                bits = builder.and_(
                    builder.bitcast(builder.load(held), _BITS), copies(builder, same, WIDTH).value
                )
                row = builder.load(_at(builder, rows, _number(builder, index, k), column), align=4)
                total = builder.fadd(builder.bitcast(bits, _ROW), row)
                builder.store(total, held)
                builder.store(total, _at(builder, to, own, column), align=4)

        _each(builder, to, one)
        return context.get_dummy_value()

    return types.void(to, target, rows, index, types.int64), emit
