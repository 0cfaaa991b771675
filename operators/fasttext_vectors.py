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
SEED, _MIX = 0xA0761D6478BD642F, 0xE7037ED1A0B428DB
_VECTOR = ir.VectorType(INT32, LANES)
_PAIRS = ir.VectorType(INT64, LANES // 2)
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
def larger(typing: Any, a: Any, b: Any) -> Any:
    """In a kernel: lane by lane the larger one."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, b = (Lanes(builder, value) for value in values)
        return a.compare(">", b).where(a, b).value

    return sixteen(sixteen, sixteen), emit


@intrinsic
def bytes_of(typing: Any, value: Any) -> Any:
    """In a kernel: how many bytes the largest of the lanes has, at least one."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        count = ir.Constant(INT64, 1)
        for bits in (8, 16, 24):
            some = _bits(builder, Lanes(builder, values[0]).compare(">=", 1 << bits).value)
            count = builder.add(
                count, builder.zext(builder.icmp_unsigned("!=", some, ir.Constant(INT64, 0)), INT64)
            )
        return count

    return types.int64(sixteen), emit


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
def store(typing: Any, array: Any, i: Any, value: Any) -> Any:
    """In a kernel: array[i : i + 16] of uint32 = value."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes.store(
            builder, data_of(context, builder, signature, values, 0), values[1], Lanes(builder, values[2])
        )
        return context.get_dummy_value()

    return types.void(array, types.int64, sixteen), emit


@intrinsic
def same(typing: Any, array: Any, i: Any, j: Any) -> Any:
    """In a kernel: a bit for each of array[i : i + 16] of uint32 that equals its fellow of array[j : j + 16]."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = data_of(context, builder, signature, values, 0)
        a, b = (lanes.load(builder, data, place, LANES) for place in values[1:])
        return _bits(builder, a.compare("==", b).value)

    return types.uint64(array, types.int64, types.int64), emit


@intrinsic
def fill(typing: Any, array: Any, i: Any, value: Any) -> Any:
    """In a kernel: array[i : i + 16] of uint32 = value."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = data_of(context, builder, signature, values, 0)
        lanes.store(builder, data, values[1], copies(builder, values[2], LANES))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32), emit


def _compress(builder: Any, data: Any, place: Any, value: Lanes, which: Any) -> None:
    kind = ir.FunctionType(_VECTOR, [_VECTOR, _FLAGS, _VECTOR])
    name = "llvm.experimental.vector.compress.v16i32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    some = builder.call(function, [value.value, which, ir.Constant(_VECTOR, ir.Undefined)])
    lanes.store(builder, data, place, Lanes(builder, some))


@intrinsic
def keep(typing: Any, array: Any, i: Any, value: Any, which: Any) -> Any:
    """In a kernel: the lanes named in the bits `which`, one behind the other, to array[i:] of uint32; what is written
    behind them, up to array[i + 16], means nothing."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = data_of(context, builder, signature, values, 0)
        _compress(builder, data, values[1], Lanes(builder, values[2]), _flags(builder, values[3]))
        return context.get_dummy_value()

    return types.void(array, types.int64, sixteen, types.uint64), emit


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
def remainder(typing: Any, value: Any, size: Any, inverse: Any) -> Any:
    """In a kernel: value modulo size, of uint32; `inverse`: 2^32 / size rounded down, 2^32 - 1 at most."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = Lanes(builder, values[0])
        size, inverse = (
            copies(builder, values[1], LANES),
            copies(builder, builder.zext(values[2], INT64), LANES // 2),
        )
        pairs = value.cast(
            _PAIRS
        )  # every other lane, then those between: products of 64 bits without moving lanes
        even = ((pairs & 0xFFFFFFFF) * inverse) >> 32
        odd = ((pairs >> 32) * inverse) & 0xFFFFFFFF00000000
        rest = value - (even | odd).cast(_VECTOR) * size  # the quotient may be one too small
        less = rest - size
        return less.compare("<", rest).where(less, rest).value

    return sixteen(sixteen, types.uint32, types.uint32), emit


def _gather(builder: Any, data: Any, index: Any, which: Any) -> Lanes:
    places = builder.gep(copies(builder, data, LANES).value, [index], source_etype=INT32)
    kind = ir.FunctionType(_VECTOR, [places.type, INT32, _FLAGS, _VECTOR])
    name = f"llvm.masked.gather.v{LANES}i32.v{LANES}p0"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    zeros = ir.Constant(_VECTOR, [0] * LANES)
    return Lanes(builder, builder.call(function, [places, ir.Constant(INT32, 4), which, zeros]))


def _words_of(
    context: Any, builder: Any, signature: Any, values: Any, n: int, number: Lanes, which: Any
) -> Lanes:
    """Of the array that is argument `n`, uint32, the words in which the numbered bits are."""
    index = builder.zext((number >> 5).value, ir.VectorType(INT64, LANES))
    return _gather(builder, data_of(context, builder, signature, values, n), index, which)


def _turned(builder: Any, word: Lanes, bits: Lanes) -> Lanes:
    """To the right: the numbered bit becomes the lowest one. One instruction."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    turn = cgutils.get_or_insert_function(builder.module, kind, "llvm.fshr.v16i32")
    return Lanes(builder, builder.call(turn, [word.value, word.value, bits.value]))


@intrinsic
def test_bits(typing: Any, array: Any, number: Any, within: Any, which: Any) -> Any:
    """In a kernel: which of the numbers named in `which` have their bit set in `array` of uint32, the first of them
    the lowest bit of array[0]; of a number only the bits `within` count."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = Lanes(builder, values[1]) & copies(builder, values[2], LANES)
        word = _words_of(context, builder, signature, values, 0, number, _flags(builder, values[3]))
        return _bits(builder, (_turned(builder, word, number) & 1).compare("!=", 0).value)

    return types.uint64(array, sixteen, types.uint32, types.uint64), emit


@intrinsic
def ranks_of(typing: Any, array: Any, ranks: Any, number: Any, which: Any) -> Any:
    """In a kernel: how many bits of `array` are set before that of each number; `ranks`: those before each word."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number, which = Lanes(builder, values[2]), _flags(builder, values[3])
        word, before = (_words_of(context, builder, signature, values, n, number, which) for n in (0, 1))
        bit = Lanes(builder, ir.Constant(_VECTOR, [1] * LANES)) << (number & 31)
        name, kind = "llvm.ctpop.v16i32", ir.FunctionType(_VECTOR, [_VECTOR])
        count = cgutils.get_or_insert_function(builder.module, kind, name)
        return (before + Lanes(builder, builder.call(count, [(word & (bit - 1)).value]))).value

    return sixteen(array, ranks, sixteen, types.uint64), emit


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
def characters(typing: Any, data: Any, p: Any, stop: Any, to: Any, n: Any) -> Any:
    """In a kernel: the UTF-8 bytes, the first one lowest, of each character that begins in data[p : p + 16] before
    `stop`, to to[n:] of uint32; their count. Reads 32 bytes; behind them, up to to[n + 16], anything."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data, to = (data_of(context, builder, signature, values, n) for n in (0, 3))
        _, p, stop, _, n = values
        some = lanes.load(builder, data, p, 2 * LANES).value
        pick = ir.Constant(ir.VectorType(INT32, 4 * LANES), [i + k for i in range(LANES) for k in range(4)])
        c = Lanes(builder, builder.shuffle_vector(some, some, pick)).cast(_VECTOR)
        other = (c & 0xC0C0C0C0) ^ 0x80808080
        first = (other & 0xFF).compare("!=", 0)
        other = (other | other << 1) & 0x80808000  # a bit for each byte that does not belong to the character
        lowest = Lanes(builder, builder.sub(ir.Constant(_VECTOR, [0] * LANES), other.value)) & other
        c = c & Lanes(builder, builder.ashr((lowest - 1).value, ir.Constant(_VECTOR, [7] * LANES)))
        place = Lanes(builder, ir.Constant(_VECTOR, list(range(LANES))))
        left = copies(builder, builder.trunc(builder.sub(stop, p), INT32), LANES)
        which = first & place.compare("<", left)
        _compress(builder, to, n, c, which.value)
        return builder.ctpop(_bits(builder, which.value))

    return types.int64(data, types.int64, types.int64, to, types.int64), emit


def _first_bytes(word: Lanes, size: Lanes) -> Lanes:
    """Eight bytes, 0 behind the first `size`, at most eight, of them."""
    half = (size * -4) + 32
    every = word - word - 1
    return word & ((every >> half) >> half)


def _mixed(h: Lanes, word: Lanes) -> Lanes:
    h = (h ^ word) * _MIX
    return h ^ (h >> 32)


def _clamped(builder: Any, size: Lanes) -> Lanes:
    """0 to 8."""
    zero, eight = size - size, size - size + 8
    size = Lanes(
        builder, builder.select(builder.icmp_signed("<", size.value, zero.value), zero.value, size.value)
    )
    return size.compare("<", 8).where(size, eight)


@intrinsic
def mix(typing: Any, h: Any, low: Any, high: Any, left: Any) -> Any:
    """In a kernel: a hash goes on over the first `left` of sixteen bytes, given as two words of eight."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        h, low, high, left = (Lanes(builder, value) for value in values)
        return _chunk(builder, h, low, high, left).value

    return types.uint64(types.uint64, types.uint64, types.uint64, types.int64), emit


def _chunk(builder: Any, h: Lanes, low: Lanes, high: Lanes, left: Lanes) -> Lanes:
    h = _mixed(h, _first_bytes(low, _clamped(builder, left)))
    return _mixed(h, _first_bytes(high, _clamped(builder, left - 8)))


@intrinsic
def mix_words(typing: Any, data: Any, edges: Any, i: Any, keys: Any, j: Any) -> Any:
    """In a kernel: keys[j : j + 8] = the hashes of the first sixteen bytes of eight words of `data`, whose starts and
    ends are edges[i : i + 16]; a bit for each word that is longer. Reads sixteen bytes of each."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data, edges, keys = (data_of(context, builder, signature, values, n) for n in (0, 1, 3))
        both = [
            lanes.load(builder, edges, builder.add(values[2], ir.Constant(INT64, k)), 8).value for k in (0, 8)
        ]
        start, end = (
            Lanes(
                builder,
                builder.shuffle_vector(
                    *both, ir.Constant(ir.VectorType(INT32, 8), [k + 2 * i for i in range(8)])
                ),
            )
            for k in (0, 1)
        )
        size = end - start
        low, high = (lanes.words_at(builder, data, start + k) for k in (0, 8))
        h = copies(builder, ir.Constant(INT64, SEED), 8)
        h = _chunk(builder, h, low, high, size)
        lanes.store(builder, keys, values[4], h)
        return builder.zext(size.compare(">", 16).cast(BYTE).value, INT64)

    return types.uint64(data, edges, types.int64, keys, types.int64), emit
