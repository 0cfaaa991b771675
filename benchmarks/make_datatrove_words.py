"""Write operators/datatrove_words.npz: the tables that operators/datatrove_words.py needs.

Run where datatrove 0.10.1 and spaCy 3.8 are installed (see make_datatrove_golden.py):

    python benchmarks/make_datatrove_words.py

Every table is asked of the running library (its regular expressions are tried on each code point, its
tokenizer on each special case), so nothing is typed by hand. Output: code point classes in two stages
(256-blocks), special cases with their pieces, the token sequences that spaCy's matcher joins again, units
that split after a digit, the prefixes of more than one character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import spacy
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION
from spacy.lang import char_classes as cc
from spacy.pipeline.sentencizer import Sentencizer
from spacy.symbols import ORTH
from spacy.tokenizer import Tokenizer

NOTICE = (
    "Derived from spaCy (MIT License, Copyright (C) 2016-2024 ExplosionAI GmbH, 2016 spaCy GmbH, 2015 "
    "Matthew Honnibal) and datatrove (Apache License 2.0, Copyright The HuggingFace Team). Permission is "
    "hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    "documentation files, to deal in the Software without restriction, including without limitation the "
    "rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the "
    "Software, and to permit persons to whom the Software is furnished to do so, subject to the following "
    "conditions: The above copyright notice and this permission notice shall be included in all copies or "
    'substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY '
    "KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS "
    "FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE "
    "LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR "
    "OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN "
    "THE SOFTWARE."
)
OUTPUT = Path(__file__).resolve().parent.parent / "operators" / "datatrove_words.npz"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def _in_class(inside: str) -> Callable[[str], bool]:
    match = re.compile(f"[{inside}]").match
    return lambda c: match(c) is not None


def _classes(tokenizer: Tokenizer) -> list[Callable[[str], bool]]:
    """One test per bit, lowest bit first; the names are those of operators/datatrove_words.py."""
    prefix, suffix = tokenizer.prefix_search, tokenizer.suffix_search
    dot_before = rf"0-9{cc.ALPHA_LOWER}%²\-\+{cc.PUNCT}(?:{cc.CONCAT_QUOTES})"
    currency = {c.replace("\\", "") for c in cc.LIST_CURRENCY}
    sentence_end = set(Sentencizer.default_punct_chars)
    icon = _in_class(cc.CONCAT_ICONS)
    word, digit = re.compile(r"\w").match, re.compile(r"\d").match
    return [
        lambda c: c.isspace(),
        _in_class(cc.ALPHA),
        _in_class(cc.ALPHA_LOWER),
        _in_class(cc.ALPHA_UPPER),
        lambda c: c != "+" and prefix(c) is not None,
        lambda c: suffix(c) is not None,
        _in_class(cc.CONCAT_QUOTES),
        _in_class(dot_before),
        lambda c: c in currency,
        icon,
        lambda c: c.isalpha(),
        lambda c: c in PUNCTUATION_SET,
        lambda c: unicodedata.category(c).startswith("P"),
        lambda c: c in sentence_end,
        lambda c: c in TERMINAL_PUNCTUATION,
        lambda c: word(c) is not None,
        lambda c: digit(c) is not None,
        _in_class(r"A-Za-z0-9\u00a1-\uffff"),
        lambda c: len(f"a{c}a".splitlines()) == 2,
        lambda c: not (prefix(c) or suffix(c) or icon(c) or c in currency or c in "0123456789+.,-–—~:<>=/*^"),
    ]


def _char_table(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    table = np.zeros(0x110000, np.uint32)
    for bit, test in enumerate(_classes(tokenizer)):
        hits = [c for c in CODE_POINTS if test(chr(c))]
        table[hits] |= np.uint32(1 << bit)
    blocks, index = np.unique(table.reshape(-1, 256), axis=0, return_inverse=True)
    return index.astype(np.uint16).reshape(-1), blocks.astype(np.uint32).reshape(-1)


def main() -> None:
    tokenizer = spacy.blank("en").tokenizer
    plain = Tokenizer(
        tokenizer.vocab,
        rules={},
        prefix_search=tokenizer.prefix_search,
        suffix_search=tokenizer.suffix_search,
        infix_finditer=tokenizer.infix_finditer,
        url_match=tokenizer.url_match,
    )
    specials = {text: [piece[ORTH] for piece in rule] for text, rule in sorted(tokenizer.rules.items())}
    specials = {text: pieces for text, pieces in specials.items() if not text.isspace()}
    affixed = [
        text
        for text in specials
        if tokenizer.find_prefix(text) or tokenizer.find_infix(text) or tokenizer.find_suffix(text)
    ]
    sequences = [[token.text for token in plain(text)] for text in affixed]
    units = sorted({*cc.LIST_UNITS, *(c.replace("\\", "") for c in cc.LIST_CURRENCY if len(c) > 2)})
    index, blocks = _char_table(tokenizer)
    np.savez_compressed(
        OUTPUT,
        notice=np.array(NOTICE),
        versions=np.array(
            f"spacy {spacy.__version__}, datatrove 0.10.1, Unicode {unicodedata.unidata_version}"
        ),
        block_index=index,
        blocks=blocks,
        specials=np.array(["\x00".join(pieces) for pieces in specials.values()]),
        sequences=np.array(["\x00".join(tokens) for tokens in sequences]),
        units=np.array(units),
    )
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size} bytes, {len(specials)} special cases")


if __name__ == "__main__":
    main()
