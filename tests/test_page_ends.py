"""No kernel reads beyond the text that it is given: not even where the next byte may not be read.

Kernels look at 64 bytes at once, and text need not have any bytes behind it: a slice, a file in memory, the array of
another library. Here it ends where a page does and the next may not be read, and a process of its own reads it.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

PAGE = mmap.PAGESIZE
HEADS = ["", "Line one, and its end.\n", "말모이는 사전이다. " * 3, "x" * 60, "http://a.b/c? [1"]
TAILS = [
    *(
        "",
        "a",
        "말",
        "é",
        "WORD",
        "x" * 31,
        "x" * 64,
        "#",
        "..",
        "…",
        "\n",
        "\r",
        "\u3000",
        "[edit",
        "{",
        "_",
    ),
    *("javascrip", "use of cookie", "무단", "don'", "3.", "漢", "カタ", "İ", "🎉", "\U0010ffff", "</s>", '"'),
    unicodedata.normalize("NFD", "끝"),
]
BROKEN = [b"\xc3", b"\xe2", b"\xe2\x80", b"\xf0\x9f\x98", b"\xea\xb0", b"\x80", b"\xff"]
RECORD = (
    rb'{"te\u0078t":"a\u0041\ud83d\ude00 \\ \" /","id":-12.5e1,"n":-3,"u":{"a":[1,2,{"b":null}]},"ok":true}'
)


def fenced(raw: bytes) -> np.ndarray:
    """uint8, the last one of which ends a page; where they are as long as pages, the first one begins one."""
    pages = max(-(-len(raw) // PAGE), 1)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, pages + 1):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, 0) == 0
    data = np.frombuffer(memory, np.uint8, len(raw), (pages + 1) * PAGE - len(raw))
    data[:] = np.frombuffer(raw, np.uint8)
    data.flags.writeable = False
    return data


def strings(values: list[bytes]) -> pa.Array:
    parts = fenced(np.cumsum([0, *map(len, values)]).astype(np.int64).tobytes()), fenced(b"".join(values))
    buffers = [pa.foreign_buffer(part.ctypes.data, part.nbytes, part) for part in parts]
    return pa.Array.from_buffers(pa.large_string(), len(values), [None, *buffers])


def _last_texts() -> list[bytes]:
    ends = [*(tail.encode() for tail in TAILS), *BROKEN]
    texts = [head.encode() + end for head, end in itertools.product(HEADS, ends)]
    for size, left in itertools.product((15, 16, 31, 32, 63, 64), (*range(19), 31, 32, 33, 63, 64, 65)):
        word = f"w{size}and{left}".encode().ljust(size, b"x")  # once only: sums of words are kept
        texts.append(word + (b" " + b"z" * left)[:left])
    return texts


def read_tables() -> None:
    from malmoi.operators import OPERATORS, MinHash, Normalise
    from malmoi.operators.analysis import analyse
    from malmoi.operators.diversity import sketch_ngrams

    made = [cls() for name, cls in OPERATORS.items() if name != "token_count"]  # that one has no kernel
    made += [cls(parity="datatrove") for name, cls in OPERATORS.items() if hasattr(cls, "parity")]
    made += [MinHash(ngram="char"), Normalise(trailing_spaces=True, blank_lines=True)]
    for number, last in enumerate(_last_texts()):
        filler = (b"Of other words. " * (PAGE // 16))[: -len(last) or PAGE]
        column = strings([filler, last] if number % 2 and last else [last])
        table = pa.table({"id": column, "source": column, "text": column})
        print(last, flush=True)
        batch = analyse(table)
        for spans in (batch.words, batch.tokens, batch.lines, batch.paragraphs):
            _ = spans.lower_hash
        sketch_ngrams(*batch.lower_words, 2)
        for operator in made:
            operator(table)


def read_json() -> None:
    from malmoi.pipeline.json_blocks import Block
    from malmoi.pipeline.json_lines import json_lines
    from malmoi.pipeline.jsonl import read_block
    from malmoi.pipeline.records import Shape

    extras = tuple(
        (name, pa.field(name, kind)) for name, kind in (("n", pa.int64()), ("u", pa.large_string()))
    )
    shape = Shape("web", "a.jsonl", "text", "id", extras, 1 << 20)
    lines = [RECORD[:cut] for cut in range(len(RECORD) + 1)]
    lines += [json.dumps({"text": head + tail, "id": 1}).encode() for head in HEADS for tail in TAILS]
    lines += [b'{"text":"' + end for end in (*BROKEN, b"\\u12", b"\\ud83d\\u", b"\\")]
    for line in lines:
        print(line, flush=True)
        table, problems = read_block(Block(fenced(line + b"\n"), 1, 0, len(line) + 1), shape)
        assert table.num_rows + len(problems) == bool(line)
    json_lines(pa.table({"text": strings([tail.encode() for tail in TAILS])}))


@pytest.mark.skipif(os.name == "nt", reason="pages are protected in another way")
@pytest.mark.parametrize("part", ["tables", "json"])
def test_nothing_is_read_beyond_the_text(part):
    command = [sys.executable, "-X", "faulthandler", __file__, part]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]


if __name__ == "__main__":
    read_tables() if sys.argv[1] == "tables" else read_json()
