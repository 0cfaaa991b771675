"""Templates of segments against a slow reading of docs/tokenize.md: one example at a time, a piece at a time."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.packing import IGNORE
from malmoi.operators.templates import Segment, Template, encode_segments

TEMPLATES = {
    "hint": (
        Segment("Q: {q}\n"),
        Segment("Hint: {h}\n", when="h"),
        Segment("A:"),
        Segment(" {a}", trained=True),
    ),
    "turns": (
        Segment("<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n"),
        Segment("{a}<|im_end|>", trained=True),
        Segment("\n"),
    ),
    "instead": (Segment("{q}"), Segment("{h}", unless="q"), Segment("{a}", trained=True)),
    "answer alone": (Segment("{a}", trained=True),),
    "second answer of some": (
        Segment("[{q}]"),
        Segment("{a}", trained=True),
        Segment(" so "),
        Segment("{h}<|eos|>", trained=True, when="h"),
        Segment("!"),
    ),
    "joined": (
        Segment("{q}{h} "),
        Segment("->"),
        Segment("{a}", trained=True),
        Segment("!{a}", trained=True),
    ),
}
PIECES = st.sampled_from(
    ["말모이는 사전이다. ", " ", "\n", "<|eos|>", "<|im_end|>", "漢字", "🎉", "\u1106\u1161\u11af", "word ", "12 345"]
)  # fmt: skip
ROW = st.fixed_dictionaries({name: st.none() | st.lists(PIECES, max_size=4).map("".join) for name in "qha"})


@pytest.fixture(scope="module")
def encode(reference):
    return lambda text: reference.encode(text, add_special_tokens=False).ids


def pieces(segment, row, control):
    """Text and ids: control tokens count where the template writes them, never where a column does."""
    for part in re.split(r"(\{\w\}|<\|\w+\|>)", segment.text):
        found = re.fullmatch(r"\{(\w)\}", part)
        yield (row[found[1]] or "") if found else control.get(part, part)


def expected(segments, row, encode, control, eos):
    """[(id, label)]; nothing where there is no answer."""
    filled = {name for name, text in row.items() if (text or "").strip()}
    runs = []  # [learned, pieces]: what is learned and what is not are tokenised apart
    for segment in segments:
        if (segment.when and segment.when not in filled) or segment.unless in filled:
            continue
        if not runs or runs[-1][0] != segment.trained:
            runs.append((segment.trained, []))
        runs[-1][1].extend(pieces(segment, row, control))
    answers = {name for x in segments if x.trained for name in re.findall(r"\{(\w)\}", x.text)}
    if not answers & filled:
        return []
    tokens = []  # of each run
    for learned, parts in runs:
        ids, text = [], ""
        for part in parts:
            if isinstance(part, int):
                ids, text = [*ids, *encode(text), part], ""
            else:
                text += part
        tokens.append((learned, [*ids, *encode(text)]))
    if eos is not None:
        last = max(i for i, (learned, ids) in enumerate(tokens) if learned and ids)
        tokens = tokens[: last + 1]
        if eos not in tokens[-1][1]:
            tokens.append((True, [eos]))
    return [(x, x if learned else IGNORE) for learned, ids in tokens for x in ids]


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=60)
@given(rows=st.lists(ROW, min_size=1, max_size=5), append_eos=st.booleans())
def test_examples_are_those_of_the_reference(encoder, encode, name, rows, append_eos):
    table = pa.table({x: pa.array([row[x] for row in rows], pa.large_string()) for x in "qha"})
    made = encode_segments(table, Template(name, TEMPLATES[name]), encoder, append_eos=append_eos)
    control, eos = dict(encoder.control), encoder.eos_id if append_eos else None
    bounds = zip(made.offsets, made.offsets[1:], strict=False)
    got = [list(zip(made.ids[a:b].tolist(), made.labels[a:b].tolist(), strict=True)) for a, b in bounds]
    assert got == [expected(TEMPLATES[name], row, encode, control, eos) for row in rows]
