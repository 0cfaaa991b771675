"""Words of plain stretches of text, 64 bytes at a time: the same that the rules in words.py find there.

Plain are ASCII, Hangul syllables and the letters of two bytes up to U+02AF and in U+0400 to U+047F: all letters
(ALetter), digits, or characters at which a word ends; and, looked for where there is something else, letters of more
scripts, Chinese and Japanese, of which a character of Han or Hiragana is a word of its own. A stretch with anything
else in it is left to the rules, from the place before it on where nothing that came before matters: a line feed, the
first of several spaces, a sign, or a character that is a word of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .byte_masks import below, bits_in, highest, lowest, masks
from .kernel import inline, lean
from .lanes import BIT, BYTE, INT32, INT64, Lanes, copies, data_of, load, store

_SPACE, _NEWLINE = ((0, 0x20, 0x20),), ((0, 0x0A, 0x0A),)
_CAPITAL = ((0, 0x41, 0x5A),)
_TWO = (
    ((0, 0xC3, 0xC3), (1, 0x80, 0x96)),  # neither the sign of multiplication nor that of division
    ((0, 0xC3, 0xC3), (1, 0x98, 0xB6)),
    ((0, 0xC3, 0xC3), (1, 0xB8, 0xBF)),
    ((0, 0xC4, 0xCA),),
    ((0, 0xD0, 0xD1),),
)
_HANGUL = (
    ((0, 0xEA, 0xEA), (1, 0xB0, 0xBF)),
    ((0, 0xEB, 0xEC),),
    ((0, 0xED, 0xED), (1, 0x80, 0x9D)),
    ((0, 0xED, 0xED), (1, 0x9E, 0x9E), (2, 0x80, 0xA3)),
)
_QUOTES = (((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0x98, 0x99)),)  # joins letters and joins digits
_SIGNS_OF_TWO = (
    ((0, 0xC2, 0xC2), (1, 0xA0, 0xA9)),
    ((0, 0xC2, 0xC2), (1, 0xAB, 0xAC)),
    ((0, 0xC2, 0xC2), (1, 0xAE, 0xB1)),
    ((0, 0xC2, 0xC2), (1, 0xBB, 0xBB)),
    ((0, 0xC3, 0xC3), (1, 0x97, 0x97)),
)
_SIGNS = (
    ((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0x90, 0x97)),
    ((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0x9A, 0xA3)),
    ((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0xA5, 0xA6)),
)
# What is only looked for where there is something that is none of the above.
_MORE_OF_TWO = (
    ((0, 0xCE, 0xCE), (1, 0x8E, 0xA1)),
    ((0, 0xCE, 0xCE), (1, 0xA3, 0xBF)),
    ((0, 0xCF, 0xCF), (1, 0x80, 0xB5)),
    ((0, 0xD8, 0xD8), (1, 0xA0, 0xBF)),
    ((0, 0xD9, 0xD9), (1, 0x80, 0x8A)),
)
_LATIN = (
    ((0, 0xE1, 0xE1), (1, 0xB8, 0xBB)),
    ((0, 0xEF, 0xEF), (1, 0xBC, 0xBC), (2, 0xA1, 0xBA)),
    ((0, 0xEF, 0xEF), (1, 0xBD, 0xBD), (2, 0x81, 0x9A)),
)
_AGAIN = (
    ((0, 0xE3, 0xE3), (1, 0x80, 0x80), (2, 0x85, 0x85)),
)  # the sign that repeats a character of Han: a letter
_ALONE = (
    ((0, 0xE3, 0xE3), (1, 0x81, 0x81), (2, 0x81, 0xBF)),
    ((0, 0xE3, 0xE3), (1, 0x82, 0x82), (2, 0x80, 0x96)),
    ((0, 0xE3, 0xE3), (1, 0x82, 0x82), (2, 0x9D, 0x9E)),
    ((0, 0xE4, 0xE4), (1, 0xB8, 0xBF)),
    ((0, 0xE5, 0xE9),),
)
_KATAKANA = (
    ((0, 0xE3, 0xE3), (1, 0x82, 0x82), (2, 0xA1, 0xBF)),
    ((0, 0xE3, 0xE3), (1, 0x83, 0x83), (2, 0x80, 0xBA)),
    ((0, 0xE3, 0xE3), (1, 0x83, 0x83), (2, 0xBC, 0xBE)),
)
_WIDE_SPACE = (((0, 0xE3, 0xE3), (1, 0x80, 0x80), (2, 0x80, 0x80)),)  # goes on with a space before it
_MORE_SIGNS = (
    ((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0xB0, 0xBE)),
    ((0, 0xE2, 0xE2), (1, 0x82, 0x82), (2, 0xA0, 0xBF)),
    ((0, 0xE2, 0xE2), (1, 0x84, 0x84), (2, 0xA2, 0xA2)),
    ((0, 0xE2, 0xE2), (1, 0x87, 0x8F)),
    ((0, 0xE2, 0xE2), (1, 0x94, 0x9C)),
    ((0, 0xE3, 0xE3), (1, 0x80, 0x80), (2, 0x81, 0x83)),
    ((0, 0xE3, 0xE3), (1, 0x80, 0x80), (2, 0x88, 0xA0)),
    ((0, 0xE3, 0xE3), (1, 0x83, 0x83), (2, 0xBB, 0xBB)),
    ((0, 0xEF, 0xEF), (1, 0xBC, 0xBC), (2, 0x81, 0x86)),
    ((0, 0xEF, 0xEF), (1, 0xBC, 0xBC), (2, 0x88, 0x8B)),
    ((0, 0xEF, 0xEF), (1, 0xBC, 0xBC), (2, 0x8F, 0x8F)),
    ((0, 0xEF, 0xEF), (1, 0xBC, 0xBC), (2, 0x9C, 0xA0)),
    ((0, 0xEF, 0xEF), (1, 0xBC, 0xBC), (2, 0xBB, 0xBD)),
    ((0, 0xEF, 0xEF), (1, 0xBD, 0xBD), (2, 0x9B, 0x9E)),
)
_BREAKS = (
    _NEWLINE,
    *(
        ((0, low, high),)
        for low, high in ((0x28, 0x2B), (0x2D, 0x2D), (0x2F, 0x2F), (0x3C, 0x40), (0x5B, 0x5D))
    ),
)
_classes = masks(
    (_SPACE,),
    _BREAKS,
    (_CAPITAL,),
    (_CAPITAL, ((0, 0x61, 0x7A),)),
    (((0, 0x30, 0x39),),),
    (((0, 0x5F, 0x5F),),),
    (((0, 0x27, 0x27),), ((0, 0x2E, 0x2E),), ((0, 0x3A, 0x3A),)),
    (((0, 0x27, 0x27),), ((0, 0x2E, 0x2E),), ((0, 0x2C, 0x2C),), ((0, 0x3B, 0x3B),)),
    (((0, 0x80, 0xFF),),),
)
_characters = masks(_TWO, _HANGUL, (((0, 0x80, 0xBF),),), _QUOTES, _SIGNS_OF_TWO, _SIGNS)
_more_characters = masks(_MORE_OF_TWO, _LATIN, _AGAIN, _ALONE, _KATAKANA, _WIDE_SPACE, _MORE_SIGNS)

WRITTEN = 48
"""Places behind the last word that `_put_words` may write to, and no more words than that are in 64 bytes."""
_AT_ONCE = 16


def _places(builder: Any, bits: Any) -> Any:
    """The address of 64 bytes: the numbers of the bits that are set, in order."""
    kind = ir.VectorType(BYTE, 64)
    chosen = ir.VectorType(BIT, 64)
    press = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [kind, chosen, kind]),
        "llvm.experimental.vector.compress.v64i8",
    )
    numbers, none = ir.Constant(kind, list(range(64))), ir.Constant(kind, None)
    held = cgutils.alloca_once(builder, kind)
    builder.store(builder.call(press, [numbers, builder.bitcast(bits, chosen), none]), held)
    return builder.bitcast(held, BYTE.as_pointer())


@intrinsic
def _put_words(
    typing: Any, masks: Any, p: Any, start: Any, end: Any, chars: Any, flags: Any, i: Any, count: Any
) -> Any:
    """Write `count` words as the `i`th and following. masks, of 64 bytes from `p` on: first and last byte of each word,
    letters, digits, what may be a capital, what begins no character."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first, last, *of = cgutils.unpack_tuple(builder, values[0], 6)
        starts, ends = _places(builder, first), _places(builder, last)
        letters, digits, capitals, more = (copies(builder, bits, _AT_ONCE) for bits in of)
        to = [data_of(context, builder, signature, values, n) for n in range(2, 6)]
        wide, narrow = (ir.VectorType(kind, _AT_ONCE) for kind in (INT64, BYTE))
        one = Lanes(builder, ir.Constant(wide, [1] * _AT_ONCE))
        count = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(wide, [wide]), "llvm.ctpop.v16i64"
        )
        zero, step = ir.Constant(INT64, 0), ir.Constant(INT64, _AT_ONCE)

        def here(places: Any, k: Any) -> Lanes:
            return Lanes(builder, builder.zext(load(builder, places, k, _AT_ONCE).value, wide))

        def flag(mask: Lanes, bits: Lanes, value: int) -> Lanes:
            has = (mask & bits).compare("!=", 0)
            return Lanes(builder, builder.zext(has.value, narrow)) * value

        with cgutils.for_range_slice(builder, zero, values[7], step) as (k, _):
            a, b, place = here(starts, k), here(ends, k), builder.add(values[6], k)
            bits = ((one + one) << b) - (one << a)
            base = copies(builder, values[1], _AT_ONCE)
            store(builder, to[0], place, base + a)
            store(builder, to[1], place, base + b + 1)
            points = builder.call(count, [(bits ^ (bits & more)).value])
            store(
                builder, to[2], place, Lanes(builder, builder.trunc(points, ir.VectorType(INT32, _AT_ONCE)))
            )
            store(
                builder,
                to[3],
                place,
                flag(letters, bits, 1) | flag(digits, bits, 2) | flag(capitals, bits, 8),
            )
        return context.get_dummy_value()

    kind = types.UniTuple(types.uint64, 6)
    return types.void(kind, types.int64, start, end, chars, flags, types.int64, types.int64), emit


