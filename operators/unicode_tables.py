"""Properties of code points for the kernels, from a table that the package carries (never from the Python
that runs it): UAX #29 word break class, kind, simple lower case. benchmarks/make_unicode_tables.py makes it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

# Word break classes, in the order of the maker's list.
OTHER, CR, LF, NEWLINE, EXTEND, FORMAT, ZWJ, KATAKANA, HEBREW, ALETTER = range(10)
SINGLE_QUOTE, DOUBLE_QUOTE, MID_NUM_LET, MID_LETTER, MID_NUM, NUMERIC, EXTEND_NUM_LET, REGIONAL, SPACE = (
    range(10, 19)
)

# Kinds, bits of the low byte.
LETTER, NUMBER, SYMBOL, WHITE, PICTOGRAPH = 0x01, 0x02, 0x04, 0x08, 0x10


@cache
def properties() -> tuple[np.ndarray, np.ndarray]:
    """(index uint8 [4352], blocks uint16 [blocks, 256]): class << 8 | kind of a code point is
    `blocks[index[point >> 8], point & 255]`."""
    with np.load(Path(__file__).with_name("unicode_tables.npz")) as stored:
        return stored["index"], stored["blocks"]


@cache
def lower_case() -> np.ndarray:
    """int32 [0x1E944]: the simple lower case of a code point; those beyond are their own."""
    with np.load(Path(__file__).with_name("unicode_tables.npz")) as stored:
        points, lowered = stored["lower_from"], stored["lower_to"]
    table = np.arange(int(points[-1]) + 1, dtype=np.int32)
    table[points] = lowered
    return table
