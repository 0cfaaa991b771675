"""Vector registers in kernels: numba has no type for them, so what needs them is written as LLVM instructions.

LLVM makes several registers of one that the processor does not have, so results are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BIT, BYTE, INT32, INT64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))


def _joined(instruction: str) -> Callable[[Lanes, Lanes | int], Lanes]:
    """An operator of `Lanes`."""

    def method(self: Lanes, other: Lanes | int) -> Lanes:
        return Lanes(self.builder, getattr(self.builder, instruction)(self.value, self._of(other)))

    return method


@dataclass(frozen=True)
class Lanes:
    """Unsigned integers in a vector, or one alone, while instructions are made; a number stands for a vector of it."""

    builder: Any
    value: Any

    def _of(self, other: Lanes | int) -> Any:
        if isinstance(other, Lanes):
            return other.value
        kind = self.value.type
        if isinstance(kind, ir.IntType):
            return ir.Constant(kind, other)
        return ir.Constant(kind, [other & ((1 << kind.element.width) - 1)] * kind.count)

    __add__, __sub__, __mul__ = _joined("add"), _joined("sub"), _joined("mul")
    __xor__, __or__, __and__ = _joined("xor"), _joined("or_"), _joined("and_")
    __lshift__, __rshift__ = _joined("shl"), _joined("lshr")

    def turned(self, bits: int) -> Lanes:
        """Rotated to the left: one instruction. Two shifts would be taken into a multiplication before them, which
        makes two multiplications of it."""
        kind = self.value.type
        name = f"llvm.fshl.v{kind.count}i{kind.element.width}"
        turn = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return Lanes(self.builder, self.builder.call(turn, [self.value, self.value, self._of(bits)]))

    def compare(self, how: str, other: Lanes | int) -> Lanes:
        """A vector of bits."""
        return Lanes(self.builder, self.builder.icmp_unsigned(how, self.value, self._of(other)))

    def where(self, then: Lanes, otherwise: Lanes) -> Lanes:
        """Of a vector of bits: lane by lane the one or the other."""
        return Lanes(self.builder, self.builder.select(self.value, then.value, otherwise.value))

    def cast(self, kind: Any) -> Lanes:
        """The same bits as another type."""
        return Lanes(self.builder, self.builder.bitcast(self.value, kind))


def copies(builder: Any, value: Any, lanes: int) -> Lanes:
    none = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(none, value, ir.Constant(INT32, 0))
    return Lanes(
        builder, builder.shuffle_vector(one, none, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))
    )


def data_of(context: Any, builder: Any, signature: Any, values: Any, n: int) -> Any:
    """The address of the array that is argument `n`."""
    return context.make_array(signature.args[n])(context, builder, values[n]).data


def load(builder: Any, data: Any, place: Any, lanes: int) -> Lanes:
    """`lanes` values of an array from `place` on."""
    kind = ir.VectorType(data.type.pointee, lanes)
    start = builder.bitcast(builder.gep(data, [place]), kind.as_pointer())
    return Lanes(builder, builder.load(start, align=1))


def store(builder: Any, data: Any, place: Any, lanes: Lanes) -> None:
    start = builder.bitcast(builder.gep(data, [place]), lanes.value.type.as_pointer())
    builder.store(lanes.value, start, align=1)


def words_at(builder: Any, data: Any, places: Lanes) -> Lanes:
    """Eight bytes of an array from each of eight places on, as one number each."""
    found = ir.Constant(ir.VectorType(INT64, 8), ir.Undefined)
    for k in range(8):
        lane = ir.Constant(INT32, k)
        place = builder.gep(data, [builder.extract_element(places.value, lane)])
        word = builder.load(builder.bitcast(place, INT64.as_pointer()), align=1)
        found = builder.insert_element(found, word, lane)
    return Lanes(builder, found)


@intrinsic
def address(typing: Any, array: Any) -> Any:
    """Of an array, int64."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ptrtoint(data_of(context, builder, signature, values, 0), INT64)

    return types.int64(array), emit


@intrinsic
def put_places(typing: Any, bits: Any, p: Any, out: Any, n: Any) -> Any:
    """Into the int64 out[n:n + 8]: `p` and the place of each of the lowest eight bits of a uint64; the bits left.

    Where there are fewer, what is written for the others means nothing.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        left, p, _, n = values
        to = builder.gep(data_of(context, builder, signature, values, 2), [n])
        for k in range(8):
            place = builder.add(p, builder.cttz(left, ir.Constant(BIT, 0)))
            builder.store(place, builder.gep(to, [ir.Constant(INT64, k)]))
            left = builder.and_(left, builder.sub(left, ir.Constant(INT64, 1)))
        return left

    return types.uint64(types.uint64, types.int64, out, types.int64), emit
