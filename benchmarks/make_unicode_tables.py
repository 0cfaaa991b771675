"""Writes operators/unicode_tables.npz: word break class, kind and lower case of every code point.

    python benchmarks/make_unicode_tables.py

Properties are read from the `regex` package, whose Unicode version is recorded; the lower-case mapping is the
simple one (one code point to one code point).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import regex

CLASSES = (
    "Other", "CR", "LF", "Newline", "Extend", "Format", "ZWJ", "Katakana", "Hebrew_Letter", "ALetter",
    "Single_Quote", "Double_Quote", "MidNumLet", "MidLetter", "MidNum", "Numeric", "ExtendNumLet",
    "Regional_Indicator", "WSegSpace",
)  # fmt: skip
KINDS = {
    0x01: r"\p{L}",
    0x02: r"\p{N}",
    0x04: r"[\p{P}\p{S}]",
    0x08: r"\p{White_Space}",
    0x10: r"\p{Extended_Pictographic}",
}
SIZE = 0x110000
OUTPUT = Path(__file__).parent.parent / "operators" / "unicode_tables.npz"


def code_points(pattern: str, text: str) -> np.ndarray:
    """The code points of `text` (all there are) that match."""
    return np.array([ord(c) for c in regex.findall(pattern, text)], dtype=np.int64)


def main() -> None:
    text = "".join(chr(c) for c in range(SIZE) if not 0xD800 <= c < 0xE000)
    break_class = np.zeros(SIZE, np.uint8)
    for number, name in enumerate(CLASSES):
        if number:
            break_class[code_points(rf"\p{{Word_Break={name}}}", text)] = number
    kind = np.zeros(SIZE, np.uint8)
    for bit, pattern in KINDS.items():
        kind[code_points(pattern, text)] |= bit
    lower = np.arange(SIZE, dtype=np.int32)
    for c in range(SIZE):
        low = chr(c).lower() if not 0xD800 <= c < 0xE000 else ""
        if len(low) == 1:
            lower[c] = ord(low)
    lower[0x130] = ord("i")  # the simple mapping of a letter whose full mapping has two code points
    packed = (break_class.astype(np.uint16) << 8) | kind
    blocks, index = np.unique(packed.reshape(-1, 256), axis=0, return_inverse=True)
    changed = np.flatnonzero(lower != np.arange(SIZE)).astype(np.int32)
    np.savez_compressed(
        OUTPUT,
        index=index.astype(np.uint8),
        blocks=blocks,
        lower_from=changed,
        lower_to=lower[changed],
        made_with=np.array(
            [f"regex {regex.__version__}", f"python {sys.version_info.major}.{sys.version_info.minor}"]
        ),
    )
    print(
        f"{OUTPUT}: {len(blocks)} blocks, {len(changed)} lower-case mappings, {OUTPUT.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
