"""Sums of rows of a matrix that are named by an index, in vector registers.

Written as LLVM instructions because numba has no vector type: in its loops each row is added to memory, and the next
addition waits until that is read back (13 ns a row of 16 floats, 7 here; the rows come from the third-level cache,
so those to come are asked for early).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AHEAD = 24
_WIDTH = 16
_FLOAT, _INT32 = ir.FloatType(), ir.IntType(32)


def _prefetch(builder: Any, pointer: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, keep, data = (ir.Constant(_INT32, value) for value in (0, 3, 1))
    builder.call(function, [builder.bitcast(pointer, byte), read, keep, data])


def _add_block(builder: Any, width: int, place: Any, row: Any, first: Any, last: Any) -> None:
    """`width` floats of the sum at `place`; `row(k)`: where they are in the k-th row."""
    vector = ir.VectorType(_FLOAT, width).as_pointer()
    target = builder.bitcast(place, vector)
    held = cgutils.alloca_once_value(builder, builder.load(target, align=4))
    with cgutils.for_range_slice(builder, first, last, ir.Constant(first.type, 1)) as (k, _):
        _prefetch(builder, row(builder.add(k, ir.Constant(k.type, AHEAD))))
        more = builder.load(builder.bitcast(row(k), vector), align=4)
        builder.store(builder.fadd(builder.load(held), more), held)
    builder.store(builder.load(held), target, align=4)


@intrinsic
def add_rows(typing: Any, to: Any, i: Any, rows: Any, index: Any, first: Any, last: Any) -> Any:
    """In a kernel: to[i] += rows[index[k]] for k = first .. last - 1, one after the other in float32.

    `to`, `rows`: float32 [., dim], contiguous; `index`: integers [last + AHEAD] or longer, those from `last` on of any
    value.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to_array, rows_array, index_array = (
            context.make_array(signature.args[n])(context, builder, values[n]) for n in (0, 2, 3)
        )
        i, first, last = values[1], values[4], values[5]
        dim = builder.extract_value(rows_array.shape, 1)

        def at(data: Any, number: Any, column: Any) -> Any:
            return builder.gep(data, [builder.add(builder.mul(number, dim), column)])

        def blocks(start: Any, stop: Any, width: int) -> None:
            step = ir.Constant(start.type, width)
            with cgutils.for_range_slice(builder, start, stop, step) as (column, _):

                def row(k: Any) -> Any:
                    number = builder.load(builder.gep(index_array.data, [k]))
                    number = builder.zext(number, dim.type) if number.type.width < dim.type.width else number
                    return at(rows_array.data, number, column)

                _add_block(builder, width, at(to_array.data, i, column), row, first, last)

        whole = builder.and_(dim, ir.Constant(dim.type, -_WIDTH))
        blocks(ir.Constant(dim.type, 0), whole, _WIDTH)
        blocks(whole, dim, 1)
        return context.get_dummy_value()

    return types.void(to, types.int64, rows, index, types.int64, types.int64), emit