@lean
def _without(word: np.uint64, empty: np.uint64) -> np.uint64:
    """`word` without the runs of bits that are all in `empty`."""
    one = np.uint64(1)
    first = np.uint64(word & ~(word << one) & empty)
    while first:
        after = lowest(np.uint64(~(word >> np.uint64(lowest(first))))) + lowest(first)
        run = np.uint64(below(after) & ~below(lowest(first)))
        if not run & ~empty:
            word = np.uint64(word & ~run)
        first = np.uint64(first & (first - one))
    return word


@inline
def _two(begin: np.uint64) -> np.uint64:
    return np.uint64(begin | (begin << np.uint64(1)))


@inline
def _three(begin: np.uint64) -> np.uint64:
    return np.uint64(begin | (begin << np.uint64(1)) | (begin << np.uint64(2)))


@lean
def _beyond_ascii(
    data: np.ndarray, p: int, high: np.uint64, line: np.uint64, breaks: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64]:
    """Of `high`, those of the 64 bytes from `p` on that are not ASCII: letters, what may be a capital, what begins no
    character, what begins one that is a word of its own, Katakana, what begins a quotation mark, places to break at
    (and `breaks`), what is none of it."""
    wide, hangul, more, quote, sign, signs = _characters(data, p)
    more = np.uint64(more & high)
    of_two = np.uint64(more >> np.uint64(1))
    of_three = np.uint64(of_two & (of_two >> np.uint64(1)))
    wide, sign, quote = np.uint64(wide & of_two), np.uint64(sign & of_two), np.uint64(quote & of_three)
    hangul, signs = np.uint64(hangul & of_three), np.uint64(signs & of_three)
    alone = katakana = np.uint64(0)
    odd = np.uint64(high & ~(_two(np.uint64(wide | sign)) | _three(np.uint64(hangul | signs | quote))))
    if odd:
        wider, latin, again, alone, katakana, blank, more_signs = _more_characters(data, p)
        wider, latin = np.uint64(wider & of_two), np.uint64(latin & of_three)
        alone, katakana = np.uint64(alone & of_three), np.uint64(katakana & of_three)
        other, blank = np.uint64((again | more_signs) & of_three), np.uint64(blank & of_three)
        odd = np.uint64(odd & ~(_two(wider) | _three(np.uint64(latin | alone | katakana | other | blank))))
        wide, hangul = np.uint64(wide | wider | latin), np.uint64(hangul | latin | (again & of_three))
        katakana, signs = _three(katakana), np.uint64(signs | (more_signs & of_three))
        odd = np.uint64(odd | (katakana & ((line << np.uint64(1)) | (line >> np.uint64(1)))))
        breaks = np.uint64(breaks & ~(blank << np.uint64(3)))  # a space behind a wide one is not the first
    letter = np.uint64(_two(wide) | _three(hangul))
    return letter, wide, more, alone, katakana, quote, np.uint64(breaks | sign | signs | alone), odd


