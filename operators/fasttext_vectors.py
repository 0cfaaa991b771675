"""Sixteen numbers at a time, and bytes in groups, as LLVM instructions: numba itself has no vector type."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_VECTOR = ir.VectorType(_I32, LANES)


class Lanes(types.Type):  # type: ignore[misc]
    """uint32 [16] in a vector register."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _every(builder: Any, value: Any, width: int = LANES) -> Any:
    """A vector with `value` in every lane."""
    kind = ir.VectorType(value.type, width)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(
        one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, width), [0] * width)
    )


def _same(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _at(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _bits(builder: Any, flags: Any) -> Any:
    """Flags <n x i1> as an integer, the first lane lowest."""
    number = builder.bitcast(flags, ir.IntType(flags.type.count))
    return number if number.type.width == 64 else builder.zext(number, _I64)


@intrinsic
def every(typing: Any, value: Any) -> Any:
    """In a kernel: the same uint32 in every lane."""
    return lanes(types.uint32), lambda context, builder, signature, values: _every(builder, values[0])


@intrinsic
def load(typing: Any, array: Any, i: Any) -> Any:
    """In a kernel: array[i : i + 16] of uint32."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _at(context, builder, signature.args[0], values[0], values[1])
        return builder.load(builder.bitcast(place, _VECTOR.as_pointer()), align=4)

    return lanes(array, types.int64), emit


@intrinsic
def hash_bytes(typing: Any, h: Any, chars: Any, steps: Any) -> Any:
    """In a kernel: FNV-1a of signed bytes goes on over the first `steps` bytes of each lane; a byte of 0 that is not
    the first is passed over."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        h, c, steps = values
        prime, up = _same(16777619), _same(24)

        def more(h: Any, c: Any) -> Any:
            return builder.mul(builder.xor(h, builder.ashr(builder.shl(c, up), up)), prime)

        state = cgutils.alloca_once_value(builder, more(h, c))
        rest = cgutils.alloca_once_value(builder, c)
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 1), steps, ir.Constant(_I64, 1)):
            c = builder.lshr(builder.load(rest), _same(8))
            builder.store(c, rest)
            before = builder.load(state)
            builder.store(
                builder.select(builder.icmp_unsigned("==", c, _same(0)), before, more(before, c)), state
            )
        return builder.load(state)

    return lanes(lanes, lanes, types.int64), emit


@intrinsic
def remainder(typing: Any, value: Any, size: Any, inverse: Any) -> Any:
    """In a kernel: value modulo size, of uint32; `inverse`: 2^32 / size rounded down, 2^32 - 1 at most."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value, size, inverse = values[0], _every(builder, values[1]), _every(builder, values[2])
        wide = ir.VectorType(_I64, LANES)
        product = builder.mul(builder.zext(value, wide), builder.zext(inverse, wide))
        quotient = builder.trunc(builder.lshr(product, ir.Constant(wide, [32] * LANES)), _VECTOR)
        rest = builder.sub(value, builder.mul(quotient, size))  # the quotient may be one too small
        less = builder.sub(rest, size)
        return builder.select(builder.icmp_unsigned("<", less, rest), less, rest)

    return lanes(lanes, types.uint32, types.uint32), emit


@intrinsic
def test_bits(typing: Any, array: Any, number: Any) -> Any:
    """In a kernel: which of the numbers have their bit set in `array` of uint32 (bit 0 is the lowest of the first)."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        number = values[1]
        index = builder.zext(builder.lshr(number, _same(5)), ir.VectorType(_I64, LANES))
        found = _gather(builder, data, index)
        bit = builder.shl(_same(1), builder.and_(number, _same(31)))
        return _bits(builder, builder.icmp_unsigned("!=", builder.and_(found, bit), _same(0)))

    return types.uint64(array, lanes), emit


def _gather(builder: Any, data: Any, index: Any) -> Any:
    pointers = ir.VectorType(data.type, LANES)
    base = _every(builder, data)
    places = builder.gep(base, [index], source_etype=_I32)
    flags = ir.VectorType(_I1, LANES)
    kind = ir.FunctionType(_VECTOR, [pointers, _I32, flags, _VECTOR])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.gather.v16i32.v16p0")
    return builder.call(function, [places, ir.Constant(_I32, 4), ir.Constant(flags, [1] * LANES), _same(0)])


@intrinsic
def keep(typing: Any, array: Any, i: Any, value: Any, which: Any) -> Any:
    """In a kernel: the lanes named in `which`, one behind the other, to array[i:] of uint32."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _at(context, builder, signature.args[0], values[0], values[1])
        flags = ir.VectorType(_I1, LANES)
        mask = builder.bitcast(builder.trunc(values[3], ir.IntType(LANES)), flags)
        kind = ir.FunctionType(ir.VoidType(), [_VECTOR, place.type, flags])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.compressstore.v16i32")
        builder.call(function, [values[2], place, mask])
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes, types.uint64), emit


@intrinsic
def widen(typing: Any, data: Any, i: Any, to: Any, j: Any) -> Any:
    """In a kernel: to[j : j + 16] = data[i : i + 16], uint8 to uint32; which of them are above 127."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        small = ir.VectorType(_I8, LANES)
        source = _at(context, builder, signature.args[0], values[0], values[1])
        target = _at(context, builder, signature.args[2], values[2], values[3])
        found = builder.load(builder.bitcast(source, small.as_pointer()), align=1)
        builder.store(builder.zext(found, _VECTOR), builder.bitcast(target, _VECTOR.as_pointer()), align=4)
        return _bits(builder, builder.icmp_signed("<", found, ir.Constant(small, [0] * LANES)))

    return types.uint64(data, types.int64, to, types.int64), emit


@intrinsic
def blanks(typing: Any, data: Any, i: Any) -> Any:
    """In a kernel: which of data[i : i + 64] separate words for fastText: space, \\t \\n \\v \\f \\r, \\0."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.VectorType(_I8, 64)

        def all_of(value: int) -> Any:
            return ir.Constant(kind, [value] * 64)

        place = _at(context, builder, signature.args[0], values[0], values[1])
        found = builder.load(builder.bitcast(place, kind.as_pointer()), align=1)
        blank = builder.icmp_unsigned("<", builder.sub(found, all_of(9)), all_of(5))
        for value in (0, 32):
            blank = builder.or_(blank, builder.icmp_unsigned("==", found, all_of(value)))
        return _bits(builder, blank)

    return types.uint64(data, types.int64), emit


@intrinsic
def load_bytes(typing: Any, data: Any, i: Any) -> Any:
    """In a kernel: data[i : i + 8] as one number, the first byte lowest."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _at(context, builder, signature.args[0], values[0], values[1])
        return builder.load(builder.bitcast(place, _I64.as_pointer()), align=1)

    return types.uint64(data, types.int64), emit


@intrinsic
def fold(typing: Any, a: Any, b: Any) -> Any:
    """In a kernel: the upper half of a * b (128 bits) xor the lower one."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(values[0], wide), builder.zext(values[1], wide))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), _I64)
        return builder.xor(upper, builder.trunc(product, _I64))

    return types.uint64(types.uint64, types.uint64), emit


@intrinsic
def lowest(typing: Any, bits: Any) -> Any:
    """In a kernel: the position of the lowest bit that is set (of 0: any)."""
    return types.int64(types.uint64), lambda context, builder, signature, values: builder.cttz(
        values[0], ir.Constant(_I1, 1)
    )


@intrinsic
def population(typing: Any, bits: Any) -> Any:
    """In a kernel: how many bits are set."""
    return types.int64(types.uint64), lambda context, builder, signature, values: builder.ctpop(values[0])
