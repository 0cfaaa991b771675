"""Sixteen numbers at a time as a type that kernels can hold, and what the language kernel does with it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from . import lanes
from .lanes import BIT, BYTE, INT32, INT64, Lanes, copies, data_of

LANES = 16
_VECTOR = ir.VectorType(INT32, LANES)
_FLAGS = ir.VectorType(BIT, LANES)


class Sixteen(types.Type):  # type: ignore[misc]
    """uint32 [16] in a vector register."""

    def __init__(self) -> None:
        super().__init__(name="Sixteen")


sixteen = Sixteen()


@register_model(Sixteen)
class _SixteenModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _bits(builder: Any, flags: Any) -> Any:
    """Flags <n x i1> as an integer, the first lane lowest."""
    number = builder.bitcast(flags, ir.IntType(flags.type.count))
    return number if number.type.width == 64 else builder.zext(number, INT64)


def _flags(builder: Any, bits: Any) -> Any:
    return builder.bitcast(builder.trunc(bits, ir.IntType(LANES)), _FLAGS)


def prefetch(builder: Any, place: Any) -> None:
    """Ask for the cache line at this pointer."""
    byte = BYTE.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, stay, data = (ir.Constant(INT32, value) for value in (0, 3, 1))
    builder.call(function, [builder.bitcast(place, byte), read, stay, data])


@intrinsic
def expect(typing: Any, array: Any, i: Any) -> Any:
    """In a kernel: ask for the cache line of array[i], which may lie outside."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        prefetch(builder, builder.gep(data_of(context, builder, signature, values, 0), [values[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


@intrinsic
def every(typing: Any, value: Any) -> Any:
    """In a kernel: the same uint32 in every lane."""
    return sixteen(types.uint32), lambda _, builder, __, values: copies(builder, values[0], LANES).value


@intrinsic
def load(typing: Any, array: Any, i: Any) -> Any:
    """In a kernel: array[i : i + 16] of uint32."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return lanes.load(builder, data_of(context, builder, signature, values, 0), values[1], LANES).value

    return sixteen(array, types.int64), emit


@intrinsic
def fill(typing: Any, array: Any, i: Any, value: Any) -> Any:
    """In a kernel: array[i : i + 16] of uint32 = value."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = data_of(context, builder, signature, values, 0)
        lanes.store(builder, data, values[1], copies(builder, values[2], LANES))
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint32), emit


@intrinsic
def keep(typing: Any, array: Any, i: Any, value: Any, which: Any) -> Any:
    """In a kernel: the lanes named in the bits `which`, one behind the other, to array[i:] of uint32; what is written
    behind them, up to array[i + 16], means nothing."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR, _FLAGS, _VECTOR])
        name = "llvm.experimental.vector.compress.v16i32"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        some = builder.call(
            function, [values[2], _flags(builder, values[3]), ir.Constant(_VECTOR, ir.Undefined)]
        )
        data = data_of(context, builder, signature, values, 0)
        lanes.store(builder, data, values[1], Lanes(builder, some))
        return context.get_dummy_value()

    return types.void(array, types.uint64, sixteen, types.uint64), emit


@intrinsic
def hash_bytes(typing: Any, h: Any, chars: Any, steps: Any) -> Any:
    """In a kernel: FNV-1a of signed bytes goes on over the first `steps` bytes of each lane, the lowest one first, but
    not over those that have only zeros above and in them; the first one always counts."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def more(h: Lanes, c: Lanes) -> Lanes:
            up = Lanes(builder, ir.Constant(_VECTOR, [24] * LANES)).value
            signed = builder.ashr((c << 24).value, up)
            return (h ^ Lanes(builder, signed)) * 16777619

        h, c = Lanes(builder, values[0]), Lanes(builder, values[1])
        state = cgutils.alloca_once_value(builder, more(h, c).value)
        rest = cgutils.alloca_once_value(builder, c.value)
        with cgutils.for_range_slice(builder, ir.Constant(INT64, 1), values[2], ir.Constant(INT64, 1)):
            c = Lanes(builder, builder.load(rest)) >> 8
            before = Lanes(builder, builder.load(state))
            builder.store(c.value, rest)
            builder.store(c.compare("==", 0).where(before, more(before, c)).value, state)
        return builder.load(state)

    return sixteen(sixteen, sixteen, types.int64), emit


@intrinsic
def remainder(typing: Any, value: Any, size: Any, inverse: Any, more: Any) -> Any:
    """In a kernel: value modulo size, plus more, of uint32; `inverse`: 2^32 / size rounded down, 2^32 - 1 at most."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def wide(some: Lanes) -> Lanes:
            return Lanes(builder, builder.zext(some.value, ir.VectorType(INT64, LANES)))

        value, more = Lanes(builder, values[0]), Lanes(builder, values[3])
        size, inverse = copies(builder, values[1], LANES), copies(builder, values[2], LANES)
        quotient = builder.trunc(((wide(value) * wide(inverse)) >> 32).value, _VECTOR)
        rest = value - Lanes(builder, quotient) * size  # the quotient may be one too small
        less = rest - size
        return (less.compare("<", rest).where(less, rest) + more).value

    return sixteen(sixteen, types.uint32, types.uint32, sixteen), emit


def _gather(builder: Any, data: Any, index: Any, which: Any) -> Lanes:
    places = builder.gep(copies(builder, data, LANES).value, [index], source_etype=INT32)
    kind = ir.FunctionType(_VECTOR, [places.type, INT32, _FLAGS, _VECTOR])
    name = f"llvm.masked.gather.v{LANES}i32.v{LANES}p0"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    zeros = ir.Constant(_VECTOR, [0] * LANES)
    return Lanes(builder, builder.call(function, [places, ir.Constant(INT32, 4), which, zeros]))


@intrinsic
def test_bits(typing: Any, array: Any, number: Any, which: Any) -> Any:
    """In a kernel: which of the numbers named in `which` have their bit set in `array` of uint32, the first of them
    the lowest bit of array[0]."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = Lanes(builder, values[1])
        index = builder.zext((number >> 5).value, ir.VectorType(INT64, LANES))
        data = data_of(context, builder, signature, values, 0)
        found = _gather(builder, data, index, _flags(builder, values[2]))
        one = Lanes(builder, ir.Constant(_VECTOR, [1] * LANES))
        return _bits(builder, (found & (one << (number & 31))).compare("!=", 0).value)

    return types.uint64(array, sixteen, types.uint64), emit


@intrinsic
def widen(typing: Any, data: Any, i: Any, to: Any, j: Any) -> Any:
    """In a kernel: to[j : j + 16] = data[i : i + 16], uint8 to uint32; which of them are above 127."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source, target = (data_of(context, builder, signature, values, n) for n in (0, 2))
        found = lanes.load(builder, source, values[1], LANES)
        lanes.store(builder, target, values[3], Lanes(builder, builder.zext(found.value, _VECTOR)))
        return _bits(builder, found.compare(">", 127).value)

    return types.uint64(data, types.int64, to, types.int64), emit


@intrinsic
def fold(typing: Any, a: Any, b: Any) -> Any:
    """In a kernel: the upper half of a * b (128 bits) xor the lower one."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(values[0], wide), builder.zext(values[1], wide))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), INT64)
        return builder.xor(upper, builder.trunc(product, INT64))

    return types.uint64(types.uint64, types.uint64), emit