@lean
def plain_words(data: np.ndarray, p: int, end: int, i: int, spans: tuple[np.ndarray, ...]) -> tuple[int, int]:
    """Write the words from `p` on as the `i`th and following; (where the rules are needed or `end`, the next `i`).

    Before `p` there must be nothing that matters, and there is nothing before the place that is given. Words for
    which `spans` has no room, with `WRITTEN` to spare, are only counted.
    """
    start, stop, chars, flags = spans
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    while p < end:
        space, breaks, capital, letter, digit, line, mid_letter, mid_digit, high = _classes(data, p)
        inside = below(end - p)
        letter, digit, high = np.uint64(letter & inside), np.uint64(digit & inside), np.uint64(high & inside)
        breaks = np.uint64((space & ~(space << one)) | breaks)
        more = alone = katakana = quote = odd = np.uint64(0)
        if high:
            wide_letter, wide, more, alone, katakana, quote, breaks, odd = _beyond_ascii(
                data, p, high, line, breaks
            )
            letter, capital = np.uint64(letter | wide_letter), np.uint64(capital | wide)
        breaks = np.uint64(breaks & inside & ~one)
        size = end - p
        if size > 64:  # the last word goes on behind them
            size = max(highest(breaks), 0)
            odd = np.uint64(odd & below(size))
        if odd:
            size = max(highest(np.uint64(breaks & below(lowest(odd)))), 0)
        word = np.uint64(mid_letter & (letter << one) & (letter >> one))
        word = np.uint64(word | (mid_digit & (digit << one) & (digit >> one)))
        if quote:
            between = np.uint64(((letter << one) & (letter >> three)) | ((digit << one) & (digit >> three)))
            word = np.uint64(word | _three(np.uint64(quote & between)))
        within = below(size)
        word = np.uint64((word | letter | digit | line) & within)
        if word & line:
            word = _without(word, np.uint64(word & ~(letter | digit)))
        alone, katakana = np.uint64(alone & within), np.uint64(katakana & within)
        first = np.uint64((word & ~(word << one)) | alone | (katakana & ~(katakana << one)))
        last = np.uint64((word & ~(word >> one)) | (alone << two) | (katakana & ~(katakana >> one)))
        count = bits_in(first)
        if i + WRITTEN <= len(start):
            letter = np.uint64(letter | alone | katakana)
            found = first, last, letter, digit, capital, more
            _put_words(found, p, start, stop, chars, flags, i, count)
        i += count
        p += size
        if odd or size == 0:
            break
    return p, i
