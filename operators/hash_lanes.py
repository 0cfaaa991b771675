"""Eight words or runs of bytes at a time through xxh64, bit-identical to `hashing.xxh64`.

Word by word its time is mispredicted branches, on how long a word is; here lanes that are through are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes import BYTE, INT64, Lanes, copies, data_of, load, store, words_at

P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
LONG = 32
"""From so many bytes on `hash_eight` leaves a word to `xxh64`."""
_EIGHT = ir.VectorType(INT64, 8)
Take = Callable[[Lanes], Lanes]


def _lower_bytes(text: Lanes) -> Lanes:
    """ASCII capitals among bytes become small letters."""
    return (text - ord("A")).compare("<", 26).where(text | 0x20, text)


def _lower_case(words: Lanes) -> Lanes:
    return _lower_bytes(words.cast(ir.VectorType(BYTE, 64))).cast(_EIGHT)


def _eight(h: Lanes, word: Lanes) -> Lanes:
    """The hashes after eight more bytes."""
    return (h ^ ((word * P2).turned(31) * P1)).turned(27) * P1 + P4


def _mixed(h: Lanes) -> Lanes:
    h = (h ^ (h >> 33)) * P2
    h = (h ^ (h >> 29)) * P3
    return h ^ (h >> 32)


def _eights(builder: Any, h: Lanes, size: Lanes, word: Callable[[Lanes], Lanes]) -> Lanes:
    """The hashes after all whole eight bytes; word(k): the eight bytes of every lane from byte k on."""
    held = cgutils.alloca_once_value(builder, h.value)
    place = cgutils.alloca_once_value(builder, ir.Constant(INT64, 0))
    head, body, after = (builder.append_basic_block(name) for name in ("eights", "eight", "rest"))
    builder.branch(head)
    builder.position_at_end(head)
    done = copies(builder, builder.load(place), 8)
    more = (done + 8).compare("<=", size)
    builder.cbranch(builder.icmp_unsigned("!=", more.cast(BYTE).value, ir.Constant(BYTE, 0)), body, after)
    builder.position_at_end(body)
    before = Lanes(builder, builder.load(held))
    # A lane that is through reads its first bytes again.
    read = word(more.where(done, done ^ done))
    builder.store(more.where(_eight(before, read), before).value, held)
    builder.store(builder.add(builder.load(place), ir.Constant(INT64, 8)), place)
    builder.branch(head)
    builder.position_at_end(after)
    return Lanes(builder, builder.load(held))


def _hash(builder: Any, size: Lanes, word: Callable[[Lanes], Lanes]) -> Lanes:
    """xxh64 with seed 0 of eight words of less than `LONG` bytes."""
    h = _eights(builder, size + P5, size, word)
    rest = word(size & -8)
    four = size & 4
    h = four.compare("!=", 0).where((h ^ ((rest & 0xFFFFFFFF) * P1)).turned(23) * P2 + P3, h)
    rest = rest >> (four << 3)
    for k in range(3):
        h = (size & 3).compare(">", k).where((h ^ ((rest & 0xFF) * P5)).turned(11) * P1, h)
        rest = rest >> 8
    return _mixed(h)


def _hash_eight(change: Take) -> Any:
    @intrinsic
    def hash_eight(typing: Any, data: Any, start: Any, end: Any, i: Any, out: Any, place: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            text, first, last, to = (data_of(context, builder, signature, values, n) for n in (0, 1, 2, 4))
            begin = load(builder, first, values[3], 8)
            size = load(builder, last, values[3], 8) - begin
            found = _hash(builder, size, lambda k: change(words_at(builder, text, begin + k)))
            store(builder, to, values[5], found)
            return builder.zext(size.compare(">=", LONG).cast(BYTE).value, INT64)

        return types.uint64(data, start, end, types.int64, out, types.int64), emit

    return hash_eight


hash_eight = _hash_eight(lambda words: words)
"""In a kernel `hash_eight(data, start, end, i, out, place)`: out[place + k] = xxh64 of data[start[i + k]:end[i + k]],
seed 0, for k = 0 .. 7. Gives a uint64 with bit k set where a word has `LONG` bytes or more and must be hashed in
another way. Reads up to 8 bytes beyond a word. data: uint8; start, end: int64; out: uint64."""
hash_eight_lower = _hash_eight(_lower_case)
"""The same with capitals of ASCII as small letters."""


def _stripes(builder: Any, seed: Lanes, width: Any, word: Take) -> Lanes:
    """The hashes after all whole 32 bytes of runs of `width` bytes, and `width` itself added."""
    number = partial(ir.Constant, INT64)
    state = [
        cgutils.alloca_once_value(builder, x.value) for x in (seed + (P1 + P2), seed + P2, seed, seed - P1)
    ]
    found = cgutils.alloca_once_value(builder, (seed + P5).value)
    stripes = builder.and_(width, number(-32))
    with builder.if_then(builder.icmp_unsigned(">", stripes, number(0))):
        with cgutils.for_range_slice(builder, number(0), stripes, number(32)) as (place, _):
            for k, held in enumerate(state):
                read = word(copies(builder, builder.add(place, number(8 * k)), 8))
                mixed = (Lanes(builder, builder.load(held)) + read * P2).turned(31) * P1
                builder.store(mixed.value, held)
        lanes = [Lanes(builder, builder.load(held)) for held in state]
        turned = [lane.turned(bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)]
        h = turned[0] + turned[1] + turned[2] + turned[3]
        for lane in lanes:
            h = (h ^ ((lane * P2).turned(31) * P1)) * P1 + P4
        builder.store(h.value, found)
    return Lanes(builder, builder.load(found)) + copies(builder, width, 8)


@intrinsic
def hash_runs(typing: Any, data: Any, p: Any, width: Any, runs: Any, seed: Any, out: Any) -> Any:
    """out[k] = xxh64 of data[p + k * width:p + (k + 1) * width] with seed `seed` + k for k = 0 .. 7.

    `width` is a multiple of 8. There are but `runs` of them; what is written for further ones means nothing.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        text, to = (data_of(context, builder, signature, values, n) for n in (0, 5))
        _, p, width, runs, seed, _ = values
        number = partial(ir.Constant, INT64)
        run = Lanes(builder, ir.Constant(_EIGHT, list(range(8))))
        latest = copies(builder, builder.sub(runs, number(1)), 8)
        begin = run.compare("<", latest).where(run, latest) * copies(builder, width, 8) + copies(
            builder, p, 8
        )

        def word(place: Lanes) -> Lanes:
            return words_at(builder, text, begin + place)

        held = cgutils.alloca_once(builder, _EIGHT)
        builder.store(_stripes(builder, run + copies(builder, seed, 8), width, word).value, held)
        rest = builder.and_(width, number(-32))
        with cgutils.for_range_slice(builder, rest, width, number(8)) as (place, _):
            read = word(copies(builder, place, 8))
            builder.store(_eight(Lanes(builder, builder.load(held)), read).value, held)
        store(builder, to, number(0), _mixed(Lanes(builder, builder.load(held))))
        return context.get_dummy_value()

    return types.void(data, types.int64, types.int64, types.int64, types.int64, out), emit


