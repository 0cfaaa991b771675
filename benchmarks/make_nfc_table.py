"""Make operators/nfc_quick.npz: which code points can keep a text from being in NFC.

    python benchmarks/make_nfc_table.py

One byte a code point, in two levels (`blocks[index[c >> 8], c & 255]`): 0 = starter, always fine; 1..254 =
canonical combining class of a mark that is fine if the classes do not descend; 255 = the text must be
normalised to know (NFC_Quick_Check is No or Maybe, UAX #15 section 9, or the code point is newer than the
Unicode version that this script knows, so that the table stays right under a newer Arrow).
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

CODE_POINTS = 0x110000
ASK = 255


def quick_check() -> np.ndarray:
    """uint8 [0x110000]; the class of each code point as the module docstring says."""
    table = np.zeros(CODE_POINTS, np.uint8)
    table[0x1161:0x1176] = ASK  # conjoining vowels and finals: they compose with what stands before them
    table[0x11A8:0x11C3] = ASK
    for code in range(CODE_POINTS):
        if 0xD800 <= code < 0xE000:
            continue
        char = chr(code)
        table[code] = max(table[code], unicodedata.combining(char))
        if unicodedata.category(char) == "Cn" or unicodedata.normalize("NFC", char) != char:
            table[code] = ASK
            continue
        parts = unicodedata.decomposition(char)
        if parts and not parts.startswith("<"):  # a composite that NFC makes: its second half may compose
            table[int(parts.split()[-1], 16)] = ASK
    return table


def main() -> None:
    pages = quick_check().reshape(-1, 256)
    blocks, index = np.unique(pages, axis=0, return_inverse=True)
    target = Path(__file__).resolve().parent.parent / "operators" / "nfc_quick.npz"
    np.savez_compressed(
        target,
        index=index.reshape(-1).astype(np.uint8),
        blocks=blocks,
        unicode_version=np.array(unicodedata.unidata_version),
    )
    print(f"Unicode {unicodedata.unidata_version}, {len(blocks)} blocks, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