@intrinsic
def copy_lower(typing: Any, data: Any, p: Any, out: Any, w: Any) -> Any:
    """out[w:w + 8] = data[p:p + 8] with capitals of ASCII as small letters; both uint8."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        read, to = (data_of(context, builder, signature, values, n) for n in (0, 2))
        store(builder, to, values[3], _lower_bytes(load(builder, read, values[1], 8)))
        return context.get_dummy_value()

    return types.void(data, types.int64, out, types.int64), emit


@intrinsic
def combine_eight(typing: Any, hashes: Any, i: Any, terms: Any, base: Any, out: Any, place: Any) -> Any:
    """out[place + k] = fmix64(sum of hashes[i + k + j] * base^(terms - 1 - j), j = 0 .. terms - 1), k = 0 .. 7."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        read, to = (data_of(context, builder, signature, values, n) for n in (0, 4))
        factor = copies(builder, values[3], 8)
        held = cgutils.alloca_once_value(builder, load(builder, read, values[1], 8).value)
        start, step = (ir.Constant(INT64, 1) for _ in range(2))
        with cgutils.for_range_slice(builder, start, values[2], step) as (j, _):
            more = load(builder, read, builder.add(values[1], j), 8)
            builder.store((Lanes(builder, builder.load(held)) * factor + more).value, held)
        h = Lanes(builder, builder.load(held))
        h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCD
        h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53
        store(builder, to, values[5], h ^ (h >> 33))
        return context.get_dummy_value()

    return types.void(hashes, types.int64, types.int64, types.uint64, out, types.int64), emit
